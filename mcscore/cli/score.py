"""mcscore score and mcscore plan."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..acquisition import SCORES, check_scores
from ..likelihoods import INPUTS, LIKELIHOODS
from ..text import duration
from .model import build_scorer, users_code
from .options import COMMA, PATH, POOL, PROBABILITY, either, names
from .terminal import RESUMABLE, as_json, emit, fail, progress_line

if TYPE_CHECKING:
    from ..run import Run
    from ..run.prefetch import OnBadChunk


@click.command()
@click.argument("path", metavar="POOL", type=POOL)
@click.option(
    "--model",
    "spec",
    required=True,
    metavar="FILE.py:NAME",
    help="Function or class that builds the model, or package.module:NAME.",
)
@click.option(
    "--weights", type=PATH, help="Its weights: .safetensors, or a state dict or checkpoint (.pt, .pth, .ckpt, .bin)."
)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="Directory of the run; if it is there, the run is resumed where it stopped.",
)
@click.option(
    "--passes",
    type=click.IntRange(1, 65536),
    default=100,
    show_default=True,
    help="Stochastic forward passes per item.",
)
@click.option(
    "--scores",
    callback=names,
    default="bald,entropy",
    show_default=True,
    metavar=COMMA,
    help=f"Out of {', '.join(SCORES)}.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Seed of the dropout masks."
)
@click.option(
    "--likelihood",
    type=click.Choice(LIKELIHOODS),
    default="categorical",
    show_default=True,
    help="How outputs become a distribution.",
)
@click.option(
    "--input", type=click.Choice(INPUTS), default="logits", show_default=True, help="What the model's outputs are."
)
@click.option(
    "--masks",
    type=click.Choice(["independent", "shared"]),
    default="independent",
    show_default=True,
    help="A mask per item and pass, or one per pass for all items.",
)
@click.option("--sites", callback=names, metavar=COMMA, help="Dropout sites to use, by name; default: all.")
@click.option("--p", type=PROBABILITY, help="A drop probability for all sites, instead of the model's own.")
@click.option("--weight-dropout", type=PROBABILITY, help="For a model without dropout: drop its weights instead.")
@click.option("--noise-variance", type=float, help="Known variance of the noise, for --likelihood gaussian.")
@click.option(
    "--reduction",
    callback=either,
    default="mean",
    show_default=True,
    help="Of pixel scores to one per item: mean, max, or the share of highest pixels to average.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "auto"]),
    help="Compute products in bfloat16, or where that is fast and keeps the ranking; default: as the model is.",
)
@click.option("--channels-last", is_flag=True, help="Give images to the model in channels-last format.")
@click.option("--compile", is_flag=True, help="Compile the part after the first dropout with torch.compile.")
@click.option("--device", help="Such as cpu or cuda:0; default: cuda if there is one.")
@click.option("--span", type=click.IntRange(1), help="Items scored and committed as one unit; default: chosen for you.")
@click.option("--labeled", is_flag=True, help="Score labeled items too, to look for wrong labels.")
@click.option(
    "--on-bad-chunk",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="Stop at items that cannot be read from POOL, or leave them without a score, listed.",
)
@click.option(
    "--mixed-hardware",
    is_flag=True,
    help="Resume on other hardware than so far; the last bits of scores then differ between spans.",
)
@click.option(
    "--accept-edited-code",
    is_flag=True,
    help="Resume though the model's or the transform's code was edited; run.json and the records say which scored what.",
)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
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
    """Score the unlabeled items of POOL with a model that has dropout. Ctrl-C stops; the same command resumes."""
    try:
        check_scores(settings["scores"], settings["likelihood"], settings["noise_variance"])
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    from ..errors import Stopped
    from ..pool import Pool
    from ..run import score_pool

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
    facts = _run_facts(run)
    emit(
        facts,
        f"{out}: {run.scored:,} items scored with {scorer.passes} passes in {duration(run.seconds)} ({run.items_per_second:,.0f} items/s)"
        + (f", {facts['nonfinite']:,} without a finite score" if facts["nonfinite"] else "")
        + (f", {facts['unreadable']:,} not scored: unreadable" if facts["unreadable"] else ""),
        f"next: mcscore select {out} -k 50 --by {scorer.scores[0]}",
    )


@click.command()
@click.argument("path", metavar="POOL", type=POOL)
@click.option("--model", "spec", required=True, metavar="FILE.py:NAME", help="As for `score`.")
@click.option("--weights", type=PATH, help="As for `score`.")
@click.option("--passes", type=click.IntRange(1, 65536), default=100, show_default=True, help="As for `score`.")
@click.option("--sites", callback=names, metavar=COMMA, help="As for `score`.")
@click.option("--p", type=PROBABILITY, help="As for `score`.")
@click.option("--weight-dropout", type=PROBABILITY, help="As for `score`.")
@click.option("--masks", type=click.Choice(["independent", "shared"]), default="independent", help="As for `score`.")
@click.option("--likelihood", type=click.Choice(LIKELIHOODS), default="categorical", help="As for `score`.")
@click.option("--input", type=click.Choice(INPUTS), default="logits", help="As for `score`.")
@click.option(
    "--scores", callback=names, default=None, metavar=COMMA, help="As for `score`; default: entropy or variance."
)
@click.option("--dtype", type=click.Choice(["bfloat16", "auto"]), help="As for `score`.")
@click.option("--channels-last", is_flag=True, help="As for `score`.")
@click.option("--compile", is_flag=True, help="As for `score`.")
@click.option("--device", help="As for `score`.")
@as_json
def plan(path: Path, spec: str, weights: Path | None, **settings: Any) -> None:
    """Show how POOL would be scored: dropout sites, what runs once, how the passes run, step and memory."""
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
        "not_compared": list(run.meta["model"]["unseen"]),
        "edited_code": len(run.meta["edited"]),
    }
