"""Prints, for each model named on the command line, what its plan says of a step's memory and what the step took: a JSON object.

Run in a process of its own, with glibc told to give freed memory back at once, so that the peak is that of the tensors alive.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcscore import Scorer
from mcscore.cli.model import grouped


def conv(i: int, o: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(i, o, 3, padding=1, stride=stride), nn.ReLU()]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm, self.drop = nn.BatchNorm2d(width), nn.Dropout2d(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.drop(torch.relu(self.norm(self.a(x)))))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(48, 64), nn.Linear(64, 10)
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(self.embed(x)).mean(1))


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.rnn = nn.LSTM(64, 64, num_layers=2, dropout=0.3, batch_first=True)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.rnn(self.embed(x))[0][:, -1]))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.Conv2d(32, 21, 1)
        self.drop = nn.Dropout2d(0.4)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.down(x))
        deep = self.drop(torch.relu(self.middle(torch.max_pool2d(skip, 2))))
        return self.out(torch.cat([skip, self.up(deep)], 1))


def mlp(inputs: int, *widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for i, o in zip((inputs, *widths), widths, strict=False):
        layers += [nn.Linear(i, o), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers[:-2])


# name: (model, shape of an item, T, settings)
SHAPES: dict[str, tuple[Any, tuple[int, ...], int, dict[str, Any]]] = {
    "embeddings": (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(768, 200)), (768,), 2, {}),
    "wide MLP": (lambda: mlp(784, 2048, 1024, 300, 10), (784,), 100, {}),
    "Gal's CNN": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 32, 4), nn.ReLU(), nn.Conv2d(32, 32, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
            *(nn.Flatten(), nn.Linear(32 * 121, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
        ),
        (1, 28, 28),
        100,
        {},
    ),
    "ResNet": (
        lambda: nn.Sequential(
            *conv(3, 32, 2), Block(32), Block(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
        ),
        (3, 32, 32),
        50,
        {},
    ),
    "ViT": (ViT, (16, 48), 100, {}),
    "LSTM": (LSTM, (20,), 50, {}),
    "U-Net": (UNet, (3, 64, 64), 20, {}),
    "many labels": (lambda: mlp(64, 128, 5000), (64,), 2, {"likelihood": "bernoulli", "input": "logits"}),
    "shared masks": (lambda: mlp(256, 1024, 1024, 10), (256,), 100, {"masks": "shared"}),
    "chunks of passes": (
        lambda: nn.Sequential(*conv(3, 32), nn.Dropout(0.2), *conv(32, 32), nn.Flatten(), nn.Linear(32768, 10)),
        (3, 32, 32),
        1000,
        {},
    ),
    "many classes, head": (lambda: mlp(64, 64, 20000), (64,), 2, {}),
    "many classes, deep": (lambda: mlp(64, 256, 256, 20000), (64,), 20, {}),
    "gaussian": (lambda: mlp(64, 256, 256, 2), (64,), 20, {"likelihood": "gaussian", "scores": ("variance",)}),
    "probabilities": (lambda: nn.Sequential(mlp(64, 256, 256, 500), nn.Softmax(-1)), (64,), 20, {"input": "probs"}),
}


def status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def growth(step: Any) -> float:
    """MiB by which the peak of resident memory exceeds what was resident before."""
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step()
    return status("VmHWM") - before


def measured(name: str, path: str | None = None) -> dict[str, Any]:
    make, shape, T, settings = SHAPES[name]
    torch.manual_seed(0)
    scorer = Scorer(make().eval(), T, **grouped(**settings))
    kind = torch.zeros(1, dtype=torch.int64) if name == "LSTM" else torch.rand(1)
    few = kind.expand(3, *shape) if name == "LSTM" else torch.rand(3, *shape)
    plan = scorer.prepare(few, np.arange(3))
    plan = scorer.steps.plan
    n = plan.items
    x = torch.zeros(n, *shape, dtype=torch.int64) if name == "LSTM" else torch.rand(n, *shape)
    ids = np.arange(n)
    scorer(x, ids)
    took = growth(lambda: scorer(x, ids))
    return {
        "path": plan.path,
        "items": n,
        "passes": plan.passes,
        "plan": plan.memory / 2**20,
        "took": took,
        "prefix": plan.prefix_bytes / 1024,
        "tail": plan.tail_bytes / 1024,
    }


if __name__ == "__main__":
    for name in sys.argv[1:] or SHAPES:
        print(json.dumps({"name": name, **measured(name)}), flush=True)
