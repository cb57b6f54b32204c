"""Which points lie within r of a set of points: fast by matrix products, decided exactly.

FAISS computes squared distances as |x|² + |y|² - 2xy in float32, whose last bits depend on batch shape and threads; a cut
at exactly r could flip between machines. So a product decides only where it is further from r² than its rounding
error can reach; the few pairs inside that band are computed anew as sums of squared differences in float64.

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
    """FAISS on one thread inside, as many as before outside.

    Blocks of 256 queries leave a second thread little to do: two threads on two busy cores took 6 times as long.
    """
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def norms(points_ND: np.ndarray) -> np.ndarray:
    """(N,) float64 Euclidean norms of float32 points."""
    squared_N: np.ndarray = np.einsum("nd,nd->n", points_ND, points_ND, dtype=np.float64)
    np.sqrt(squared_N, out=squared_N)
    return squared_N


def nearest(points_ND: np.ndarray, others_MD: np.ndarray) -> np.ndarray:
    """(N,) float32 squared distance to the nearest of the others, to within the rounding error; M >= 1."""
    import faiss

    return faiss.knn(points_ND, others_MD, 1)[0][:, 0]


def any_within(
    points_ND: np.ndarray, others_MD: np.ndarray, r: float, other_norm: float, squared_N: np.ndarray | None = None
) -> np.ndarray:
    """(N,) bool: does any of the others lie within r (distance <= r)? Exact, as the module says.

    other_norm is the greatest norm among the others; squared_N what :func:`nearest` gave for these, if known.
    """
    squared_N = nearest(points_ND, others_MD) if squared_N is None else squared_N
    slack_N = (points_ND.shape[1] + 8) * _UNIT * (norms(points_ND) + other_norm) ** 2
    within = squared_N <= r * r
    for n in np.flatnonzero(np.abs(squared_N - r * r) <= slack_N):
        within[n] = np.sqrt(squared_distances(points_ND[n], others_MD).min()) <= r
    return within


def pairs_within(points_ND: np.ndarray, r: float) -> np.ndarray:
    """(N, N) bool: which pairs of points lie within r of each other? Exact; for N of a few hundred."""
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
    """(M,) float64, as sums of squared differences; the same bits whatever else is computed beside them."""
    difference_MD = others_MD.astype(np.float64) - point_D
    distance_M: np.ndarray = np.square(difference_MD, out=difference_MD).sum(axis=1)
    return distance_M
