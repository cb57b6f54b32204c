"""Networks for the evaluation of screening, trained on few labels of 28 x 28 images of 10 classes.

They differ in where dropout acts, and so in what a pass costs: behind the convolutions alone, after every layer, and in every
block of a transformer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models import GalCNN


class DropCNN(nn.Module):
    """Three convolutions, each followed by dropout, as is the hidden Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Dropout(0.125)),  # (B, 16, 14, 14)
            *(nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.ReLU(), nn.Dropout(0.25)),  # (B, 24, 7, 7)
            *(nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Dropout(0.25), nn.Flatten()),  # (B, 512)
            *(nn.Linear(512, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ViT(nn.Module):
    """16 patches of 7 x 7 pixels and a class token, two blocks of width 48; dropout in attention, MLP and residuals."""

    def __init__(self, width: int = 48, p: float = 0.125) -> None:
        super().__init__()
        self.patch, self.drop = nn.Conv2d(1, width, 7, stride=7), nn.Dropout(p)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        block = nn.TransformerEncoderLayer(width, 3, 2 * width, dropout=p, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)  # (B, 17, width)
        return self.head(self.norm(self.blocks(self.drop(x + self.position))[:, 0]))


@dataclass(frozen=True)
class Network:
    build: Callable[[], nn.Module]
    steps: int
    rate: float
    decay: float


NETWORKS = {
    "gal": Network(GalCNN, 400, 1e-3, 1e-3),
    "dropcnn": Network(DropCNN, 800, 2e-3, 1e-3),
    "vit": Network(ViT, 1500, 1e-3, 0.05),
}


def balanced(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Choose n // 10 ids of each class at random, ascending."""
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([rng.choice(np.flatnonzero(labels == c), n // 10, replace=False) for c in range(10)]))


def trained(name: str, images: np.ndarray, labels: np.ndarray, seed: int = 0) -> nn.Module:
    """Train a network by AdamW, batches of 32 and a cosine of the learning rate, on the images (n, 1, 28, 28) uint8 alone."""
    network = NETWORKS[name]
    x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network.build().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=network.rate, weight_decay=network.decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, network.steps)
        for _ in range(network.steps):
            batch = torch.randint(len(y), (32,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()
