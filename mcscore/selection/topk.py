"""The k best of a stream of scores, in one total order: score descending, then id ascending.

A threshold on scores alone returns different ids for different block sizes when scores tie, and ties are common
(saturated entropy, BALD exactly 0, half-precision models). So the cut is an item: a score and an id.

Method: each block is compared with the k-th best item so far. The few that are better are appended to a buffer, which is
reduced to its k best when it is full.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels.topk import NO_CUT, filter_above, wrong_id

_LEAST_ROOM = 1 << 13  # items beyond k; a smaller buffer would be reduced too often


def best_first(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Sort the positions of the items that have a score (not NaN), best first: score descending, id ascending.

    Raises:
        ValueError: ids that are not integers in [0, 2**63).
    """
    if ids.dtype.kind not in "iu" and ids.size:
        raise ValueError(f"ids must be integers, not {ids.dtype}")
    ids = ids.astype(np.int64, copy=False)
    if len(ids) and ids.min() < 0:
        raise wrong_id(ids[np.argmax(ids < 0)])
    scored = np.flatnonzero(~np.isnan(scores))
    return scored[np.lexsort((ids[scored], -scores[scored].astype(np.float32, copy=False)))]


class TopK:
    """The ``k`` best items of all blocks seen so far; size, order and number of the blocks do not matter.

    >>> import numpy as np
    >>> best = TopK(2).update(np.array([7, 3, 5]), np.array([0.5, 0.9, 0.5], np.float32))
    >>> best.result()
    (array([3, 5]), array([0.9, 0.5], dtype=float32))
    >>> ids, _ = best.merge(TopK(2).update([1], [0.7])).result()
    >>> ids
    array([3, 1])

    Memory is O(k). An id that comes twice with the same score counts once, so blocks may be repeated, and ``merge`` is
    associative, commutative and idempotent. Items with NaN are left out, -0.0 equals 0.0, and scores are compared as
    float32, the precision in which they are stored.

    Raises:
        ValueError: k is negative, shapes differ, or an id lies outside [0, 2**63).
    """

    def __init__(self, k: int) -> None:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 0:
            raise ValueError(f"k must be a whole number of items >= 0, got {k!r}")
        self.k = int(k)
        # A larger buffer is reduced less often, but its cut is older, so more items that are not among the best enter it.
        room = max(self.k + self.k // 2, self.k + _LEAST_ROOM)
        self._ids, self._scores = np.empty(room, np.int64), np.empty(room, np.float32)
        self._used = 0
        self._cut = NO_CUT  # the k-th best item when the buffer was last reduced
        # While ids only rise, none came twice, and the buffer is reduced without a sort, which costs half a pass at k = 100 000.
        self._rising, self._last_id = True, -1

    def update(self, ids_B: Any, scores_B: Any, exclude: Any = None) -> TopK:
        """Add a block: ids (B,) int, scores (B,) float, ``exclude`` (B,) bool (True: leave the item out). Returns self.

        ids may be a ``range`` of step 1, which is faster: no ids are read, and ties are skipped a vector at a time.
        """
        scores_B = np.ascontiguousarray(scores_B, np.float32)
        if not (isinstance(ids_B, range) and ids_B.step == 1):
            ids_B = np.asarray(ids_B)
            if ids_B.dtype.kind not in "iu" and ids_B.size:
                raise ValueError(f"ids must be integers, got {ids_B.dtype}")
            ids_B = np.ascontiguousarray(ids_B, np.int64)
        shape = (len(ids_B),) if isinstance(ids_B, range) else ids_B.shape
        if len(shape) != 1 or shape != scores_B.shape:
            raise ValueError(f"ids {shape} and scores {scores_B.shape} must be one-dimensional and equally long")
        if exclude is not None:
            exclude = np.ascontiguousarray(exclude, bool)
            if exclude.shape != shape:
                raise ValueError(f"exclude {exclude.shape} must have the shape of ids {shape}")
        start = 0
        while start < len(scores_B) and self.k:
            flags = None if exclude is None else exclude[start:]
            room = self._ids[self._used :], self._scores[self._used :]
            found, taken = filter_above(ids_B[start:], scores_B[start:], flags, self._cut, *room)
            self._admit(found)
            start += taken
        return self

    def merge(self, other: TopK) -> TopK:
        """Add the items that another TopK of the same k has kept. Returns self."""
        if other.k != self.k:
            raise ValueError(f"cannot merge the best {other.k} into the best {self.k}: k must be equal")
        kept = slice(other._used)
        return self.update(other._ids[kept].copy(), other._scores[kept].copy())

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(ids int64, scores float32)``, best first; fewer than k if fewer were seen."""
        self._compact()
        ids, scores = self._ids[: self._used], self._scores[: self._used]
        order = best_first(ids, scores)
        return ids[order], scores[order]

    def _admit(self, found: int) -> None:
        """Register the items that filter_above has appended to the buffer."""
        if found and self._rising:
            ids = self._ids[self._used : self._used + found]
            self._rising = bool(ids[0] > self._last_id and (ids[1:] > ids[:-1]).all())
            self._last_id = int(ids[-1])
        self._used += found
        if self._used == len(self._ids):
            self._compact()

    def _compact(self) -> None:
        """Reduce the buffer to its k best distinct items; the last of them is the new cut."""
        ids, scores = self._ids[: self._used], self._scores[: self._used]
        best = _best_of_rising(scores, self.k) if self._rising else _best_distinct(ids, scores, self.k)
        self._used = len(best)
        self._ids[: len(best)], self._scores[: len(best)] = ids[best], scores[best]
        if len(best) == self.k and self.k:
            limit = self._scores[: self.k].min()
            self._cut = float(limit), int(self._ids[: self.k][self._scores[: self.k] == limit].max())


def _best_of_rising(scores: np.ndarray, k: int) -> np.ndarray:
    """The positions of the k best, ascending, of items whose ids rise: among equals the first are the best."""
    if len(scores) <= k:
        return np.arange(len(scores))
    limit = np.partition(scores, len(scores) - k)[len(scores) - k]
    best = scores > limit
    best[np.flatnonzero(scores == limit)[: k - np.count_nonzero(best)]] = True
    return np.flatnonzero(best)


def _best_distinct(ids: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """The positions of the k best, best first; an id that stands twice with the same score counts once."""
    order = best_first(ids, scores)
    ids, scores = ids[order], scores[order]
    again = (ids[1:] == ids[:-1]) & (scores[1:] == scores[:-1])
    return order[np.concatenate([np.ones(1, bool), ~again])[: len(order)]][:k]
