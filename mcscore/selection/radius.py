"""Radius: candidates are visited in score order, and each one that lies within r of a kept or a labeled item is skipped.

So kept items are pairwise further apart than r, and each skipped item has a kept or labeled item within r. It takes only matrix products
of a block of candidates with the kept items, and stops when k are kept.

A radius is searched for: n(r), how many would be kept of all candidates, falls steeply, about as a power of r, and so the next radius
to try is found by interpolation of log n. What suppressed a candidate at one radius mostly does at the next: that pair is looked
at first, and most candidates need no product.

Of more than CELLS_FROM candidates, one is compared with what was kept in the nearest cells only (cells.py). Of the kept ones, ``apart`` is
then the share that is truly further than r from all others, measured on 1,000 of them.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np

from .candidates import Candidates, Picks
from .cells import KeptInCells
from .neighbors import Others, norms, pairs_within, slack, squared_distances
from .room import Room

BLOCK = 256  # candidates that are compared with each other
_AHEAD = 2048  # candidates that are compared with what is kept before them
CELLS_FROM = 1_000_000  # candidates; beyond, comparing each with all kept ones takes minutes for each radius
_MEASURED = 1000  # kept ones
_PRECISION = 1e-3  # relative precision of a radius that is searched for


def pick(candidates: Candidates, k: int, room: Room, *, radius: float | None = None, seed: int = 0) -> Picks:
    """Choose k candidates that are pairwise further apart than the radius, greedily from the best.

    Args:
        candidates: with embeddings, Euclidean; those within the radius of ``labeled`` are left out.
        k: number of items to choose.
        room: which candidates are open.
        radius: >= 0. None: one is searched for at which k remain and, 0.1 % above it, fewer than k. It need not be the greatest
            such radius, as the number that remains does not fall monotonically with it.
        seed: not used.

    Raises:
        ValueError: fewer than k remain at this radius (at radius 0 if it is searched). The message has the number.
    """
    assert candidates.embeddings is not None
    filter = _Filter(candidates.embeddings, candidates.labeled, room, k)
    if (r := radius) is None:
        kept, r = _widest(filter)
    else:
        if not 0 <= r < np.inf:
            raise ValueError(f"radius must be finite and >= 0, got {r}")
        kept = filter.at(float(r)).kept
    if len(kept) < k:
        others = f", or the limits ({room}) leave no room for them" if room.limited else ""
        raise ValueError(
            f"k = {k}, but only {len(kept)} of {len(candidates)} candidates remain at radius {r:g}: the others lie within that radius "
            f"of better or labeled items{others}. Choose a smaller k or radius, more candidates, or diversity 'none'"
        )
    for at in kept.tolist() if room.limited else ():
        room.take(at)
    return Picks(kept, {"radius": float(r), **filter.measured(kept, float(r))})


@dataclass(frozen=True)
class _Try:
    """What is kept at a radius: at most k positions, and an estimate of how many would be kept of all candidates."""

    kept: np.ndarray
    all: float


def _widest(filter: _Filter) -> tuple[np.ndarray, float]:
    """What is kept at a radius that keeps k while 0.1 % more does not, and that radius; it is 0 if radius 0 keeps fewer."""
    k = filter.k
    low, low_try = 0.0, filter.at(0.0)
    if len(low_try.kept) < k or k == 0:
        return low_try.kept, low
    high = filter.diameter_bound
    high_try = filter.at(high)
    if len(high_try.kept) == k:
        return high_try.kept, high
    while high - low > _PRECISION * high:
        middle = _between(low, low_try, high, high_try, k)
        tried = filter.at(middle)
        if len(tried.kept) == k:
            low, low_try = middle, tried
        else:
            high, high_try = middle, tried
    return low_try.kept, low


def _between(low: float, low_try: _Try, high: float, high_try: _Try, k: int) -> float:
    """The radius to try next: where log n, linear in log r, comes to log k; halfway while the ends are far apart."""
    if low == 0 or high > 1.5 * low:
        return (low + high) / 2
    few, many = math.log(max(len(high_try.kept), 1) / k), math.log(max(low_try.all, 1.001 * k) / k)
    share = many / (many - few)
    guess = low * (high / low) ** share
    step = 0.9 * _PRECISION * high  # the other side of this close is as good as found
    return min(max(guess, low + step), high - step) if high - low > 2 * step else (low + high) / 2


class _Filter:
    """Points in score order, and what does not depend on the radius or is known from radii before."""

    def __init__(self, points_MD: np.ndarray, labeled_LD: np.ndarray | None, room: Room, k: int) -> None:
        self.points_MD, self.room, self.k = points_MD, room, k
        M = len(points_MD)
        self._near_labeled: np.ndarray | None = None
        if labeled_LD is not None and len(labeled_LD) and M:
            self._labeled = Others.of(labeled_LD)
            parts = [self._labeled.nearest(points_MD[at : at + _AHEAD])[1] for at in range(0, M, _AHEAD)]
            self._near_labeled = np.concatenate(parts)
        self._norm_M = norms(points_MD)
        self._slack_M = slack(points_MD, self._norm_M + self._norm_M.max(initial=0.0))
        self._cells = KeptInCells(points_MD) if M > CELLS_FROM else None
        # Who suppressed each candidate last, and its squared distance with rounding errors; -1: nobody.
        self._by_M, self._squared_M = np.full(M, -1, np.int64), np.zeros(M)

    @property
    def diameter_bound(self) -> float:
        """An upper bound of the distance between two points."""
        far = max(
            squared_distances(self.points_MD[0], self.points_MD[at : at + _AHEAD]).max()
            for at in range(0, len(self.points_MD), _AHEAD)
        )
        return 2.0 * float(np.sqrt(far))

    def at(self, r: float) -> _Try:
        """Find the positions of the first k candidates kept at radius r; fewer if fewer are kept."""
        points_MD, k, M = self.points_MD, self.k, len(self.points_MD)
        room = copy.deepcopy(self.room) if self.room.limited else self.room
        kept: list[int] = []
        is_kept = np.zeros(M, bool)
        others = Others(k, points_MD.shape[1])
        if self._cells is not None:
            self._cells.clear()
        start, ahead = 0, _AHEAD
        while start < M and len(kept) < k:
            rows = np.arange(start, min(start + ahead, M))
            start += ahead
            if self._cells is not None:  # cells are worth the while for many candidates at a time
                ahead = min(2 * ahead, 32 * _AHEAD)
            free = self._free(rows, r, room, kept, is_kept, others)
            before = len(kept)
            for at in range(0, len(free), BLOCK):
                self._keep(free[at : at + BLOCK], r, room, kept, others, before)
            is_kept[kept[before:]] = True
            if self._cells is not None:
                self._cells.add(kept[before:])
        return _Try(np.array(kept, np.int64), _estimated(kept, k, M))

    def _free(
        self, rows: np.ndarray, r: float, room: Room, kept: list[int], is_kept: np.ndarray, others: Others
    ) -> np.ndarray:
        """Those of the rows that are open and that nothing kept before and no labeled item suppresses."""
        by = self._by_M[rows]
        again = (by >= 0) & is_kept[by] & (self._squared_M[rows] < r * r - self._slack_M[rows])
        rows = rows[room.open[rows] & ~again]
        if self._near_labeled is not None:
            rows = rows[~self._labeled.any_within(self.points_MD[rows], r, self._near_labeled[rows])]
        if not kept or not len(rows):
            return rows
        if self._cells is not None:
            return rows[~self._within_cells(rows, r)]
        points = self.points_MD[rows]
        index, squared = others.nearest(points)
        self._by_M[rows], self._squared_M[rows] = np.array(kept)[index], squared
        return rows[~others.any_within(points, r, squared)]

    def _within_cells(self, rows: np.ndarray, r: float) -> np.ndarray:
        """(N,) bool, whether the nearest kept candidate that the cells find lies within r; exact for that pair."""
        assert self._cells is not None
        by, squared = self._cells.nearest(rows)
        self._by_M[rows], self._squared_M[rows] = by, squared
        within: np.ndarray = squared <= r * r
        for n in np.flatnonzero(np.abs(squared - r * r) <= self._slack_M[rows]):
            pair = squared_distances(self.points_MD[rows[n]], self.points_MD[by[n] : by[n] + 1])
            within[n] = np.sqrt(pair[0]) <= r
        return within

    def measured(self, kept: np.ndarray, r: float) -> dict[str, float]:
        """Of kept candidates, the share that is further than r from all others; nothing where that is exact."""
        if self._cells is None or len(kept) < 2:
            return {}
        some = kept[np.linspace(0, len(kept) - 1, min(len(kept), _MEASURED)).astype(np.int64)]
        near = np.zeros(len(some), np.int64)
        limit = r * r - self._slack_M[some][:, None]
        for at in range(0, len(kept), _AHEAD):
            others = kept[at : at + _AHEAD]
            products = self.points_MD[some] @ self.points_MD[others].T
            squared = self._norm_M[some][:, None] ** 2 + self._norm_M[others] ** 2 - 2.0 * products
            near += ((squared <= limit) & (some[:, None] != others)).sum(axis=1)
        return {"apart": float((near == 0).mean())}

    def _keep(self, rows: np.ndarray, r: float, room: Room, kept: list[int], others: Others, before: int) -> None:
        """Keep those of a few rows that are not within r of each other or of what this block has kept."""
        if others.count > before and len(kept) < self.k:
            new = Others.of(others.points[before:])
            rows = rows[~new.any_within(self.points_MD[rows], r)]
        close = pairs_within(self.points_MD[rows], r)
        blocked, count = np.zeros(len(rows), bool), len(kept)
        for at in range(len(rows)):
            if len(kept) == self.k:
                break
            if not blocked[at] and room.open[rows[at]]:
                if room.limited:
                    room.take(int(rows[at]))
                kept.append(int(rows[at]))
                blocked |= close[at]
        if len(kept) > count:
            others.add(self.points_MD[kept[count:]])


def _estimated(kept: list[int], k: int, M: int) -> float:
    """How many would be kept of all M candidates, if the number goes on to grow as a power of those visited."""
    if len(kept) < k or k < 8:
        return len(kept)
    last, half = kept[-1] + 1, kept[k // 2 - 1] + 1
    power = math.log(k / (k // 2)) / math.log(last / half) if last > half else 1.0
    return float(k * (M / last) ** min(power, 1.0))
