"""mcscore run: how a run stands. mcscore export: its scores for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..text import count, duration, size
from .options import PATH
from .terminal import FAILED, as_json, emit, fail

FORMATS = (
    "parquet",
    "csv",
    "jsonl",
    "label-studio",
    "fiftyone",
)  # the rows of mcscore.run.export.formats.FORMATS, unimported

if TYPE_CHECKING:
    from ..run.journal import SpanDamage
    from ..store.lock import Holder

_NAMED = 12  # ids that are printed; --json has them all


@click.group()
def run() -> None:
    """Show how a run stands, and check whether it is whole."""


@run.command("info")
@click.argument("path", metavar="RUN", type=PATH)
@as_json
@click.pass_context
def run_info(ctx: click.Context, path: Path) -> None:
    """Show what of RUN is done and left, how fast it is, which items have no score, and who writes into it.

    The exit code is 1 if a record is damaged, so that what is shown may be less than what was done.
    """
    from ..run.journal import told
    from ..run.status import info

    status = info(path)
    run = status.run
    left = status.seconds_left
    lines = {
        "run": f"{path}, started {run.meta['created']}",
        "scores": f"{', '.join(run.meta['scores'])}; {run.meta['passes']:,} passes",
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
        "on disk": size(status.bytes),
    }
    shown = [f"{name:10}  {text}" for name, text in lines.items()]
    if not run.damaged:
        emit(status.facts(), *shown)
        return
    if not ctx.meta.get("json"):
        click.echo("\n".join(shown))
    fail(ctx, FAILED, f"{path}: {told(run.damaged)}; scoring into it again repairs it", "Damaged", **status.facts())


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
        False: ", which is gone (the next writer takes over)",
        None: ", which this machine cannot see",
    }
    return f"process {holder.pid} on {holder.host}{how[holder.alive]}"


@run.command("verify")
@click.argument("path", metavar="RUN", type=PATH)
@as_json
@click.pass_context
def run_verify(ctx: click.Context, path: Path) -> None:
    """Read and check all that is committed in RUN, and change nothing; exit code 1 if something is damaged."""
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
        click.echo("\n".join(f"{damage.file}: {damage.why}{_again(damage)}" for damage in found))
    fail(
        ctx,
        FAILED,
        f"{path} is damaged in {count(len(found), 'file')}; scoring into it again repairs it",
        "Damaged",
        run=str(path),
        damage=[damage.facts() for damage in found],
    )


def _again(damage: SpanDamage) -> str:
    return f"; {damage.span} will be scored again" if damage.span else "; it will be written again"


@click.command()
@click.argument("path", metavar="RUN", type=PATH)
@click.option("--format", type=click.Choice(FORMATS), default="parquet", show_default=True, help="Format of the file.")
@click.option("--selection", metavar="FILE|latest", help="A selection file of RUN, or its newest; default: all items.")
@click.option("--out", type=PATH, help="The file to write; default: in RUN, export-...")
@click.option("--by", help="The score that label-studio gets; default: the selection's, or RUN's first.")
@click.option(
    "--prefix",
    default="",
    help="Text put before a key to make an address of it (s3://bucket/), or a path for fiftyone.",
)
@click.option("--pool", "pool_path", type=PATH, help="Where the pool is now; default: as recorded by `score`.")
@click.option("--partial", is_flag=True, help="Export even if the run is not complete.")
@as_json
def export(
    path: Path, format: str, selection: str | None, out: Path | None, pool_path: Path | None, by: str | None, **how: Any
) -> None:
    """Write the scores of RUN, or a selection from it, for other tools.

    Label Studio takes the lowest prediction score first, so label-studio gets a confidence, 1 / (1 + score): the most
    informative items come first. For FiftyOne: Dataset.from_dir(data_path=IMAGES, labels_path=FILE,
    dataset_type=fiftyone.types.FiftyOneImageClassificationDataset).
    """
    from ..pool import Pool
    from ..run import Run

    pool = Pool.open(pool_path) if pool_path else None
    file = Run.open(path).export(format, out, selection=selection, by=by, pool=pool, **how)
    emit({"run": str(path), "format": format, "file": str(file), "bytes": file.stat().st_size}, str(file))
