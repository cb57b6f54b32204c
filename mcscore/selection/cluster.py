"""Cluster: the best of each cell of a k-means partition of the candidates, so that every region of the embeddings has its share.

Cells take turns, in the order of their best candidates, and each gives its best that is left and open; so no cell gives two more than
another that still has some. The first centers are drawn by k-means++, and FAISS moves them: 10 rounds on a sample of at most 256
candidates for each cell, seeded, on one thread. From centers drawn evenly, groups that lie apart were split and merged.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from .candidates import Candidates, Picks, walk
from .neighbors import one_faiss_thread
from .room import Room, rank_in_group
from .spread import k_means_pp

CELLS_MAX = 4096  # k-means takes 10 M CELLS_MAX D operations
_ROUNDS = 10


def pick(candidates: Candidates, k: int, room: Room, *, seed: int = 0) -> Picks:
    """Choose k candidates from min(k, 4096) cells; ``facts`` has how many cells gave one."""
    assert candidates.embeddings is not None
    cells = min(k, CELLS_MAX)
    if not cells:
        return Picks(np.empty(0, np.int64))
    first = k_means_pp(dataclasses.replace(candidates, labeled=None), cells, Room(cells, len(candidates)), seed=seed)
    cell_M = _cells_of(candidates.embeddings, first.positions, seed)
    # Candidates stand best first: so do those of a cell, and turns in this order are by the best of each cell.
    turn_M = rank_in_group(cell_M)
    picks = walk(np.lexsort((np.arange(len(candidates)), turn_M)), k, room)
    return Picks(picks.positions, {"cells": len(np.unique(cell_M[picks.positions]))})


def _cells_of(points_MD: np.ndarray, first: np.ndarray, seed: int) -> np.ndarray:
    """(M,) int64, the k-means cell of each point, from first centers at some of the points; each its own if all are centers."""
    import faiss

    if len(points_MD) <= len(first):
        return np.arange(len(points_MD))
    kmeans = faiss.Kmeans(
        points_MD.shape[1],
        len(first),
        niter=_ROUNDS,
        seed=1 + seed % (2**31 - 2),
        min_points_per_centroid=1,  # it warns otherwise
        max_points_per_centroid=256,
    )
    with one_faiss_thread():
        kmeans.train(points_MD, init_centroids=points_MD[first])
        nearest: np.ndarray = kmeans.index.search(points_MD, 1)[1][:, 0]
    return nearest.astype(np.int64)
