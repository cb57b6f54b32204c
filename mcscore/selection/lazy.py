"""Greedy choice by the distance to the nearest center, with as few distances as it takes.

A candidate comes the sooner the farther it is from all centers, and each choice is a center from then on. So distances only fall,
and one to some of the centers tells when a candidate comes at the soonest (lazy evaluation, Minoux 1978). Only those that may
be next are compared with the centers that were added since; most are never compared with most centers. Two laws:

    farthest   next is the farthest from its nearest center (Gonzalez 1985)
    at random  next is x with probability d²(x) / Σ d² (D² sampling). Each candidate comes at the time at which its hazard
               ∫ d²(x) dt reaches an exponential number of its own. These have no memory: given all choices so far, the next
               to come is x in proportion to the d²(x) of now. So one random number for each candidate is enough.

Both are exact, to the rounding of float64. Distances come from inner products, d² = |x|² + |c|² - 2 x·c, by blocks of matrix products.
Candidates whose d² agrees within that rounding come in the order of their positions.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FRONT = 384  # candidates that are compared with every choice; the others are known to come later
_TIED = 1024  # candidates at the front at most, where more come at the same time
_FEW = 64  # first centers that all candidates are compared with; of more, only with some
_BLOCK = 4096  # candidates of the first comparison at a time


class Space:
    """Points whose inner product is the product of those of their factors: (n, D) each, as of outer products that are never made.

    >>> p, h = np.eye(2), np.array([[3.0, 4.0], [0.0, 1.0]])
    >>> Space(p, h).squared_distances(Space(p, h)).tolist()  # of p ⊗ h
    [[0.0, 26.0], [26.0, 0.0]]
    """

    def __init__(self, *factors: np.ndarray, norms: Floats | None = None) -> None:
        self.factors = factors
        self._norms = norms

    def __len__(self) -> int:
        return len(self.factors[0])

    def at(self, rows: Ints | slice) -> Space:
        """Some of the points."""
        return Space(*(factor[rows] for factor in self.factors), norms=self.squared_norms[rows])

    def doubled(self) -> Space:
        """In float64, in which products are exact enough."""
        return Space(*(factor.astype(np.float64) for factor in self.factors), norms=self.squared_norms)

    @property
    def squared_norms(self) -> Floats:
        """(n,) float64."""
        if self._norms is None:
            self._norms = np.ones(len(self))
            for factor in self.factors:
                self._norms *= np.einsum("nd,nd->n", factor, factor, dtype=np.float64)
        return self._norms

    def squared_distances(self, others: Space) -> Floats:
        """(n, m) float64, at least 0; 0 where it is within the rounding of 0."""
        inner: Floats | None = None
        for own, other in zip(self.factors, others.factors, strict=True):
            product = own.astype(np.float64, copy=False) @ other.astype(np.float64, copy=False).T
            inner = product if inner is None else inner * product
        assert inner is not None
        sums = self.squared_norms[:, None] + others.squared_norms
        inner *= -2
        inner += sums
        inner[inner <= self.slack * sums] = 0.0
        return inner

    @property
    def slack(self) -> float:
        """The relative rounding of a squared distance, in units of |x|² + |c|²."""
        return 4 * (sum(factor.shape[1] for factor in self.factors) + 8) * 2.0**-53


class Centers:
    """Points that are added one by one, in float64, and when each came."""

    def __init__(self, first: Space) -> None:
        self.count = len(first)
        self._factors = [factor.astype(np.float64) for factor in first.factors]
        self._norms, self.times = first.squared_norms.copy(), np.zeros(len(first))

    def add(self, point: Space, time: float) -> None:
        """Add one."""
        if self.count == len(self.times):  # room for as many again
            self._factors = [np.concatenate([factor, factor]) for factor in self._factors]
            self._norms, self.times = np.tile(self._norms, 2), np.tile(self.times, 2)
        for own, factor in zip(self._factors, point.factors, strict=True):
            own[self.count] = factor[0]
        self._norms[self.count], self.times[self.count] = point.squared_norms[0], time
        self.count += 1

    def part(self, first: int, stop: int) -> Space:
        """Those from ``first`` on."""
        return Space(*(factor[first:stop] for factor in self._factors), norms=self._norms[first:stop])


class Lazy:
    """Candidates that come one by one; see the module.

    Those that may come next stand at the front, and are compared with each choice at once; the others are compared with all that they
    have missed when they may come next.

    Args:
        space: M points.
        centers: of which each candidate keeps its distance from the start; at least one.
        noise_M: exponential numbers, for choice at random; None: the farthest comes next.

    Attributes:
        compared: how many distances were computed.
    """

    def __init__(self, space: Space, centers: Space, noise_M: Floats | None = None) -> None:
        M = len(space)
        self._space, self._centers, self._noise = space, Centers(centers), noise_M
        self._squared = np.full(M, np.inf)  # to the nearest of the first seen_M centers
        self._seen = np.zeros(M, np.int64)
        self._soonest = np.full(M, np.inf)  # a lower bound of when it comes
        self._gone = np.zeros(M, bool)
        self.compared = 0
        norm = float(space.squared_norms.max(initial=0.0))
        self._slack = 0.0 if noise_M is not None else space.slack * 4 * norm
        if self._centers.count <= _FEW:
            for at in range(0, M, _BLOCK):
                self._compare(np.arange(at, min(at + _BLOCK, M)), self._centers.count)
        else:
            self._bound()
        self._front, self._front_gone = np.empty(0, np.int64), np.empty(0, bool)
        self._squared_front = self._soonest_front = self._noise_front = np.empty(0)
        self._look()

    def close(self, closed_M: npt.NDArray[np.bool_]) -> None:
        """Set which candidates cannot be chosen any more; others may be open again."""
        opened = (self._gone & ~closed_M).any()
        self._gone = closed_M.copy()
        if opened:
            self._look()
        else:
            self._front_gone = self._gone[self._front]

    def next(self) -> int:
        """The candidate that comes next; -1 if none is left."""
        news = True
        while len(self._front):
            soonest = np.where(self._front_gone, np.inf, self._soonest_front)
            least = soonest.min()
            if least < np.inf:
                at = int(self._front[np.argmax(soonest <= least + self._slack)])
                if least + self._slack < self._horizon or (at < self._behind and least <= self._limit) or not news:
                    return at
            news = self._look()
        left = np.flatnonzero(~self._gone)  # they coincide with a center, and come at no time
        return int(left[0]) if len(left) else -1

    def choose(self, at: int) -> None:
        """Make a candidate a center."""
        before = self._centers.times[self._centers.count - 1]
        place = int(np.searchsorted(self._front, at))
        there = place < len(self._front) and self._front[place] == at
        now = before
        if self._noise is not None and there:
            now = max(before, float(self._soonest_front[place]))
        point = self._space.at(np.array([at]))
        self._centers.add(point, now)
        self._gone[at] = True
        if there:
            self._front_gone[place] = True
        if not len(self._front):
            return
        new = self._rows.squared_distances(point)[:, 0]
        self.compared += len(new)
        if self._noise is None:
            np.minimum(self._squared_front, new, out=self._squared_front)
            self._soonest_front = -self._squared_front
        else:
            self._noise_front = np.maximum(self._noise_front - self._squared_front * (now - before), 0.0)
            np.minimum(self._squared_front, new, out=self._squared_front)
            self._soonest_front = now + _wait(self._noise_front, self._squared_front)

    def _bound(self) -> None:
        """Bound the distances from the first centers: by the distance to √n pivots among them, and to those nearest to one's own pivot.

        A bound near the truth keeps a candidate from the front, where it would be compared with all of them.
        """
        M, n = len(self._squared), self._centers.count
        pivots = np.linspace(0, n - 1, math.isqrt(n)).astype(np.int64)
        centers = self._centers.part(0, n)
        of_pivot = [
            centers.at(slice(at, at + _BLOCK)).squared_distances(centers.at(pivots)).argmin(axis=1)
            for at in range(0, n, _BLOCK)
        ]
        members = [centers.at(np.flatnonzero(np.concatenate(of_pivot) == pivot)) for pivot in range(len(pivots))]
        own = np.empty(M, np.int64)
        for at in range(0, M, _BLOCK):
            own[at : at + _BLOCK] = (
                self._space.at(slice(at, at + _BLOCK)).squared_distances(centers.at(pivots)).argmin(axis=1)
            )
        self.compared += (n + M) * len(pivots)
        for pivot, few in enumerate(members):  # a pivot is nearest to itself, or to one that it coincides with
            rows = np.flatnonzero(own == pivot)
            for at in range(0, len(rows) if len(few) else 0, _BLOCK):
                part = rows[at : at + _BLOCK]
                self._squared[part] = self._space.at(part).squared_distances(few).min(axis=1)
                self.compared += len(part) * len(few)
        self._soonest = -self._squared if self._noise is None else _wait(self._noise, self._squared)

    def _look(self) -> bool:
        """Take those that may come soonest to the front, compared with all centers; none if none comes at a finite time.

        Returns whether any had to be compared, or the front is another: else it will be the same again.
        """
        before = self._front
        self._store()
        soonest = np.where(self._gone, np.inf, self._soonest)
        last = min(_FRONT, len(soonest)) - 1
        limit = np.partition(soonest, last)[last] if last >= 0 else np.inf
        if limit == np.inf:  # fewer are left
            limit = np.finfo(float).max
        self._limit = limit + self._slack
        ahead = np.flatnonzero(soonest <= self._limit)
        self._behind = -1
        if len(ahead) > _TIED:  # the first of those that come at the same time
            tied = soonest[ahead] >= limit - self._slack
            kept = ~tied | (np.cumsum(tied) <= _TIED)
            self._behind = int(ahead[~kept][0])
            ahead = ahead[kept]
        soonest[ahead] = np.inf
        self._horizon = float(soonest.min(initial=np.inf))
        self._front = ahead
        lacking = self._centers.count - self._seen[ahead]
        octaves = np.frexp(lacking)[1]  # those that lack about as many together
        for octave in np.unique(octaves[lacking > 0]):
            self._compare(ahead[octaves == octave], self._centers.count)
        self._front_gone = self._gone[ahead]
        self._rows = self._space.at(ahead).doubled()
        self._squared_front, self._soonest_front = self._squared[ahead], self._soonest[ahead]
        if self._noise is not None:
            self._noise_front = self._noise[ahead]
        return bool((lacking > 0).any()) or not np.array_equal(before, ahead)

    def _store(self) -> None:
        """Keep what is known of the front."""
        self._squared[self._front], self._soonest[self._front] = self._squared_front, self._soonest_front
        self._seen[self._front] = self._centers.count
        if self._noise is not None:
            self._noise[self._front] = self._noise_front

    def _compare(self, rows: Ints, count: int) -> None:
        """Compare candidates with the centers before ``count`` that one of them lacks."""
        first = int(self._seen[rows].min())
        new = self._space.at(rows).squared_distances(self._centers.part(first, count))
        self.compared += new.size
        if self._noise is None:
            self._squared[rows] = np.minimum(self._squared[rows], new.min(axis=1))
            self._soonest[rows] = -self._squared[rows]
        else:
            self._wait_for(rows, first, count, new)
        self._seen[rows] = count

    def _wait_for(self, rows: Ints, first: int, count: int, new: Floats) -> None:
        """Use up the exponential numbers of candidates while each of the new centers was the last, and say when they run out."""
        assert self._noise is not None
        index, times = np.arange(first, count), self._centers.times
        nearest = np.minimum.accumulate(np.concatenate([self._squared[rows, None], new], axis=1), axis=1)
        # A candidate that knows a center already has waited until then; before any center no time passes.
        waits = (index >= self._seen[rows, None]) & (index > 0)
        lasted = np.where(waits, times[index] - times[np.maximum(index - 1, 0)], 0.0)
        used = np.where(lasted > 0, nearest[:, :-1], 0.0) * lasted
        self._noise[rows] = np.maximum(self._noise[rows] - used.sum(axis=1), 0.0)
        self._squared[rows] = nearest[:, -1]
        self._soonest[rows] = times[count - 1] + _wait(self._noise[rows], nearest[:, -1])


def _wait(noise: Floats, rate: Floats) -> Floats:
    """How long each exponential number lasts at this rate; forever at 0."""
    return np.divide(noise, rate, out=np.full(len(rate), np.inf), where=rate > 0)
