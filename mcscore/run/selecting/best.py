"""The best items of a run by one of its scores, in one or two streams of its spans, in memory that the pool does not enter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...errors import RunError
from ..skipped import Skipped
from ..stored import StoredScores

if TYPE_CHECKING:
    from ...selection import Limits

Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Value = Callable[[Scores, Ints, Ints | None], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Found:
    """The best items, best first; the groups and ranks of those that have some, and how many items were left out and why."""

    ids: Ints
    scores: Scores
    groups: Ints | None
    ranks: Ints | None
    left_out: dict[str, int]

    def first(self, n: int) -> Found:
        """The best n of them."""
        groups, ranks = (None if values is None else values[:n] for values in (self.groups, self.ranks))
        return replace(self, ids=self.ids[:n], scores=self.scores[:n], groups=groups, ranks=ranks)


@dataclass
class Choosable:
    """Which items of a run may be chosen by a score: all but the labeled, the excluded and those that the limits leave out.

    ``counts`` has how many items each reason left out, in the last walk; an item counts for the first reason that holds.
    """

    run: StoredScores
    by: str
    skipped: Skipped
    limits: Limits
    counts: dict[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[Ints, Scores, Flags, Ints | None]]:
        """Yield (ids, scores, flags of those that are left out, groups) of each span."""
        self.counts = {}
        leave_out = None if self.limits.leave_out is None else np.unique(np.asarray(self.limits.leave_out, np.int64))
        predictions = self.run.spans("prediction") if self.limits.per_class is not None else None
        for ids, scores in self.run.spans(self.by):
            out = self._count("labeled_or_excluded", np.zeros(len(ids), bool), self.skipped[ids[0] : ids[-1] + 1])
            if leave_out is not None:
                asked = np.zeros(len(ids), bool)
                first, stop = np.searchsorted(leave_out, [ids[0], ids[-1] + 1])
                asked[leave_out[first:stop] - ids[0]] = True
                out = self._count("left_out", out, asked)
            out = self._count("without_score", out, ~np.isfinite(scores))
            groups = None
            if predictions is not None:
                groups = next(predictions)[1].astype(np.int64)
            elif self.limits.groups is not None:
                groups = self.limits.groups[ids[0] : ids[-1] + 1].astype(np.int64)
                out = self._count("without_group", out, groups < 0)
            if self.limits.costs is not None:
                out = self._count("without_cost", out, np.isnan(self.limits.costs[ids[0] : ids[-1] + 1]))
            yield ids, scores, out, groups

    def _count(self, reason: str, before: Flags, flags: Flags) -> Flags:
        self.counts[reason] = self.counts.get(reason, 0) + int(np.count_nonzero(flags & ~before))
        return before | flags


def best_items(choosable: Choosable, k: int, M: int, most: int | None, value: Value | None, ranked: bool) -> Found:
    """The best M of the items that may be chosen.

    Args:
        choosable: the items.
        k: how many of them are to be chosen.
        M: how many are wanted.
        most: the most of one group among these; None: any number.
        value: (scores, ids, ranks) -> the values by which they are the best; None: the scores.
        ranked: whether ``value`` needs ranks by score among all items that may be chosen.

    Raises:
        RunError: fewer than k may be chosen.
    """
    from ...selection import Best, TopK
    from ...selection.stochastic import Ranks

    ranks = None
    if ranked:
        ranks = Ranks(M)
        for ids, scores, out, _ in choosable:
            ranks.update(ids, scores, out)
    left = 0
    top, best = TopK(M), Best(M, most)
    for ids, scores, out, groups in choosable:
        left += len(ids) - int(np.count_nonzero(out))
        if value is None and most is None:
            top.update(ids, scores, out)
            continue
        kept = np.flatnonzero(~out)
        scores = scores[kept]
        values = scores if value is None else value(scores, ids[kept], None if ranks is None else ranks.of(scores))
        best.update(ids[kept], values, scores, None if groups is None or most is None else groups[kept])
    _refuse_too_few(choosable, k, left)
    found, of_found = (best.ids, best.payload) if value is not None or most is not None else top.result()
    return Found(
        found,
        of_found,
        _groups_of(choosable, found),
        None if ranks is None else ranks.of(of_found),
        {reason: number for reason, number in choosable.counts.items() if number},
    )


def _groups_of(choosable: Choosable, ids: Ints) -> Ints | None:
    if choosable.limits.per_class is not None:
        return choosable.run.values("prediction", ids).astype(np.int64)
    return None if choosable.limits.groups is None else choosable.limits.groups[ids].astype(np.int64)


def _refuse_too_few(choosable: Choosable, k: int, left: int) -> None:
    if k <= left:
        return
    run, by = choosable.run, choosable.by
    skipped = choosable.skipped.count(run.n)
    others = ", ".join(
        f"{number:,} {reason.replace('_', ' ')}"
        for reason, number in choosable.counts.items()
        if number and reason not in ("labeled_or_excluded", "without_score")
    )
    raise RunError(
        f"{k:,} items cannot be chosen: of {run.n:,} only {left:,} are left that have a finite {by} "
        f"and are neither labeled nor excluded ({skipped:,} are)" + (f", nor {others}" if others else "")
    )
