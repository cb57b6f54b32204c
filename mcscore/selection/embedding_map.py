"""A map of a selection: candidates, labeled and selected items in a plane.

It is the plane that shows most of the candidates' embeddings (PCA), or laid out by UMAP (McInnes, Healy and Melville 2018), which keeps
neighbors together.

And what the eye cannot see there: how many of the selected have a near neighbor among the selected, against as many candidates drawn at
random. Near is within half of the median distance of those from their nearest neighbor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .lazy import Space
from .stochastic import uniform

MAPS = ("pca", "umap")
POINTS = {"candidates": 1500, "labeled": 500, "selected": 1000}
"""The most points of each kind, at even distances in their order."""

Floats = npt.NDArray[np.float64]

_STREAM = 0x6D617021  # the counter word of the random candidates


def embedding_map(
    points_MD: npt.NDArray[np.float32],
    labeled_LD: npt.NDArray[np.float32] | None,
    chosen: npt.NDArray[np.int64],
    ids_M: npt.NDArray[np.int64],
    seed: int,
    layout: str = "pca",
    labeled_ids_L: npt.NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """The map, as JSON.

    Args:
        points_MD: embeddings of the candidates.
        labeled_LD: of labeled items, if any.
        chosen: (k,) positions of the selected among the candidates.
        ids_M: ids of the candidates.
        seed: of the random candidates, and of UMAP.
        layout: "pca" or "umap", which needs the package umap-learn.
        labeled_ids_L: ids of the labeled items.

    Returns:
        ``explained``, the share of the variance that each of the two axes has, of UMAP nothing; ``candidates``, ``labeled`` and
        ``selected``, lists of [x, y]; ``ids`` of these candidates and labeled items; ``near``: the distance, and how many of the
        selected and of the random candidates have a neighbor within it, of how many.
    """
    rows = {
        name: np.asarray(points[evenly(len(points), POINTS[name])], np.float64)
        for name, points in (
            ("candidates", points_MD),
            ("labeled", points_MD[:0] if labeled_LD is None else labeled_LD),
            ("selected", points_MD[chosen]),
        )
    }
    planes, explained = (_by_umap(rows, seed), list[float]()) if layout == "umap" else _by_variance(rows)
    compared = chosen[: POINTS["selected"]]
    random = np.argsort(uniform(ids_M, seed, _STREAM), kind="stable")[: len(compared)]
    nearest, nearest_random = (_nearest(points_MD[rows]) for rows in (compared, random))
    distance = float(np.median(nearest_random)) / 2 if len(compared) > 1 else 0.0
    return {
        "explained": explained,
        **{name: [[float(f"{x:.4g}"), float(f"{y:.4g}")] for x, y in plane] for name, plane in planes.items()},
        "ids": {
            name: ids[evenly(len(ids), POINTS[name])].tolist()
            for name, ids in (("candidates", ids_M), ("labeled", ids_M[:0] if labeled_ids_L is None else labeled_ids_L))
        },
        "near": {
            "distance": distance,
            "selected": int((nearest <= distance).sum()),
            "random": int((nearest_random <= distance).sum()),
            "of": len(compared),
        },
    }


def _by_variance(rows: dict[str, Floats]) -> tuple[dict[str, Floats], list[float]]:
    """The rows in the two directions in which the candidates differ most, and the share of the variance that these hold."""
    some = rows["candidates"]
    mean = some.mean(axis=0)
    _, values, axes = np.linalg.svd(some - mean, full_matrices=False)
    axes = axes[:2] * np.where(np.take_along_axis(axes[:2], np.abs(axes[:2]).argmax(1)[:, None], 1) < 0, -1.0, 1.0)
    total = float((values**2).sum())
    planes = {}
    for name, points in rows.items():
        planes[name] = np.zeros((len(points), 2))
        planes[name][:, : len(axes)] = (points - mean) @ axes.T
    return planes, [round(float(value**2) / total, 4) if total else 0.0 for value in values[:2]]


def _by_umap(rows: dict[str, Floats], seed: int) -> dict[str, Floats]:
    """The rows laid out together by UMAP; fewer than four stay where their variance puts them, as it needs neighbors."""
    together = np.concatenate(list(rows.values()))
    if len(together) < 4:
        return _by_variance(rows)[0]
    import umap

    layout = umap.UMAP(n_neighbors=min(15, len(together) - 1), random_state=seed % 2**32, n_jobs=1)
    plane = np.asarray(layout.fit_transform(together), np.float64)
    ends = np.cumsum([len(points) for points in rows.values()])
    return dict(zip(rows, np.split(plane, ends[:-1]), strict=True))


def evenly(count: int, most: int) -> npt.NDArray[np.int64]:
    """All places, or so many of them at even distances."""
    return np.arange(min(count, most)) * max(count, most) // most if count > most else np.arange(count)


def _nearest(points_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(N,) the distance of each point from the nearest of the others; infinite for one alone."""
    squared = Space(points_ND).squared_distances(Space(points_ND))
    np.fill_diagonal(squared, np.inf)
    nearest: npt.NDArray[np.float64] = np.sqrt(squared.min(axis=1, initial=np.inf))
    return nearest
