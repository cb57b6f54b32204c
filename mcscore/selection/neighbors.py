"""Exact tests of which points lie within r of a set of points, by matrix products.

FAISS computes squared distances as |x|² + |y|² - 2xy in float32, whose last bits depend on batch shape and threads; a
comparison with r alone could differ between machines. So the product decides only where its distance from r² exceeds its
rounding error; the few other pairs are computed again as sums of squared differences in float64.

The bound: the three terms are dot products of length D, each off by at most D·u·|x||y| in any order of summation
(Higham, Accuracy and Stability, §3.1; u = 2^-24), which with the final additions stays below (D + 8)·u·(|x| + |y|)².
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

_UNIT = 2.0**-24


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


def nearest(points_ND: np.ndarray, others_MD: np.ndarray) -> np.ndarray:
    """Compute the squared distance (N,) float32 to the nearest of the M >= 1 others, with rounding errors."""
    import faiss

    return faiss.knn(points_ND, others_MD, 1)[0][:, 0]


def any_within(
    points_ND: np.ndarray, others_MD: np.ndarray, r: float, other_norm: float, squared_N: np.ndarray | None = None
) -> np.ndarray:
    """Decide exactly, (N,) bool, whether any of the others lies within r of a point (distance <= r).

    other_norm is the greatest norm among the others; squared_N is the result of :func:`nearest`, if known.
    """
    squared_N = nearest(points_ND, others_MD) if squared_N is None else squared_N
    slack_N = (points_ND.shape[1] + 8) * _UNIT * (norms(points_ND) + other_norm) ** 2
    within = squared_N <= r * r
    for n in np.flatnonzero(np.abs(squared_N - r * r) <= slack_N):
        within[n] = np.sqrt(squared_distances(points_ND[n], others_MD).min()) <= r
    return within


def pairs_within(points_ND: np.ndarray, r: float) -> np.ndarray:
    """Decide exactly, (N, N) bool, which pairs of points lie within r of each other; for N of a few hundred."""
    norm_N = norms(points_ND)
    squared = norm_N[:, None] ** 2 + norm_N**2 - 2.0 * (points_ND @ points_ND.T)
    slack = (points_ND.shape[1] + 8) * _UNIT * (norm_N[:, None] + norm_N) ** 2
    within: np.ndarray = squared <= r * r
    doubtful = np.abs(squared - r * r) <= slack
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
