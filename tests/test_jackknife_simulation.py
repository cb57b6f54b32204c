"""Do estimated standard errors and biases tell the truth? Thousands of sets of T passes of items whose true scores are known.

The passes of an item are softmaxes of correlated Gaussian logits. "unsure": all classes are alike; "confident": one class has
nearly all, and one pass in a hundred holds most of the information.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mcscore.jackknife import estimate, groups

REPETITIONS = 4000
NAMES = ("entropy", "bald")


def passes_of(kind: str, C: int, sets: int, T: int, seed: int) -> Tensor:
    """Probabilities (sets, T, C) float64 of one item, whose law depends on kind, C and the item alone."""
    item = torch.Generator().manual_seed(17 * C)
    mean = torch.randn(C, generator=item, dtype=torch.float64)
    K = min(C, 20)
    loadings = torch.randn(K, C, generator=item, dtype=torch.float64) / math.sqrt(K)
    if kind == "confident":
        mean[0] += 6 + math.log(C)
        loadings *= 1.5
    noise = torch.randn(sets, T, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.softmax(noise @ loadings + mean, -1)


def scores_of(p: Tensor, h: Tensor) -> Tensor:
    """(2, sets) entropy and BALD from mean probabilities (sets, C) and mean entropies (sets,)."""
    entropy = torch.special.entr(p).sum(-1)
    return torch.stack((entropy, entropy - h))


def simulated(kind: str, C: int, T: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """theta, se, bias (2, sets) of many sets of T passes, and the true scores (2,)."""
    many = passes_of(kind, C, 1, 400_000 if C <= 10 else 100_000, 1)[0]
    true = scores_of(many.mean(0)[None], torch.special.entr(many).sum(-1).mean()[None])[:, 0]
    parts = []
    for block in range(0, REPETITIONS, 500):
        p = passes_of(kind, C, 500, T, 2 + block)
        h = torch.special.entr(p).sum(-1)
        theta = scores_of(p.mean(1), h.mean(1))
        without = []
        for group in groups(T):
            rest = T - len(group)
            p_rest = p.sum(1) - p[:, group.start : group.stop].sum(1)
            h_rest = h.sum(1) - h[:, group.start : group.stop].sum(1)
            without.append(scores_of(p_rest.clamp_min(0) / rest, h_rest / rest))
        sizes = [len(group) for group in groups(T)]
        found = [estimate(theta[i], torch.stack([part[i] for part in without]), sizes) for i in range(2)]
        parts.append(
            torch.stack((theta, torch.stack([se for se, _ in found]), torch.stack([bias for _, bias in found])))
        )
    theta, se, bias = torch.cat(parts, -1)
    return theta, se, bias, true


@pytest.mark.parametrize("kind", ["unsure", "confident"])
@pytest.mark.parametrize("C", [2, 10, 100])
@pytest.mark.parametrize(("T", "tolerance"), [(16, 0.25), (100, 0.10)])
def test_standard_errors_are_the_spread_of_the_scores(kind: str, C: int, T: int, tolerance: float) -> None:
    theta, se, bias, true = simulated(kind, C, T)
    spread, rms = theta.std(1), se.square().mean(1).sqrt()
    assert ((rms / spread - 1).abs() <= tolerance).all()

    plain, left = theta.mean(1) - true, (theta - bias).mean(1) - true
    noise = 4 * (theta - bias).std(1) / math.sqrt(REPETITIONS)
    share = 0.2 if kind == "unsure" or T == 100 else 0.5
    assert (left.abs() <= share * plain.abs() + noise).all()
