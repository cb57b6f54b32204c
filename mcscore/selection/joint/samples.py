"""What joint methods choose from, the probabilities of items under shared samples of the weights, and what they return."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_BLOCK = 1 << 17  # float64 values at a time, which stay in cache

TIE = 2.0**-19
"""Nats, per nat of log C: gains that differ by less are ties, which the id decides. A gain is a difference of entropies that
kernels compute in float32, to within a quarter of this for 1000 classes and 100 passes; so equal items, also with their classes
or passes in another order, are ties on every machine."""


@dataclass(frozen=True)
class JointPicks:
    """Chosen candidates, in the order of choice.

    Attributes:
        positions: (k,) int64, in the arrays that were given.
        gains: (k,) float64, nats: the information that the label of each adds to those before it.
        exact: number of picks whose gain is exact; the others' are estimated from samples.
        left_out: ids of the candidates that had a probability of NaN, ascending.
    """

    positions: npt.NDArray[np.int64]
    gains: npt.NDArray[np.float64]
    exact: int
    left_out: npt.NDArray[np.int64]

    @property
    def facts(self) -> dict[str, Any]:
        """What a selection records: gains, the number of exact ones, and of candidates without probabilities."""
        return {"gains": self.gains.tolist(), "exact": self.exact, "nan": len(self.left_out)}


@dataclass(frozen=True)
class Samples:
    """Candidates in ascending order of id, so that no result depends on the order in which they are given.

    Attributes:
        ids: (M,) int64.
        p_MTC: (M, T, C) probabilities of class c in pass t.
        positions: (M,) int64, in the arrays that were given.
        left_out: ids that had a probability of NaN, ascending.
    """

    ids: npt.NDArray[np.int64]
    p_MTC: Tensor
    positions: npt.NDArray[np.int64]
    left_out: npt.NDArray[np.int64]

    @staticmethod
    def of(ids: Any, probabilities: Any, k: int) -> Samples:
        """Sort and check (M,) ids and (M, T, C) probabilities: a tensor where it is, an array on the GPU if there is one.

        Raises:
            ValueError: shapes do not match, an id stands twice, probabilities are not distributions, or fewer than k are left.
        """
        ids_M, p_MTC = np.asarray(ids), as_samples(probabilities)
        require_shape("probabilities", p_MTC)
        if ids_M.ndim != 1 or len(ids_M) != len(p_MTC):
            raise ValueError(
                f"ids {ids_M.shape} and probabilities {tuple(p_MTC.shape)} must have one row per candidate"
            )
        if isinstance(k, bool) or k != int(k) or k < 0:
            raise ValueError(f"k must be a whole number of items >= 0, got {k!r}")
        order = np.argsort(ids_M, kind="stable")
        ids_M = ids_M[order].astype(np.int64)
        if (ids_M[1:] == ids_M[:-1]).any():
            raise ValueError(f"id {ids_M[1:][ids_M[1:] == ids_M[:-1]][0]} is a candidate more than once")
        if (order[1:] < order[:-1]).any():
            p_MTC = p_MTC[torch.from_numpy(order).to(p_MTC.device)]
        known = are_distributions("probabilities", p_MTC, ids_M)
        left_out = ids_M[~known]
        if len(left_out):
            ids_M, order, p_MTC = ids_M[known], order[known], p_MTC[torch.from_numpy(known).to(p_MTC.device)]
        if k > len(ids_M):
            unknown = f" ({len(left_out)} more have NaN probabilities)" if len(left_out) else ""
            raise ValueError(
                f"k = {k}, but only {len(ids_M)} candidates are left{unknown}: ask for at most {len(ids_M)}"
            )
        return Samples(ids_M, p_MTC, order, left_out)

    @property
    def tie(self) -> float:
        """Gains that differ by less are ties, in nats."""
        return TIE * max(1.0, math.log(self.p_MTC.shape[2]))

    def expected_entropy(self) -> Tensor:
        """mean_t H[p_mt], (M,) float64 on the CPU: what no other label can take away."""
        return _by_blocks(self.p_MTC, lambda p: torch.special.entr(p).sum(-1).mean(-1))

    def entropy(self) -> Tensor:
        """H[mean_t p_mt], (M,) float64 on the CPU."""
        return _by_blocks(self.p_MTC, lambda p: torch.special.entr(p.mean(1)).sum(-1))


def as_samples(probabilities: Any) -> Tensor:
    """Probabilities as the kernels take them: no float64, and an array on the GPU if there is one."""
    p_MTC = torch.as_tensor(probabilities).detach()
    if not isinstance(probabilities, Tensor) and torch.cuda.is_available():
        p_MTC = p_MTC.cuda()
    return p_MTC.float() if p_MTC.dtype == torch.float64 else p_MTC


def require_shape(what: str, p_MTC: Tensor) -> None:
    """ValueError unless there are probabilities of at least one pass and two classes."""
    if p_MTC.ndim != 3 or p_MTC.shape[1] < 1 or p_MTC.shape[2] < 2 or not p_MTC.is_floating_point():
        raise ValueError(
            f"{what} are {p_MTC.dtype} {tuple(p_MTC.shape)}; (items, passes, classes) floats with at least "
            "1 pass and 2 classes are needed"
        )


def are_distributions(what: str, p_MTC: Tensor, ids_M: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which items have probabilities at all, not NaN: (M,) bool. ValueError if any are no distribution."""
    sums_MT, least_M = p_MTC.sum(-1, dtype=torch.float32), p_MTC.amin((1, 2))
    known = ~sums_MT.isnan().any(1)
    wrong = known & ((least_M < 0) | ((sums_MT - 1).abs() > 1e-2).any(1))
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"{what} must be >= 0 and sum to 1 over the classes; those of id {ids_M[first]} do not. "
            "Give probabilities, not logits or their logarithms"
        )
    return known.cpu().numpy()


def _by_blocks(p_MTC: Tensor, entropy: Any) -> Tensor:
    step = max(1, _BLOCK // (p_MTC.shape[1] * p_MTC.shape[2]))
    parts = [entropy(p.double()) for p in p_MTC.split(step)]
    return torch.cat(parts).cpu() if len(p_MTC) else torch.empty(0, dtype=torch.float64)
