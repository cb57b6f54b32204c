"""Monte Carlo passes, against a plain PyTorch loop over passes and against one deterministic forward pass.

    python -m pytest benchmarks/bench_passes.py -s

One thread, one process, float32. The sides take turns, and the best processor time of each counts, which other load affects
little. The loop has dropout layers in training mode, T forward passes, a softmax of each, and BALD of the T results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcscore import Execution, Scorer
from mcscore.bench import baselines
from mcscore.bench.clock import CpuClock, in_turns

from .models import GalCNN


def turns(*calls: Callable[[], Any]) -> list[float]:
    """Measure the seconds of each call, on this thread."""
    return in_turns(calls, CpuClock(), 2.0)


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.skip = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.skip(x))


class ResNet18(nn.Module):
    """A network with the shapes of ResNet-18, and dropout before its last Linear(512, 100)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        widths = [
            (64, 64, 1),
            (64, 64, 1),
            (64, 128, 2),
            (128, 128, 1),
            (128, 256, 2),
            (256, 256, 1),
            (256, 512, 2),
            (512, 512, 1),
        ]
        self.blocks = nn.Sequential(*(Residual(*width) for width in widths))
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(512, 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.blocks(self.stem(x)).mean((2, 3))))


class ViT(nn.Module):
    """Six blocks of width 192 on 32 x 32 images, dropout in every block."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.position = nn.Conv2d(3, 192, 4, stride=4), nn.Parameter(torch.randn(1, 64, 192) * 0.02)
        layer = nn.TransformerEncoderLayer(192, 3, 768, dropout=0.1, batch_first=True)
        self.drop, self.encoder = nn.Dropout(0.1), nn.TransformerEncoder(layer, 6)
        self.head = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.drop(self.patch(x).flatten(2).transpose(1, 2) + self.position)).mean(1))


def plain_loop(model: nn.Module, x: Tensor, T: int) -> Tensor:
    return baselines.loop(model, lambda: model(x), T)


def report(benchmark: Any, title: str, **figures: float) -> None:
    benchmark.extra_info.update(figures)
    print(f"\n{title}: " + ", ".join(f"{name} {value:,.4g}" for name, value in figures.items()))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_gal_cnn(benchmark: Any, dtype: str | None) -> None:
    torch.manual_seed(0)
    model, x, T = GalCNN().eval(), torch.rand(128, 1, 28, 28), 100
    scorer = Scorer(model, passes=T, scores=("bald",), execution=Execution(dtype=dtype))
    scorer.prepare(x, np.arange(128))
    ours, loop = turns(lambda: scorer(x, np.arange(128)), lambda: plain_loop(model, x[:8], T))
    report(
        benchmark,
        f"Gal's CNN, T = 100{', ' + dtype if dtype else ''}",
        items_per_s=128 / ours,
        loop_items_per_s=8 / loop,
        times=(128 / ours) / (8 / loop),
    )
    benchmark.pedantic(lambda: scorer(x, np.arange(128)), rounds=1)


@pytest.mark.parametrize("T", [100])
def test_resnet_head_costs_one_forward(benchmark: Any, T: int) -> None:
    torch.manual_seed(0)
    model, x, ids = ResNet18().eval(), torch.rand(16, 3, 64, 64), np.arange(16)
    scorer = Scorer(model, passes=T, scores=("bald",))
    scorer.prepare(x, ids)

    def forward() -> Tensor:
        with torch.no_grad():
            return model(x)

    ours, one = turns(lambda: scorer(x, ids), forward)
    report(benchmark, f"ResNet-18 head, T = {T}", items_per_s=16 / ours, times_one_forward=ours / one)
    benchmark.pedantic(lambda: scorer(x, ids), rounds=1)


@pytest.mark.parametrize("compiled", [False, True])
def test_vit(benchmark: Any, compiled: bool) -> None:
    torch.manual_seed(0)
    model, x, ids, T = ViT().eval(), torch.rand(8, 3, 32, 32), np.arange(8), 20
    scorer = Scorer(model, passes=T, scores=("bald",), execution=Execution(compile=compiled, memory=32 << 20))
    scorer.prepare(x, ids)
    ours, loop = turns(lambda: scorer(x, ids), lambda: plain_loop(model, x, T))
    report(benchmark, f"ViT, T = 20{', compiled' if compiled else ''}", items_per_s=8 / ours, times=loop / ours)
    benchmark.pedantic(lambda: scorer(x, ids), rounds=1)
