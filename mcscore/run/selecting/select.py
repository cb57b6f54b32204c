"""From the stored scores of a run to the k items to label."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import RunError
from ...labels import has_label
from ...methods import DIVERSITY, Method, parameters_of
from ..identity.code import accepted
from ..identity.match import find_pool
from ..schema import Settings
from ..scoring.normalize import own_scorer
from ..scoring.workers import Staff
from ..skipped import STRIDE, Skipped
from ..stored import StoredScores
from .best import Choosable, Found, best_items
from .embedder import embedder
from .gather import gathered
from .item_columns import by_span
from .kept import keep
from .told import asked_of, class_columns

if TYPE_CHECKING:
    from ...pool import Pool
    from ...progress import Progress
    from ...scorer.scorer import Scorer
    from ...selection import Limits, Selection

CANDIDATES_PER_ITEM = 10
JOINT_CANDIDATES = 10_000  # at least, of a joint method: of a pool with repeats, ten for each item may all be one
# Labeled items that candidates are compared with. Their embeddings are computed for each selection, so an even sample of
# so many stands for all; the file says how many were used.
LABELED_MAX = 10_000


def choose(
    run: StoredScores,
    k: int,
    *,
    by: str,
    diversity: str,
    candidates: int | None,
    scorer: Scorer | None,
    pool: Pool | None,
    partial: bool,
    seed: int,
    limits: Limits | None,
    targets: Any = None,
    progress: Progress | None = None,
    accept_edited_code: bool = False,
    map: str = "pca",
    workers: int | Staff | None = None,
    **parameters: Any,
) -> Selection:
    """Choose k items, see ``Run.select``."""
    from ...selection import Limits, select
    from ...selection.embedding_map import MAPS, embedding_map

    if diversity not in DIVERSITY:
        raise RunError(f"no diversity method {diversity!r}; choose from {', '.join(DIVERSITY)}")
    if k < 1:
        raise RunError(f"k must be at least 1, got {k}")
    if map not in MAPS:
        raise RunError(f"no map {map!r}; choose from {', '.join(MAPS)}")
    if map == "umap" and find_spec("umap") is None:
        raise RunError("map 'umap' needs a package: pip install umap-learn, or take map 'pca'")
    if targets is not None and "targets" not in DIVERSITY[diversity].needs:
        raise RunError(f"diversity {diversity!r} has no targets: leave targets out, or choose diversity 'epig'")
    if candidates is not None and candidates < k:
        raise RunError(f"{k} items cannot be chosen from {candidates} candidates")
    method, own, limits = DIVERSITY[diversity], parameters_of(diversity, parameters), by_span(limits or Limits())
    most = _most_of_screen(run, k, by, candidates)
    _refuse_limits(run, diversity, limits)
    pool = find_pool(run, pool)
    if not partial:
        refuse_incomplete(run, pool)
    # A run of labeled items may choose them too. Items appended since have no scores yet.
    choosable = Choosable(run, by, Skipped(pool, run.meta["labeled"]), limits)
    found = _candidates(choosable, k, method, candidates, most, own, seed)

    arrays: dict[str, Any] = {}
    labeled_items = 0 if run.meta["labeled"] else sum(len(ids) for ids in _labeled(pool, run.n))
    labeled, edited = np.empty(0, np.int64), list[str]()
    needs = {*method.needs_of_model, *(("embeddings",) if limits.labeled_distance is not None else ())}
    if needs:
        scorer, edited = _scorer_of(run, scorer, accept_edited_code)
        scorer = own_scorer(scorer, pool)
        if "embeddings" in needs:
            labeled = _evenly(_labeled(pool, run.n), labeled_items, LABELED_MAX)
            with embedder(pool, run.meta["block_items"], scorer, workers) as embeddings:
                for name, ids in (("embeddings", found.ids), ("labeled_embeddings", labeled)):
                    if len(ids):
                        arrays[name] = embeddings(ids)
        if "samples" in needs:
            from .second_scoring import SecondScoring  # loads torch

            second = SecondScoring(run, pool, scorer, progress)
            arrays["samples"] = second.samples(found.ids, least=k if candidates is None else None)
            found = found.first(len(arrays["samples"]))
        if "targets" in needs:
            arrays["targets"] = second.targets(targets, seed)
        if "probabilities" in needs:
            _refuse_other_passes(run, scorer)
            predict = scorer.predict
            arrays["probabilities"] = gathered(
                pool, found.ids, run.meta["block_items"], lambda items, ids: predict(items, ids).mean.cpu().numpy()
            )
    selection = select(
        found.ids,
        found.scores,
        k,
        diversity=diversity,
        **arrays,
        ranks=found.ranks,
        seed=seed,
        limits=_of_candidates(limits, found),
        **own,
    )
    how = {
        "run": run.meta["id"],
        "pool": run.meta["pool"]["fingerprint"],
        "by": by,
        "asked": asked_of(
            k=k,
            by=by,
            diversity=diversity,
            candidates=candidates,
            seed=seed,
            limits=limits,
            targets=targets,
            map=map,
            partial=partial,
            **own,
        ),
        "candidates": len(found.ids),
        "labeled": labeled_items,
        "labeled_compared": len(labeled),
        "left_out": found.left_out,
        "done": run.done,
        "n": run.n,
        **(_errors_at_cut(choosable, selection) if method.has_cut else {}),
    }
    order = np.argsort(found.ids)
    chosen = order[np.searchsorted(found.ids, selection.ids, sorter=order)]
    if "embeddings" in arrays:
        how["map"] = embedding_map(
            arrays["embeddings"], arrays.get("labeled_embeddings"), chosen, found.ids, seed, map, labeled
        )
    if edited:
        how["edited_code"] = edited
    columns = {name: run.values(name, selection.ids) for name in (*run.columns, "prediction")}
    if (keys := pool.keys_of(selection.ids)) is not None:
        columns = {"key": keys, **columns}
    file = keep(run, selection, {**columns, **class_columns(arrays, chosen)}, how)
    return dataclasses.replace(selection, file=file)


def _candidates(
    choosable: Choosable,
    k: int,
    method: Method,
    candidates: int | None,
    most: int,
    own: dict[str, Any],
    seed: int,
) -> Found:
    """The candidates of a method.

    A ranked method takes the first k that the limits leave room for, by its own values. So these k are all that it needs, unless there are
    limits other than the quota, which is kept while streaming.
    """
    limits, n = choosable.limits, choosable.run.n
    streamed = method.family == "ranked" and candidates is None
    enough = streamed and limits.budget is None and limits.labeled_distance is None
    M = candidates or (
        k if enough else max(CANDIDATES_PER_ITEM * k, JOINT_CANDIDATES if method.family == "joint" else 0)
    )
    M = min(M, most, n)
    quota = limits.most(k)
    if quota is not None and most < n:
        quota = None  # of a screened run only the best are known, whatever their groups
    if quota is not None and not enough:
        quota = max(1, quota * M // k)  # so that k of M candidates respect the quota if k of all items do
    value = None
    if streamed and method.draws:
        function = method.function

        def value(scores: Any, ids: Any, ranks: Any) -> Any:
            return function(scores, ids, ranks, seed=seed, **own)

    ranked = streamed and "ranks" in method.needs
    found = best_items(choosable, k, M, quota, value, ranked)
    if len(found.ids) < k and quota is not None:  # more of each group, so that ``select`` can say which quota would do
        return best_items(choosable, k, CANDIDATES_PER_ITEM * k, CANDIDATES_PER_ITEM * quota, value, ranked)
    return found


def _of_candidates(limits: Limits, found: Found) -> Limits:
    """The same limits for the candidates, whose groups and costs are known by now."""
    costs = None if limits.costs is None else limits.costs[found.ids]
    name = "predicted class" if limits.per_class is not None else limits.group_name
    return dataclasses.replace(
        limits,
        per_class=None,
        per_group=limits.quota,
        groups=found.groups,
        costs=costs,
        leave_out=None,
        group_name=name,
    )


def _refuse_limits(run: StoredScores, diversity: str, limits: Limits) -> None:
    """RunError if the limits do not fit the run."""
    if limits.per_class is not None and run.meta["likelihood"] != "categorical":
        raise RunError(
            f"per_class needs predicted classes, and {run.path} has likelihood {run.meta['likelihood']!r}: give groups and per_group"
        )
    if run.header.screened and DIVERSITY[diversity].draws and DIVERSITY[diversity].family == "ranked":
        raise RunError(
            f"{run.path} is screened: diversity {diversity!r} draws from all items by their scores, and only the best have all passes. "
            "Choose another diversity, or score the pool into another directory without a screen"
        )
    for name in ("groups", "costs"):
        if (given := getattr(limits, name)) is not None and np.shape(given) != (run.n,):
            raise RunError(
                f"{name} have shape {np.shape(given)}; ({run.n},) is needed, one for each item of {run.path}"
            )
    if (ids := limits.leave_out) is not None and len(ids) and (np.min(ids) < 0 or np.max(ids) >= run.n):
        raise RunError(f"leave_out must be ids in [0, {run.n}), got {np.min(ids)} to {np.max(ids)}")


def _refuse_other_passes(run: StoredScores, scorer: Scorer) -> None:
    """RunError unless the scorer makes the probabilities that the scores of the run are of."""
    for name in ("passes", "seed", "masks", "likelihood", "input"):
        if (given := scorer.describe()[name]) != run.meta[name]:
            raise RunError(
                f"{run.path} was scored with {name}={run.meta[name]!r}, the scorer has {given!r}: pass the scorer of the run"
            )
    if run.meta["likelihood"] != "categorical":
        raise RunError(
            f"diversity by gradients needs classes, and {run.path} has likelihood {run.meta['likelihood']!r}"
        )


def _most_of_screen(run: StoredScores, k: int, by: str, candidates: int | None) -> int:
    """How many of the best items a run knows: all, or the ``top`` of its screen. RunError if more are asked for, or others."""
    if not run.header.screened:
        return run.n
    screen = run.header.screen
    assert screen is not None
    if by != screen.by:
        raise RunError(
            f"{run.path} is screened by {screen.by}: which items are best by {by} is not known. Select by {screen.by}, or score "
            f"the pool into another directory, without a screen or with one by {by}"
        )
    for name, number in (("k", k), ("candidates", candidates or 0)):
        if number > screen.top:
            raise RunError(
                f"{run.path} is screened for the top {screen.top:,}: the items after these were not scored in full, so {name} "
                f"cannot be {number:,}. Score the pool into another directory with top={number} (--top {number})"
            )
    return screen.top


def _errors_at_cut(choosable: Choosable, selection: Selection) -> dict[str, Any]:
    """How sure the cut, the lowest selected score, is; {} if the run has no errors.

    last_se: the standard error of the item there. near_cut: how many items that could have been selected, and were not, lie
    within one standard error, each its own, of it.
    """
    run, by = choosable.run, choosable.by
    if not run.meta["errors"]:
        return {}
    cut, chosen, near = selection.scores[-1], np.sort(selection.ids), 0
    for (ids, scores, out, _), (_, errors) in zip(choosable, run.spans(f"{by}_se"), strict=True):
        left = ~out
        first, stop = np.searchsorted(chosen, [ids[0], ids[-1] + 1])
        left[chosen[first:stop] - ids[0]] = False
        near += int((np.abs(scores - cut) <= errors)[left].sum())  # never where they are NaN
    return {"last_se": float(run.values(f"{by}_se", selection.ids[-1:])[0]), "near_cut": near}


def refuse_incomplete(run: StoredScores, pool: Pool | None) -> None:
    """RunError if items of the run, or items that its pool has got since, are not scored."""
    n = max(run.n, pool.n if pool is not None else 0)
    if run.done < n:
        grown = f" ({n - run.n:,} were appended to the pool since)" if n > run.n else ""
        raise RunError(
            f"{run.path} is incomplete: {n - run.done:,} of {n:,} items are not scored{grown}. Score the pool into it "
            "again to complete it, or pass partial=True (--partial) to take what there is"
        )


def _scorer_of(run: StoredScores, scorer: Scorer | None, accept: bool) -> tuple[Scorer, list[str]]:
    """The scorer, if it has the run's model, and what of its code was edited since."""
    if scorer is None:
        raise RunError(
            f"this diversity computes with the model, and {run.path} was opened without a model for it: "
            "pass scorer=, a Scorer of the model that scored the run, or diversity='none'"
        )
    now = Settings.of_scorer(scorer.describe()).model
    recorded, given = run.meta["model"]["fingerprint"], now.fingerprint
    if given != recorded:
        raise RunError(
            f"the scorer's model is not the model that scored {run.path}: fingerprint {given}, recorded is {recorded}"
        )
    return scorer, accepted(run.path, run.header, now, accept)


def _labeled(pool: Pool, n: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the labeled ones of the first n ids, ascending, in parts."""
    labels = pool.column("labels")
    for at in range(0, n, STRIDE):
        yield at + np.flatnonzero(has_label(labels[at : min(at + STRIDE, n)]))


def _evenly(parts: Iterable[npt.NDArray[np.int64]], count: int, most: int) -> npt.NDArray[np.int64]:
    """All ``count`` ids of the parts, or ``most`` of them at even distances."""
    places = np.arange(min(count, most)) * max(count, most) // most
    chosen, seen = [np.empty(0, np.int64)], 0
    for ids in parts:
        low, high = np.searchsorted(places, [seen, seen + len(ids)])
        chosen.append(ids[places[low:high] - seen])
        seen += len(ids)
    return np.concatenate(chosen)
