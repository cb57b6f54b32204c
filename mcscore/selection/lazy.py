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

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FRONT = 2048  # candidates that are looked at for each choice; the others are known to come later
_BATCH = 64  # candidates that are compared with new centers at a time
_FIRST = 64  # centers that all candidates are compared with at the start
_BLOCK = 4096  # candidates of the first comparison at a time


class Space:
    """Points whose inner product is the product of those of their factors: (n, D) each, as of outer products that are never made.

    >>> p, h = np.eye(2), np.array([[3.0, 4.0], [0.0, 1.0]])
    >>> Space(p, h).squared_distances(Space(p, h)).tolist()  # of p ⊗ h
    [[0.0, 26.0], [26.0, 0.0]]
    """

    def __init__(self, *factors: np.ndarray) -> None:
        self.factors = factors

    def __len__(self) -> int:
        return len(self.factors[0])

    def at(self, rows: Ints | slice) -> Space:
        """Some of the points."""
        return Space(*(factor[rows] for factor in self.factors))

    def joined(self, other: Space) -> Space:
        """These points and then those."""
        return Space(*(np.concatenate(pair) for pair in zip(self.factors, other.factors, strict=True)))

    def squared_norms(self) -> Floats:
        """(n,) float64."""
        norms = np.ones(len(self))
        for factor in self.factors:
            norms *= np.einsum("nd,nd->n", factor, factor, dtype=np.float64)
        return norms

    def squared_distances(self, others: Space) -> Floats:
        """(n, m) float64, at least 0; 0 where it is within the rounding of 0."""
        inner = np.ones((len(self), len(others)))
        for own, other in zip(self.factors, others.factors, strict=True):
            inner *= own.astype(np.float64) @ other.astype(np.float64).T
        sums = self.squared_norms()[:, None] + others.squared_norms()
        squared = sums - 2 * inner
        squared[squared <= self.slack * sums] = 0.0
        return squared

    @property
    def slack(self) -> float:
        """The relative rounding of a squared distance, in units of |x|² + |c|²."""
        return 4 * (sum(factor.shape[1] for factor in self.factors) + 8) * 2.0**-53


class Lazy:
    """Candidates that come one by one; see the module.

    Args:
        space: M points.
        centers: of which each candidate keeps its distance from the start; at least one.
        noise_M: exponential numbers, for choice at random; None: the farthest comes next.

    Attributes:
        compared: how many distances were computed.
    """

    def __init__(self, space: Space, centers: Space, noise_M: Floats | None = None) -> None:
        M = len(space)
        self._space, self._centers, self._count = space, centers, len(centers)
        self._times = np.zeros(max(16, 2 * self._count))  # at which each center was added
        self._now = 0.0
        self._noise = noise_M
        self._squared = np.full(M, np.inf)  # to the nearest of the first seen_M centers
        self._seen = np.zeros(M, np.int64)
        self._soonest = np.full(M, np.inf)  # a lower bound of when it comes
        self._gone = np.zeros(M, bool)
        self.compared = 0
        norm = float(space.squared_norms().max(initial=0.0))
        self._slack = 0.0 if noise_M is not None else space.slack * 4 * norm
        some = min(_FIRST, self._count)
        for at in range(0, M, _BLOCK):
            self._compare(np.arange(at, min(at + _BLOCK, M)), some)
        self._front, self._horizon = np.empty(0, np.int64), -np.inf

    def close(self, closed_M: npt.NDArray[np.bool_]) -> None:
        """Set which candidates cannot be chosen any more; others may be open again."""
        self._gone = closed_M
        self._front, self._horizon = np.empty(0, np.int64), -np.inf

    def next(self) -> int:
        """The candidate that comes next; -1 if none is left."""
        while True:
            soonest = np.where(self._gone[self._front], np.inf, self._soonest[self._front])
            least = soonest.min() if len(soonest) else np.inf
            if not least + self._slack < self._horizon:
                if not self._look():
                    return self._first_left()
                continue
            near = np.flatnonzero(soonest <= least + self._slack)
            first = self._front[near[0]]
            if self._seen[first] == self._count:
                return int(first)
            if len(near) < _BATCH <= len(soonest):
                near = np.union1d(near, np.argpartition(soonest, _BATCH - 1)[:_BATCH])
            rows = self._front[near[:_BATCH]]
            self._refresh(rows[self._seen[rows] < self._count])

    def choose(self, at: int) -> None:
        """Make a candidate a center."""
        if self._noise is not None and np.isfinite(self._soonest[at]):
            self._now = max(self._now, float(self._soonest[at]))
        self._gone[at] = True
        if self._count == len(self._centers):  # room for as many again
            self._centers = self._centers.joined(self._centers)
            self._times = np.concatenate([self._times, np.zeros(max(len(self._times), 2 * self._count))])
        for own, factor in zip(self._centers.factors, self._space.factors, strict=True):
            own[self._count] = factor[at]
        self._times[self._count] = self._now
        self._count += 1

    def _look(self) -> bool:
        """Take those that may come soonest to the front; False if none is left that comes at a finite time."""
        soonest = np.where(self._gone, np.inf, self._soonest)
        last = min(_FRONT, len(soonest)) - 1
        limit = np.partition(soonest, last)[last] + self._slack
        if limit == np.inf:  # fewer are left
            limit = np.finfo(float).max
        ahead = soonest <= limit
        self._front = np.flatnonzero(ahead)
        self._horizon = float(soonest[~ahead].min(initial=np.inf))
        return len(self._front) > 0

    def _first_left(self) -> int:
        """The first of those that coincide with a center, which come at no time."""
        left = np.flatnonzero(~self._gone)
        return int(left[0]) if len(left) else -1

    def _refresh(self, rows: Ints) -> None:
        """Compare candidates with all centers; those that lack about as many together."""
        lacking = np.log2(self._count - self._seen[rows]).astype(np.int64)
        for octave in np.unique(lacking):
            self._compare(rows[lacking == octave], self._count)

    def _compare(self, rows: Ints, count: int) -> None:
        """Compare candidates with the centers before ``count`` that one of them lacks."""
        first = int(self._seen[rows].min())
        new = self._space.at(rows).squared_distances(self._centers.at(slice(first, count)))
        self.compared += new.size
        if self._noise is None:
            self._squared[rows] = np.minimum(self._squared[rows], new.min(axis=1))
            self._soonest[rows] = -self._squared[rows]
        else:
            self._wait(rows, first, count, new)
        self._seen[rows] = count

    def _wait(self, rows: Ints, first: int, count: int, new: Floats) -> None:
        """Use up the exponential numbers of candidates while each of the new centers was the last, and say when they run out."""
        assert self._noise is not None
        index = np.arange(first, count)
        nearest = np.minimum.accumulate(np.concatenate([self._squared[rows, None], new], axis=1), axis=1)
        before = self._times[np.maximum(index - 1, 0)]
        # A candidate that knows a center already has waited until then; before any center no time passes.
        lasted = np.where((index >= self._seen[rows, None]) & (index > 0), self._times[index] - before, 0.0)
        used = np.where(lasted > 0, nearest[:, :-1], 0.0) * lasted
        self._noise[rows] = np.maximum(self._noise[rows] - used.sum(axis=1), 0.0)
        self._squared[rows] = nearest[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            wait = np.where(nearest[:, -1] > 0, self._noise[rows] / nearest[:, -1], np.inf)
        self._soonest[rows] = self._times[count - 1] + wait
