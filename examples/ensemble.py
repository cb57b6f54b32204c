"""Score with an ensemble instead of dropout: any samples of logits go through the same reduction.

    python examples/ensemble.py

``Moments`` keeps sums over the members, so memory grows neither with their number nor with the pool.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import mcscore


def train(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """One member, trained from its own initialization."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


def main(members: int = 5, labeled: int = 100) -> dict[str, Tensor]:
    """Returns the scores of the unlabeled images."""
    digits = load_digits()
    images, labels = torch.from_numpy(digits.images).float() / 16, torch.from_numpy(digits.target)
    moments = mcscore.Moments(("bald", "entropy"))
    with torch.no_grad():
        for seed in range(members):
            with torch.enable_grad():
                model = train(images[:labeled], labels[:labeled], seed)
            moments.update(model(images[labeled:])[None])  # logits (1, B, C): one pass of every item
    scores = moments.compute()
    wrong = scores["prediction"] != labels[labeled:]
    print(f"{members} members, {wrong.float().mean():.1%} wrong")
    print(f"mean BALD where wrong {scores['bald'][wrong].mean():.3f}, where right {scores['bald'][~wrong].mean():.3f}")
    return scores


if __name__ == "__main__":
    main()
