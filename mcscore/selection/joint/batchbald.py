"""BatchBALD: the batch whose labels together say most of the weights (Kirsch, van Amersfoort, Gal 2019), chosen greedily.

The gain of item m for a batch is I[y_m; w | y_batch] = H[y_m | y_batch] - mean_t H[p_mt]. The first pick is the best by BALD; the
sum of the gains is the BatchBALD score of the batch.

The gain of an item never rises as the batch grows, since labels are independent given the weights (the score is submodular). So
the gain for a smaller batch bounds the present one, and most candidates need not be looked at: the greedy choice is made by lazy
evaluation (Minoux 1978), from the highest bound down, until no bound is left above the best gain found. An estimate from samples
may exceed a bound by its error, so bounds then have a slack of three standard errors; the samples stay as the batch grows. And a
tenth of the samples tells of most candidates that they are not the best.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from ...kernels.joint import conditional_entropy
from ..candidates import Candidates, Picks
from ..room import Room
from .configurations import ROWS, Configurations, Rows
from .samples import JointPicks, Samples

_FIRST = (
    64  # candidates evaluated at a time, doubled until the best is found; fixed, so that results depend on no machine
)
_ERRORS = 3.0  # standard errors by which an estimate may be off


def pick(candidates: Candidates, k: int, room: Room, *, seed: int) -> Picks:
    """Choose as ``batchbald`` does, among what there is room for."""
    picks = batchbald(candidates.ids, candidates.samples, k, seed=seed, room=room)
    return Picks(picks.positions, picks.facts)


def batchbald(
    ids: Any, probabilities: Any, k: int, *, seed: int = 0, rows: int = ROWS, room: Room | None = None
) -> JointPicks:
    """Choose k of M candidates by greedy BatchBALD.

    Gains are exact while the batch has at most ``rows`` configurations, C^n of n items; from then on they are estimated from as
    many samples, and a warning says so. Which items are chosen does not depend on the order of the candidates.

    Args:
        ids: (M,) int, each once.
        probabilities: (M, T, C), p[m, t, c] of class c in pass t; every pass must be one sample of the weights for all items
            (``Dropout(masks="shared")``). An item with NaN is left out.
        k: number of items to choose.
        seed: seed of the samples.
        rows: configurations at most, and samples.
        room: which of the candidates may still be chosen; default: all.

    Returns:
        The picks, best first, with the information that each adds. Of gains closer than ``samples.TIE`` the lowest id wins.

    Raises:
        ValueError: shapes do not match, probabilities are not distributions, fewer than k candidates remain, or there are more passes
            than samples where these are needed.

    >>> twin = torch.tensor([0.9, 0.1, 0.9, 0.1])  # of class 0, in four passes
    >>> other = torch.tensor([0.8, 0.8, 0.2, 0.2])  # a lower BALD, but of another question
    >>> p_MT = torch.stack([twin, twin, other])
    >>> picks = batchbald([4, 5, 9], torch.stack([p_MT, 1 - p_MT], -1), 2)
    >>> picks.positions, picks.gains.round(3)
    (array([0, 2]), array([0.368, 0.193]))
    """
    items = Samples.of(ids, probabilities, k)
    batch = Configurations(items.p_MTC.shape[1], seed, rows, items.p_MTC.device)
    search, room = _Search(items, rows), room or Room(k, len(np.asarray(ids)))
    chosen, gains, exact = np.empty(k, np.int64), np.empty(k), 0
    for n in range(k):
        exact += batch.exact
        chosen[n], gains[n] = search.best(batch, room.open[items.positions])
        room.take(int(items.positions[chosen[n]]))
        if n + 1 < k:
            was_exact = batch.exact
            batch.add(int(items.ids[chosen[n]]), items.p_MTC[chosen[n]])
            if was_exact and not batch.exact:
                warnings.warn(
                    f"BatchBALD: gains from pick {n + 2} on are estimated from {rows:,} samples of the labels, as a batch of "
                    f"{n + 1} items of {items.p_MTC.shape[2]} classes has more configurations than that",
                    stacklevel=2,
                )
    return JointPicks(items.positions[chosen], gains, exact, items.left_out)


class _Search:
    """The gain of every candidate for the batch that it was last evaluated for, and its error were it estimated from samples."""

    def __init__(self, items: Samples, samples: int) -> None:
        self._items, self._samples = items, samples
        self._noise_M = items.expected_entropy().numpy()
        self._gain_M = np.full(len(items.ids), np.inf)
        self._error_M = np.zeros(len(items.ids))

    def best(self, batch: Configurations, open_M: np.ndarray) -> tuple[int, float]:
        """Find the open candidate with the greatest gain, of ties the first: (index, gain)."""
        bound_M = self._gain_M + (0.0 if batch.exact else self._error_M)
        order_M = np.argsort(-bound_M, kind="stable")
        order_M = order_M[open_M[order_M]]
        if not len(order_M):
            raise ValueError(
                "there is no candidate left that the limits allow and that has probabilities other than NaN"
            )
        tie, best, at, step = self._items.tie, -np.inf, 0, self._first(bound_M[order_M])
        seen = []
        while at < len(order_M) and bound_M[order_M[at]] >= best - 2 * tie:
            some = np.sort(order_M[at : at + step])
            at, step = at + len(some), 2 * step
            if best > -np.inf and batch.few is not None:
                self._evaluate(some, batch.few, bound_M[some])
                some = some[self._gain_M[some] + self._error_M[some] >= best - 2 * tie]
            if len(some):
                self._evaluate(some, batch.all)
                best = max(best, self._gain_M[some].max())
                seen.append(some)
        index = min(int(some[self._gain_M[some] >= best - tie].min(initial=len(bound_M))) for some in seen)
        gain = float(self._gain_M[index])
        return index, gain if gain > tie else 0.0

    def _evaluate(self, some: np.ndarray, rows: Rows, below: np.ndarray | float = np.inf) -> None:
        """Set gain and error of some candidates, except where a bound that is known already is lower."""
        p_MTC = self._items.p_MTC
        if len(some) < len(p_MTC):
            p_MTC = p_MTC[torch.from_numpy(some).to(p_MTC.device)]
        mean, square = (x.cpu().numpy() for x in conditional_entropy(p_MTC, rows.rows_ST, rows.weights_S))
        gain = mean - self._noise_M[some]
        error = _ERRORS * np.sqrt(np.maximum(square - mean**2, 0.0) / min(self._samples, rows.samples))
        lower = gain + error < below
        self._gain_M[some[lower]], self._error_M[some[lower]] = gain[lower], error[lower]

    def _first(self, bound_M: np.ndarray) -> int:
        """Nothing is known before the first pick; a GPU takes all candidates at once in the time of a few."""
        every = np.isposinf(bound_M).any() or self._items.p_MTC.device.type == "cuda"
        return len(bound_M) if every else _FIRST
