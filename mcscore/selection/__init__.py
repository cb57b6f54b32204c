"""Selection of k items to label: the best of a stream of scores (TopK), and a diverse subset of them (select)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .diversity import DIVERSITY
from .result import SELECTION_VERSION, Selection, read_parquet
from .topk import TopK, best_first

__all__ = ["DIVERSITY", "SELECTION_VERSION", "Selection", "TopK", "read_parquet", "select"]


def select(
    ids: Any,
    scores: Any,
    k: int,
    *,
    diversity: str = "radius",
    embeddings: Any = None,
    radius: float | None = None,
    labeled_embeddings: Any = None,
) -> Selection:
    """Choose k of M candidates: high scores, and (with diversity "radius") not near each other or labeled items.

    >>> select([4, 8, 6], [0.1, 0.3, 0.3], 2, diversity="none").ids
    array([6, 8])

    Args:
        ids: (M,) int, each once.
        scores: (M,) float, higher is better; an item with NaN is never selected.
        k: number of items to choose.
        diversity: a name in DIVERSITY.
        embeddings: (M, D) float, in the order of ids; needed unless diversity is "none".
        radius: distance within which candidates count as repeats; default: the greatest at which k remain.
        labeled_embeddings: (L, D) float; candidates within the radius of one of them are left out.

    Raises:
        ValueError: the method is unknown, shapes do not match, or fewer than k candidates remain (the message has the number).
    """
    if diversity not in DIVERSITY:
        raise ValueError(f"diversity {diversity!r} is unknown; choose from {', '.join(DIVERSITY)}")
    picks = DIVERSITY[diversity].pick(ids, scores, embeddings, k, radius, labeled_embeddings)
    ids_M, scores_M = np.asarray(ids), np.asarray(scores, dtype=np.float32)
    rank_M = np.empty(len(ids_M), np.int64)
    order = best_first(ids_M, scores_M)
    rank_M[order] = np.arange(len(order))
    at = picks.positions
    return Selection(ids_M[at].astype(np.int64), scores_M[at], rank_M[at], picks.radius, diversity)
