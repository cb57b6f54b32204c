"""mcscore run: the state of a run. mcscore export: the scores of a run for other tools."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..text import count, duration, size
from . import shared
from .options import PATH, RUN
from .terminal import FAILED, as_json, echo, emit, fail

# The rows of mcscore.run.export.formats.FORMATS, which --help does not import; a test compares the two.
FORMATS = ("parquet", "csv", "jsonl", "label-studio", "fiftyone", "coco", "cvat", "cvat-manifest")

if TYPE_CHECKING:
    from ..pool import Pool
    from ..run import Run
    from ..run.journal import SpanDamage
    from ..run.presence import Worker
    from ..run.selecting.kept import KeptSelection
    from ..run.status import Status
    from ..store.holder import Holder

_NAMED = 12  # ids that are printed; --json has all


@click.group()
def run() -> None:
    """Show the state of a run, and check its files."""


@run.command("info", short_help="Describe RUN, or several: what is done and left, speed, hardware.")
@click.argument("paths", metavar="RUN...", type=RUN, nargs=-1, required=True)
@click.option("--watch", is_flag=True, help="Show how far RUN is, and who works on it, until all is done.")
@click.option(
    "--every",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch, the time between two looks.",
)
@as_json
@click.pass_context
def run_info(ctx: click.Context, paths: tuple[Path, ...], watch: bool, every: float) -> None:
    """Describe RUN: items done and left, speed, items without a score, hardware, and the processes that work on it.

    Several runs are a line each. The exit code is 1 if a record is damaged, so that what is shown may be less than what was done, or
    if one of several cannot be read.
    """
    from ..run.journal import told
    from ..run.status import info

    if len(paths) > 1:
        if watch:
            raise click.UsageError("--watch shows one run: give one")
        from .runs import show_runs

        show_runs(ctx, paths)
        return
    path = paths[0]
    if watch:
        from .watch import watch_run

        watch_run(path, every)
        return
    status = info(path)
    run = status.run
    left = status.seconds_left
    lines = {
        "run": f"{path}, started {run.meta['created']}",
        "scores": f"{', '.join(run.columns)}; {run.meta['passes']:,} passes",
        "items": f"{run.done:,} of {run.n:,} done, {run.scored:,} of them scored",
        "spans": f"{status.spans_done:,} of {status.spans:,} done, of {run.meta['span']:,} items",
        "speed": f"{run.items_per_second:,.0f} items/s, {duration(run.seconds)} so far",
        "left": "nothing" if run.complete else f"about {duration(left)}" if left is not None else "not known yet",
        "not finite": _some(len(status.nonfinite_ids), [str(i) for i in status.nonfinite_ids]),
        "unreadable": _some(
            sum(stop - start for start, stop in status.unreadable),
            [f"{start}..{stop - 1}" for start, stop in status.unreadable],
        ),
        "hardware": "; ".join(_hardware(each) for each in run.meta["hardware"]) or "not recorded",
        "writer": _writer(status.holder),
        "workers": f"\n{'':12}".join(line for worker in status.workers for line in _worker(worker)) or "none",
        "on disk": size(status.bytes),
    }
    lines |= _stages(status)
    shown = [f"{name:10}  {text}" for name, text in lines.items()]
    if not run.damaged:
        emit(status.facts(), *shown)
        return
    if not ctx.meta.get("json"):
        click.echo("\n".join(shown))
    fail(ctx, FAILED, f"{path}: {told(run.damaged)}; scoring into it again repairs it", "Damaged", **status.facts())


def _stages(status: Status) -> dict[str, str]:
    """The lines on a run that was to be screened."""
    header = status.run.header
    if header.screen is None:
        return {}
    if header.not_screened:
        return {"screening": f"none: {header.not_screened}"}
    from ..run.screening.told import told, told_cut

    stage, screen = status.screen, header.screen
    lines = {"screening": f"by {screen.by} for the top {screen.top:,}, {screen.recall:.1%} of which are to survive"}
    if stage is not None:
        left = (
            "" if stage.run.complete else f", about {duration(stage.seconds_left)} left" if stage.seconds_left else ""
        )
        passes = stage.run.meta["passes"]
        lines["stage 1"] = f"{stage.run.done:,} of {stage.run.n:,} items done with {passes:,} passes{left}"
    lines["cut"] = told_cut(header)
    if header.certificate is not None:
        lines["found"] = f"\n{'':12}".join(told(header.certificate))
    return lines


def _some(items: int, names: list[str]) -> str:
    if not items:
        return "none"
    more = f", and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{count(items, 'item')}: {', '.join(names[:_NAMED])}{more}"


def _hardware(recorded: dict[str, Any]) -> str:
    return ", ".join(filter(None, (recorded["device"], recorded["instruction_set"], recorded["driver"])))


def _writer(holder: Holder | None) -> str:
    if holder is None:
        return "none"
    how = {
        True: "",
        False: ", which has ended (the next writer takes over)",
        None: ", which this machine cannot see",
    }
    since = f" since {holder.since}" if holder.since else ""
    return f"process {holder.pid} on {holder.host}{since}{how[holder.alive]}"


def _worker(worker: Worker) -> list[str]:
    """What is known of a worker, and below it, if it is a driver, of its own."""
    where = f"process {worker.pid} on {worker.host}"
    if worker.alive is False:
        return [f"{worker.what}, {where}: ended without a word after {worker.done:,} items"]
    speed = f"{worker.items_per_second:,.0f} items/s"
    return [
        f"{worker.what}, {where}: {worker.state}, {worker.done:,} items, {speed}, seen {duration(worker.seen)} ago",
        *(f"  {each['what']}: {each['state']}, {each['done']:,} items" for each in worker.workers),
    ]


@run.command("verify", short_help="Check every file of RUN; exit code 1 if one is damaged.")
@click.argument("path", metavar="RUN", type=RUN)
@as_json
@click.pass_context
def run_verify(ctx: click.Context, path: Path) -> None:
    """Read and check everything that is committed in RUN, and change nothing; exit code 1 if a file is damaged."""
    from ..run import Run
    from ..run.status import verify

    found = verify(path)
    if not found:
        run = Run.open(path)
        found = list(run.damaged)  # of a disk that fails from time to time
    if not found:
        emit(
            {"run": str(path), "done": run.done, "items": run.n, "damage": []},
            f"{path}: {run.done:,} of {run.n:,} items are committed and intact",
        )
        return
    if not ctx.meta.get("json"):
        echo("\n".join(f"{damage.file}: {damage.why}{_again(damage)}" for damage in found))
    fail(
        ctx,
        FAILED,
        f"{path} is damaged in {count(len(found), 'file')}; the `score` command of the run repairs it",
        "Damaged",
        run=str(path),
        damage=[damage.facts() for damage in found],
    )


@run.command("selections", short_help="List the selections that were made from RUN.")
@click.argument("path", metavar="RUN", type=RUN)
@shared.pool_now
@as_json
def run_selections(path: Path, pool_path: Path | None) -> None:
    """List the selections that were made from RUN, the oldest first, with how each was chosen and how many are labeled by now."""
    from ..pool import Pool
    from ..run import Run

    kept = Run.open(path).selections(Pool.open(pool_path) if pool_path else None)
    facts = [{**dataclasses.asdict(each), "file": str(each.file)} for each in kept]
    emit({"run": str(path), "selections": facts}, *(map(_selection, kept) if kept else ["none"]))


def _selection(kept: KeptSelection) -> str:
    """A line on a selection."""
    number = "-" if kept.number is None else str(kept.number)
    if kept.damage:
        return f"{number:>4}  damaged: {kept.damage}"
    moment = kept.created[:16].replace("T", " ") or f"{'not recorded':16}"
    unused = ("k", "by", "diversity", "map", "partial", *(() if "seed" in kept.facts else ("seed",)))
    given = {name: value for name, value in kept.asked.items() if value is not None and name not in unused}
    parameters = "".join(f", {name} {_short(value)}" for name, value in given.items())
    labeled = "" if kept.labeled is None else f"; {kept.labeled:,} labeled by now"
    file = "" if kept.number is not None else f" ({kept.file.name})"
    return f"{number:>4}  {moment}  {count(kept.k, 'item')} by {kept.by}, {kept.method}{parameters}{labeled}{file}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_short(each)}" for name, each in value.items())
    return (
        f"[{len(value)} ids]" if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def _again(damage: SpanDamage) -> str:
    return f"; {damage.span} will be scored again" if damage.span else "; the file will be written again"


@click.command()
@click.argument("path", metavar="RUN", type=RUN)
@click.option("--format", type=click.Choice(FORMATS), default="parquet", show_default=True, help="Format of the file.")
@click.option(
    "--selection",
    metavar="NUMBER|FILE|latest",
    help="Selection of RUN to export: its number (see `run selections`), a file, or the newest; default: all items.",
)
@click.option("--out", type=PATH, help="The file to write; default: export-... in RUN, if that is a directory.")
@click.option("--by", help="Score that label-studio gets; default: the score of the selection, or the first of RUN.")
@click.option(
    "--prefix",
    default="",
    help="Text to put before each key: label-studio needs an address (s3://bucket/), fiftyone, coco and cvat a folder (images/) that "
    "has the files.",
)
@click.option(
    "--images",
    type=PATH,
    metavar="DIR",
    help="Write the pictures of the items to DIR, and name these files: as they came where the pool keeps them, else the pixels as PNG. "
    "label-studio needs --prefix, too: the address at which DIR is served.",
)
@click.option(
    "--text",
    metavar="FILE:COLUMN",
    help="Texts to label in label-studio instead of pictures: a table with a column id or key, and the column of the texts.",
)
@shared.pool_now
@click.option("--partial", is_flag=True, help="Export even if RUN is not complete.")
@as_json
def export(
    path: Path,
    format: str,
    selection: str | None,
    out: Path | None,
    pool_path: Path | None,
    by: str | None,
    text: str | None,
    **how: Any,
) -> None:
    """Write the scores of RUN, or a selection from it, for other tools.

    csv: a key that a spreadsheet would run as a formula has an apostrophe before it, which `pool label` takes away.

    label-studio: tasks to import, with predictions as pre-labels, and beside them (.xml) the labeling configuration. Label Studio takes
    the lowest prediction score first, so the file has 1 / (1 + score), a confidence: the most informative items come first.
    `mcscore label-studio push` does the import.

    fiftyone: Dataset.from_dir(data_path=IMAGES, labels_path=FILE,
    dataset_type=fiftyone.types.FiftyOneImageClassificationDataset) reads the file.

    coco: a list of images in COCO's form, without annotations. cvat: "CVAT for images 1.1", the predictions as tags. cvat-manifest: the
    list of the images of a CVAT task.
    """
    from ..pool import Pool
    from ..run import Run

    run, pool = Run.open(path), Pool.open(pool_path) if pool_path else None
    how["texts"] = None if text is None else texts_of(run, pool, text)
    file = run.export(format, out, selection=selection, by=by, pool=pool, **how)
    emit({"run": str(path), "format": format, "file": str(file), "bytes": file.stat().st_size}, str(file))


def texts_of(run: Run, pool: Pool | None, text: str) -> dict[int, str]:
    """The texts of the items of a run that FILE:COLUMN tells."""
    from ..run.identity.match import find_pool
    from ..run.selecting.item_columns import texts_from

    return texts_from(find_pool(run, pool), text)
