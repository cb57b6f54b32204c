"""Configurations of a batch: what the labels of the chosen items may be, and what each says of the weights.

All C^n of them while these are at most ROWS; from then on ROWS samples (Kirsch et al. 2019, appendix). Sample i takes the weights of
pass i mod T and draws each label from the prediction of that pass, so that passes are equally represented. The label of an item
in a sample is a pure function of (seed, id, i): batches that share an item share its labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...masks import philox4x32

ROWS = 10_000
"""Configurations that are enumerated at most, and samples that are drawn when there are more: 4 MB at 100 passes."""
_STREAM = 0xFFFFFFFF  # last counter word: site 65535, pass 65535, which no mask of a model has


@dataclass(frozen=True)
class Rows:
    """Configurations as ``kernels.joint.conditional_entropy`` takes them.

    Attributes:
        rows_ST: (S, T) float32, the probability of each pass given a configuration.
        weights_S: (S,) float32, the probability of a configuration; of samples 1 / S.
        samples: how many samples these are; infinite if they are all configurations.
    """

    rows_ST: Tensor
    weights_S: Tensor
    samples: float


class Configurations:
    """Configurations of a batch that grows item by item.

    Attributes:
        exact: whether these are all configurations.
    """

    def __init__(self, passes: int, seed: int, rows: int = ROWS, device: torch.device | str = "cpu") -> None:
        self.rows_ST = torch.full((1, passes), 1.0 / passes, device=device)
        self.weights_S = torch.ones(1, device=device)
        self.exact = True
        self._seed, self._samples = seed, rows
        self._chosen: list[tuple[int, Tensor]] = []

    @property
    def all(self) -> Rows:
        """All configurations, or all samples."""
        return Rows(self.rows_ST, self.weights_S, math.inf if self.exact else self._samples)

    @property
    def few(self) -> Rows | None:
        """A tenth of the samples, in which every pass is represented; None if they are too few, or no samples."""
        n = self._samples // 10
        if self.exact or n < self.rows_ST.shape[1]:
            return None
        return Rows(self.rows_ST[:n], self.weights_S[:n] * (self._samples / n), n)

    def add(self, id: int, p_TC: Tensor) -> None:
        """Add an item: its id, and its probabilities in every pass."""
        p_TC = p_TC.float()
        self._chosen.append((id, p_TC))
        if self.exact and len(self.rows_ST) * p_TC.shape[1] <= self._samples:
            self._enumerate(p_TC)
        elif self.exact:
            self._begin_sampling()
        else:
            self._draw(id, p_TC)

    def _enumerate(self, p_TC: Tensor) -> None:
        """Split every configuration by the class of the new item; those of probability 0 are dropped."""
        joint_ST = (self.rows_ST[:, None] * p_TC.T).flatten(0, 1)
        share_S = joint_ST.sum(1)
        possible = share_S > 0
        self.rows_ST = joint_ST[possible] / share_S[possible, None]
        self.weights_S = (self.weights_S.repeat_interleave(p_TC.shape[1]) * share_S)[possible]

    def _begin_sampling(self) -> None:
        device, passes = self.rows_ST.device, self.rows_ST.shape[1]
        if passes > self._samples:
            raise ValueError(
                f"{self._samples:,} samples cannot represent {passes:,} passes: take fewer passes, or more samples"
            )
        self.exact = False
        self.rows_ST = torch.full((self._samples, passes), 1.0 / passes, device=device)
        self.weights_S = torch.full((self._samples,), 1.0 / self._samples, device=device)
        for id, p_TC in self._chosen:
            self._draw(id, p_TC)

    def _draw(self, id: int, p_TC: Tensor) -> None:
        """Draw the class of the new item in every sample, from the prediction of the sample's pass."""
        (T, C), S = p_TC.shape, self._samples
        cumulated_TC = p_TC.double().cumsum(1)
        below_nT = torch.zeros(-(-S // T), T, dtype=torch.float64, device=p_TC.device)
        below_nT.view(-1)[:S] = uniforms(self._seed, id, S).to(p_TC.device)
        below_nT *= cumulated_TC[:, -1]
        # The first class whose sum exceeds it, so never one of p = 0.
        class_Tn = torch.searchsorted(cumulated_TC, below_nT.T.contiguous(), right=True)
        class_S = class_Tn.T.flatten()[:S].clamp_max(C - 1)
        rows_ST = self.rows_ST * p_TC.T[class_S]
        # The pass that drew the labels may have become too improbable for float32, beside others that all exclude this one.
        none = (rows_ST.sum(1) == 0).nonzero()[:, 0]
        rows_ST[none, none % T] = 1.0
        self.rows_ST = rows_ST / rows_ST.sum(1, keepdim=True)


def uniforms(seed: int, id: int, n: int) -> Tensor:
    """Uniform numbers in [0, 1) for the label of one item in n samples: (n,) float64, a pure function of (seed, id, sample)."""
    counter_n4 = np.empty((n, 4), np.uint32)
    counter_n4[:, 0] = np.arange(n)
    counter_n4[:, 1:] = id & 0xFFFFFFFF, id >> 32, _STREAM
    words_n4 = philox4x32(counter_n4, seed).astype(np.uint64)
    return torch.from_numpy(((words_n4[:, 0] << np.uint64(21)) | (words_n4[:, 1] >> np.uint64(11))) * 2.0**-53)
