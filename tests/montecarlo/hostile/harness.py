"""What must hold of a hostile model: driven with PyTorch's own statistics or refused by name, and left as it was either way."""

from __future__ import annotations

import contextlib
import random
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mcscore
from mcscore.cli.model import grouped
from mcscore.montecarlo import Passes, Strategy, choose_strategy
from mcscore.montecarlo.discovery import discover

ITEMS = 6
IDS = np.array([12, 5, 2**40 + 1, 7, 0, 99])
Batch = Callable[[int], Tensor]


@dataclass(frozen=True)
class Case:
    """One model and what shall become of it.

    expect: "driven", "refused" or "either". says: regular expressions, each of which the refusal must match. way:
    arguments of Scorer that the refusal advises; they must work. reference: modules (shell patterns) that plain passes put
    in training mode, if not all. alone: plain passes see one item at a time, because the items of a batch share something
    there. fresh: every plain pass starts from the model as it was. process: may kill its process.
    ignore: what may change in the model, as a regular expression. warm: the model has run
    with gradients before it is scored. training: it comes in training mode.
    """

    make: Callable[[], nn.Module]
    data: Batch
    expect: str
    says: tuple[str, ...] = ()
    way: Mapping[str, Any] | None = None
    transform: Callable[[Tensor], Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    reference: tuple[str, ...] | None = None
    fresh: bool = False
    process: bool = False
    ignore: str = ""
    warm: bool = True
    training: bool = False


CASES: dict[str, Case] = {}


def add(name: str, make: Callable[[], nn.Module], data: Batch, expect: str, **options: Any) -> None:
    assert name not in CASES, name
    assert expect in ("driven", "refused", "either")
    CASES[name] = Case(make, data, expect, **options)


def vectors(n: int) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(1))


def images(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def sequences(n: int) -> Tensor:
    return torch.randn(n, 5, 8, generator=torch.Generator().manual_seed(3))


def tokens(n: int) -> Tensor:
    """Token rows (n, 7) that end in padding 0, of lengths 2, 3, 3, 7, 4, 6: the longest is not among the first."""
    rows = torch.randint(1, 11, (n, 7), generator=torch.Generator().manual_seed(4))
    lengths = torch.tensor([2, 3, 3, 7, 4, 6]).repeat(n // 6 + 1)[:n]
    return rows * (torch.arange(7) < lengths[:, None])


class Wrap(nn.Module):
    """Linear, the layer in question, dropout, Linear."""

    def __init__(self, layer: nn.Module, p: float = 0.2) -> None:
        super().__init__()
        self.a, self.layer, self.drop, self.b = nn.Linear(8, 16), layer, nn.Dropout(p), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h = self.drop(self.layer(h))
        return torch.tanh(self.b(h))


class Noise(nn.Module):
    """A layer that calls ``draw(self, h)`` in training and does nothing otherwise."""

    def __init__(self, draw: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, h: Tensor) -> Tensor:
        return self.draw(self, h) if self.training else h


def layer(name: str, expect: str, *, p: float = 0.2, **options: Any) -> Callable[[Any], Any]:
    """Register a function (self, h) -> h, used in training alone, as the layer inside ``Wrap``."""

    def register(draw: Any) -> Any:
        add(name, lambda: Wrap(Noise(draw), p), vectors, expect, **options)
        return draw

    return register


def model(name: str, expect: str, data: Batch = vectors, **options: Any) -> Callable[[Any], Any]:
    """Register a module class that needs no arguments."""

    def register(make: Any) -> Any:
        add(name, make, data, expect, **options)
        return make

    return register


class Wrong(AssertionError):
    """The outcome is not what the user wants; begins with the kind of fault."""


def frozen(value: Any) -> Any:
    """The content of a value, comparable by ==."""
    if isinstance(value, Tensor):
        plain = value.detach()
        if plain.is_sparse:
            plain = plain.to_dense()
        if plain.is_meta:
            return "meta", plain.shape
        return (
            str(plain.dtype),
            tuple(plain.shape),
            plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, torch.Generator):
        return frozen(value.get_state())
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, nn.Module):
        return id(value)
    if isinstance(value, Mapping):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [frozen(item) for item in value]
    if isinstance(value, (int, float, str, bool, type(None))):
        return value
    return id(value)


def contents(net: nn.Module) -> dict[str, Any]:
    """Everything a model owns: parameters and buffers by content and identity, flags, hooks and Python attributes."""
    state: dict[str, Any] = {}
    for path, module in net.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                state |= {f"{path}.{name}": (id(tensor), frozen(tensor)) for name, tensor in value.items()}
            elif key == "_modules":
                state |= {f"{path}.{name}": id(child) for name, child in value.items()}
            else:
                state[f"{path}.{key}"] = frozen(value)
    return state


def generators() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return frozen(torch.get_rng_state()), random.getstate(), (name, keys.tobytes(), *rest)


@contextlib.contextmanager
def untouched(net: nn.Module, what: str, ignore: str = "") -> Iterator[None]:
    """Raise unless the model and the global generators are the same afterward, also after an exception."""
    before, random_before = contents(net), generators()
    try:
        yield
    finally:
        after = contents(net)
        changed = sorted(key for key in before.keys() | after.keys() if before.get(key, Wrong) != after.get(key, Wrong))
        changed = [key for key in changed if not (ignore and re.search(ignore, key))]
        if changed:
            raise Wrong(f"MODEL CHANGED by {what}: {', '.join(changed[:5])}")
        moved = [n for n, a, b in zip(("torch", "random", "numpy"), random_before, generators(), strict=True) if a != b]
        if moved:
            raise Wrong(f"GENERATOR MOVED by {what}: {', '.join(moved)}")


def normalization_rests(net: nn.Module) -> None:
    for module in net.modules():
        if hasattr(module, "running_mean"):
            module.eval()


def made(case: Case) -> nn.Module:
    """The case's model, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return case.make().train(case.training)


def plain_passes(case: Case, x: Tensor, T: int, only: Sequence[str] | None) -> Tensor:
    """Logits (T, B, C) as everybody gets them: training mode (of the modules named alone, if any), one pass after another."""
    inputs_of = case.transform or (lambda items: items)
    passes = []
    for t in range(T):
        if t == 0 or case.fresh:
            net = made(case).train(only is None)
            normalization_rests(net)
            for name, module in net.named_modules():
                if only is not None and any(fnmatchcase(name, pattern) for pattern in only):
                    module.training = True
        with torch.no_grad():
            batches = [x[i : i + 1] for i in range(len(x))] if case.alone else [x]
            passes.append(torch.cat([call(net, inputs_of(batch.clone())) for batch in batches]))
    return torch.stack(passes).double()


def call(net: nn.Module, inputs: Any) -> Tensor:
    if isinstance(inputs, dict):
        return net(**inputs)
    return net(*inputs) if isinstance(inputs, (tuple, list)) else net(inputs)


def engine(case: Case, net: nn.Module, x: Tensor, seed: int, sites: Any) -> tuple[Passes, Strategy]:
    """Passes whose sites were found on the first three items, and the strategy chosen there."""
    inputs_of = case.transform or (lambda items: items)
    found = discover(net, inputs_of(x[:2]), inputs_of(x[:3]), chosen=sites)
    passes = Passes(net, found, seed=seed, shared=False)
    return passes, choose_strategy(passes, inputs_of(x[:3]), torch.arange(3), 400)


def logits(case: Case, passes: Passes, x: Tensor, chunks: Sequence[Tensor], strategy: Strategy) -> Tensor:
    inputs_of = case.transform or (lambda items: items)
    return torch.cat(list(passes.chunks(inputs_of(x), torch.from_numpy(IDS[: len(x)]), chunks, strategy))).double()


def check_chunks(case: Case, net: nn.Module, x: Tensor, sites: Any) -> None:
    """Passes in chunks, and one at a time, are those of one go."""
    passes, strategy = engine(case, net, x, 0, sites)
    whole = logits(case, passes, x, [torch.arange(4)], strategy)
    if not whole.isfinite().all():
        raise Wrong("SILENT, not finite")
    scale = float(whole.abs().max())
    for how, chunks, other in (
        ("chunks of 2", torch.arange(4).split(2), strategy),
        ("loop", [torch.arange(4)], Strategy("loop")),
    ):
        difference = float((logits(case, passes, x, list(chunks), other) - whole).abs().max()) / scale
        if not difference < 1e-4:
            raise Wrong(f"PATHS DIFFER: {strategy.path} against {how} {difference:.1e}")


def largest_z(ours: Tensor, theirs: Tensor) -> tuple[float, str]:
    """The largest |z| over mean and variance of all logits."""

    def error_of_variance(samples: Tensor) -> Tensor:  # (mu_4 - sigma^4) / T
        centered = samples - samples.mean(0)
        return ((centered**4).mean(0) - centered.var(0) ** 2).clamp_min(0) / len(samples)

    rounding = 1e-6 * float(theirs.abs().max())
    z_mean = (ours.mean(0) - theirs.mean(0)).abs() / (
        ours.var(0) / len(ours) + theirs.var(0) / len(theirs) + rounding**2
    ).sqrt()
    z_variance = (ours.var(0) - theirs.var(0)).abs() / (
        error_of_variance(ours) + error_of_variance(theirs) + rounding**2
    ).sqrt()
    worst = max(float(z_mean.max()), float(z_variance.max()))
    ratio = float(ours.var(0).mean() / theirs.var(0).mean().clamp_min(1e-30))
    return (
        worst,
        f"z of mean {float(z_mean.max()):.1f}, of variance {float(z_variance.max()):.1f}, variance ratio {ratio:.3f}",
    )


def check_statistics(case: Case, net: nn.Module, x: Tensor, sites: Any) -> None:
    """T = 400 against plain PyTorch at |z| < 4; what fails is tried once more with other numbers and T = 1600, against chance."""
    text = ""
    for attempt, T in enumerate((400, 1600)):
        torch.manual_seed(100 + attempt)
        random.seed(100 + attempt)
        np.random.seed(100 + attempt)  # noqa: NPY002
        passes, strategy = engine(case, net, x, 3 + attempt, sites)
        ours = logits(case, passes, x, [torch.arange(T)], strategy)
        z, text = largest_z(ours, plain_passes(case, x, T, case.reference if sites is None else sites))
        if z < 4:
            return
    raise Wrong(f"SILENT, other statistics than PyTorch: {text}")


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The largest difference of any score, in units of the largest value of that score or of 1 nat."""
    return max(
        float((a[key] - b[key]).abs().max()) / max(1.0, float(a[key].abs().max()))
        for key in ("entropy", "bald", "mean_std")
    )


def score(case: Case, net: nn.Module, x: Tensor, options: Mapping[str, Any]) -> None:
    """Score in one batch, one by one, and again in another order by a scorer that was prepared with other items first."""
    settings = {"transform": case.transform, **case.options, **options}

    def scorer(masks: str = "independent") -> mcscore.Scorer:
        return mcscore.Scorer(net, 12, ("entropy", "bald", "mean_std"), **grouped(masks=masks, **settings))

    for masks in ("shared", "independent"):
        with untouched(net, f"scoring with {masks} masks", case.ignore):
            ours = scorer(masks)
            whole = ours(x, IDS)
            single = [ours(x[i : i + 1], IDS[i : i + 1]) for i in range(ITEMS)]
        difference = distance(whole, {key: torch.cat([part[key] for part in single]) for key in whole})
        if not difference < 1e-5:
            raise Wrong(f"BATCH DEPENDENT, {masks} masks: one batch against one by one {difference:.1e}")
    torch.rand(7), random.random(), np.random.rand(3)  # noqa: NPY002
    order = np.arange(ITEMS)[::-1].copy()
    with untouched(net, "scoring again", case.ignore):
        again = scorer()(x[order], IDS[order])
    difference = distance(whole, {key: value[order] for key, value in again.items()})
    if not difference < 1e-5:
        raise Wrong(f"NOT REPEATABLE: another order, other generator states {difference:.1e}")


def outcome(case: Case, options: Mapping[str, Any]) -> tuple[str, str]:
    """("driven", "") or ("refused", message). Wrong: the model or a generator changed, scores depend on the batch, a crash."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    net, x = made(case), case.data(ITEMS)
    if case.warm:  # caches and weights are as a user has them
        call(net, case.transform(x[:3].clone()) if case.transform else x[:3].clone())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sites = options.get("sites")
        try:
            score(case, net, x, options)
            with untouched(net, "passes", case.ignore):
                check_chunks(case, net, x, sites)
            check_statistics(case, net, x, sites)
        except ValueError as error:
            return "refused", f"{type(error).__name__}: {error}"
        except Wrong:
            raise
        except Exception as error:
            raise Wrong(f"CRASH: {type(error).__name__}: {str(error)[:300]}") from error
    return "driven", ""


def check(name: str) -> str:
    """Raise Wrong unless the case comes out as it should; returns what became of it."""
    case = CASES[name]
    became, message = outcome(case, {})
    if became == "refused":
        if case.expect == "driven":
            raise Wrong(f"REFUSED, should be driven: {message[:400]}")
        missing = [pattern for pattern in case.says if not re.search(pattern, message)]
        if missing:
            raise Wrong(f"REFUSAL does not say {missing}: {message[:400]}")
        if case.way is not None:
            for argument in case.way:
                if f"{argument}=" not in message:
                    raise Wrong(f"REFUSAL does not advise {argument}=: {message[:400]}")
            became_then, message_then = outcome(case, case.way)
            if became_then != "driven":
                raise Wrong(f"ADVICE {dict(case.way)} fails: {message_then[:400]}")
    elif case.expect == "refused":
        raise Wrong("DRIVEN, should be refused")
    return f"{became} {message}".strip()
