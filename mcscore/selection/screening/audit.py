"""An audit of the items that a screen dropped: a random sample of them is scored in full, and what it shows is bounded.

The dropped are put in strata by their distance below the cut, in units of the error σ there: [0, 1), [1, 3) and beyond. In stratum h each
item is sampled with the chance π_h by a hash of (seed, id), so that neither order nor blocks nor workers matter. Of the sampled,
f_h have a full score above the final top-th best. With D_h such items in the stratum, f_h is Binomial(D_h, π_h), so

    D_h <= the greatest D with P(Binomial(D, π_h) <= f_h) >= 0.05 / 3        (Clopper and Pearson 1934, for D in place of π)

for all strata at once in at least 95 % of audits (Bonferroni), and Σ D_h / top bounds what the selection lacks of that of a full run.
Where nothing is found, D_h is about 4.1 / π_h: an audit without finds shows a small loss only if it sampled much of the dropped.

The bound is least for a given number of samples when those of a stratum are as the root of its size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...masks import philox4x32
from .population import Floats, Population, corrected_scores
from .screen import Cut

STRATA = (1.0, 3.0)
"""Borders between strata, in σ below the cut."""

CONFIDENCE = 0.95

_STREAM = 0x61756469  # a counter word of our own: no number is drawn twice for two purposes


@dataclass(frozen=True)
class AuditPlan:
    """Which of the dropped items are scored in full.

    Attributes:
        seed: of the sample.
        threshold: of the cut; None if no item is dropped.
        borders: (H - 1,) corrected scores between the strata, descending; the first stratum is that next to the cut.
        dropped: (H,) items in each stratum.
        rates: (H,) the chance of each of them to be sampled.
        expected: (H,) items of the truly best that are expected in each stratum.
    """

    seed: int
    threshold: float | None
    borders: tuple[float, ...]
    dropped: tuple[int, ...]
    rates: tuple[float, ...]
    expected: tuple[float, ...]

    @property
    def samples(self) -> float:
        """The expected number of sampled items."""
        return sum(rate * items for rate, items in zip(self.rates, self.dropped, strict=True))

    def sampled(
        self, ids_B: npt.ArrayLike, score_B: npt.ArrayLike, se_B: npt.ArrayLike, bias_B: npt.ArrayLike
    ) -> npt.NDArray[np.int8]:
        """(B,) the stratum of each sampled item, -1 for all others, from the values of the first stage.

        Raises:
            ValueError: the shapes differ, or an id is negative.
        """
        x_B, ids_B = corrected_scores(score_B, se_B, bias_B), np.asarray(ids_B, np.int64)
        if ids_B.shape != x_B.shape:
            raise ValueError(f"ids {ids_B.shape} must have the shape of the scores {x_B.shape}")
        if ids_B.size and ids_B.min() < 0:
            raise ValueError(f"item ids must be >= 0, got {ids_B.min()}")
        stratum_B = np.full(x_B.shape, -1, np.int8)
        if self.threshold is None:
            return stratum_B
        dropped = np.flatnonzero(x_B < self.threshold)
        # Above no border: the last stratum.
        stratum = len(self.borders) - np.searchsorted(self.borders[::-1], x_B[dropped], side="right")
        chosen = _uniform(ids_B[dropped], self.seed) < np.array(self.rates)[stratum]
        stratum_B[dropped[chosen]] = stratum[chosen]
        return stratum_B


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        sampled: (H,) items scored in full in each stratum.
        entered: (H,) those of them that would have entered the selection.
        expected: how many were expected to, by the model of the cut.
        estimate: how many of all dropped items would have entered, estimated.
        bound: how many of them at most, with 95 % confidence.
        recall: the share that the selection has of that of a full run, estimated.
        least_recall: the same at least, with 95 % confidence.
    """

    sampled: tuple[int, ...]
    entered: tuple[int, ...]
    expected: float
    estimate: float
    bound: int
    recall: float
    least_recall: float


def audit_plan(population: Population, cut: Cut, samples: int, seed: int = 0) -> AuditPlan:
    """Plan an audit of so many of the dropped items.

    Args:
        population: from which the cut was fixed.
        cut: of the screen.
        samples: the number of items to score in full, expected; see ``audit_samples``.
        seed: of the sample, 0 <= seed < 2^64.

    Raises:
        ValueError: samples is negative, or seed out of its range.
    """
    if samples < 0:
        raise ValueError(f"samples must be at least 0, got {samples}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must satisfy 0 <= seed < 2**64, got {seed}")
    if cut.threshold is None:
        return AuditPlan(seed, None, (), (), (), ())
    first = int(np.searchsorted(population.edges, cut.threshold))
    per_sigma = float(population.border_sigma / (population.edges[1] - population.edges[0]))
    cells = [max(0, first - round(distance * per_sigma)) for distance in STRATA]
    limits = [first + 1, *(cell + 1 for cell in cells), 0]
    strata = [slice(low, high) for high, low in itertools.pairwise(limits)]
    dropped = [int(population.counts[part].sum()) for part in strata]
    best_X = population.joint @ population.above(population.top)
    return AuditPlan(
        seed,
        cut.threshold,
        tuple(float(population.edges[cell]) for cell in cells),
        tuple(dropped),
        _rates(dropped, samples),
        tuple(float(best_X[part].sum()) for part in strata),
    )


def audit_samples(spent: float, passes: int, share: float = 0.01) -> int:
    """How many items can be scored with so many passes for a share of all passes that a run has spent."""
    return int(spent * share / passes)


def audit_result(plan: AuditPlan, strata_S: npt.ArrayLike, scores_S: npt.ArrayLike, kth: float, top: int) -> Audit:
    """Judge a screen by the full scores of the sampled items.

    Args:
        plan: of the audit.
        strata_S: (S,) the stratum of each sampled item, of ``plan.sampled``.
        scores_S: (S,) its score by all passes; one with NaN enters no selection.
        kth: the score of the last item of the selection.
        top: the number of items of the selection.

    Raises:
        ValueError: the shapes differ, or a stratum is not one of the plan.
    """
    strata, scores = np.asarray(strata_S, np.int64), np.asarray(scores_S, np.float32)
    if strata.shape != scores.shape or strata.ndim != 1:
        raise ValueError(f"strata {strata.shape} and scores {scores.shape} must be one-dimensional and equally long")
    H = len(plan.rates)
    if strata.size and not (strata.min() >= 0 and strata.max() < H):
        raise ValueError(f"strata must lie in [0, {H}), got {strata.min()} to {strata.max()}")
    sampled = np.bincount(strata, minlength=H)
    entered = np.bincount(strata[scores > np.float32(kth)], minlength=H)
    expected = sum(rate * items for rate, items in zip(plan.rates, plan.expected, strict=True))
    estimate = sum(found / rate for found, rate in zip(entered, plan.rates, strict=True) if found)
    chance = (1 - CONFIDENCE) / max(1, H)
    bound = sum(
        most_in_all(int(found), rate, items - int(seen) + int(found), chance)
        for found, seen, rate, items in zip(entered, sampled, plan.rates, plan.dropped, strict=True)
    )
    return Audit(
        tuple(sampled.tolist()),
        tuple(entered.tolist()),
        expected,
        float(estimate),
        bound,
        max(0.0, 1 - float(estimate) / top),
        max(0.0, 1 - bound / top),
    )


def most_in_all(found: int, rate: float, items: int, chance: float) -> int:
    """The greatest D <= items with P(Binomial(D, rate) <= found) >= chance; items where nothing is sampled.

    >>> most_in_all(0, 0.5, 100, 0.05)  # 0.5^4 >= 0.05 > 0.5^5
    4
    """
    low, high = found, items  # low fits
    while low < high:
        middle = (low + high + 1) // 2
        if _at_most(found, middle, rate) >= chance * (1 - 1e-12):  # equal ones differ by rounding
            low = middle
        else:
            high = middle - 1
    return low


def _at_most(found: int, items: int, rate: float) -> float:
    """P(Binomial(items, rate) <= found)."""
    if rate <= 0 or found >= items:
        return 1.0
    if rate >= 1:
        return 0.0
    j = np.arange(found + 1)
    steps = np.log(items - j[1:] + 1) - np.log(j[1:]) + math.log(rate) - math.log1p(-rate)
    logs: Floats = items * math.log1p(-rate) + np.concatenate([[0.0], np.cumsum(steps)])
    return float(np.exp(logs).sum())


def _rates(dropped: Sequence[int], samples: int) -> tuple[float, ...]:
    """Chances of the strata: as 1 / √size, at most 1, with ``samples`` expected in all."""
    rates = [1.0] * len(dropped)
    open_strata, left = [h for h, items in enumerate(dropped) if items], float(samples)
    while open_strata:
        scale = left / sum(math.sqrt(dropped[h]) for h in open_strata)
        full = [h for h in open_strata if scale >= math.sqrt(dropped[h])]
        if not full:
            for h in open_strata:
                rates[h] = scale / math.sqrt(dropped[h])
            break
        left -= sum(dropped[h] for h in full)
        open_strata = [h for h in open_strata if h not in full]
    return tuple(rates)


def _uniform(ids_B: npt.NDArray[np.int64], seed: int) -> Floats:
    """(B,) numbers in [0, 1) that depend on (seed, id) alone, in steps of 2^-32."""
    bits = ids_B.astype(np.uint64)
    counter = np.zeros((len(ids_B), 4), np.uint32)
    counter[:, 0], counter[:, 1], counter[:, 2] = bits & np.uint64(0xFFFFFFFF), bits >> np.uint64(32), _STREAM
    return philox4x32(counter, seed)[:, 0] / 2.0**32
