"""Small models of the kinds that differ in how their passes run, and items for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.models import UNet, ViT


class Recurrent(nn.Module):
    """Dropout between the layers of an LSTM, and before the Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 24, num_layers=2, dropout=0.3, batch_first=True)
        self.drop, self.last = nn.Dropout(0.4), nn.Linear(24, 7)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.last(self.drop(self.rnn(x_BLD)[0][:, -1]))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(13, 70), nn.ReLU(), nn.Dropout(0.3), nn.Linear(70, 33), nn.ReLU(), nn.Linear(33, 7))


def head() -> nn.Module:
    return nn.Sequential(nn.Linear(13, 70), nn.ReLU(), nn.Dropout(0.5), nn.Linear(70, 7))


def in_place() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(inplace=True), nn.Dropout2d(0.25, inplace=True)),
        *(nn.Conv2d(12, 10, 3, stride=2), nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)),
        *(nn.Flatten(), nn.Linear(490, 7)),
    )


@dataclass(frozen=True)
class Kind:
    """How a model is built, the shape of its items, the bytes of a step that let some ten items into it, and a gain.

    The last layer is scaled by the gain, so that passes disagree.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    memory: int
    gain: float = 3.0

    def on(self, device: str) -> nn.Module:
        """Build it with the same weights on every device."""
        torch.manual_seed(1)
        model = self.build().eval()
        last = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
        with torch.no_grad():
            last.weight *= self.gain
        return model.to(device)

    def items(self, n: int, seed: int = 2) -> Tensor:
        return torch.randn(n, *self.shape, generator=torch.Generator().manual_seed(seed))


KINDS = {
    "head": Kind(head, (13,), 12 << 10),
    "mlp": Kind(mlp, (13,), 150 << 10),
    "in-place": Kind(in_place, (3, 16, 16), 6 << 20),
    "u-net": Kind(lambda: UNet(width=4, classes=5), (3, 16, 16), 12 << 20, gain=100.0),
    "vit": Kind(lambda: ViT(D=24, heads=3, depth=2, side=48), (3, 48, 48), 3 << 20),
    "lstm": Kind(Recurrent, (9, 5), 400 << 10),
}
T = 20
