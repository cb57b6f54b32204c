"""Randomness that PyTorch's function dispatch does not show, or shows under names that nobody lists."""

from __future__ import annotations

import os
import random
import secrets
import uuid

import numpy as np
import torch
from torch import Tensor, nn

from .harness import Noise, Wrap, add, layer, model, vectors

DROP = {"way": {"sites": ["drop*"]}, "says": (r"layer",)}


def keep(flag: bool | np.bool_) -> float:
    return 2.0 * float(flag)


@layer("python random", "refused", **DROP)
def _(self, h):
    return h * keep(random.random() < 0.5)


@layer("python random layer drop", "refused", **DROP)
def _(self, h):
    if random.random() < 0.4:
        return h * 0.0
    return h


@layer("python random choice of a branch", "refused", **DROP)
def _(self, h):
    return random.choice([h, -h, h.flip(1)])


@layer("numpy global", "refused", **DROP)
def _(self, h):
    return h * torch.from_numpy((np.random.rand(*h.shape) < 0.5).astype(np.float32)) * 2.0  # noqa: NPY002


@layer("numpy default_rng made anew", "refused", **DROP)
def _(self, h):
    return h * keep(np.random.default_rng().random() < 0.5)


@layer("os.urandom", "refused", **DROP)
def _(self, h):
    return h * keep(os.urandom(1)[0] < 128)


@layer("random.SystemRandom", "refused", **DROP)
def _(self, h):
    return h * keep(random.SystemRandom().random() < 0.5)


@layer("os.urandom, rarely", "refused", **DROP)
def _(self, h):
    return h * (os.urandom(1)[0] >= 25) * 1.1


@layer("numpy default_rng made anew, rarely", "refused", **DROP)
def _(self, h):
    return h * float(np.random.default_rng().random() >= 0.1) * 1.1


@layer("secrets, rarely", "refused", **DROP)
def _(self, h):
    return h * (secrets.randbelow(10) > 0) * 1.1


@layer("uuid as noise, rarely", "refused", **DROP)
def _(self, h):
    return h * (uuid.uuid4().int % 10 > 0) * 1.1


@layer("random.Random made anew, rarely", "refused", **DROP)
def _(self, h):
    return h * (random.Random().random() >= 0.1) * 1.1


@layer("python random, rarely", "refused", **DROP)
def _(self, h):
    return h * (random.random() >= 0.05)


@layer("torch.Generator made anew and seeded by chance, rarely", "either", **DROP)
def _(self, h):
    generator = torch.Generator()
    generator.seed()
    return h * (torch.rand(1, generator=generator) >= 0.1) * 1.1


class OwnGenerator(nn.Module):
    """Keeps its own source of random numbers, as code for reproducible augmentation does."""

    def __init__(self, source):
        super().__init__()
        self.source = source

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return h
        if isinstance(self.source, torch.Generator):
            return h * (torch.rand(h.shape, generator=self.source) < 0.5) * 2.0
        return h * keep(self.source.random() < 0.5)


add("own random.Random", lambda: Wrap(OwnGenerator(random.Random(0))), vectors, "refused", **DROP)
add("own numpy Generator", lambda: Wrap(OwnGenerator(np.random.default_rng(0))), vectors, "refused", **DROP)
add(
    "own torch.Generator",
    lambda: Wrap(OwnGenerator(torch.Generator().manual_seed(0))),
    vectors,
    "either",
    says=(r"layer|Generator",),
)


@layer("torch.native_dropout", "either", **DROP)
def _(self, h):
    return torch.native_dropout(h, 0.5, True)[0]


@layer("aten.native_dropout", "either", **DROP)
def _(self, h):
    return torch.ops.aten.native_dropout(h, 0.5, True)[0]


@layer("aten.dropout", "either", **DROP)
def _(self, h):
    return torch.ops.aten.dropout(h, 0.5, True)


@layer("aten.bernoulli", "either", **DROP)
def _(self, h):
    return h * torch.ops.aten.bernoulli(torch.full_like(h, 0.5)) * 2.0


@layer("aten.bernoulli_.float", "either", **DROP)
def _(self, h):
    return h * torch.ops.aten.bernoulli_.float(torch.empty_like(h), 0.5) * 2.0


@layer("aten.rand_like", "either", **DROP)
def _(self, h):
    return h * (torch.ops.aten.rand_like(h) < 0.5) * 2.0


@layer("torch.binomial", "either", **DROP)
def _(self, h):
    return h * torch.binomial(torch.ones_like(h), torch.full_like(h, 0.5)) * 2.0


@layer("torch.poisson", "either", **DROP)
def _(self, h):
    return h * torch.poisson(torch.ones_like(h))


@layer("torch._standard_gamma", "either", **DROP)
def _(self, h):
    return h * torch._standard_gamma(torch.ones_like(h))


@layer("torch._sample_dirichlet", "either", **DROP)
def _(self, h):
    return h * torch._sample_dirichlet(torch.ones_like(h)) * h.shape[-1]


for name, distribution in {
    "Gamma": lambda h: torch.distributions.Gamma(torch.ones_like(h), torch.ones_like(h)),
    "Beta": lambda h: torch.distributions.Beta(torch.ones_like(h), torch.ones_like(h)),
    "Dirichlet": lambda h: torch.distributions.Dirichlet(torch.ones_like(h)),
    "Laplace": lambda h: torch.distributions.Laplace(torch.zeros_like(h), 1.0),
    "StudentT": lambda h: torch.distributions.StudentT(torch.full_like(h, 5.0)),
    "Poisson": lambda h: torch.distributions.Poisson(torch.ones_like(h)),
    "Categorical": lambda h: torch.distributions.Categorical(logits=torch.zeros(*h.shape, 2)),
    "Binomial": lambda h: torch.distributions.Binomial(3, torch.full_like(h, 0.5)),
}.items():
    add(
        f"distributions.{name}",
        lambda distribution=distribution: Wrap(Noise(lambda self, h: h * distribution(h).sample())),
        vectors,
        "either",
        **DROP,
    )


@layer("nn.init.normal_ as noise", "either", **DROP)
def _(self, h):
    return h + nn.init.normal_(torch.empty_like(h), 0.0, 0.7)


@layer("nn.init.uniform_ as noise", "either", **DROP)
def _(self, h):
    return h + nn.init.uniform_(torch.empty_like(h), -1.0, 1.0)


@layer("nn.init.trunc_normal_ as noise", "either", **DROP)
def _(self, h):
    return h + nn.init.trunc_normal_(torch.empty_like(h), 0.0, 1.0, -1.0, 1.0)


@layer("nn.init.kaiming_uniform_ as noise", "either", **DROP)
def _(self, h):
    return h @ nn.init.kaiming_uniform_(torch.empty(16, 16))


@torch.jit.script
def scripted_dropout(x: Tensor, training: bool) -> Tensor:
    return torch.dropout(x, 0.5, training)


@torch.jit.script
def scripted_noise(x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


@torch.jit.script
def scripted_drop_path(x: Tensor) -> Tensor:
    kept = torch.rand([x.size(0), 1]) < 0.5
    return x * kept * 2.0


@layer("scripted function with dropout", "refused", **DROP)
def _(self, h):
    return scripted_dropout(h, self.training)


@layer("scripted function with noise", "refused", **DROP)
def _(self, h):
    return scripted_noise(h)


@layer("scripted drop path", "refused", **DROP)
def _(self, h):
    return scripted_drop_path(h)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin, self.inner_drop = nn.Linear(16, 16), nn.Dropout(0.5)

    def forward(self, h: Tensor) -> Tensor:
        return self.inner_drop(torch.relu(self.lin(h)))


add("scripted submodule with dropout", lambda: Wrap(torch.jit.script(Inner())), vectors, "refused", **DROP)
add(
    "traced submodule with dropout",
    lambda: Wrap(torch.jit.trace(Inner().train(), torch.randn(2, 16), check_trace=False)),
    vectors,
    "refused",
    says=(r"layer",),
)


@model("aten flash attention with dropout", "either", says=(r"attention|Attends",), way={"sites": ["drop*"]})
class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(2, 24), nn.Dropout(0.2), nn.Linear(8, 3)

    def forward(self, x):
        q, k, v = (part.unsqueeze(1) for part in self.a(x.view(-1, 4, 2)).chunk(3, -1))
        y = torch.ops.aten._scaled_dot_product_attention_math(q * 3, k * 3, v, None, 0.5 if self.training else 0.0)[0]
        return self.b(self.drop(y.squeeze(1).mean(1)))


@layer("randperm mixup", "refused", **DROP)
def _(self, h):
    other = torch.randperm(len(h))
    return 0.5 * h + 0.5 * h[other]


@layer("mixup with numpy beta", "refused", **DROP)
def _(self, h):
    share = float(np.random.beta(1.0, 1.0))  # noqa: NPY002
    return share * h + (1 - share) * h.flip(0)


@layer("multinomial", "either", **DROP)
def _(self, h):
    chosen = torch.multinomial(torch.ones_like(h), 8)
    return h * torch.zeros_like(h).scatter_(1, chosen, 2.0)


@layer("Tensor.multinomial", "either", **DROP)
def _(self, h):
    chosen = torch.ones_like(h).multinomial(8)
    return h * torch.zeros_like(h).scatter_(1, chosen, 2.0)


@layer("randint shift", "either", **DROP)
def _(self, h):
    return h.roll(int(torch.randint(0, 16, ())), 1)


@layer("geometric_", "either", **DROP)
def _(self, h):
    return h * torch.empty_like(h).geometric_(0.5)


@layer("cauchy_ and log_normal_", "either", **DROP)
def _(self, h):
    return torch.tanh(h * torch.empty_like(h).cauchy_()) + torch.empty_like(h).log_normal_().tanh()


@layer("rrelu", "either", **DROP)
def _(self, h):
    return nn.functional.rrelu(h, 0.0, 1.0, training=True)


@model("layer drop by python random, x-transformers", "refused", says=(r"(?i)random",))
class LayerDropping(nn.Module):
    """Skips whole blocks; blocks hold dropout, so even the list of sites follows Python's seed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.2)) for _ in range(4))

    def forward(self, x):
        h = self.a(x)
        for block in self.blocks:
            if self.training and random.random() < 0.3:
                continue
            h = h + block(h)
        return self.b(h)


@model("hidden randomness alone, no dropout beside it", "refused", says=(r"layer",))
class OnlyHidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
        self.layer = Noise(lambda self, h: h * keep(random.random() < 0.5))

    def forward(self, x):
        return self.b(self.layer(torch.tanh(self.a(x))))
