"""Small networks with dropout, trained from fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcscore import Pool


def mlp(sizes: Sequence[int], rates: Sequence[float]) -> nn.Sequential:
    """Linear layers of these sizes; ReLU and dropout of these rates behind each but the last."""
    layers: list[nn.Module] = []
    for inputs, outputs, rate in zip(sizes[:-2], sizes[1:-1], rates, strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(rate)]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def cnn() -> nn.Sequential:
    """Gal's CNN made small, for images (B, 1, 28, 28) of ten classes: what precedes dropout runs once for all passes."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.ReLU()),  # (B, 8, 12, 12)
        *(nn.Conv2d(8, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),  # (B, 256)
        *(nn.Dropout(0.25), nn.Linear(256, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10)),
    )


def trained(
    make: Callable[[], nn.Module],
    loss: Callable[[nn.Module, Tensor], Tensor],
    rows: int,
    seed: int,
    steps: int,
    batch: int = 32,
    rate: float = 2e-3,
    decay: float = 1e-3,
) -> nn.Module:
    """A new network, by Adam: each step draws a batch of row numbers, and ``loss`` is that of the network on these."""
    torch.manual_seed(seed)
    model = make().train()
    optimizer = torch.optim.Adam(model.parameters(), rate, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, torch.randint(rows, (batch,))).backward()
        optimizer.step()
    return model.eval()


def classifier(
    make: Callable[[], nn.Module], pool: Pool, labeled: npt.NDArray[np.int64], seed: int, steps: int
) -> nn.Module:
    """A new network, trained on the labeled items of a pool."""
    x, y = torch.from_numpy(pool.take(labeled)), torch.from_numpy(pool.labels[labeled]).long()
    return trained(make, lambda model, batch: F.cross_entropy(model(x[batch]), y[batch]), len(y), seed, steps)
