"""Computes the figures behind the plots in streams over the stored scores: memory does not grow with the pool.

A stream is a callable that starts reading from the beginning, because most figures need two passes. NaN marks what has
no score, and is left out everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

FINE = 1 << 16  # bins of the histogram that quantiles are read from: exact to the range / 65536
BINS = 64  # bins shown
GRID = 512  # cells per axis that points are counted in before they are drawn as hexagons
MAX_POINTS = 4000  # up to this many items are drawn as points; more points would hide each other
QUANTILES = (0.5, 0.9, 0.99)
TRIES = 20  # rounds of drawing before all scored items are listed

Stream = Callable[[], Iterable[np.ndarray]]  # values of consecutive items, some thousands at a time
Pairs = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Spread:
    """The distribution of one score over the scored items. ``edges`` (bins+1,), ``counts`` (bins,) int64."""

    n: int
    lo: float
    hi: float
    mean: float
    quantiles: dict[float, float]
    edges: np.ndarray
    counts: np.ndarray

    @property
    def flat(self) -> bool:
        """Whether every scored item has the same score, so that the score cannot choose."""
        return self.n > 1 and self.lo == self.hi


@dataclass(frozen=True)
class Cloud:
    """Two quantities of every scored item: each item a point (``weights`` None), or cell centers and their counts."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None
    n: int


def spread(values: Stream) -> Spread | None:
    """Return the distribution of the finite values; None if there are none."""
    n, total, lo, hi = 0, 0.0, np.inf, -np.inf
    for part in map(_finite, values()):
        if part.size:
            n, total = n + part.size, total + float(part.sum(dtype=np.float64))
            lo, hi = min(lo, float(part.min())), max(hi, float(part.max()))
    if not n:
        return None
    if lo == hi:
        width = max(abs(lo), 1.0) * 1e-3
        edges, counts = np.array([lo - width, lo + width]), np.array([n])
        return Spread(n, lo, hi, lo, dict.fromkeys(QUANTILES, lo), edges, counts)
    fine = np.zeros(FINE, np.int64)
    for part in map(_finite, values()):
        cell = ((part - np.float64(lo)) * (FINE / (hi - lo))).astype(np.int64)
        fine += np.bincount(np.minimum(cell, FINE - 1), minlength=FINE)
    # The cell in which the q-th part of the items has been passed; its middle is off by half a cell at most.
    passed = np.cumsum(fine)
    at = {q: int(np.searchsorted(passed, q * n)) for q in QUANTILES}
    quantiles = {q: lo + (cell + 0.5) * (hi - lo) / FINE for q, cell in at.items()}
    edges = np.linspace(lo, hi, BINS + 1)
    return Spread(n, lo, hi, total / n, quantiles, edges, fine.reshape(BINS, -1).sum(axis=1))


def cloud(pairs: Pairs) -> Cloud | None:
    """Return points, or counts on a grid, of the items with two finite values; None if there are none."""
    n, lo, hi = 0, np.full(2, np.inf), np.full(2, -np.inf)
    for xy in map(_finite_pairs, pairs()):
        if xy.shape[1]:
            n += xy.shape[1]
            lo, hi = np.minimum(lo, xy.min(axis=1)), np.maximum(hi, xy.max(axis=1))
    if not n:
        return None
    if n <= MAX_POINTS:
        x, y = np.concatenate([_finite_pairs(pair) for pair in pairs()], axis=1)
        return Cloud(x, y, None, n)
    step = np.where(hi > lo, (hi - lo) / GRID, 1.0)
    counts = np.zeros(GRID * GRID, np.int64)
    for xy in map(_finite_pairs, pairs()):
        i, j = np.minimum((xy - lo[:, None]) / step[:, None], GRID - 1).astype(np.int64)
        counts += np.bincount(i * GRID + j, minlength=GRID * GRID)
    full = np.flatnonzero(counts)
    i, j = np.divmod(full, GRID)
    return Cloud(lo[0] + (i + 0.5) * step[0], lo[1] + (j + 0.5) * step[1], counts[full], n)


def class_counts(predictions: Stream) -> np.ndarray:
    """Count the items predicted to be of each class, (C,) int64; C is the highest class seen plus one, at least 1."""
    counts = np.zeros(1, np.int64)
    for part in predictions():
        more = np.bincount(part[part >= 0].astype(np.int64))
        counts = np.pad(counts, (0, max(0, len(more) - len(counts))))
        counts[: len(more)] += more
    return counts


def random_ids(
    k: int,
    n: int,
    seed: int,
    without: np.ndarray,
    scored: Callable[[np.ndarray], np.ndarray],
    listed: Callable[[], Iterable[np.ndarray]],
) -> np.ndarray:
    """Draw up to ``k`` distinct ids evenly from the scored ids of range(n) that are not in ``without``; in drawn order.

    Drawn and kept if ``scored(ids)`` (bool), so a few k values are read, not n; only where scored items are rare are
    all of them read from ``listed()``, their ids in parts.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty(0, np.int64)
    for _ in range(TRIES):
        tried = rng.integers(0, n, 2 * k)
        fresh = tried[scored(tried) & ~np.isin(tried, without) & ~np.isin(tried, drawn)]
        _, first = np.unique(fresh, return_index=True)
        drawn = np.concatenate([drawn, fresh[np.sort(first)]])[:k]
        if len(drawn) == k:
            return drawn
    left = np.setdiff1d(np.concatenate([np.empty(0, np.int64), *listed()]), np.concatenate([drawn, without]))
    return np.concatenate([drawn, rng.permutation(left)[: k - len(drawn)]])


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _finite_pairs(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the pairs of two finite values, (2, n) float64."""
    xy = np.stack([np.asarray(values, np.float64) for values in pair])
    return xy[:, np.isfinite(xy).all(axis=0)]
