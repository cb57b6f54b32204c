"""Items that see each other once masks are on, and randomness that several items share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .harness import images, model, sequences, vectors

SAYS = (r"batch|items|independent|each other",)
WAY = {"sites": ["drop"]}


class Images(nn.Module):
    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        self.conv, self.drop, self.fc, self.p = nn.Conv2d(3, 8, 3, padding=1), nn.Dropout(0.2), nn.Linear(8, 3), p

    def block(self, h):
        return h

    def forward(self, x):
        h = torch.relu(self.conv(x))
        h = self.block(h) if self.training else h
        return torch.tanh(3 * self.fc(self.drop(h.mean((2, 3)))))


def grown(seeds, size=3):
    return F.max_pool2d(seeds, size, 1, size // 2)


@model(
    "DropBlock, timm, rescaled by the batch's own share",
    "either",
    data=images,
    says=SAYS,
    way=WAY,
    alone=True,
)
class DropBlock(Images):
    def block(self, h):
        keep = 1 - grown(torch.empty_like(h).bernoulli_(0.05))
        scale = keep.numel() / keep.sum().add(1e-7)
        return h * keep * scale


@model(
    "DropBlock, one map for all channels, rescaled",
    "either",
    data=images,
    says=SAYS,
    way=WAY,
    alone=True,
)
class DropBlockShared(Images):
    def block(self, h):
        keep = 1 - grown((torch.rand(h.shape[0], 1, *h.shape[2:]) < 0.05).to(h.dtype))
        return h * keep * keep.numel() / keep.sum()


@model(
    "DropBlock, torchvision, batch of masks through out arguments",
    "either",
    data=images,
    says=SAYS,
    way=WAY,
    alone=True,
)
class DropBlockTorchvision(Images):
    def block(self, h):
        N, C, H, W = h.size()
        noise = torch.empty((N, C, H - 2, W - 2), dtype=h.dtype, device=h.device)
        noise.bernoulli_(0.05)
        noise = F.pad(noise, [1] * 4, value=0)
        noise = F.max_pool2d(noise, stride=(1, 1), kernel_size=3, padding=1)
        noise = 1 - noise
        return h * noise * noise.numel() / (1e-6 + noise.sum())


@model("DropBlock that rescales each item by its own share", "driven", data=images)
class DropBlockOwn(Images):
    def block(self, h):
        keep = 1 - grown(torch.empty_like(h[:, :1]).bernoulli_(0.05))
        return h * keep * keep[0].numel() / keep.sum((1, 2, 3), keepdim=True).clamp_min(1)


@model("DropBlock with a fixed rescale", "driven", data=images)
class DropBlockFixed(Images):
    def block(self, h):
        return h * (1 - grown(torch.empty_like(h[:, :1]).bernoulli_(0.05))) * 1.5


@model("mixture of experts with capacity", "refused", says=SAYS)
class Capacity(nn.Module):
    """The first rows that reach an expert fill it; later rows are passed through."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.gate, self.b = nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 2), nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, x):
        h = self.drop(torch.tanh(self.a(x)))
        to = self.gate(h).argmax(1)
        y = h.clone()
        for e, expert in enumerate(self.experts):
            rows = (to == e).nonzero().squeeze(1)[:2]
            y = y.index_copy(0, rows, torch.relu(expert(h[rows])) * 3)
        return self.b(y)


@model("gates normalized over the batch by hand, behind dropout", "refused", says=SAYS)
class BatchGates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 3)

    def forward(self, x):
        h = self.drop(torch.tanh(self.a(x)))
        return self.b((h - h.mean(0)) / (h.std(0, unbiased=False) + 0.1))


@model("batch mean of the mask alone", "refused", says=SAYS, way=WAY, alone=True)
class MaskMean(nn.Module):
    """Without a mask the rescale is 1, so a test with masks off sees nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.2), nn.Linear(16, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.training:
            keep = (torch.rand(len(h), 1) > 0.4).float()
            h = h * keep / keep.mean().clamp_min(1e-3)
        return self.b(self.drop(h))


@model("rescale of a dropped layer by its batch-wide norm", "refused", says=SAYS)
class BatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        dropped = self.drop(torch.ones_like(h))
        return self.b(h * dropped / dropped.mean())


@model("sum over the batch of what was dropped", "refused", says=SAYS)
class DroppedCount(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 3)

    def forward(self, x):
        h = self.drop(torch.tanh(self.a(x)))
        return self.b(h) * (1 + 5 * ((h == 0).float().mean() - 0.3))


@model("memory attention over the batch", "refused", says=SAYS)
class AcrossItems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 3)

    def forward(self, x):
        h = self.drop(torch.tanh(self.a(x)))
        return self.b(F.scaled_dot_product_attention(h, h, h))


@model("group of two items normalized together", "refused", data=sequences, says=(r".",))
class Pairs(nn.Module):
    """Item pairs share a statistic where there are pairs; a probe of two or three items alone may not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 3)

    def forward(self, x):
        h = self.drop(torch.tanh(self.a(x)).mean(1))
        if len(h) >= 4:
            h = h - h.mean(0)
        return self.b(h)


@model("one mask for the whole batch, by size (1, D)", "driven", data=vectors)
class OneMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.training:
            h = h * torch.empty(1, h.shape[1]).bernoulli_(0.5) * 2
        return self.b(h)


@model("items sorted inside the model and put back", "either", says=(r"order|swap|rows",))
class SortsInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 3)

    def forward(self, x):
        order = x[:, 0].argsort()
        return self.b(self.drop(torch.tanh(self.a(x[order]))))[order.argsort()]


@model("test-time views joined behind the items", "either", says=(r"order|swap|rows",))
class Views(nn.Module):
    """torch.cat of the batch and its mirror image: rows of one item are B apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 3)

    def forward(self, x):
        y = self.b(self.drop(torch.tanh(self.a(torch.cat([x, x.flip(1)])))))
        return y[: len(x)] + y[len(x) :]
