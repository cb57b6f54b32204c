"""Small networks with dropout, trained from fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def mlp(sizes: Sequence[int], rates: Sequence[float]) -> nn.Sequential:
    """Linear layers of these sizes; ReLU and dropout of these rates behind each but the last."""
    layers: list[nn.Module] = []
    for inputs, outputs, rate in zip(sizes[:-2], sizes[1:-1], rates, strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(rate)]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


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
