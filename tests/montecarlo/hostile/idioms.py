"""Ways of writing a model that a private copy, a mode switch or a list of modules does not follow."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn

from .harness import images, layer, model, sequences, tokens

SAYS = (r".",)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.2), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(self.drop(torch.tanh(self.a(x))))


@model("dropout in a forward hook", "driven")
class HookDrops(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a.register_forward_hook(lambda m, _inputs, out: F.dropout(out, 0.5, m.training))


@model("dropout in a forward pre-hook", "driven")
class PreHookDrops(Base):
    def __init__(self) -> None:
        super().__init__()
        self.b.register_forward_pre_hook(lambda m, inputs: (F.dropout(inputs[0], 0.5, m.training),))


@model("hook that closes over a dropout module of the original", "either", says=(r"drop|hook|\ba\b",))
class HookClosure(Base):
    """The hook of a deep copy still calls the original's dropout, which is in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Dropout(0.5)
        self.a.register_forward_hook(lambda _m, _inputs, out: self.extra(out))


@model("lambda that closes over self", "either", says=(r"drop|extra|act",))
class LambdaOverSelf(Base):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Dropout(0.5)
        self.act = lambda h: self.extra(torch.tanh(h))

    def forward(self, x):
        return self.b(self.drop(self.act(self.a(x))))


@model("guard in a lambda that reads self.training of the original", "either", says=(r"drop|act|training",))
class LambdaGuard(Base):
    def __init__(self) -> None:
        super().__init__()
        self.act = lambda h: F.dropout(torch.tanh(h), 0.5, self.training)

    def forward(self, x):
        return self.b(self.drop(self.act(self.a(x))))


@model("bound methods and partials kept in a list", "driven")
class BoundMethods(Base):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Dropout(0.5)
        self.steps = [self.first, functools.partial(self.second, scale=1.0)]

    def first(self, x):
        return self.extra(torch.tanh(self.a(x)))

    def second(self, h, scale):
        return self.b(self.drop(h * scale))

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


@model("layers in a plain list, which eval() does not reach", "driven")
class PlainList(Base):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.5)]

    def forward(self, x):
        h = torch.tanh(self.a(x))
        for part in self.layers:
            h = part(h)
        return self.b(self.drop(h))


class Child(nn.Module):
    def __init__(self, parent) -> None:
        super().__init__()
        self.parent = [parent]  # a list, so that the parent is not registered as a child of its child

    def forward(self, h):
        return F.dropout(h, 0.5) if self.parent[0].training else h


@model("guard that reads the parent's mode through a reference", "driven")
class ReadsParent(Base):
    def __init__(self) -> None:
        super().__init__()
        self.child = Child(self)

    def forward(self, x):
        return self.b(self.drop(self.child(torch.tanh(self.a(x)))))


SWITCH = {"on": True}


@model("guard by a global switch", "driven")
class GlobalSwitch(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(self.drop(F.dropout(h, 0.5) if SWITCH["on"] else h))


@model("train() that forgets its children", "driven")
class ForgetsChildren(Base):
    """Frozen backbones override train(); the head alone follows."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.5))
        self.backbone.eval()

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        return self.b(self.drop(self.backbone(torch.tanh(self.a(x)))))


@model("DataParallel around a part", "driven")
class Parallel(Base):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.DataParallel(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.5)))

    def forward(self, x):
        return self.b(self.drop(self.inner(torch.tanh(self.a(x)))))


@model("functional_call with other weights", "driven")
class FunctionalCall(Base):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5))

    def forward(self, x):
        weights = {name: p * 0.9 for name, p in self.inner.named_parameters()}
        return self.b(self.drop(torch.func.functional_call(self.inner, weights, (torch.tanh(self.a(x)),))))


@model("torch.vmap inside with other randomness for each row", "either", says=SAYS)
class InnerVmap(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        h = torch.vmap(lambda row: F.dropout(row, 0.5, self.training), randomness="different")(h)
        return self.b(self.drop(h))


@model("first state of an RNN by randn, as tutorials have it", "driven", data=sequences, process=True)
class RandomState(nn.Module):
    """Random in evaluation too: users who score it want the law that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.drop, self.b = nn.GRU(8, 16, batch_first=True), nn.Dropout(0.2), nn.Linear(16, 3)

    def forward(self, x):
        h0 = torch.randn(1, x.size(0), 16)
        return self.b(self.drop(self.rnn(x, h0)[0][:, 0]))


@layer("scalar by uniform_().item()", "driven")
def _(self, h):
    return h * torch.empty(1).uniform_(0.0, 2.0).item()


@layer("branch of one item by a drawn number", "either", says=(r"layer",))
def _(self, h):
    return torch.stack([row * 2 if torch.rand(1) < 0.5 else row * 0 for row in h])


@layer("noise in a numpy array of torch's numbers", "either", says=(r"layer",))
def _(self, h):
    noise = torch.randn(h.shape).numpy()
    return h + torch.from_numpy(noise) * 0.7


@layer("seeded anew in every forward pass", "either", says=(r"layer|seed",))
def _(self, h):
    torch.manual_seed(int(h.abs().sum() * 1000) % 1000)
    return h * (torch.rand_like(h) < 0.5) * 2


@layer("fork_rng around the noise", "driven")
def _(self, h):
    with torch.random.fork_rng():
        return h + torch.randn_like(h) * 0.7


@model("attention by multi_head_attention_forward", "driven", data=sequences)
class FunctionalAttention(Base):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.out = nn.Parameter(torch.randn(24, 8)), nn.Linear(8, 8)

    def forward(self, x):
        x = x.transpose(0, 1)
        y, _ = F.multi_head_attention_forward(
            *(x, x, x, 8, 2, self.w, torch.zeros(24), None, None, False, 0.4, self.out.weight, self.out.bias),
            training=self.training,
        )
        return self.b(self.drop(torch.tanh(self.a(y.mean(0)))))


@model("transformer encoder with padding, which evaluation turns into nested tensors", "driven", data=tokens)
class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.b = nn.Embedding(11, 8), nn.Linear(8, 3)
        block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=True)

    def forward(self, x):
        padding = x == 0
        h = self.encoder(self.embedding(x), src_key_padding_mask=padding)
        if h.shape[1] < x.shape[1]:
            h = F.pad(h, (0, 0, 0, x.shape[1] - h.shape[1]))
        return self.b(h.masked_fill(padding[..., None], 0.0).sum(1))


@model("fractional max pooling, random in evaluation too", "either", data=images, says=(r"pool",))
class Fractional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.drop, self.b = nn.FractionalMaxPool2d(2, output_size=4), nn.Dropout(0.2), nn.Linear(48, 3)

    def forward(self, x):
        return self.b(self.drop(self.pool(x).flatten(1)))


@model("dropout on integers of a mask", "either", data=tokens, says=(r"drop",))
class IntegerMask(nn.Module):
    """Attention masks dropped as bool or float, multiplied later."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop, self.b = nn.Embedding(11, 8), nn.Dropout(0.4), nn.Linear(8, 3)

    def forward(self, x):
        kept = self.drop((x > 0).float()) > 0
        return self.b((self.embedding(x) * kept[..., None]).sum(1))


@model("dropout with p = 1 in one branch", "driven")
class DropsAll(Base):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(self.drop(h)) + self.b(F.dropout(h, 1.0, self.training)) * 0.1


@model("two names for one module, called through both", "driven")
class TwoNames(Base):
    def __init__(self) -> None:
        super().__init__()
        self.alias = self.drop

    def forward(self, x):
        return self.b(self.alias(torch.tanh(self.a(self.drop(x)))))


@model("model inside a model inside a model, one of them in evaluation", "driven")
class FrozenTeacher(Base):
    """A teacher in a plain attribute holder runs without dropout beside the student."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = [Base().eval()]

    def forward(self, x):
        return super().forward(x) + self.teacher[0](x)


@model("fixed random features, drawn anew from a seeded generator", "either", says=(r"generator|randn",))
class SeededProjection(Base):
    """No randomness at all: the same numbers in every pass."""

    def forward(self, x):
        generator = torch.Generator().manual_seed(42)
        return super().forward(x @ torch.randn(8, 8, generator=generator))


@model("fixed random features under fork_rng and manual_seed", "either", says=(r"seed|randn",))
class SeededGlobally(Base):
    def forward(self, x):
        with torch.random.fork_rng():
            torch.manual_seed(42)
            projection = torch.randn(8, 8)
        return super().forward(x @ projection)


@model("fixed random features, drawn once and kept", "either", says=(r"randn|attribute|features",))
class DrawnOnce(Base):
    """Lazy initialization: the first forward pass draws, all others read."""

    def __init__(self) -> None:
        super().__init__()
        self.features = None

    def forward(self, x):
        if self.features is None:
            self.features = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
        return super().forward(x @ self.features)


@model(
    "lazy initialization that has not happened yet",
    "either",
    says=(r"randn|attribute|features|LazilyDrawn",),
    warm=False,
    reference=("drop",),
)
class LazilyDrawn(DrawnOnce):
    """As before, and the first pass is that of the engine: each of its copies draws its own features."""


@layer("law told by a lambda in the default arguments", "driven")
def _(self, h, draw=torch.rand):
    return h * (draw(h.shape) < 0.5) * 2


draw_early = torch.rand_like


@layer("function kept under another name", "driven")
def _(self, h):
    return h * (draw_early(h) < 0.5) * 2


@layer("numbers of torch.rand kept for the next call", "either", says=(r"layer|rand",))
def _(self, h):
    """Antithetic pairs: the second pass uses 1 - u of the first."""
    if getattr(self, "u", None) is None or len(self.u) != len(h):
        self.u = torch.rand_like(h)
        return h * (self.u < 0.5) * 2
    u, self.u = 1 - self.u, None
    return h * (u < 0.5) * 2
