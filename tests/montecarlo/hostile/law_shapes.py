"""MaskedForward by law, where the random tensor is a scalar, a patch, a weight or an edge rather than the layer's own shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .harness import layer, model, sequences, tokens, vectors


@model("layer drop by rand(()), the guard first", "driven")
class LayerDropGuard(nn.Module):
    """wav2vec2's way: the branch of a whole layer hangs on one number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(3))

    def forward(self, x):
        h = self.a(x)
        for block in self.blocks:
            if self.training and torch.rand(()) < 0.4:
                continue
            h = h + block(h)
        return self.b(h)


@model("layer drop by rand([]), drawn in evaluation too, as wav2vec2", "driven")
class LayerDropAlways(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.1)) for _ in range(3))

    def forward(self, x):
        h = self.a(x)
        for block in self.blocks:
            dropout_probability = torch.rand([])
            skip = bool(self.training and dropout_probability < 0.4)
            if not skip:
                h = h + block(h)
        return self.b(h)


@model("layer drop by rand(1).item()", "driven")
class LayerDropItem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.block, self.b = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        h = self.a(x)
        if not self.training or torch.rand(1).item() >= 0.4:
            h = h + torch.tanh(self.block(h))
        return self.b(h)


@model("stochastic depth by rand(1) times the branch", "driven")
class OneNumber(nn.Module):
    """torchvision's mode "batch": one number for all items of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.block, self.b = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        h = self.a(x)
        branch = torch.tanh(self.block(h))
        if self.training:
            branch = branch * torch.empty(1, 1).bernoulli_(0.6) / 0.6
        return self.b(h + branch)


@model("patch dropout by argsort of randn, as timm", "driven", data=sequences)
class PatchDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.training:
            B, L = h.shape[:2]
            keep = torch.argsort(torch.randn(B, L, device=h.device), dim=-1)[:, :2]
            h = h.gather(1, keep.unsqueeze(-1).expand((-1, -1, h.shape[2])))
        return self.b(h.mean(1))


@model("random masking by argsort of rand, as MAE", "driven", data=sequences)
class RandomMasking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.mask_token = nn.Linear(8, 16), nn.Linear(16, 3), nn.Parameter(torch.ones(16))

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.training:
            noise = torch.rand(h.shape[0], h.shape[1])
            rank = torch.argsort(torch.argsort(noise, dim=1), dim=1)
            h = torch.where((rank < 3)[..., None], h, self.mask_token)
        return self.b(h.mean(1))


@model("word dropout by bernoulli on tokens", "driven", data=tokens)
class WordDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.b = nn.Embedding(11, 16), nn.Linear(16, 3)

    def forward(self, x):
        if self.training:
            dropped = torch.rand(x.shape) < 0.4
            x = x.masked_fill(dropped, 0)
        return self.b(torch.tanh(self.embedding(x)).mean(1))


@model("embedding dropout by a mask over the vocabulary", "driven", data=tokens)
class EmbeddingDropout(nn.Module):
    """AWD-LSTM's: whole rows of the table are dropped, the same for all items of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.b = nn.Embedding(11, 16), nn.Linear(16, 3)

    def forward(self, x):
        weight = self.embedding.weight
        if self.training:
            mask = weight.data.new().resize_((weight.size(0), 1)).bernoulli_(0.6).expand_as(weight) / 0.6
            weight = mask * weight
        return self.b(torch.tanh(F.embedding(x, weight)).mean(1))


@model("bayesian linear by randn on the weights", "driven")
class BayesianLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.rho, self.b = (
            nn.Parameter(torch.randn(16, 8) * 0.3),
            nn.Parameter(torch.zeros(16, 8)),
            nn.Linear(16, 3),
        )

    def forward(self, x):
        weight = self.mean
        if self.training:
            weight = weight + F.softplus(self.rho) * torch.randn_like(self.rho) * 0.5
        return self.b(torch.tanh(F.linear(x, weight)))


@model("bayesian linear that samples in evaluation too", "driven")
class AlwaysBayesian(BayesianLinear):
    def forward(self, x):
        weight = self.mean + F.softplus(self.rho) * torch.randn(self.rho.shape) * 0.5
        return self.b(torch.tanh(F.linear(x, weight)))


@model("variational linear by local reparametrization", "driven")
class LocalReparametrization(BayesianLinear):
    def forward(self, x):
        mean, variance = F.linear(x, self.mean), F.linear(x * x, F.softplus(self.rho) ** 2)
        h = mean + variance.sqrt() * torch.randn_like(mean) if self.training else mean
        return self.b(torch.tanh(h))


@model("rank-one bayesian factors by distributions.Normal", "driven")
class RankOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        r = torch.distributions.Normal(torch.ones(8), 0.5).rsample() if self.training else 1.0
        return self.b(torch.tanh(self.a(x * r)))


@model("noisy linear, factorized, as in Rainbow", "driven")
class NoisyLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.sigma, self.b = (
            nn.Parameter(torch.randn(16, 8) * 0.3),
            nn.Parameter(torch.ones(16, 8) * 0.5),
            nn.Linear(16, 3),
        )

    @staticmethod
    def factor(size):
        x = torch.randn(size)
        return x.sign().mul_(x.abs().sqrt_())

    def forward(self, x):
        weight = self.weight
        if self.training:
            weight = weight + self.sigma * torch.outer(self.factor(16), self.factor(8))
        return self.b(torch.tanh(F.linear(x, weight)))


ADJACENCY = (torch.rand(6, 6, generator=torch.Generator().manual_seed(5)) < 0.5).float() + torch.eye(6)


@model("DropEdge on one graph for all items", "driven", data=lambda n: vectors(n)[:, :6])
class DropEdge(nn.Module):
    """Six nodes with one feature each are an item; edges are dropped by a mask of the adjacency matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 16), nn.Linear(16, 3)
        self.register_buffer("adjacency", ADJACENCY.clamp(max=1))

    def forward(self, x):
        adjacency = self.adjacency
        if self.training:
            adjacency = adjacency * (torch.rand_like(adjacency) > 0.4)
        return self.b(torch.tanh(adjacency @ self.a(x.unsqueeze(-1))).mean(1))


@model("DropEdge on the edge list by rand(E) >= p, as PyG", "either", data=lambda n: vectors(n)[:, :6], says=(r".",))
class DropEdgeList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 16), nn.Linear(16, 3)
        self.register_buffer("edges", ADJACENCY.nonzero().t())

    def forward(self, x):
        source, target = self.edges
        if self.training:
            kept = torch.rand(source.numel()) >= 0.4
            source, target = source[kept], target[kept]
        h = self.a(x.unsqueeze(-1))
        return self.b(torch.tanh(torch.zeros_like(h).index_add_(1, target, h[:, source])).mean(1))


@model("time masking by randint bounds, SpecAugment", "either", data=sequences, says=(r"randint|Cutout|augment",))
class Cutout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(8, 16), nn.Linear(16, 3), nn.Dropout(0.2)

    def forward(self, x):
        if self.training:
            start = torch.randint(0, 4, (x.shape[0], 1))
            steps = torch.arange(x.shape[1])
            x = x * ~((steps >= start) & (steps < start + 2))[..., None]
        return self.b(self.drop(torch.tanh(self.a(x)).mean(1)))


@model(
    "cutout by randint and slices",
    "either",
    data=sequences,
    says=(r"randint|CutoutSlices|augment",),
    way={"sites": ["drop*"]},
)
class CutoutSlices(Cutout):
    def forward(self, x):
        if self.training:
            x = x.clone()
            for row in x:
                start = int(torch.randint(0, 4, (1,)))
                row[start : start + 2] = 0
        return self.b(self.drop(torch.tanh(self.a(x)).mean(1)))


@layer("random scale in a range for each item", "driven")
def _(self, h):
    return h * (0.2 + 1.6 * torch.rand(len(h), 1))


@layer("noise of shape (D,), one for the whole batch", "driven")
def _(self, h):
    return h * (torch.rand(h.shape[1]) < 0.5) * 2


@layer("noise drawn for rows of parts", "driven")
def _(self, h):
    rows = h.reshape(-1, 4)
    return (rows * (torch.rand(rows.shape[0], 1) < 0.5) * 2).view_as(h)


@layer("noise in a loop over chunks", "driven")
def _(self, h):
    return torch.cat([part * torch.bernoulli(torch.full((part.size(0), 1), 0.5)) * 2 for part in h.chunk(4, 1)], 1)


@layer("rejection by nonzero of the mask", "either", says=(r".",))
def _(self, h):
    kept = (torch.rand(h.shape[1]) < 0.7).nonzero().squeeze(1)
    out = torch.zeros_like(h)
    out[:, kept] = h[:, kept] / 0.7
    return out


@layer("layer chosen by a drawn number for each item", "driven")
def _(self, h):
    choice = torch.rand(len(h), 1)
    return torch.where(choice < 0.3, h, torch.where(choice < 0.6, -h, h.flip(1)))


@model("dropout with p of its own for each item", "driven")
class OwnRate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.training:
            keep = 0.3 + 0.6 * x[:, :1].sigmoid()
            h = h * torch.bernoulli(keep.expand_as(h)) / keep
        return self.b(h)
