"""mcscore select and mcscore report."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..acquisition import SCORES
from ..errors import ModelError
from ..text import count
from . import shared
from .model import build_scorer, users_code
from .options import PATH
from .shared import Command, Option
from .terminal import as_json, emit

if TYPE_CHECKING:
    from ..run import Run
    from ..scorer.scorer import Scorer

DIVERSITY = ("radius", "none")  # the rows of mcscore.selection.DIVERSITY, whose import needs NumPy and FAISS


_selection = functools.partial(click.option, cls=Option, section="Selection")
_diverse = functools.partial(click.option, cls=Option, section="Diversity")


@click.command(cls=Command)
@click.argument("path", metavar="RUN", type=PATH)
@_selection("-k", type=click.IntRange(1), required=True, help="Number of items to select.")
@_selection("--by", type=click.Choice(list(SCORES)), help="Score to select by; default: the first score of RUN.")
@_diverse(
    "--diversity",
    type=click.Choice(DIVERSITY),
    default="radius",
    show_default=True,
    help="radius: no two selected items are closer than the radius. none: the K items with the highest scores.",
)
@_diverse("--radius", type=click.FloatRange(min=0), help="The radius; default: as large as K items allow.")
@_diverse("--candidates", type=click.IntRange(1), help="Number of best items to select from; default: 10 K.")
@_diverse(
    "--embedding",
    metavar="MODULE",
    help="Module of the model whose output is compared; default: the input of the last Linear layer.",
)
@_diverse("--device", help="Device to compute embeddings on; default: cuda if there is one.")
@_diverse(
    "--model", "spec", metavar="FILE.py:NAME", help="Where the model is now; default: the place that `score` recorded."
)
@_diverse("--weights", type=PATH, help="Where the weights are now; default: the place that `score` recorded.")
@_diverse(
    "--accept-edited-code",
    is_flag=True,
    help="Compute embeddings though the code of the model or the transform was edited.",
)
@shared.pool_now
@_selection("--partial", is_flag=True, help="Select even if RUN is not complete.")
@as_json
def select(
    path: Path,
    k: int,
    by: str | None,
    diversity: str,
    pool_path: Path | None,
    spec: str | None,
    weights: Path | None,
    embedding: str | None,
    device: str | None,
    **choice: Any,
) -> None:
    """Select K diverse items of RUN with high scores, and write them to RUN/selection-BY-K.parquet.

    Items that are labeled or excluded by now are left out.
    """
    if diversity == "none" and choice["radius"] is not None:
        raise click.UsageError("--radius belongs to --diversity radius")
    from ..pool import Pool
    from ..run import Run
    from ..run.select import how_chosen

    run = Run.open(path)
    by = run.check_score(by or run.meta["scores"][0])
    pool = Pool.open(pool_path) if pool_path else None
    with users_code():
        scorer = None if diversity == "none" else _same_model(run, spec, weights, device, embedding)
        chosen = run.select(k, by, diversity, scorer=scorer, pool=pool, **choice)
    file = path / f"selection-{by}-{k}.parquet"
    facts = {"run": str(path), "file": str(file), "by": by, "k": k, "diversity": chosen.method, "radius": chosen.radius}
    apart = f", further than {chosen.radius:.4g} apart" if chosen.radius is not None else ""
    best, least = chosen.scores.max(), chosen.scores.min()
    told = {"at_noise_floor": chosen.ties_at_zero} if by == "bald" else {}
    noise = (
        [f"{count(chosen.ties_at_zero, 'item')} of them at the noise floor of BALD: stored as 0, ties ordered by id"]
        if told.get("at_noise_floor")
        else []
    )
    how = how_chosen(file)
    sure: dict[str, Any] = {name: how[name] for name in ("last_se", "near_cut") if name in how}
    error = f" (standard error {sure['last_se']:.2g})" if sure else ""
    near = [f"{count(sure['near_cut'], 'item')} not selected within one standard error of {least:.4g}"] if sure else []
    emit(
        {**facts, **told, **sure, "ids": chosen.ids.tolist(), "scores": chosen.scores.tolist()},
        f"{file}: {count(k, 'item')} by {by}, {best:.4g} down to {least:.4g}{error}{apart}",
        *near,
        *noise,
        f"next: mcscore report {path}",
    )


def _same_model(run: Run, spec: str | None, weights: Path | None, device: str | None, embedding: str | None) -> Scorer:
    """Build the model that scored ``run``; ValueError if its fingerprint is not the recorded one."""
    recorded = run.meta["model"]
    if spec is None and recorded["spec"] is not None:
        _require_recorded_file(run, recorded["spec"], recorded["spec_sha256"])
    spec, weights = spec or recorded["spec"], weights or recorded["weights"]
    if spec is None:
        raise click.UsageError(
            f"{run.path} was scored from Python, so no model file is recorded: give --model and --weights, or --diversity none"
        )
    # Embeddings do not depend on how the run was scored.
    scorer = build_scorer(spec, weights, device=device, embedding=embedding)
    if scorer.fingerprint != recorded["fingerprint"]:
        raise ValueError(
            f"{spec} {f'with {weights}' if weights else 'as built, without --weights,'} is not the model that scored "
            f"{run.path}: the fingerprint is {scorer.fingerprint}, and {recorded['fingerprint']} is recorded"
            + ("" if weights else "; a model that is built with fresh random weights differs each time")
        )
    return scorer


def _require_recorded_file(run: Run, spec: str, recorded: str | None) -> None:
    """A file that only run.json names is run if it is the file that was run then: whose run directory this is, is not known."""
    from ..scorer.model_spec import spec_sha256

    file = spec.rpartition(":")[0]
    if (now := spec_sha256(spec)) is None:
        raise ModelError(f"{file}: no such model file, which {run.path} recorded; give --model, where it is now")
    if now != recorded:
        changed = (
            "has changed since" if recorded else "cannot be compared with what was run, as its hash was not recorded by"
        )
        raise ModelError(
            f"{file} {changed} {run.path}, and is not run unasked: give --model {spec} to run it as it is now"
        )


@click.command()
@click.argument("path", metavar="RUN", type=PATH)
@click.option("--out", type=PATH, help="The page to write; default: RUN/report.html.")
@click.option("--selection", type=PATH, help="Selection file of RUN to show; default: the newest.")
@shared.pool_now
@as_json
def report(path: Path, out: Path | None, selection: Path | None, pool_path: Path | None) -> None:
    """Write a report of RUN and a selection from it: one HTML page, with its plots and pictures inside."""
    from ..pool import Pool
    from ..report import write_report
    from ..run import Run

    page = write_report(Run.open(path), Pool.open(pool_path) if pool_path else None, out, selection=selection)
    emit({"run": str(path), "report": str(page)}, str(page))
