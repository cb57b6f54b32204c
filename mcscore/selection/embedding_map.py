"""A map of a selection: candidates, labeled and selected items in the plane that shows most of the candidates' embeddings (PCA).

And what the eye cannot see there: how many of the selected have a near neighbor among the selected, against as many candidates drawn at
random. Near is within half of the median distance of those from their nearest neighbor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .lazy import Space
from .stochastic import uniform

POINTS = {"candidates": 1500, "labeled": 500, "selected": 1000}
"""The most points of each kind, at even distances in their order."""

_STREAM = 0x6D617021  # the counter word of the random candidates


def embedding_map(
    points_MD: npt.NDArray[np.float32],
    labeled_LD: npt.NDArray[np.float32] | None,
    chosen: npt.NDArray[np.int64],
    ids_M: npt.NDArray[np.int64],
    seed: int,
) -> dict[str, Any]:
    """The map, as JSON.

    Args:
        points_MD: embeddings of the candidates.
        labeled_LD: of labeled items, if any.
        chosen: (k,) positions of the selected among the candidates.
        ids_M: ids of the candidates.
        seed: of the random candidates.

    Returns:
        ``explained``, the share of the variance that each of the two axes has; ``candidates``, ``labeled`` and ``selected``, lists of
        [x, y]; ``near``: the distance, how many of the selected and of the random candidates have a neighbor within it, of how many.
    """
    some = points_MD[_evenly(len(points_MD), POINTS["candidates"])].astype(np.float64)
    mean = some.mean(axis=0)
    _, values, axes = np.linalg.svd(some - mean, full_matrices=False)
    axes = axes[:2] * np.where(np.take_along_axis(axes[:2], np.abs(axes[:2]).argmax(1)[:, None], 1) < 0, -1.0, 1.0)
    total = float((values**2).sum())

    def placed(rows: npt.NDArray[np.floating], most: int) -> list[list[float]]:
        plane = np.zeros((min(len(rows), most), 2))
        plane[:, : len(axes)] = (rows[_evenly(len(rows), most)] - mean) @ axes.T
        return [[float(f"{x:.4g}"), float(f"{y:.4g}")] for x, y in plane]

    compared = chosen[: POINTS["selected"]]
    random = np.argsort(uniform(ids_M, seed, _STREAM), kind="stable")[: len(compared)]
    nearest, nearest_random = (_nearest(points_MD[rows]) for rows in (compared, random))
    distance = float(np.median(nearest_random)) / 2 if len(compared) > 1 else 0.0
    return {
        "explained": [round(float(value**2) / total, 4) if total else 0.0 for value in values[:2]],
        "candidates": placed(points_MD, POINTS["candidates"]),
        "labeled": placed(labeled_LD, POINTS["labeled"]) if labeled_LD is not None else [],
        "selected": placed(points_MD[chosen], POINTS["selected"]),
        "near": {
            "distance": distance,
            "selected": int((nearest <= distance).sum()),
            "random": int((nearest_random <= distance).sum()),
            "of": len(compared),
        },
    }


def _evenly(count: int, most: int) -> npt.NDArray[np.int64]:
    """All places, or so many of them at even distances."""
    return np.arange(min(count, most)) * max(count, most) // most if count > most else np.arange(count)


def _nearest(points_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(N,) the distance of each point from the nearest of the others; infinite for one alone."""
    squared = Space(points_ND).squared_distances(Space(points_ND))
    np.fill_diagonal(squared, np.inf)
    nearest: npt.NDArray[np.float64] = np.sqrt(squared.min(axis=1, initial=np.inf))
    return nearest
