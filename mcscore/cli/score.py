"""mcscore score and mcscore plan."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..acquisition import SCORES, check_scores
from ..errors import RunError, Stopped
from ..jackknife import require_passes
from ..text import duration
from . import shared
from .config import effective
from .metrics import metrics
from .model import build_scorer, import_spec, recipe_of, users_code
from .options import POOL, RUN
from .progress import progress_line, reporting
from .shared import Command, Option
from .terminal import RESUMABLE, as_json, emit, fail

if TYPE_CHECKING:
    from ..run import Run
    from ..run.findings import Check
    from ..run.scoring.task import OnBadChunk
    from ..run.scoring.workers import Staff
    from ..run.screening import Screen
    from ..run.shards import Shard


_run = functools.partial(click.option, cls=Option, section="Run")


_screen = functools.partial(click.option, cls=Option, section="Screening")
screening = shared.together(
    _screen(
        "--top",
        type=click.IntRange(1),
        metavar="K",
        help="Find the best K items: score all with few passes, and only those that may be among the best K with all. "
        "Without --screen, --passes is what may be spent per item, and what finds most of them for that is chosen.",
    ),
    _screen(
        "--screen",
        "screen_passes",
        type=click.IntRange(2, 65535),
        help="Passes of every item, of which the best get all --passes; default: 16 of what may be spent.",
    ),
    _screen("--by", help="Score by which the best are selected; default: the first of --scores."),
    _screen(
        "--recall",
        type=click.FloatRange(0, 1, min_open=True),
        help="Share of the best K that is to be among the items that get all passes; default: 0.99.",
    ),
    _screen(
        "--audit",
        type=click.FloatRange(0, 1),
        help="Cost, as a share of the passes, of checking some of the other items as well; default: 0.01.",
    ),
    _screen("--new-cut", is_flag=True, help="Decide anew which items get all passes, after POOL has been appended to."),
)


def shard_of(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Shard | None:
    """Read --shard."""
    if value is None:
        return None
    from ..run.shards import Shard

    try:
        return Shard.parse(value)
    except RunError as error:
        raise click.BadParameter(str(error)) from error


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Tell of a stop by a signal, whenever that comes, with the exit code of what can be resumed."""
    try:
        yield
    except Stopped as stop:
        ctx, facts = click.get_current_context(), {"done": stop.done, "items": stop.total}
        fail(ctx, RESUMABLE, f"{stop}; the same command resumes", "Stopped", **facts)
    except KeyboardInterrupt:  # before the first item
        text = "stopped before an item was scored; the same command starts again"
        fail(click.get_current_context(), RESUMABLE, text, "Stopped")


@click.command(cls=Command)
@click.argument("path", metavar="POOL", type=POOL)
@shared.model
@_run(
    "--out",
    type=RUN,
    required=True,
    help="Directory of the run, or URL of an object store (s3://, gs://, az://); a run that is there already resumes where it "
    "stopped.",
)
@_run(
    "--span",
    type=click.IntRange(1),
    help="Items to score and commit as one unit; default: as many as keep commits cheap.",
)
@_run(
    "--workers",
    type=click.IntRange(1),
    help="Processes that score; default: one for each GPU of this machine, and this process where there is one GPU or none. On a CPU they "
    "share the cores.",
)
@_run(
    "--shard",
    callback=shard_of,
    metavar="I/N|auto",
    help="Be process I (from 0) of N that score this run together, on machines that share the disk of --out. Give all of them the same "
    "command; any may be stopped and started again. auto: I and N of a Slurm job array, or I of a Kubernetes indexed Job, whose N is "
    "given as auto/N or in MCSCORE_SHARDS.",
)
@_run(
    "--ray",
    metavar="ADDRESS",
    help="Score with actors of a Ray cluster: auto (that of RAY_ADDRESS, or of which this machine is a node), HOST:PORT, or local (one of "
    "this machine, for this run). Only this process writes. Needs mcscore[ray].",
)
@_run(
    "--max-workers",
    type=click.IntRange(1),
    help="Actors at most with --ray, also of a cluster that grows by itself; default: as many as have room now.",
)
@_run("--labeled", is_flag=True, help="Score labeled items too, to look for wrong labels.")
@_run(
    "--on-bad-chunk",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="raise: stop at items that cannot be read from POOL. skip: leave such items without a score, and list them.",
)
@_run(
    "--mixed-hardware",
    is_flag=True,
    help="Resume on other hardware than the run was started on; the last bits of scores then differ between spans.",
)
@_run(
    "--accept-edited-code",
    is_flag=True,
    help="Resume though the code of the model or the transform was edited; run.json and the records say which scored what.",
)
@_run(
    "--take-over",
    is_flag=True,
    help="Take the lock of a process on another machine, which you know to be gone. Should that run all the same, it ends before its next "
    "commit, and no score is harmed.",
)
@metrics(_run)
@shared.passes
@shared.scores("bald,entropy", "bald,entropy")
@shared.errors
@shared.outputs
@screening
@shared.dropout
@shared.seed
@shared.execution
@shared.check
@reporting
@as_json
@click.pass_context
@_resumable()
def score(
    ctx: click.Context,
    /,
    path: Path,
    spec: str,
    weights: Path | None,
    out: str | Path,
    span: int | None,
    workers: int | None,
    shard: Shard | None,
    ray: str | None,
    max_workers: int | None,
    labeled: bool,
    on_bad_chunk: OnBadChunk,
    mixed_hardware: bool,
    accept_edited_code: bool,
    new_cut: bool,
    check: Check,
    take_over: bool,
    **settings: Any,
) -> None:
    """Score the unlabeled items of POOL with a model that has dropout.

    Ctrl-C stops the run; the same command resumes it.
    """
    if not set(settings["scores"]) <= SCORES.keys():
        with users_code():
            import_spec(spec)  # which may register the score
    try:
        check_scores(settings["scores"], settings["likelihood"], settings["noise_variance"])
        screen, device = screen_of(settings), settings.pop("device")
        staff = _staff(workers, ray, max_workers, device)
        if settings["errors"]:
            require_passes(settings["passes"])
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if shard is not None and (workers is not None or ray is not None):
        raise click.UsageError("--shard scores in this process: give it without --workers and --ray")
    if shard is not None and take_over:
        raise click.UsageError("--take-over is for a run that one process scores: shards share its lock")
    from ..pool import Pool
    from ..run import score_pool
    from ..run.shards import score_shard
    from ..run.start import ScoreOptions
    from ..store.files import retries_of
    from ..store.place import any_path

    opened = Pool.open(path)
    out_now = any_path(out).absolute()
    with users_code(), contextlib.ExitStack() as stack:
        scorer = recipe_of(spec, weights, **settings)
        progress = stack.enter_context(progress_line(settings["passes"]))
        shown: dict[str, Any] = {"device": device, "progress": progress, "on_stage": progress.stage}
        asked: dict[str, Any] = {
            "span": span,
            "labeled": labeled,
            "on_bad_chunk": on_bad_chunk,
            "mixed_hardware": mixed_hardware,
            "accept_edited_code": accept_edited_code,
            "screen": screen,
            "new_cut": new_cut,
            "check": check,
            "take_over": take_over,
            "command": effective(ctx),
        }
        if shard is None:
            run: Run | None = score_pool(opened, scorer, out_now, workers=staff, **asked, **shown)
        else:
            report = score_shard(opened, scorer, out_now, shard, ScoreOptions(**asked), **shown)
            run = report.run
    if run is None:
        emit(report.facts(), f"{out}: {report}")
        return
    facts = _run_facts(run) | {"remote_retries": retries_of(opened.path) + retries_of(run.path)}
    emit(
        facts,
        f"{out}: {_scored(run, several=staff is not None or shard is not None)}"
        + (f", {facts['nonfinite']:,} without a finite score" if facts["nonfinite"] else "")
        + (f", {facts['unreadable']:,} not scored: unreadable" if facts["unreadable"] else "")
        + (f", {facts['remote_retries']:,} requests sent again" if facts["remote_retries"] else ""),
        *_screened(run),
        f"next: mcscore select {out} -k {screen.top if screen else 50} --by {(screen and screen.by) or run.meta['scores'][0]}",
    )


def _staff(workers: int | None, ray: str | None, max_workers: int | None, device: str | None) -> Staff | None:
    """The workers that --workers or --ray asks for; without them, one for each GPU if there are several."""
    from ..run.scoring.ray_workers import RayWorkers
    from ..run.scoring.workers import Workers

    if workers is not None and ray is not None:
        raise click.UsageError(
            "--workers are processes of this machine, --ray are actors of a cluster: give one of them"
        )
    if max_workers is not None and ray is None:
        raise click.UsageError("--max-workers belongs to --ray; processes of this machine are --workers")
    if ray is not None:
        return RayWorkers(ray, max_workers)
    if workers is not None:
        return Workers(workers)
    if device not in (None, "cuda"):
        return None
    import torch

    return Workers() if torch.cuda.device_count() > 1 else None


def screen_of(settings: dict[str, Any]) -> Screen | None:
    """Take the options of screening out of ``settings``; None if there is none. RunError if they do not fit each other."""
    from ..run.screening.options import Screen

    asked = {name: settings.pop(option) for name, option in _SCREEN_OPTIONS.items()}
    given = {name: value for name, value in asked.items() if value is not None}
    if not given:
        return None
    if "top" not in given:
        raise click.UsageError("screening needs --top: the number of items that are to be selected")
    return Screen(**given, budget=None if "passes" in given else float(settings["passes"]))


_SCREEN_OPTIONS = {"top": "top", "passes": "screen_passes", "by": "by", "recall": "recall", "audit": "audit"}


def _scored(run: Run, several: bool) -> str:
    """What was scored in what time: that of all workers together, if there are several."""
    took, each = (" of work", " by each worker") if several else ("", "")
    if (first := run.screen) is None:
        return (
            f"{run.scored:,} items scored with {run.meta['passes']} passes in {duration(run.seconds)}{took} "
            f"({run.items_per_second:,.0f} items/s{each})"
        )
    return (
        f"{first.scored:,} items scored with {first.meta['passes']} passes in {duration(first.seconds)}{took}, {run.scored:,} of "
        f"them with {run.meta['passes']:,} in {duration(run.seconds)}{took}"
    )


def _screened(run: Run) -> list[str]:
    """What a run that was to be screened says of it, line by line."""
    if run.meta["not_screened"]:
        return [f"not screened: {run.meta['not_screened']}"]
    if run.meta["certificate"] is None:
        return []
    from ..run.screening.told import told

    return [*filter(None, [run.meta["cuts"][-1]["why"]]), *told(run.meta["certificate"])]


@click.command(cls=Command)
@click.argument("path", metavar="POOL", type=POOL)
@shared.model
@shared.passes
@shared.scores(None, "entropy, or variance with --likelihood gaussian")
@shared.errors
@shared.outputs
@shared.dropout
@shared.execution
@shared.check
@as_json
def plan(path: Path, spec: str, weights: Path | None, check: Check, **settings: Any) -> None:
    """Show how `score` would run with these options, and score nothing.

    The plan names the dropout sites, what runs once per item, how the passes run, the items per step and the memory, and what
    screening (`score --top K`) would save.
    """
    from ..pool import Pool
    from ..run.findings import told
    from ..run.scoring.normalize import own_scorer
    from ..run.scoring.sample import sample_of

    opened = Pool.open(path)
    if settings["scores"] is None:
        settings["scores"] = ("variance",) if settings["likelihood"] == "gaussian" else ("entropy",)
    with users_code():
        scorer = build_scorer(spec, weights, **settings)
        scorer = own_scorer(scorer, opened)
        text = scorer.plan(opened.read(0, min(opened.n, 256)))
        findings = told(scorer.look(sample_of(opened)) if check != "off" else (), check)
        described = scorer.describe()
    from ..run.screening.options import predicted

    prediction = predicted(described["plan"], scorer.passes)
    emit(
        {
            "sites": described["sites"],
            "plan": described["plan"],
            "model": described["model"],
            "screening": prediction.facts(),
            "findings": list(findings),
        },
        text,
        str(prediction),
    )


def _run_facts(run: Run) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "items": run.n,
        "done": run.done,
        "scored": run.scored,
        "complete": run.complete,
        "nonfinite": len(run.nonfinite_ids),
        "unreadable": len(run.unreadable_ids),
        "seconds": run.seconds,
        "items_per_second": run.items_per_second,
        "scores": list(run.meta["scores"]),
        "errors": run.meta["errors"],
        "not_compared": list(run.meta["model"]["unseen"]),
        "edited_code": len(run.meta["edited"]),
        "findings": list(run.meta["findings"]),
    }
