"""Selection of k items to label: the best of a stream of scores (TopK, Best), and k of M candidates by any method (select)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..methods import DIVERSITY, method_of, parameters_of
from .best import Best
from .candidates import Candidates, Picks, points, scored_best_first, walk
from .limits import Limits
from .result import SELECTION_VERSION, Selection, read_parquet
from .room import Room
from .topk import TopK, best_first

__all__ = [
    "DIVERSITY",
    "SELECTION_VERSION",
    "Best",
    "Candidates",
    "Limits",
    "Picks",
    "Room",
    "Selection",
    "TopK",
    "read_parquet",
    "select",
]


def select(
    ids: Any,
    scores: Any,
    k: int,
    *,
    diversity: str = "radius",
    embeddings: Any = None,
    labeled_embeddings: Any = None,
    probabilities: Any = None,
    samples: Any = None,
    targets: Any = None,
    ranks: Any = None,
    seed: int = 0,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    **parameters: Any,
) -> Selection:
    """Choose k of M candidates: high scores, and (by most methods) unlike each other and labeled items.

    >>> select([4, 8, 6], [0.1, 0.3, 0.3], 2, diversity="none").ids
    array([6, 8])
    >>> select([4, 8, 6], [0.1, 0.3, 0.3], 2, diversity="power", beta=8.0, seed=1).ids
    array([8, 6])

    Args:
        ids: (M,) int, each once.
        scores: (M,) float, higher is better; an item with NaN is never selected.
        k: number of items to choose.
        diversity: a name in DIVERSITY.
        embeddings: (M, D) float, in the order of ids; what a method needs beside them, its row in DIVERSITY says.
        labeled_embeddings: (L, D) float, of labeled items, from which radius, k-center and k-means++ keep away.
        probabilities: (M, C) mean probabilities.
        samples: (M, T, C) probabilities of each pass, with shared masks.
        targets: (J, T, C) the same of the items whose predictions matter.
        ranks: (M,) places among all items of the pool by score, from 1; default: among the candidates.
        seed: of the random numbers of a method that draws.
        limits: quota, budget and distance to keep.
        parameters: of the method, such as ``radius`` or ``beta``; those that are None have their defaults.

    Raises:
        ValueError: the method is unknown, or has no such parameter; shapes do not match, or values are not finite; fewer than k candidates
            remain (the message has the number); a constraint cannot be met (the message says which, and by how much).
    """
    method, own = method_of(diversity), parameters_of(diversity, parameters)
    if limits.per_class is not None or limits.leave_out is not None:
        raise ValueError(
            "per_class and leave_out are for Run.select, which knows the pool: give groups, or leave the items out"
        )
    order = scored_best_first(ids, scores, k)
    ids_M, near_labeled = np.asarray(ids), 0
    candidates = Candidates(
        ids_M.astype(np.int64),
        np.asarray(scores, np.float32),
        **{
            name: None if values is None else points(name, values, ids_M)
            for name, values in (("embeddings", embeddings), ("probabilities", probabilities))
        },
        labeled=None if labeled_embeddings is None else points("labeled_embeddings", labeled_embeddings, None),
        samples=samples,
        targets=targets,
        ranks=ranks,
    )
    candidates.check(diversity, method.needs)
    if limits.labeled_distance is not None:
        far = candidates.far_from_labeled(order, limits.labeled_distance)
        near_labeled, order = len(order) - len(far), far
        if len(order) < k:
            raise ValueError(
                f"k = {k:,}, but only {len(order):,} candidates, {k - len(order):,} too few, lie further than labeled_distance = "
                f"{limits.labeled_distance:g} from all labeled items. Choose a smaller k or distance, or more candidates"
            )
    rank_M = np.empty(len(ids_M), np.int64)
    rank_M[best_first(ids_M, candidates.scores)] = np.arange(np.count_nonzero(~np.isnan(candidates.scores)))
    candidates, room = candidates.at(order), limits.at(order).room(k, len(order))
    if method.family == "ranked":
        values = method.function(candidates.scores, candidates.ids, candidates.ranks, seed=seed, **own)
        picks = walk(np.lexsort((candidates.ids, -values)), k, room)
    else:
        picks = method.function(candidates, k, room, seed=seed, **own)
    facts = {**own, **({"seed": seed} if method.draws else {}), **picks.facts}
    if limits.labeled_distance is not None:
        facts |= {"labeled_distance": limits.labeled_distance, "near_labeled": near_labeled}
    if room.limited:
        facts["limits"] = room.facts
    radius, at = facts.pop("radius", None), picks.positions
    return Selection(candidates.ids[at], candidates.scores[at], rank_M[order[at]], radius, diversity, facts)
