"""mcscore score and mcscore plan."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..acquisition import check_scores
from ..jackknife import require_passes
from ..text import duration
from . import shared
from .model import build_scorer, users_code
from .options import PATH, POOL
from .shared import Command, Option
from .terminal import RESUMABLE, as_json, emit, fail, progress_line

if TYPE_CHECKING:
    from ..run import Run
    from ..run.prefetch import OnBadChunk


_run = functools.partial(click.option, cls=Option, section="Run")


@click.command(cls=Command)
@click.argument("path", metavar="POOL", type=POOL)
@shared.model
@_run(
    "--out",
    type=PATH,
    required=True,
    help="Directory of the run; a run that is there already resumes where it stopped.",
)
@_run(
    "--span",
    type=click.IntRange(1),
    help="Items to score and commit as one unit; default: as many as keep commits cheap.",
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
@shared.passes
@shared.scores("bald,entropy", "bald,entropy")
@shared.errors
@shared.outputs
@shared.dropout
@shared.seed
@shared.execution
@shared.quiet
@as_json
@click.pass_context
def score(
    ctx: click.Context,
    /,
    path: Path,
    spec: str,
    weights: Path | None,
    out: Path,
    span: int | None,
    labeled: bool,
    on_bad_chunk: OnBadChunk,
    mixed_hardware: bool,
    accept_edited_code: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Score the unlabeled items of POOL with a model that has dropout.

    Ctrl-C stops the run; the same command resumes it.
    """
    try:
        check_scores(settings["scores"], settings["likelihood"], settings["noise_variance"])
        if settings["errors"]:
            require_passes(settings["passes"])
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    from ..errors import Stopped
    from ..pool import Pool
    from ..run import score_pool
    from ..store.files import retries_of

    try:
        opened = Pool.open(path)
        out_now = out.absolute()
        with users_code(), contextlib.ExitStack() as stack:
            scorer = build_scorer(spec, weights, **settings)
            progress = stack.enter_context(progress_line(scorer.passes, quiet))
            run = score_pool(
                opened,
                scorer,
                out_now,
                span=span,
                labeled=labeled,
                on_bad_chunk=on_bad_chunk,
                mixed_hardware=mixed_hardware,
                accept_edited_code=accept_edited_code,
                progress=progress,
            )
    except Stopped as stop:
        fail(ctx, RESUMABLE, f"{stop}; the same command resumes", "Stopped", done=stop.done, items=stop.total)
    except KeyboardInterrupt:  # before the first item
        fail(ctx, RESUMABLE, "stopped before an item was scored; the same command starts again", "Stopped")
    facts = _run_facts(run) | {"remote_retries": retries_of(opened.path)}
    emit(
        facts,
        f"{out}: {run.scored:,} items scored with {scorer.passes} passes in {duration(run.seconds)} ({run.items_per_second:,.0f} items/s)"
        + (f", {facts['nonfinite']:,} without a finite score" if facts["nonfinite"] else "")
        + (f", {facts['unreadable']:,} not scored: unreadable" if facts["unreadable"] else "")
        + (f", {facts['remote_retries']:,} requests sent again" if facts["remote_retries"] else ""),
        f"next: mcscore select {out} -k 50 --by {scorer.scores[0]}",
    )


@click.command(cls=Command)
@click.argument("path", metavar="POOL", type=POOL)
@shared.model
@shared.passes
@shared.scores(None, "entropy, or variance with --likelihood gaussian")
@shared.errors
@shared.outputs
@shared.dropout
@shared.execution
@as_json
def plan(path: Path, spec: str, weights: Path | None, **settings: Any) -> None:
    """Show how `score` would run with these options, and score nothing.

    The plan names the dropout sites, what runs once per item, how the passes run, the items per step and the memory.
    """
    from ..pool import Pool

    opened = Pool.open(path)
    if settings["scores"] is None:
        settings["scores"] = ("variance",) if settings["likelihood"] == "gaussian" else ("entropy",)
    with users_code():
        scorer = build_scorer(spec, weights, **settings)
        scorer.normalize(opened.mean, opened.std)
        text = scorer.plan(opened.read(0, min(opened.n, 256)))
        described = scorer.describe()
    emit({"sites": described["sites"], "plan": described["plan"], "model": described["model"]}, text)


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
    }
