"""The k best of a stream of scores, in one total order.

Order: score descending, then id ascending. Both live in one unsigned 64-bit key, ``order(score) << 32 | ~id``, so that
"better" is one integer comparison, ties included. A plain float threshold returns different ids for different block
sizes as soon as scores tie, and ties are common (saturated entropy, BALD exactly 0, half precision models).

Method: a block is compared with the score of the k-th best so far, in sub-blocks that stay in cache; the few survivors
become keys and go to a buffer, which is cut back to k keys when full.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Sub-block of 128 Ki scores: its comparison result (128 KiB) stays in L2, and numpy's cost per call is small beside the
# 20 µs that the comparison takes. In processor time 1.1 to 1.2 times as fast as 64 Ki.
_SUB = 1 << 17
# Keys are made 8 Ki at a time: with 64 Ki the temporaries leave L2 and cost page faults (13 ns a key instead of 4).
_KEYS = 1 << 13
MAX_ID = 2**32 - 1


def keys_of(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """One uint64 per item; a greater key is a better item. Scores must not be NaN.

    The sign-magnitude bits of a float32 become an unsigned integer of the same order, as in every radix sort of
    floats: all bits flipped when negative, else the sign bit set. Adding 0.0 first makes -0.0 equal to 0.0.

    Raises:
        ValueError: ids that are not integers in [0, 2**32).
    """
    if ids.dtype.kind not in "iu":
        raise ValueError(f"ids must be integers, not {ids.dtype}")
    low_bits = ids.astype(np.int64).view(np.uint64)  # a copy that becomes the keys; negative ids wrap to above 2**63
    if len(low_bits) and low_bits.max() > MAX_ID:
        wrong = ids[np.argmax(low_bits > MAX_ID)]
        raise ValueError(f"ids must lie in [0, 2**32): found {wrong}")
    bits = (scores.astype(np.float32, copy=False) + np.float32(0)).view(np.int32)
    bits ^= (bits >> 31) | np.int32(-(2**31))
    keys = bits.view(np.uint32).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.subtract(np.uint64(MAX_ID), low_bits, out=low_bits)
    return keys


def split_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(ids int64, scores float32)`` of keys made by :func:`keys_of`."""
    order = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(order >> 31 != 0, order & np.uint32((1 << 31) - 1), ~order)
    ids = (np.uint64(MAX_ID) - (keys & np.uint64(MAX_ID))).astype(np.int64)
    return ids, bits.astype(np.uint32).view(np.float32)


def best_first(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Positions of the items that have a score (not NaN), best first: score descending, id ascending."""
    scored = np.flatnonzero(~np.isnan(scores))
    keys = keys_of(ids[scored], scores[scored])
    return scored[np.argsort(keys)[::-1]]


class TopK:
    """The ``k`` best items seen so far, whatever the size, order or number of the blocks they came in.

    >>> import numpy as np
    >>> best = TopK(2).update(np.array([7, 3, 5]), np.array([0.5, 0.9, 0.5], np.float32))
    >>> best.result()
    (array([3, 5]), array([0.9, 0.5], dtype=float32))

    Memory is O(k). An id that comes twice with the same score counts once, so that blocks may be repeated and
    ``merge`` is associative, commutative and idempotent. NaN never enters; -0.0 equals 0.0; scores are compared as
    float32, the precision they are stored in.

    Raises:
        ValueError: k negative; shapes that differ; ids outside [0, 2**32).
    """

    def __init__(self, k: int) -> None:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 0:
            raise ValueError(f"k must be a whole number of items >= 0, not {k!r}")
        self.k = int(k)
        # The fuller the buffer, the staler the threshold and the more survive; the smaller, the more often it is cut
        # back. Room for 1.5k, 2k, 3k took 3.7, 3.8, 4.2 passes at k = 100 000.
        self._keys = np.empty(max(self.k + self.k // 2, _KEYS), np.uint64)
        self._used = 0
        # Score and id of the k-th best when the buffer was last cut back: what comes after it is not among the k best.
        self._cut, self._cut_id = np.float32(-np.inf), np.int64(MAX_ID + 1)
        # While ids only rise, none can have come twice, and cutting back needs no sort (half a pass at k = 100 000).
        self._rising, self._last_id = True, np.int64(-1)
        self._passing = np.empty(_SUB, bool)

    def update(self, ids_B: Any, scores_B: Any, exclude: Any = None) -> TopK:
        """Take in a block: ids (B,) int, scores (B,) float, ``exclude`` (B,) bool (True: leave out). Returns self."""
        ids_B = np.asarray(ids_B)
        scores_B = np.asarray(scores_B)
        if scores_B.dtype != np.float32:
            scores_B = scores_B.astype(np.float32)
        if ids_B.ndim != 1 or ids_B.shape != scores_B.shape:
            raise ValueError(f"ids {ids_B.shape} and scores {scores_B.shape} must be one-dimensional and equally long")
        if exclude is not None:
            exclude = np.asarray(exclude, dtype=bool)
            if exclude.shape != ids_B.shape:
                raise ValueError(f"exclude {exclude.shape} must have the shape of ids {ids_B.shape}")
        if self.k:
            for start in range(0, len(ids_B), _SUB):
                block = slice(start, start + _SUB)
                self._sift(ids_B[block], scores_B[block], None if exclude is None else exclude[block])
        return self

    def merge(self, other: TopK) -> TopK:
        """Take in what another TopK of the same k has kept. Returns self."""
        if other.k != self.k:
            raise ValueError(f"cannot merge the best {other.k} into the best {self.k}: k must be equal")
        self._rising = False
        self._push(other._keys[: other._used].copy())
        return self

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """``(ids int64, scores float32)``, best first; at most k, fewer when fewer were seen."""
        self._compact()
        return split_keys(np.sort(self._keys[: self._used])[::-1])

    def _sift(self, ids: np.ndarray, scores: np.ndarray, exclude: np.ndarray | None) -> None:
        """Push the items of one sub-block that can be among the best. NaN compares false, so it stops here."""
        passing = np.greater_equal(scores, self._cut, out=self._passing[: len(scores)])
        passed = passing.nonzero()[0]
        if len(passed) > len(scores) // 8:
            # Many ties with the k-th best: ids decide, by whole-block comparisons, before the far dearer keys are made.
            passing &= (scores > self._cut) | (ids < self._cut_id)
            passed = passing.nonzero()[0]
        if exclude is not None and len(passed):
            passed = passed[~exclude[passed]]
        if len(passed):
            self._admit(ids.take(passed), scores.take(passed))

    def _admit(self, ids: np.ndarray, scores: np.ndarray) -> None:
        ascending = bool((ids[1:] > ids[:-1]).all())  # so that none is there twice
        self._rising = self._rising and ascending and bool(ids[0] > self._last_id)
        self._last_id = ids[-1]
        if ascending and len(ids) > 2 * self.k:
            # The first block, and rising scores: floats are partitioned 10 times as fast as keys are made.
            best = scores >= np.partition(scores, len(scores) - self.k)[len(scores) - self.k]
            ids, scores = ids[best], scores[best]
        for start in range(0, len(ids), _KEYS):
            self._push(keys_of(ids[start : start + _KEYS], scores[start : start + _KEYS]))

    def _push(self, keys: np.ndarray) -> None:
        """Put keys in the buffer; those beyond the cut do no harm there."""
        while len(keys):
            room = len(self._keys) - self._used
            part, keys = keys[:room], keys[room:]
            self._keys[self._used : self._used + len(part)] = part
            self._used += len(part)
            if self._used == len(self._keys):
                self._compact()

    def _compact(self) -> None:
        """Keep the k greatest distinct keys; the smallest of them is the new cut."""
        keys = self._keys[: self._used]
        best = np.partition(keys, len(keys) - self.k)[len(keys) - self.k :] if len(keys) > self.k else keys
        if not self._rising:
            best = np.unique(best)
            if len(best) < min(self.k, len(keys)):
                best = np.unique(keys)[-self.k :]
        self._keys[: len(best)] = best
        self._used = len(best)
        if len(best) == self.k and self.k:
            ids, scores = split_keys(best.min(keepdims=True))
            self._cut, self._cut_id = scores[0], ids[0]
