"""The k best of a stream of scores, in one total order: score descending, then id ascending.

A threshold on scores alone returns different ids for different block sizes when scores tie, and ties are common
(saturated entropy, BALD exactly 0, half-precision models). So score and id together form a key (kernels/topk.py).

Method: each block is compared with the k-th best key so far. The few items above it are appended as keys to a buffer, which
is reduced to its k greatest keys when it is full.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels.topk import MAX_ID, filter_above, keys_of, split_keys

_LEAST_ROOM = 1 << 13  # keys beyond k; a smaller buffer would be reduced too often


def best_first(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Sort the positions of the items that have a score (not NaN), best first: score descending, id ascending."""
    scored = np.flatnonzero(~np.isnan(scores))
    keys = keys_of(ids[scored], scores[scored])
    return scored[np.argsort(keys)[::-1]]


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
        ValueError: k is negative, shapes differ, or an id lies outside [0, 2**32).
    """

    def __init__(self, k: int) -> None:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 0:
            raise ValueError(f"k must be a whole number of items >= 0, got {k!r}")
        self.k = int(k)
        # A larger buffer is reduced less often, but its cut is older, so more keys that are not among the best enter it.
        self._keys = np.empty(max(self.k + self.k // 2, self.k + _LEAST_ROOM), np.uint64)
        self._used = 0
        # The k-th best key when the buffer was last reduced: a key that is not greater is not among the k best.
        self._cut = 0
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
            found, taken = filter_above(ids_B[start:], scores_B[start:], flags, self._cut, self._keys[self._used :])
            self._admit(found)
            start += taken
        return self

    def merge(self, other: TopK) -> TopK:
        """Add the items that another TopK of the same k has kept. Returns self."""
        if other.k != self.k:
            raise ValueError(f"cannot merge the best {other.k} into the best {self.k}: k must be equal")
        self._rising = False
        keys = other._keys[: other._used].copy()
        while len(keys):  # keys at or below the cut are dropped when the buffer is reduced
            room = len(self._keys) - self._used
            part, keys = keys[:room], keys[room:]
            self._keys[self._used : self._used + len(part)] = part
            self._admit(len(part))
        return self

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(ids int64, scores float32)``, best first; fewer than k if fewer were seen."""
        self._compact()
        return split_keys(np.sort(self._keys[: self._used])[::-1])

    def _admit(self, found: int) -> None:
        """Register the keys that filter_above has appended to the buffer."""
        if found and self._rising:
            ids = MAX_ID - (self._keys[self._used : self._used + found] & np.uint64(MAX_ID)).astype(np.int64)
            self._rising = bool(ids[0] > self._last_id and (ids[1:] > ids[:-1]).all())
            self._last_id = int(ids[-1])
        self._used += found
        if self._used == len(self._keys):
            self._compact()

    def _compact(self) -> None:
        """Reduce the buffer to its k greatest distinct keys; the smallest of them is the new cut."""
        keys = self._keys[: self._used]
        best = np.partition(keys, len(keys) - self.k)[len(keys) - self.k :] if len(keys) > self.k else keys
        if not self._rising:
            best = np.unique(best)
            if len(best) < min(self.k, len(keys)):
                best = np.unique(keys)[-self.k :] if self.k else best[:0]
        self._keys[: len(best)] = best
        self._used = len(best)
        if len(best) == self.k and self.k:
            self._cut = int(best.min())
