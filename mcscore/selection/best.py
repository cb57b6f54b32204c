"""The k items of a stream with the highest float64 values, at most so many of each group: TopK for perturbed scores and quotas.

TopK packs a score of 32 bits and an id into one key, which a perturbed score does not fit: two of 10^8 items would often tie. Here values
have 64 bits. With a quota, an item is kept if fewer than ``most`` of its group are better and, of those that this leaves, fewer than k: the
greedy choice of a partition matroid, which may be made part by part and merged. So memory is O(k), however many groups there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .room import rank_in_group

_LEAST_ROOM = 1 << 14  # items beyond k; with less, the items kept would be sorted too often


class Best:
    """The best of all blocks seen so far: value descending, id ascending; size, order and number of the blocks do not matter.

    >>> best = Best(2, most=1).update([4, 5, 6], [0.9, 0.8, 0.1], groups=[0, 0, 1])
    >>> best.ids.tolist()
    [4, 6]

    Items with NaN are left out. An id that comes twice counts once. ``payload`` (B,) float32 is kept with each item, such as its score.

    Args:
        k: the number of items.
        most: the most items of one group; None: any number, and no groups are given.
    """

    def __init__(self, k: int, most: int | None = None) -> None:
        self.k, self.most = k, most
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._held, self._sorted = 0, False
        self._cut: tuple[float, int] | None = None  # value and id of the last of k items

    def update(self, ids_B: Any, values_B: Any, payload: Any = None, groups: Any = None) -> Best:
        """Add a block: ids (B,) int, values (B,) float. Returns self."""
        ids, values = np.asarray(ids_B, np.int64), np.asarray(values_B, np.float64)
        if self._cut is None:
            passed = np.flatnonzero(~np.isnan(values))
        else:
            value, id = self._cut
            passed = np.flatnonzero((values > value) | ((values == value) & (ids < id)))
        score = values if payload is None else np.asarray(payload)
        group = np.zeros(len(ids), np.int64) if groups is None else np.asarray(groups, np.int64)
        self._add(ids[passed], values[passed], score[passed].astype(np.float32), group[passed])
        return self

    def merge(self, other: Best) -> Best:
        """Add the items that another Best of the same k and quota has kept. Returns self."""
        if (other.k, other.most) != (self.k, self.most):
            raise ValueError(
                f"cannot merge the best {other.k} (quota {other.most}) into the best {self.k} (quota {self.most})"
            )
        self._add(*other._compacted())
        return self

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """(n <= k,) ids, best first."""
        return self._compacted()[0]

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """(n,) their values."""
        return self._compacted()[1]

    @property
    def payload(self) -> npt.NDArray[np.float32]:
        """(n,) what was given with them."""
        return self._compacted()[2]

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """(n,) their groups."""
        return self._compacted()[3]

    def _add(self, *block: np.ndarray) -> None:
        self._parts.append(block)
        self._held, self._sorted = self._held + len(block[0]), False
        if self._held > max(self.k + self.k // 2, self.k + _LEAST_ROOM):
            self._compacted()

    def _compacted(self) -> tuple[np.ndarray, ...]:
        """The kept items, best first; all others are dropped."""
        if not self._parts:
            return np.empty(0, np.int64), np.empty(0), np.empty(0, np.float32), np.empty(0, np.int64)
        if len(self._parts) == 1 and self._sorted:
            return self._parts[0]
        ids, values, payload, groups = (np.concatenate(columns) for columns in zip(*self._parts, strict=True))
        order = np.lexsort((ids, -values))
        order = (
            order[np.concatenate([[True], np.diff(ids[order]) != 0])] if len(order) else order
        )  # equal ids stand together
        if self.most is not None:
            order = order[rank_in_group(groups[order]) < self.most]
        order = order[: self.k]
        kept = ids[order], values[order], payload[order], groups[order]
        self._parts, self._held = [kept], len(order)
        self._sorted = True
        if len(order) == self.k and self.k:
            self._cut = float(kept[1][-1]), int(kept[0][-1])
        return kept
