"""How far two runs of the same passes with other seeds agree on the best items, and how many of the truly best each of them finds.

Of items at true score θ, measured anew with error σ(θ), a share q(θ) = Φ((θ - c) / σ(θ)) is selected, where c is such that ``top`` are
selected in all. Expected are

    of the truly best in a selection    Σ_{θ above the border} items(θ) q(θ) / top
    in the selections of both seeds     Σ_θ items(θ) q(θ)² / top

The scores that were measured contain one noise already, and so the true ones (population.py) are taken, not the measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .population import Floats, Population, best_share, normal_cdf

MOST_PASSES = 1 << 16

_FINER = 16  # parts of a cell: the new errors may be much smaller than those that the cells were made for


@dataclass(frozen=True)
class Remeasured:
    """What is expected of the best ``top`` as measured anew.

    Attributes:
        recall: the share of the truly best ``top`` that is among them.
        overlap: the share that two independent measurements have in common.
    """

    recall: float
    overlap: float


@dataclass(frozen=True)
class Overlap:
    """How far the best ``top`` of a run are settled.

    Attributes:
        top: the number of items that are looked for.
        passes: the passes of the run.
        overlap: the share of the best ``top`` that two seeds are expected to have in common.
        recall: the share of the truly best ``top`` that a run is expected to find.
        wanted: an overlap.
        enough: the passes that are expected to give it; None if even the most possible, 65,536, do not.
    """

    top: int
    passes: int
    overlap: float
    recall: float
    wanted: float
    enough: int | None


def expected_overlap(population: Population, passes: int, wanted: float = 0.95) -> Overlap:
    """The expected overlap of the best ``top`` between two seeds.

    Args:
        population: of scores of so many passes.
        passes: of the run.
        wanted: the overlap for which passes are to be found.
    """
    now = remeasured(population, population.joint.sum(0), 1.0)
    low, high = 1, MOST_PASSES  # of which low is not enough, and high is, if any is
    while high > low + max(1, low // 50):  # to 2 %: more is not known
        middle = round(math.sqrt(low * high))
        if _overlap(population, passes, middle) >= wanted:
            high = middle
        else:
            low = middle
    enough = high if _overlap(population, passes, high) >= wanted else None
    return Overlap(population.top, passes, now.overlap, now.recall, wanted, enough)


def _overlap(population: Population, passes: int, new: int) -> float:
    return remeasured(population, population.joint.sum(0), passes / new).overlap


def remeasured(population: Population, items_M: Floats, ratio: float) -> Remeasured:
    """What is expected when items are measured anew.

    Args:
        population: of all items, as measured.
        items_M: (M,) how many items are measured anew at each true score.
        ratio: passes so far / new passes; the new error is sigma × √ratio.
    """
    top = population.attainable
    theta = np.concatenate([population.theta[:1], _parts(population.edges), population.theta[-1:]])
    sigma = np.maximum(np.interp(theta, population.theta, population.sigma) * math.sqrt(ratio), 1e-30)
    items, truly_best = _spread(items_M), best_share(_spread(population.joint.sum(0)), top)
    low, high = theta[0] - 9 * sigma.max(), theta[-1] + 9 * sigma.max()
    for _ in range(40):
        middle = (low + high) / 2
        if items @ normal_cdf((theta - middle) / sigma) > top:
            low = middle
        else:
            high = middle
    selected = normal_cdf((theta - high) / sigma)
    return Remeasured(float((truly_best * items) @ selected / top), float(items @ selected**2 / top))


def _parts(edges: Floats) -> Floats:
    """The middles of the parts of each inner cell."""
    part = (np.arange(_FINER) + 0.5) / _FINER
    return (edges[:-1, None] + np.diff(edges)[:, None] * part).ravel()


def _spread(items_M: Floats) -> Floats:
    """The items of each inner cell in equal shares over its parts."""
    return np.concatenate([items_M[:1], np.repeat(items_M[1:-1] / _FINER, _FINER), items_M[-1:]])
