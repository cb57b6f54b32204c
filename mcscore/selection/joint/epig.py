"""EPIG: items whose label says most of the predictions for target items (Bickford Smith et al. 2023).

    EPIG[m] = mean over targets j of I[y_m; y*_j] = H[y_m] - mean_j sum_c p[y*_j = c] H[y_m | y*_j = c]

The k best are chosen, each for itself: as in the paper, EPIG does not say what a batch tells together.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels.joint import conditional_entropy
from ..candidates import Candidates, Picks, walk
from ..room import Room
from ..topk import best_first
from .samples import JointPicks, Samples, are_distributions, as_samples, require_shape

_BLOCK = 1 << 22  # values of targets turned into rows at a time


def pick(candidates: Candidates, k: int, room: Room, *, seed: int) -> Picks:
    """Choose as ``epig`` does, among what there is room for."""
    picks = epig(candidates.ids, candidates.samples, candidates.targets, k, room=room)
    return Picks(picks.positions, picks.facts)


def epig(ids: Any, probabilities: Any, targets: Any, k: int, *, room: Room | None = None) -> JointPicks:
    """Choose the k of M candidates with the greatest EPIG.

    Args:
        ids: (M,) int, each once.
        probabilities: (M, T, C), p[m, t, c] of class c in pass t; every pass must be one sample of the weights for all items
            (``Dropout(masks="shared")``). An item with NaN is left out.
        targets: (J, T, C), probabilities of the items whose predictions matter, under the same samples. Those with NaN are left
            out, and a warning counts them.
        k: number of items to choose.
        room: which of the candidates may still be chosen; default: all.

    Returns:
        The picks, best first; their gains are their EPIG. Values below ``samples.TIE`` are rounding, and become 0.

    Raises:
        ValueError: shapes do not match, probabilities are not distributions, no target or fewer than k candidates remain.

    >>> unsure = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]])
    >>> coin = torch.full((1, 2, 2), 0.5)  # its label says nothing
    >>> epig([3, 7], torch.cat([coin, unsure]), targets=unsure, k=2).gains.round(3)
    array([0.222, 0.   ])
    """
    items = Samples.of(ids, probabilities, k)
    scores_M = items.entropy() - mean_conditional_entropy(items.p_MTC, _known_targets(targets, items.p_MTC))
    scores = scores_M.numpy()
    scores[scores <= items.tie] = 0.0
    given_M = np.full(len(np.asarray(ids)), np.nan)
    given_M[items.positions] = scores
    best = items.positions[best_first(items.ids, scores)]
    positions = walk(best, k, room or Room(k, len(given_M))).positions
    if len(positions) < k:
        raise ValueError(
            f"k = {k}, but the limits allow only {len(positions)} of the candidates that have probabilities other than NaN"
        )
    return JointPicks(positions, given_M[positions], k, items.left_out)


def mean_conditional_entropy(p_MTC: Tensor, targets_JTC: Tensor) -> Tensor:
    """Mean over targets j of H[y_m | y*_j], (M,) float64 on the CPU."""
    J, T, C = targets_JTC.shape
    total_M = torch.zeros(len(p_MTC), dtype=torch.float64)
    for some_JTC in targets_JTC.split(max(1, _BLOCK // (T * C))):
        joint_ST = some_JTC.float().transpose(1, 2).flatten(0, 1) / T  # a configuration: a target and its class
        weights_S = joint_ST.sum(1)
        possible = weights_S > 0
        rows_ST = joint_ST[possible] / weights_S[possible, None]
        total_M += conditional_entropy(p_MTC, rows_ST, weights_S[possible] / J)[0].cpu()
    return total_M


def _known_targets(targets: Any, p_MTC: Tensor) -> Tensor:
    """The targets that have probabilities, on the device of the candidates."""
    targets_JTC = as_samples(targets).to(p_MTC.device)
    require_shape("probabilities of targets", targets_JTC)
    if targets_JTC.shape[1] != p_MTC.shape[1]:
        raise ValueError(
            f"targets have {targets_JTC.shape[1]} passes and candidates {p_MTC.shape[1]}; they must be "
            "the same passes, with shared masks"
        )
    known = are_distributions("probabilities of targets", targets_JTC, np.arange(len(targets_JTC)))
    if not known.any():
        raise ValueError(f"EPIG needs targets, and of {len(known)} none has probabilities that are not NaN")
    if not known.all():
        warnings.warn(
            f"EPIG: {(~known).sum():,} of {len(known):,} targets have NaN probabilities and are left out", stacklevel=3
        )
        targets_JTC = targets_JTC[torch.from_numpy(known).to(targets_JTC.device)]
    return targets_JTC
