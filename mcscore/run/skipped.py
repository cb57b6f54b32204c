"""Which items of a pool a run does not score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..labels import has_label
from .scoring.task import Flags

if TYPE_CHECKING:
    from ..pool import Pool

STRIDE = 1 << 16  # items whose labels and flags are read at a time


class Flagged(Protocol):
    """Items of a pool, by ranges."""

    def __getitem__(self, part: slice, /) -> Flags:
        """(stop - start,)."""


class Skips(Flagged, Protocol):
    """The items of a pool that are skipped: ``skips[start:stop]`` are the flags of a range."""

    def first_kept(self) -> int | None:
        """The first item that is not skipped; None if there is none."""


def first_kept(skipped: Flagged, n: int) -> int | None:
    """The first of n items that is not skipped; None if there is none."""
    for at in range(0, n, STRIDE):
        skip = skipped[at : min(at + STRIDE, n)]
        if not skip.all():
            return at + int(skip.argmin())
    return None


def count(skipped: Flagged, n: int) -> int:
    """How many of the first n items are skipped."""
    return sum(int(skipped[at : min(at + STRIDE, n)].sum()) for at in range(0, n, STRIDE))


class Skipped:
    """Which items are not scored by the labels and flags of now: the excluded ones and, unless ``labeled``, the labeled ones.

    ``skipped[start:stop]`` reads that part from the pool, so that nothing is kept per item.
    """

    def __init__(self, pool: Pool, labeled: bool) -> None:
        self._n = pool.n
        self._excluded = pool.column("excluded")
        self._labels = None if labeled else pool.column("labels")

    def __getitem__(self, part: slice) -> Flags:
        excluded = self._excluded[part]
        return excluded if self._labels is None else has_label(self._labels[part]) | excluded

    def first_kept(self) -> int | None:
        """The first item that is scored; None if there is none."""
        return first_kept(self, self._n)

    def count(self, n: int) -> int:
        """How many of the first n items are skipped."""
        return count(self, n)
