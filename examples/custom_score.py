"""Add a score of your own to the catalog: one call, and everything knows it: Scorer, score_pool, select, Moments.

    python examples/custom_score.py

Vote entropy (Dagan & Engelson 1995): every pass votes for its most probable class, and the entropy of the votes is the score.
It is given twice: ``oracle`` from the probabilities of every pass, the truth, and ``finish`` from means over the passes, which is what is
computed; the two are compared. A score of no such means is given by its oracle alone.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import mcscore


def entropy_of(votes_BC: Tensor) -> Tensor:
    """The entropy of the shares of the votes, (B,)."""
    return torch.special.entr(votes_BC).sum(-1)


def oracle(p_TBC: Tensor, _likelihood: str) -> Tensor:
    """By definition, from the probabilities of every pass."""
    return entropy_of(F.one_hot(p_TBC.argmax(-1), p_TBC.shape[-1]).double().mean(0))


def finish(means: dict[str, Tensor], _likelihood: str) -> Tensor:
    """From the shares of the votes, which the passes leave behind."""
    return entropy_of(means["votes"])


def main(k: int = 10) -> np.ndarray:
    """Returns the ids of the k digits on whose class the passes agree least."""
    mcscore.register_score(
        "vote_entropy",
        oracle,
        finish,
        moments=["votes"],
        bounds=lambda C, _likelihood: (0.0, math.log(C)),
        text="entropy of the votes of the passes (Dagan & Engelson 1995)",
    )
    images = torch.from_numpy(load_digits().images).float()[:, None] / 16
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))
    scorer = mcscore.Scorer(model, passes=50, scores=("vote_entropy", "bald"))
    scores = scorer(images)
    best = mcscore.TopK(k).update(np.arange(len(images)), scores["vote_entropy"].numpy())
    ids, values = best.result()
    for item, value in zip(ids, values, strict=True):
        print(f"item {item:4}  vote entropy {value:.4f}")
    return np.asarray(ids)


if __name__ == "__main__":
    main()
