"""Random fills of tensors that hold something, are views, or belong to the model."""

from __future__ import annotations

import torch
from torch import nn

from .harness import Noise, Wrap, add, layer, model, vectors

DROP = {"way": {"sites": ["drop*"]}, "says": (r"layer",)}


@layer("bernoulli_ over ones", "driven")
def _(self, h):
    return h * torch.ones_like(h).bernoulli_(0.5) * 2


@layer("bernoulli_ over a clone of the activations", "driven")
def _(self, h):
    keep = h.clone()
    keep.bernoulli_(0.5)
    return h * keep * 2


@layer("bernoulli_ on a view of a larger tensor, the result not used", "driven")
def _(self, h):
    keep = torch.ones(len(h), 2, 16)
    keep[:, 0].bernoulli_(0.5)
    return h * keep[:, 0] * keep[:, 1] * 2


@layer("bernoulli_ on half of the columns", "driven")
def _(self, h):
    keep = torch.ones_like(h)
    keep[:, :8].bernoulli_(0.4)
    return h * keep


@layer("bernoulli_ twice on the same tensor", "driven")
def _(self, h):
    keep = torch.empty_like(h)
    first = h * keep.bernoulli_(0.5)
    return first + h.flip(1) * keep.bernoulli_(0.5)


@layer("uniform_ fills, then a comparison in place", "driven")
def _(self, h):
    keep = torch.empty_like(h)
    keep.uniform_()
    keep.lt_(0.5)
    return h * keep * 2


@layer("normal_ on a view through transpose", "driven")
def _(self, h):
    noise = torch.zeros(16, len(h))
    noise.t().normal_(0, 0.7)
    return h + noise.t()


@layer("normal_ on alternate columns", "driven")
def _(self, h):
    noise = torch.zeros_like(h)
    noise[:, ::2].normal_()
    return h + noise


@layer("exponential_ then log, gumbel by hand", "driven")
def _(self, h):
    gumbel = -torch.empty_like(h, memory_format=torch.legacy_contiguous_format).exponential_().log()
    return h * torch.softmax(h + gumbel, 1) * 16


@layer("randn with out=", "either", **DROP)
def _(self, h):
    noise = torch.empty_like(h)
    torch.randn(h.shape, out=noise)
    return h + noise * 0.7


@layer("bernoulli with out=", "either", **DROP)
def _(self, h):
    keep = torch.empty_like(h)
    torch.bernoulli(torch.full_like(h, 0.5), out=keep)
    return h * keep * 2


@layer("normal with out=", "either", **DROP)
def _(self, h):
    noise = torch.empty_like(h)
    torch.normal(torch.zeros_like(h), 0.7, out=noise)
    return h + noise


@layer("setitem of drawn numbers", "driven")
def _(self, h):
    noise = torch.zeros_like(h)
    noise[:, 4:12] = torch.randn(len(h), 8)
    return h + noise


@layer("activations filled in place where a mask says", "driven")
def _(self, h):
    h = h.clone()
    h[torch.rand_like(h) < 0.5] = 0.0
    return h * 2


@layer("the layer's own input multiplied in place", "driven")
def _(self, h):
    return h.mul_(torch.empty_like(h).bernoulli_(0.5)).mul_(2.0)


class NoiseBuffer(nn.Module):
    def __init__(self, draw) -> None:
        super().__init__()
        self.register_buffer("noise", torch.ones(32, 16))
        self.draw = draw

    def forward(self, h):
        return self.draw(self, h) if self.training else h


def bernoulli_rows(self, h):
    return h * self.noise[: len(h)].bernoulli_(0.5) * 2


def normal_rows(self, h):
    self.noise[: len(h)].normal_()
    return h + self.noise[: len(h)]


def copy_rows(self, h):
    self.noise[: len(h)].copy_(torch.rand_like(h))
    return h * (self.noise[: len(h)] < 0.5) * 2


def whole_buffer(self, h):
    return h * self.noise.uniform_()[: len(h)] * 2


for name, draw in {
    "bernoulli_ on rows of a buffer": bernoulli_rows,
    "normal_ on rows of a buffer": normal_rows,
    "rand copied into a buffer": copy_rows,
    "uniform_ on a whole buffer, its first rows used": whole_buffer,
}.items():
    add(name, lambda draw=draw: Wrap(NoiseBuffer(draw)), vectors, "either", says=(r"layer|batch|noise",))


@model("mask made once in __init__ and drawn anew in place", "either", says=(r"mask|layer|KeptMask",))
class KeptMask(nn.Module):
    """A plain tensor attribute, neither buffer nor Parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.mask = nn.Linear(8, 16), nn.Linear(16, 3), torch.ones(16)

    def forward(self, x):
        if self.training:
            self.mask.bernoulli_(0.5)
        return self.b(torch.tanh(self.a(x)) * self.mask)


@model("dropout in place on a view of the input", "driven")
class InPlaceView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(8, 16), nn.Linear(16, 3), nn.Dropout(0.4, inplace=True)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        self.drop(h[:, :8])
        return self.b(h)


@model("dropout in place on the input itself", "driven")
class InPlaceInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(8, 16), nn.Linear(16, 3), nn.Dropout(0.4, inplace=True)

    def forward(self, x):
        self.drop(x)
        return self.b(torch.tanh(self.a(x)))


@model("dropout in place on one of two views", "driven")
class InPlaceChunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(8, 16), nn.Linear(16, 3), nn.Dropout(0.4, inplace=True)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        left, right = h.chunk(2, 1)
        left = self.drop(left.clone())
        return self.b(torch.cat([left, right], 1) + h)


@model("dropout in place on a buffer", "either", says=(r"drop|table",))
class InPlaceBuffer(nn.Module):
    """F.dropout of a constant table, in place: the first pass would spoil it for all that follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(8, 16), nn.Linear(16, 3), nn.Dropout(0.4)
        self.register_buffer("table", torch.ones(16))

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)) * self.drop(self.table))


add(
    "noise added in place to a residual",
    lambda: Wrap(Noise(lambda self, h: h.add_(torch.randn_like(h) * 0.7))),
    vectors,
    "driven",
)
