"""Cluster: the best of each cell of a k-means partition of the candidates, so that every region of the embeddings has its share.

Cells take turns, in the order of their best candidates, and each gives its best that is left and open; so no cell gives two more than
another that still has some. FAISS partitions: 10 rounds from a sample of at most 256 candidates for each cell, seeded, on one thread.
"""

from __future__ import annotations

import numpy as np

from .candidates import Candidates, Picks, walk
from .neighbors import one_faiss_thread
from .room import Room, rank_in_group

CELLS_MAX = 4096  # k-means takes 10 M CELLS_MAX D operations
_ROUNDS = 10


def pick(candidates: Candidates, k: int, room: Room, *, seed: int = 0) -> Picks:
    """Choose k candidates from min(k, 4096) cells; ``facts`` has how many cells gave one."""
    assert candidates.embeddings is not None
    cells = min(k, CELLS_MAX)
    if not cells:
        return Picks(np.empty(0, np.int64))
    cell_M = cells_of(candidates.embeddings, cells, seed)
    # Candidates stand best first: so do those of a cell, and turns in this order are by the best of each cell.
    turn_M = rank_in_group(cell_M)
    picks = walk(np.lexsort((np.arange(len(candidates)), turn_M)), k, room)
    return Picks(picks.positions, {"cells": len(np.unique(cell_M[picks.positions]))})


def cells_of(points_MD: np.ndarray, cells: int, seed: int) -> np.ndarray:
    """(M,) int64, the k-means cell of each point; each its own if there are no more points than cells."""
    import faiss

    if len(points_MD) <= cells:
        return np.arange(len(points_MD))
    kmeans = faiss.Kmeans(
        points_MD.shape[1],
        cells,
        niter=_ROUNDS,
        seed=1 + seed % (2**31 - 2),
        min_points_per_centroid=1,  # it warns otherwise
        max_points_per_centroid=256,
    )
    with one_faiss_thread():
        kmeans.train(points_MD)
        nearest: np.ndarray = kmeans.index.search(points_MD, 1)[1][:, 0]
    return nearest.astype(np.int64)
