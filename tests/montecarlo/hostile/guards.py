"""Dropout behind conditions: in a parent, a helper, a property; always on; or random in evaluation too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .harness import model, vectors


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.4), nn.Linear(16, 3)


@model("guard in the parent", "driven")
class GuardInParent(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.training:
            h = self.drop(h)
        return self.b(h)


class Block(nn.Module):
    def __init__(self, guarded: bool) -> None:
        super().__init__()
        self.lin, self.drop, self.guarded = nn.Linear(16, 16), nn.Dropout(0.4), guarded

    def forward(self, h, drop=True):
        h = h + torch.tanh(self.lin(h))
        return self.drop(h) if drop and (self.training or not self.guarded) else h


@model("guard in the grandparent", "driven")
class GuardInGrandparent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
        self.body = nn.ModuleDict({"first": Block(False), "second": Block(True)})

    def forward(self, x):
        h = self.a(x)
        for block in self.body.values():
            h = block(h, self.training)
        return self.b(h)


@model("guard in the parent, with batch normalization beside it", "driven")
class GuardBesideNorm(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = (
            nn.BatchNorm1d(16),
            nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.3)),
        )

    def forward(self, x):
        h = self.inner(self.norm(torch.tanh(self.a(x))))
        if self.training:
            h = self.drop(h)
        return self.b(h)


def maybe_drop(module, h, p):
    return F.dropout(h, p) if module.training else h


@model("guard in a helper function", "driven")
class GuardInHelper(Base):
    def forward(self, x):
        return self.b(maybe_drop(self, torch.tanh(self.a(x)), 0.4))


@model("guard by a property", "driven")
class GuardByProperty(Base):
    @property
    def stochastic(self):
        return self.training and self.drop.p > 0

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(self.drop(h) if self.stochastic else h)


@model("guard by the p that is passed on", "driven")
class GuardByRate(Base):
    def forward(self, x):
        return self.b(F.dropout(torch.tanh(self.a(x)), 0.4 if self.training else 0.0, True))


@model("two guards, one in the root and one in a block", "driven")
class TwoGuards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.block, self.b = nn.Linear(8, 16), Block(True), nn.Linear(16, 3)

    def forward(self, x):
        h = self.a(x)
        if self.training:
            h = self.block(F.dropout(h, 0.2))
        else:
            h = self.block(h)
        return self.b(h)


@model("F.dropout without training, in evaluation too", "driven")
class AlwaysFunctional(Base):
    def forward(self, x):
        return self.b(F.dropout(torch.tanh(self.a(x)), 0.4))


class AlwaysOn(nn.Dropout):
    def forward(self, x):
        return F.dropout(x, self.p, True, self.inplace)


@model("always-on dropout module", "driven")
class AlwaysModule(Base):
    def __init__(self) -> None:
        super().__init__()
        self.drop = AlwaysOn(0.4)

    def forward(self, x):
        return self.b(self.drop(torch.tanh(self.a(x))))


@model("nn.Dropout whose train() is deaf", "driven")
class DeafToEval(Base):
    """A parent that overrides train() to keep its dropout on."""

    def train(self, mode=True):
        super().train(mode)
        self.drop.train()
        return self

    def forward(self, x):
        return self.b(self.drop(torch.tanh(self.a(x))))


@model("Monte Carlo inside forward", "either", says=(r".",))
class OwnMonteCarlo(Base):
    """Averages its own passes, each with other masks."""

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return torch.stack([self.b(F.dropout(h, 0.4, True)) for _ in range(3)]).mean(0)


@model("another path in training altogether", "either", says=(r"drop|training",), fresh=True)
class OtherPath(Base):
    """Training returns what evaluation does not compute: an auxiliary head is added."""

    def __init__(self) -> None:
        super().__init__()
        self.aux, self.aux_drop = nn.Linear(16, 3), nn.Dropout(0.5)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        y = self.b(self.drop(h))
        return y + 0.5 * self.aux(self.aux_drop(h)) if self.training else y


@model("a guard that also changes the numbers in training", "either", says=(r".",))
class TrainingScales(Base):
    """Training divides by a temperature that evaluation leaves out; with all masks off it is not the model's eval()."""

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.training:
            h = self.drop(h * 3.0)
        return self.b(h)


@model("torch.is_grad_enabled as the guard", "either", says=(r".",))
class GuardByGrad(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        if torch.is_grad_enabled():
            h = self.drop(h)
        return self.b(self.drop(h))


@model("inverted flag: dropout only in evaluation", "either", says=(r"drop",), reference=())
class OnlyInEval(Base):
    """Monte Carlo dropout by hand, meant for test time alone: training mode has none."""

    def forward(self, x):
        return self.b(F.dropout(torch.tanh(self.a(x)), 0.4, not self.training))


@model("p on a tensor", "either", says=(r".",))
class TensorRate(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rate", torch.tensor(0.4))

    def forward(self, x):
        return self.b(F.dropout(torch.tanh(self.a(x)), float(self.rate), self.training))


@model("p that changes from call to call", "either", says=(r".",), fresh=True)
class AnnealedRate(Base):
    """Dropout annealed by a step counter that training moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def forward(self, x):
        if self.training:
            self.step += 1
        p = 0.5 * 0.9 ** max(self.step - 1, 0)
        return self.b(F.dropout(torch.tanh(self.a(x)), p, self.training))


@model("model in double precision", "driven", data=lambda n: vectors(n).double())
class Double(Base):
    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.training:
            h = self.drop(h)
        return self.b(h)
