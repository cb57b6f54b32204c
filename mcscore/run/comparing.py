"""Two runs of one pool compared item by item, in streams: memory does not grow with the pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .skipped import STRIDE
from .stored import StoredScores

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Agreement:
    """How many items both runs predicted a class for, and for how many it was the same one."""

    both: int
    same: int

    @property
    def share(self) -> float | None:
        """The share of equal predictions; None without any."""
        return self.same / self.both if self.both else None


def agreement(one: StoredScores, other: StoredScores) -> Agreement:
    """How far two runs predict the same classes, of the items that both have scored."""
    both = same = 0
    for _start, first, second in _parts(one, other, "prediction"):
        scored = (first >= 0) & (second >= 0)
        both += int(scored.sum())
        same += int((scored & (first == second)).sum())
    return Agreement(both, same)


def top_overlap(one: StoredScores, other: StoredScores, by: str, k: int) -> tuple[int, int]:
    """How many of the k best items of a run are among the k best of another, both of the items that both have scored; and k.

    k is less where fewer items are in both.
    """
    from ..selection import TopK

    tops = TopK(k), TopK(k)
    for start, first, second in _parts(one, other, by):
        ids = np.arange(start, start + len(first))
        out = ~(np.isfinite(first) & np.isfinite(second))
        for top, values in zip(tops, (first, second), strict=True):
            top.update(ids, values, out)
    (first_ids, _), (second_ids, _) = (top.result() for top in tops)
    return len(np.intersect1d(first_ids, second_ids)), len(first_ids)


def _parts(one: StoredScores, other: StoredScores, name: str) -> Iterator[tuple[int, Values, Values]]:
    n = min(one.n, other.n)
    for start in range(0, n, STRIDE):
        stop = min(start + STRIDE, n)
        yield start, one.part(name, start, stop), other.part(name, start, stop)
