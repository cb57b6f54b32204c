"""Exact tests of which points lie within r of a set of points, by matrix products.

|x|² + |y|² - 2xy in float32 has last bits that depend on batch shape and threads; a comparison with r alone could differ between
machines. So the product decides only where its distance from r² exceeds its rounding error; the few other pairs are computed again
as sums of squared differences in float64.

The bound: the three terms are dot products of length D, each off by at most D·u·|x||y| in any order of summation
(Higham, Accuracy and Stability, §3.1; u = 2^-24), which with the final additions stays below (D + 8)·u·(|x| + |y|)².
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

_UNIT = 2.0**-24
_OTHERS = 4096  # others in one product: with 2,048 points its result, 32 MB, is read again while it is in the cache or near it


@contextlib.contextmanager
def one_faiss_thread() -> Iterator[None]:
    """Run FAISS on one thread inside the context.

    For blocks of 256 queries two threads took 6 times as long as one on two busy cores.
    """
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def norms(points_ND: np.ndarray) -> np.ndarray:
    """Compute the Euclidean norms (N,) float64 of float32 points."""
    squared_N: np.ndarray = np.einsum("nd,nd->n", points_ND, points_ND, dtype=np.float64)
    np.sqrt(squared_N, out=squared_N)
    return squared_N


class Others:
    """Points that others are compared with; room for so many is made at once, and they are added as they come.

    Args:
        room: the most points.
        width: D.
    """

    def __init__(self, room: int, width: int) -> None:
        # The last column is -|y|²/2: the product with (x, 1) is largest for the nearest y.
        self._rows = np.empty((room, width + 1), np.float32)
        self.count, self.norm = 0, 0.0

    @staticmethod
    def of(points_MD: np.ndarray) -> Others:
        """Others that are all there."""
        others = Others(*points_MD.shape)
        others.add(points_MD)
        return others

    @property
    def points(self) -> np.ndarray:
        """(count, D) float32."""
        return self._rows[: self.count, :-1]

    def add(self, points_ND: np.ndarray) -> None:
        """Add N points."""
        rows = self._rows[self.count : self.count + len(points_ND)]
        norm_N = norms(points_ND)
        rows[:, :-1], rows[:, -1] = points_ND, -0.5 * norm_N**2
        self.count += len(points_ND)
        self.norm = max(self.norm, float(norm_N.max(initial=0.0)))

    def nearest(self, points_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which other is nearest to each point, (N,), and its squared distance, (N,) float64 with rounding errors; one is there."""
        extended = np.concatenate([points_ND, np.ones((len(points_ND), 1), np.float32)], axis=1)
        index_N, product_N = np.zeros(len(points_ND), np.int64), np.full(len(points_ND), -np.inf, np.float32)
        for at in range(0, self.count, _OTHERS):
            products = extended @ self._rows[at : min(at + _OTHERS, self.count)].T
            best = products.argmax(axis=1)
            found = products[np.arange(len(best)), best]
            better = found > product_N
            index_N[better], product_N[better] = at + best[better], found[better]
        return index_N, norms(points_ND) ** 2 - 2.0 * product_N.astype(np.float64)

    def any_within(self, points_ND: np.ndarray, r: float, squared_N: np.ndarray | None = None) -> np.ndarray:
        """Decide exactly, (N,) bool, whether any of the others lies within r of a point (distance <= r).

        squared_N is what :meth:`nearest` found, if that is known.
        """
        squared_N = self.nearest(points_ND)[1] if squared_N is None else squared_N
        within: np.ndarray = squared_N <= r * r
        doubtful = np.abs(squared_N - r * r) <= slack(points_ND, norms(points_ND) + self.norm)
        for n in np.flatnonzero(doubtful):
            within[n] = np.sqrt(squared_distances(points_ND[n], self.points).min()) <= r
        return within


def slack(points_ND: np.ndarray, norm_sum: np.ndarray) -> np.ndarray:
    """The rounding error of squared distances from products, given |x| + |y|."""
    bound: np.ndarray = (points_ND.shape[1] + 8) * _UNIT * norm_sum**2
    return bound


def pairs_within(points_ND: np.ndarray, r: float) -> np.ndarray:
    """Decide exactly, (N, N) bool, which pairs of points lie within r of each other; for N of a few hundred."""
    norm_N = norms(points_ND)
    squared = norm_N[:, None] ** 2 + norm_N**2 - 2.0 * (points_ND @ points_ND.T)
    within: np.ndarray = squared <= r * r
    doubtful = np.abs(squared - r * r) <= slack(points_ND, norm_N[:, None] + norm_N)
    np.fill_diagonal(within, True)
    np.fill_diagonal(doubtful, False)
    for n in np.flatnonzero(doubtful.any(axis=1)):
        others = np.flatnonzero(doubtful[n])
        within[n, others] = np.sqrt(squared_distances(points_ND[n], points_ND[others])) <= r
    return within


def squared_distances(point_D: np.ndarray, others_MD: np.ndarray) -> np.ndarray:
    """Compute squared distances (M,) float64 as sums of squared differences; no bit of one depends on the other points."""
    difference_MD = others_MD.astype(np.float64) - point_D
    distance_M: np.ndarray = np.square(difference_MD, out=difference_MD).sum(axis=1)
    return distance_M
