"""Kept points in cells: the nearest of them, most of the time, without a look at all. For more than a million candidates.

Candidates belong to the cells of a k-means partition (an inverted file: Jégou, Douze and Schmid 2011). A candidate is compared with
the kept ones whose cell is one of its own nearest few. One that is nearer, in a cell farther off, is missed: how often, must be measured.
"""

from __future__ import annotations

import numpy as np

from .neighbors import norms, one_faiss_thread

CELLS = 1024
PROBED = 16  # cells that a candidate is compared with
_TRAINED = 64  # candidates for each cell, evenly spaced, from which FAISS finds the cells
_BLOCK = 1 << 14


class KeptInCells:
    """Kept candidates by cell.

    Args:
        points_MD: all candidates.
    """

    def __init__(self, points_MD: np.ndarray) -> None:
        import faiss

        M, D = points_MD.shape
        cells = min(CELLS, M)
        some = points_MD[np.linspace(0, M - 1, min(M, _TRAINED * cells)).astype(np.int64)]
        kmeans = faiss.Kmeans(D, cells, niter=10, seed=1, min_points_per_centroid=1)
        self._points = points_MD
        self._norm_M = norms(points_MD)
        with one_faiss_thread():
            kmeans.train(some)
            parts = [
                kmeans.index.search(points_MD[at : at + _BLOCK], min(PROBED, cells))[1].astype(np.int16)
                for at in range(0, M, _BLOCK)
            ]
        self._probed = np.concatenate(parts)  # (M, PROBED), nearest first
        self._cells = cells
        self.clear()

    def clear(self) -> None:
        """Forget what is kept."""
        self._kept: list[list[int]] = [[] for _ in range(self._cells)]

    def add(self, positions: list[int]) -> None:
        """Keep candidates."""
        for at, cell in zip(positions, self._probed[positions, 0].tolist(), strict=True):
            self._kept[cell].append(at)

    def nearest(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest kept candidate of each, (N,), -1 for none, and its squared distance, (N,) with rounding errors, among these cells."""
        nearest, squared = np.full(len(rows), -1, np.int64), np.full(len(rows), np.inf)
        probed = self._probed[rows]
        order = np.argsort(probed, axis=None, kind="stable")
        cells, starts = np.unique(probed.ravel()[order], return_index=True)
        for cell, of_cell in zip(cells.tolist(), np.split(order // probed.shape[1], starts[1:]), strict=True):
            if not (kept := self._kept[cell]):
                continue
            products = self._points[rows[of_cell]] @ self._points[kept].T
            distances = self._norm_M[kept] ** 2 - 2.0 * products
            best = distances.argmin(axis=1)
            found = distances[np.arange(len(best)), best] + self._norm_M[rows[of_cell]] ** 2
            better = found < squared[of_cell]
            nearest[of_cell[better]], squared[of_cell[better]] = np.array(kept)[best[better]], found[better]
        return nearest, squared
