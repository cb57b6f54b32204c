"""Randomness whose law is plain from the call: users expect it to be driven, with PyTorch's statistics."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .harness import Wrap, add, layer, model, sequences, vectors


def per_item(h: Tensor) -> tuple[int, ...]:
    return (h.shape[0],) + (1,) * (h.ndim - 1)


@layer("drop path by torch.rand, as Hugging Face writes it", "driven")
def _(self, h):
    noise = 0.6 + torch.rand(per_item(h), dtype=h.dtype, device=h.device)
    noise.floor_()
    return h.div(0.6) * noise


@layer("drop path by rand < keep", "driven")
def _(self, h):
    return h * (torch.rand(per_item(h)) < 0.6) / 0.6


@layer("drop path by keep > rand, comparison reversed", "driven")
def _(self, h):
    return h * (torch.rand(per_item(h)) < 0.6) / 0.6


@layer("drop path by rand(B, 1, out=)", "either")
def _(self, h):
    out = torch.empty(per_item(h))
    torch.rand(per_item(h), out=out)
    return h * (out < 0.6) / 0.6


@layer("torch.rand with star arguments", "driven")
def _(self, h):
    return torch.where(torch.rand(h.shape[0], h.shape[1]) < 0.5, h * 2, 0.0)


@layer("torch.rand with size keyword", "driven")
def _(self, h):
    return torch.where(torch.rand(size=h.shape) < 0.5, h * 2, 0.0)


@layer("mask by rand_like > p", "driven")
def _(self, h):
    return h * (torch.rand_like(h) > 0.5).float() * 2


@layer("mask by rand_like in float64", "driven")
def _(self, h):
    return h * torch.rand_like(h, dtype=torch.float64).gt(0.5).to(h.dtype) * 2


@layer("mask by rand, floor of sum", "driven")
def _(self, h):
    return h * torch.floor(torch.rand_like(h) + 0.5) * 2


@layer("bernoulli(tensor)", "driven")
def _(self, h):
    return h * torch.bernoulli(torch.full_like(h, 0.5)) * 2


@layer("bernoulli(tensor, p)", "driven")
def _(self, h):
    return h * torch.bernoulli(h, 0.5) * 2


@layer("Tensor.bernoulli()", "driven")
def _(self, h):
    return h * h.sigmoid().bernoulli() * 2


@layer("Tensor.bernoulli(p)", "driven")
def _(self, h):
    return h * h.bernoulli(0.5) * 2


@layer("bernoulli_(tensor)", "driven")
def _(self, h):
    return h * torch.empty_like(h).bernoulli_(h.sigmoid()) * 2


@layer("bernoulli_ with p of one half by default", "driven")
def _(self, h):
    return h * torch.empty_like(h).bernoulli_() * 2


@layer("bernoulli_ on bool", "driven")
def _(self, h):
    return h.masked_fill(torch.empty_like(h, dtype=torch.bool).bernoulli_(0.5), 0.0) * 2


@layer("bernoulli_ of 1 means drop", "driven")
def _(self, h):
    return h * (1 - torch.empty_like(h).bernoulli_(0.3)) / 0.7


@layer("distributions.Bernoulli", "driven")
def _(self, h):
    return h * torch.distributions.Bernoulli(probs=h.sigmoid()).sample() * 2


@layer("distributions.Bernoulli with sample shape", "driven")
def _(self, h):
    return h * torch.distributions.Bernoulli(torch.tensor(0.5)).sample(h.shape) * 2


@layer("distributions.RelaxedBernoulli", "driven")
def _(self, h):
    return h * torch.distributions.RelaxedBernoulli(torch.tensor(0.3), logits=h).rsample() * 2


@layer("distributions.Normal", "driven")
def _(self, h):
    return torch.distributions.Normal(h, 0.7).rsample()


@layer("distributions.Normal sample", "driven")
def _(self, h):
    return torch.distributions.Normal(h, h.abs() + 0.3).sample()


@layer("distributions.Uniform", "driven")
def _(self, h):
    return h * torch.distributions.Uniform(torch.zeros_like(h), 2 * torch.ones_like(h)).rsample()


@layer("distributions.Gumbel", "driven")
def _(self, h):
    return torch.tanh(torch.distributions.Gumbel(h, torch.ones_like(h)).rsample())


@layer("distributions.Exponential", "driven")
def _(self, h):
    return torch.tanh(h * torch.distributions.Exponential(torch.ones_like(h)).rsample())


@layer("F.gumbel_softmax", "driven")
def _(self, h):
    return h * F.gumbel_softmax(h, tau=0.5) * 16


@layer("F.gumbel_softmax hard", "driven")
def _(self, h):
    return h * F.gumbel_softmax(h.view(-1, 8, 2), hard=True)[..., 0].repeat_interleave(2, 1) * 2


@layer("gaussian noise by randn_like", "driven")
def _(self, h):
    return h + torch.randn_like(h) * 0.7


@layer("gaussian dropout", "driven")
def _(self, h):
    return h * (1 + math.sqrt(0.5 / 0.5) * torch.randn(h.shape, dtype=h.dtype, device=h.device))


@layer("gaussian noise by normal_", "driven")
def _(self, h):
    return h + torch.empty_like(h).normal_(0.3, 0.7)


@layer("gaussian noise by new(size).normal_", "driven")
def _(self, h):
    return h + h.new_zeros(h.size()).normal_(mean=0.0, std=0.7)


@layer("gaussian noise by h.data.new().normal_", "driven")
def _(self, h):
    return h + h.data.new(h.size()).normal_(0, 0.7)


@layer("normal(float, float, size)", "driven")
def _(self, h):
    return h + torch.normal(0.1, 0.7, h.shape)


@layer("normal(mean=, std=, size=)", "driven")
def _(self, h):
    return h + torch.normal(mean=0.0, std=0.7, size=h.size())


@layer("normal(tensor, tensor)", "driven")
def _(self, h):
    return torch.normal(h, h.abs() + 0.1)


@layer("normal(tensor, float)", "driven")
def _(self, h):
    return torch.normal(h, 0.7)


@layer("normal(float, tensor)", "driven")
def _(self, h):
    return h + torch.normal(0.1, h.abs() + 0.3)


@layer("normal(tensor)", "driven")
def _(self, h):
    return torch.normal(h)


@layer("uniform_ by default", "driven")
def _(self, h):
    return h * torch.empty_like(h).uniform_() * 2


@layer("uniform_(low, high)", "driven")
def _(self, h):
    return h + torch.empty_like(h).uniform_(-1, 1)


@layer("uniform_(from named, to=)", "driven")
def _(self, h):
    return h + torch.empty_like(h).uniform_(-0.5, to=1.0)


@layer("exponential_", "driven")
def _(self, h):
    return torch.tanh(h * torch.empty_like(h).exponential_())


@layer("exponential_(rate)", "driven")
def _(self, h):
    return torch.tanh(h * torch.empty_like(h).exponential_(lambd=2.0) * 2)


@layer("noise of half precision", "driven")
def _(self, h):
    return h + torch.randn_like(h, dtype=torch.bfloat16).float() * 0.7


@layer("noise of two draws in one expression", "driven")
def _(self, h):
    return h * torch.rand_like(h) * 2 + torch.rand_like(h)


@layer("complex noise", "either")
def _(self, h):
    return (h * torch.randn(h.shape, dtype=torch.complex64)).real


@layer("noise of sine and cosine, Box and Muller", "driven")
def _(self, h):
    u, v = torch.rand_like(h).clamp_min(1e-7), torch.rand_like(h)
    return h + 0.7 * (-2 * u.log()).sqrt() * (2 * math.pi * v).cos()


class Concrete(nn.Module):
    """Concrete dropout, Gal, Hron & Kendall 2017."""

    def __init__(self) -> None:
        super().__init__()
        self.p_logit = nn.Parameter(torch.tensor([-0.4]))

    def forward(self, h: Tensor) -> Tensor:
        p, eps = self.p_logit.sigmoid(), 1e-7
        if not self.training:
            return h
        u = torch.rand_like(h)
        z = torch.sigmoid(
            (torch.log(p + eps) - torch.log(1 - p + eps) + torch.log(u + eps) - torch.log(1 - u + eps)) / 0.1
        )
        return h * (1 - z) / (1 - p)


add("concrete dropout", lambda: Wrap(Concrete()), vectors, "driven")


@model("locked dropout, time first", "driven", data=sequences)
class Locked(nn.Module):
    """AWD-LSTM's: one mask over all time steps, new(1, B, D) for a tensor (L, B, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def lock(self, x, p=0.4):
        if not self.training:
            return x
        m = x.data.new(1, x.size(1), x.size(2)).bernoulli_(1 - p)
        mask = m.div_(1 - p).expand_as(x)
        return mask * x

    def forward(self, x):
        h = torch.tanh(self.a(x.transpose(0, 1)))
        return self.b(self.lock(h).mean(0))


@layer("zoneout", "driven")
def _(self, h):
    new = torch.tanh(h * 3)
    kept = torch.empty_like(h).bernoulli_(0.5)
    return kept * h + (1 - kept) * new


@layer("shake-shake by rand", "driven")
def _(self, h):
    alpha = torch.rand(h.size(0), 1)
    return alpha * torch.tanh(2 * h) + (1 - alpha) * torch.relu(h)


@layer("randn_like times a learned scale, reparametrization", "driven")
def _(self, h):
    mean, log_variance = h[:, :8], h[:, 8:]
    z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(log_variance)
    return torch.cat([z, z], 1)


@layer("dropout of features by permuted uniform keys", "driven")
def _(self, h):
    keys = torch.rand(h.shape)
    return h * (keys.argsort(1) < 8) * 2


@layer("dropout of features by top-k of uniform", "driven")
def _(self, h):
    keys = torch.rand_like(h)
    return h * (keys >= keys.topk(8, dim=1).values[:, -1:]) * 2
