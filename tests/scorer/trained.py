"""Small networks trained in a second or two on real data, for the checks of model and input."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CIFAR = (
    torch.tensor([0.4914, 0.4822, 0.4465]).reshape(1, 3, 1, 1),
    torch.tensor([0.247, 0.2435, 0.2616]).reshape(1, 3, 1, 1),
)
IMAGENET = (
    torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1),
    torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1),
)
MNIST = torch.tensor([0.1307]).reshape(1, 1, 1, 1), torch.tensor([0.3081]).reshape(1, 1, 1, 1)


@functools.cache
def mnist(folder: Path, name: str = "mnist") -> tuple[np.ndarray, np.ndarray]:
    """Images (10000, 1, 28, 28) uint8 and labels of the test set."""
    images = gzip.decompress((folder / name / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / name / "t10k-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


@functools.cache
def cifar(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (4000, 3, 32, 32) uint8 and labels."""
    from PIL import Image

    sprites = [np.asarray(Image.open(file)) for file in sorted((folder / "cifar10-subset").glob("*.png"))]
    images = np.concatenate(sprites).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), np.load(folder / "cifar10-subset" / "labels.npy")


def train(
    model: nn.Module, items: Tensor, labels: Tensor, epochs: int = 3, loss: Callable[..., Tensor] = F.cross_entropy
) -> nn.Module:
    """Train by Adam on all items, and put the model into evaluation mode."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(items)).split(64):
            optimizer.zero_grad()
            loss(model(items[part]), labels[part]).backward()
            optimizer.step()
    return model.eval()


class Standardize(nn.Module):
    """Normalization inside the model."""

    def __init__(self, mean_std: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.register_buffer("mean", mean_std[0])
        self.register_buffer("std", mean_std[1])

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def convnet(channels: int, C: int = 10, norm: str = "batch", width: int = 8) -> nn.Sequential:
    """Two convolutions, pooled to 4 x 4, and two linear layers with dropout; norm: batch, group or none."""

    def block(a: int, b: int) -> list[nn.Module]:
        norms = {"batch": [nn.BatchNorm2d(b)], "group": [nn.GroupNorm(4, b)], "none": []}
        return [nn.Conv2d(a, b, 3, 2, 1, bias=norm != "batch"), *norms[norm], nn.ReLU()]

    return nn.Sequential(
        *block(channels, width), *block(width, 2 * width), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(32 * width, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, C),
    )  # fmt: skip


def mlp(features: int, C: int = 10, norm: str = "none") -> nn.Sequential:
    """One hidden layer; norm: none, layer or batch."""
    norms: dict[str, list[nn.Module]] = {"none": [], "layer": [nn.LayerNorm(64)], "batch": [nn.BatchNorm1d(64)]}
    return nn.Sequential(
        nn.Flatten(), nn.Linear(features, 64), *norms[norm], nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, C)
    )


class Patches(nn.Module):
    """A vision transformer of one block, with LayerNorm."""

    def __init__(self, channels: int, C: int = 10) -> None:
        super().__init__()
        self.patch = nn.Conv2d(channels, 48, 4, 4)
        self.place = nn.Parameter(torch.zeros(1, 64, 48))
        self.block = nn.TransformerEncoderLayer(48, 4, 96, 0.1, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, C)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.block(tokens + self.place[:, : tokens.shape[1]])).mean(1))
