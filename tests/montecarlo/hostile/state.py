"""Models that write their own state in a forward pass or when the mode changes; the user's copy must not move."""

from __future__ import annotations

import copy
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from .harness import model, sequences


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.4), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(self.drop(torch.tanh(self.a(x))))


@model("running statistics by hand, in a buffer", "driven", reference=("drop",))
class HandStatistics(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
        return self.b(self.drop(h - self.mean))


@model("running statistics in a Parameter", "driven", reference=("drop",))
class ParameterStatistics(HandStatistics):
    def __init__(self) -> None:
        super().__init__()
        del self.mean
        self.mean = nn.Parameter(torch.zeros(16), requires_grad=False)


@model("statistics moved in evaluation too", "driven")
class CountsInEval(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.seen += len(x)
        return super().forward(x)


@model("buffer replaced by a new tensor in training", "driven")
class ReplacesBuffer(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last_mean", torch.zeros(16))

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.training:
            self.last_mean = h.detach().mean(0)
        return self.b(self.drop(h))


@model("EMA codebook in Parameters", "driven", reference=("drop",))
class Codebook(Base):
    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(5, 16), requires_grad=False)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        nearest = torch.cdist(h, self.codes).argmin(1)
        quantized = self.codes[nearest]
        if self.training:
            self.codes.data.mul_(0.8).add_(0.2 * h.detach().mean(0))
        return self.b(self.drop(h + quantized))


@model("momentum encoder by .data", "driven", reference=("drop",))
class Momentum(Base):
    def __init__(self) -> None:
        super().__init__()
        self.key = copy.deepcopy(self.a)

    def forward(self, x):
        if self.training:
            for q, k in zip(self.a.parameters(), self.key.parameters(), strict=True):
                k.data = k.data * 0.9 + (q.data + 0.1) * 0.1
        return self.b(self.drop(torch.tanh(self.a(x) + self.key(x))))


@model("merge in train(), as loralib, advised to come in training mode", "driven", training=True)
@model("merge in train(), as loralib", "either", says=(r"call model\.train\(\)",))
class Lora(Base):
    """Weights are merged in evaluation and unmerged in training, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.merged = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(16, 2)), False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.a.weight.data += (-1.0 if mode else 1.0) * (self.up @ self.down).data
            self.merged = not mode
        return self

    def forward(self, x):
        h = self.a(x)
        if not self.merged:
            h = h + self.drop(x) @ self.down.T @ self.up.T
        return self.b(self.drop(torch.tanh(h)))


@model("counter in a Python attribute", "driven")
class Counter(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.log = 0, []

    def forward(self, x):
        self.calls += 1
        self.log.append(len(x))
        return super().forward(x)


@model("cached activations, grown from nothing", "driven")
class CachesActivations(Base):
    def forward(self, x):
        self.last = self.a(x)
        self.dropped = self.drop(torch.tanh(self.last))
        return self.b(self.dropped)


@model("cached activations that are no leaves when the model comes", "driven")
class CachedBefore(CachesActivations):
    def __init__(self) -> None:
        super().__init__()
        self.forward(torch.randn(2, 8))  # a training step's leftovers, with their graph


@model("activations by a forward hook into a list", "driven", ignore=r"features$")
class Hooked(Base):
    def __init__(self) -> None:
        super().__init__()
        self.features = []
        self.a.register_forward_hook(lambda _m, _i, out: self.features.append(out))


@model("key and value buffers", "either", data=sequences)
class KeyValueCache(nn.Module):
    """Writes its keys into a fixed buffer, row by row of the batch, as code for generation does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.4), nn.Linear(16, 3)
        self.register_buffer("cache", torch.zeros(64, 5, 16))

    def forward(self, x):
        k = self.drop(torch.tanh(self.a(x)))
        self.cache[: len(x)] = k
        return self.b(self.cache[: len(x)].mean(1))


class WeightDropout(nn.Module):
    """fastai's: the raw weight is a Parameter of the wrapper, the dropped one is set on the wrapped module."""

    def __init__(self, module, p=0.4, name="weight_hh_l0"):
        super().__init__()
        self.module, self.p, self.name = module, p, name
        raw = getattr(module, name)
        delattr(module, name)
        self.register_parameter(f"{name}_raw", nn.Parameter(raw.data))
        setattr(module, name, F.dropout(raw.data, p=p, training=False))

    def forward(self, *args):
        raw = getattr(self, f"{self.name}_raw")
        setattr(self.module, self.name, F.dropout(raw, p=self.p) if self.training else raw.clone())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UserWarning)
            return self.module(*args)


@model("WeightDropout as fastai, on a linear layer", "driven")
class DroppedLinear(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a = WeightDropout(nn.Linear(8, 16), name="weight")


@model("WeightDropout as fastai, on an LSTM", "either", data=sequences, says=(r"lstm|weight|drop",))
class DroppedLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.b = WeightDropout(nn.LSTM(8, 16, batch_first=True)), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(self.rnn(x)[0][:, -1])


@model("WeightDropout as AWD-LSTM first wrote it", "either", says=(r"a|drop",))
class OldDroppedLinear(Base):
    """The dropped weight replaces the Parameter in the module's attributes."""

    def __init__(self) -> None:
        super().__init__()
        weight = self.a.weight
        del self.a._parameters["weight"]
        self.a.register_parameter("weight_raw", nn.Parameter(weight.data))

    def forward(self, x):
        raw = self.a.weight_raw
        self.a.weight = F.dropout(raw, 0.4, self.training) if self.training else raw * 1.0
        return super().forward(x)


@model("old weight_norm", "driven")
class OldWeightNorm(Base):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.a = nn.utils.weight_norm(self.a)


@model("spectral_norm, old, with power iterations in training", "driven")
class OldSpectralNorm(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.spectral_norm(self.a, n_power_iterations=20)
        self(torch.zeros(2, 8))  # one training step, after which the iterations have converged


@model("spectral_norm by parametrization", "driven")
class SpectralNorm(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.spectral_norm(self.a, n_power_iterations=20)


@model("weight_norm and orthogonal by parametrization", "driven")
class Parametrized(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(self.a)
        self.b = nn.utils.parametrizations.orthogonal(self.b)


@model("pruned weights", "driven")
class Pruned(Base):
    def __init__(self) -> None:
        super().__init__()
        prune.l1_unstructured(self.a, "weight", amount=0.3)


@model("non-leaf tensor attribute", "driven")
class NonLeaf(Base):
    def __init__(self) -> None:
        super().__init__()
        self.scale = self.a.weight.sum() * 0.0 + 1.0

    def forward(self, x):
        return super().forward(x) * self.scale


@model("tied weights and a shared dropout module", "driven")
class Tied(Base):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(8, 16)
        self.c.weight = self.a.weight

    def forward(self, x):
        return self.b(self.drop(torch.tanh(self.a(x)) + self.drop(torch.relu(self.c(x)))))


@model("parameters overwritten in evaluation", "either", says=(r"a\b|weight|changed|writes",))
class Overwrites(Base):
    """Renormalizes its weights in every forward pass, in place."""

    def forward(self, x):
        self.a.weight.data.renorm_(2, 0, 0.5)
        return super().forward(x)
