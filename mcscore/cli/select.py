"""mcscore select and mcscore report."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ModelError
from ..methods import DIVERSITY
from ..text import count
from . import shared
from .model import build_scorer, users_code
from .options import PATH, RUN, SELECTION
from .progress import progress_line, reporting
from .shared import Command, Option
from .terminal import as_json, emit

if TYPE_CHECKING:
    from ..pool import Pool
    from ..run import Run
    from ..scorer.scorer import Scorer
    from ..selection import Limits, Selection
    from ..store.files import AnyPath

_selection = functools.partial(click.option, cls=Option, section="Selection")
_diverse = functools.partial(click.option, cls=Option, section="Diversity")
_limited = functools.partial(click.option, cls=Option, section="Limits")
_QUOTA = click.FloatRange(min=0, min_open=True)


def _default_betas() -> str:
    """The default of --beta by method."""
    return ", ".join(
        f"{row.parameters['beta']:g} for {name}" for name, row in DIVERSITY.items() if "beta" in row.parameters
    )


@click.command(cls=Command, short_help="Select K diverse items of RUN with high scores.")
@click.argument("path", metavar="RUN", type=RUN)
@_selection("-k", type=click.IntRange(1), required=True, help="Number of items to select.")
@_selection("--by", metavar="SCORE", help="Score to select by, of those of RUN; default: the first.")
@_diverse(
    "--diversity",
    type=click.Choice(list(DIVERSITY)),
    default="radius",
    show_default=True,
    help=" ".join(f"{name}: {row.text}." for name, row in DIVERSITY.items()),
)
@_diverse("--radius", type=click.FloatRange(min=0), help="The radius; default: as large as K items allow.")
@_diverse(
    "--beta",
    type=click.FloatRange(min=0, min_open=True),
    help=f"How much a method that draws prefers high scores; default: {_default_betas()}.",
)
@_diverse(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    help=f"Seed of what is drawn by {', '.join(name for name, row in DIVERSITY.items() if row.draws)}.",
)
@_diverse(
    "--candidates",
    type=click.IntRange(1),
    help="Number of best items to select from; default: 10 K, at least 10,000 for batchbald and epig, or all items for a method that "
    "ranks all.",
)
@_diverse(
    "--targets",
    metavar="ITEMS",
    help="Items whose predictions matter to epig: ids such as 3,17,20-29, a file with ids or keys, or another pool; default: 100 drawn.",
)
@_diverse(
    "--embedding",
    metavar="MODULE",
    help="Module of the model whose output is compared; default: the input of the last Linear layer.",
)
@_diverse(
    "--map",
    type=click.Choice(["pca", "umap"]),
    default="pca",
    show_default=True,
    help="How the report's map of the embeddings is laid out; umap needs the package umap-learn.",
)
@_diverse("--workers", type=click.IntRange(1), help="Processes that compute embeddings; default: this one.")
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
@_limited("--per-class", type=_QUOTA, help="Most items of one predicted class; below 1: a share of K.")
@_limited("--per-group", type=_QUOTA, help="Most items of one group; below 1: a share of K.")
@_limited(
    "--groups", metavar="FILE:COLUMN", help="CSV or Parquet file with a column id or key, and the column of the groups."
)
@_limited("--budget", type=click.FloatRange(min=0), help="Most that all selected items may cost together.")
@_limited(
    "--costs", metavar="FILE:COLUMN", help="CSV or Parquet file with a column id or key, and the column of the costs."
)
@_limited("--leave-out", metavar="IDS", help="Items not to select: ids such as 3,17,20-29, or a file with ids or keys.")
@_limited(
    "--labeled-distance", type=click.FloatRange(min=0), help="Leave out items within this distance of a labeled one."
)
@shared.pool_now
@_selection("--partial", is_flag=True, help="Select even if RUN is not complete.")
@reporting
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
    targets: str | None,
    **choice: Any,
) -> None:
    """Select K diverse items of RUN with high scores, and keep them as RUN/selection-0001.parquet or the next number.

    Items that are labeled or excluded by now are left out. No selection is ever replaced: `mcscore run selections RUN` lists them, with
    all that was asked for.
    """
    for name, value in (("radius", choice["radius"]), ("beta", choice["beta"])):
        if value is not None and name not in DIVERSITY[diversity].parameters:
            others = [other for other, row in DIVERSITY.items() if name in row.parameters]
            raise click.UsageError(f"--{name} belongs to --diversity {' or '.join(others)}")
    if targets is not None and "targets" not in DIVERSITY[diversity].needs:
        raise click.UsageError("--targets belongs to --diversity epig")
    from ..pool import Pool
    from ..run import Run
    from ..run.selecting.kept import number_of, selections_of
    from ..selection import read_parquet

    asked = {name: choice.pop(name) for name in _LIMITS}
    run = Run.open(path)
    by = run.check_score(by or run.meta["scores"][0])
    pool = Pool.open(pool_path) if pool_path else None
    limits = _limits(run, pool, asked)
    before = selections_of(run.path)
    with users_code():
        needs = bool(DIVERSITY[diversity].needs_of_model) or limits.labeled_distance is not None
        settings = _settings_of(run) if "probabilities" in DIVERSITY[diversity].needs else {}
        scorer = _same_model(run, spec, weights, device, embedding, settings) if needs else None
        joint = "samples" in DIVERSITY[diversity].needs
        with progress_line(run.meta["passes"], quiet=not joint) as progress:
            chosen = run.select(
                k,
                by,
                diversity,
                scorer=scorer,
                pool=pool,
                limits=limits,
                targets=None if targets is None else _targets(run, pool, targets),
                progress=progress,
                **choice,
            )
    file = chosen.file
    assert file is not None
    _, how = read_parquet(file)
    facts: dict[str, Any] = {
        "run": str(path),
        "file": str(file),
        "selection": number_of(file),
        "by": by,
        "k": k,
        "diversity": chosen.method,
        "radius": chosen.radius,
    }
    facts |= {"parameters": dict(chosen.facts), "left_out": how["left_out"], "new": file not in before}
    told = {"at_noise_floor": chosen.ties_at_zero} if by == "bald" else {}
    sure: dict[str, Any] = {name: how[name] for name in ("last_se", "near_cut") if name in how}
    emit(
        {**facts, **told, **sure, "ids": chosen.ids.tolist(), "scores": chosen.scores.tolist()},
        *_lines(file, by, chosen, sure, told),
        *(["the newest selection was the same: nothing was written"] if file in before else []),
        f"next: mcscore report {path}",
    )


def _lines(file: AnyPath, by: str, chosen: Selection, sure: dict[str, Any], told: dict[str, int]) -> Iterator[str]:
    """What is said of a selection in words."""
    best, least = chosen.scores.max(), chosen.scores.min()
    apart = f", further than {chosen.radius:.4g} apart" if chosen.radius is not None else ""
    error = f" (standard error {sure['last_se']:.2g})" if sure else ""
    yield f"{file}: {count(len(chosen), 'item')} by {by}, {best:.4g} down to {least:.4g}{error}{apart}"
    if sure:
        yield f"{count(sure['near_cut'], 'item')} not selected within one standard error of {least:.4g}"
    if told.get("at_noise_floor"):
        floor = "at the noise floor of BALD: stored as 0, ties ordered by id"
        yield f"{count(told['at_noise_floor'], 'item')} of them {floor}"
    if gains := chosen.facts.get("gains"):
        what = "of the model" if chosen.method == "batchbald" else "of the predictions for a target, each by itself,"
        yield f"information {what} by pick: {', '.join(f'{gain:.3g}' for gain in gains[:10])}{' ...' if len(gains) > 10 else ''} nats"
    if DIVERSITY[chosen.method].draws:
        drawn = ", ".join(f"{name} {chosen.facts[name]:g}" for name in ("beta", "seed") if name in chosen.facts)
        yield f"drawn with {drawn}: another seed draws other items"
    for name, number in (chosen.facts.get("limits") or {}).items():
        if name.startswith("closed_by") and number:
            yield f"{count(number, 'candidate')} left out by the {name.removeprefix('closed_by_')}"


_LIMITS = ("per_class", "per_group", "groups", "budget", "costs", "leave_out", "labeled_distance")


def _limits(run: Run, pool: Pool | None, asked: dict[str, Any]) -> Limits:
    """The limits that the options tell, with the columns of their files read."""
    from ..selection import Limits

    name = {} if asked["groups"] is None else {"group_name": asked["groups"].rpartition(":")[2]}
    if any(asked[name] is not None for name in ("groups", "costs", "leave_out")):
        from ..pool.tables import items_from
        from ..run.identity.match import find_pool
        from ..run.selecting.item_columns import costs_from, groups_from

        pool = find_pool(run, pool)
        if asked["leave_out"] is not None:
            ids = items_from(pool, asked["leave_out"])
            asked["leave_out"] = ids[ids < run.n]  # others were appended since, and have no score
        for column, read in (("groups", groups_from), ("costs", costs_from)):
            if asked[column] is not None:
                asked[column] = read(pool, asked[column], run.n)
    return Limits(**asked, **name)


def _targets(run: Run, pool: Pool | None, text: str) -> Any:
    """The pool at a path, or the ids that the text lists or a file names."""
    from ..pool import Pool
    from ..pool.tables import items_from
    from ..run.identity.match import find_pool

    return Pool.open(Path(text)) if Path(text).is_dir() else items_from(find_pool(run, pool), text)


def _settings_of(run: Run) -> dict[str, Any]:
    """What decides the probabilities that the scores of a run are of."""
    meta = run.meta
    same = {
        name: meta[name]
        for name in ("passes", "seed", "masks", "likelihood", "input", "noise_variance", "weight_dropout")
    }
    active = [site for site in meta["sites"] if site["active"]]
    # --p is one rate for all sites: where rates differ they are the model's own.
    rates = {site["p"] for site in active}
    return {
        **same,
        "sites": None if meta["weight_dropout"] is not None else [site["name"] for site in active],
        "p": rates.pop() if len(rates) == 1 and meta["weight_dropout"] is None else None,
    }


def _same_model(
    run: Run,
    spec: str | None,
    weights: Path | None,
    device: str | None,
    embedding: str | None,
    settings: dict[str, Any],
) -> Scorer:
    """Build the model that scored ``run``; ValueError if its fingerprint is not the recorded one."""
    recorded = run.meta["model"]
    if spec is None and recorded["spec"] is not None:
        _require_recorded_file(run, recorded["spec"], recorded["spec_sha256"])
    spec, weights = spec or recorded["spec"], weights or recorded["weights"]
    if spec is None:
        raise click.UsageError(
            f"{run.path} was scored from Python, so no model file is recorded: give --model and --weights, or --diversity none"
        )
    # Embeddings do not depend on how the run was scored: for them there are no settings.
    scorer = build_scorer(spec, weights, device=device, embedding=embedding, **settings)
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
@click.argument("path", metavar="RUN", type=RUN)
@click.option("--out", type=PATH, help="The page to write; default: RUN/report.html.")
@click.option(
    "--selection",
    type=SELECTION,
    metavar="NUMBER|FILE",
    help="Selection of RUN to show, see `run selections`; default: the newest.",
)
@click.option(
    "--compare",
    type=RUN,
    multiple=True,
    metavar="RUN2",
    help="Another run of the pool, to compare as rounds; may be repeated; default: the other rounds of its cycle.",
)
@shared.pool_now
@as_json
def report(
    path: Path, out: Path | None, selection: Path | str | None, compare: tuple[Path, ...], pool_path: Path | None
) -> None:
    """Write a report of RUN and a selection from it: one HTML page, with plots and pictures.

    On the page the selected items can be sorted, filtered, enlarged and labeled; it saves labels as labels.csv for `mcscore pool label`.

    If RUN is the directory of a cycle, or of several (see `mcscore.cycle`): its learning curves.
    """
    from ..cycle.state import is_cycle
    from ..pool import Pool
    from ..report import write_report
    from ..run import Run

    if isinstance(path, Path) and is_cycle(path):
        from ..report.cycle_page import write_cycle_report

        if selection is not None or compare or pool_path is not None:
            raise click.UsageError(
                f"{path} is a cycle: --selection, --compare and --pool belong to the report of a run"
            )
        curves = write_cycle_report(path, out)
        emit({"cycle": str(path), "report": str(curves)}, str(curves))
        return
    others = [Run.open(each) for each in compare]
    pool = Pool.open(pool_path) if pool_path else None
    page = write_report(Run.open(path), pool, out, selection=selection, compare=others)
    emit({"run": str(path), "report": str(page)}, str(page))
