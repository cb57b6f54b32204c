"""The probe: what a model calls at random in training mode, on copies of it, with nothing random that mcscore can drive.

Masks keep everything and draws are constants meanwhile, so every generator must stay where it was, and a second run must end alike:
else something is random that is not seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ...errors import SiteError
from ..guard.state import private_copy
from ..ops.dropout import AffineOf, Quiet
from ..ops.intercept import Call, Interceptor, call_model, is_dense, is_normalization
from . import generators
from .sites import part_name


@dataclass(frozen=True)
class Signature:
    """What must be equal of a call in training mode and in evaluation mode for the two to be the same."""

    function: str
    p: float | None
    owner: str

    @staticmethod
    def of(call: Call, paths: Mapping[int, str]) -> Signature:
        p = call.kind.probability(call.arguments) if call.kind is not None else 0.0
        return Signature(call.function.__name__, p, paths.get(id(call.owner), ""))


@dataclass
class Seen:
    """What one quiet forward pass met."""

    calls: dict[str, tuple[Call, Signature]] = field(default_factory=dict)
    # At each site: shape, rank of its mask.
    shapes: dict[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    output: Any = None

    @property
    def live(self) -> dict[str, Signature]:
        return {name: s for name, (call, s) in self.calls.items() if call.live and call.kind is not None}

    @property
    def undriven(self) -> dict[str, Call]:
        return {name: call for name, (call, _) in self.calls.items() if call.live and call.kind is None}

    def add(self, other: Seen) -> None:
        """What another pass met and this one did not."""
        self.calls = {**other.calls, **self.calls}
        self.shapes = {**self.shapes, **{n: v for n, v in other.shapes.items() if n not in self.shapes}}
        self.tensors = {**other.tensors, **self.tensors}


class _Look:
    """The source of one call in a quiet pass: keeps shapes and tensors of the sites as they are met."""

    def __init__(self, call: Call, seen: Seen, quiet: Quiet) -> None:
        self._call, self._seen, self._quiet = call, seen, quiet

    def _note(self, x: Tensor, mask_rank: int, part: int = 0) -> None:
        name = part_name(self._call.name, part)
        self._seen.shapes.setdefault(name, (tuple(x.shape), mask_rank))
        self._seen.tensors.setdefault(name, x.detach().clone())

    def __call__(self, x: Tensor, mask_rank: int, affine: AffineOf, inplace: bool = False, part: int = 0) -> Tensor:
        self._note(x, mask_rank, part)
        return self._quiet(x, mask_rank, affine, inplace, part)

    def draw(self, like: Tensor, law: str) -> Tensor:
        self._note(like, like.ndim)
        return self._quiet.draw(like, law)

    def bernoulli(self, like: Tensor, p: float | Tensor) -> Tensor:
        self._note(like, like.ndim)
        return self._quiet.bernoulli(like, p)

    def fill(self, x: Tensor, value: Tensor) -> Tensor:
        return self._quiet.fill(x, value)


def quiet_pass(
    model: nn.Module,
    inputs: Any,
    quiet: Quiet,
    weight_p: float | None,
    watch: generators.Watch | None = None,
    fixed: Collection[str] = (),
) -> Seen:
    """One forward pass of the model as its flags stand, in which nothing is random that mcscore can drive."""
    paths = {id(module): name for name, module in model.named_modules()}
    seen = Seen()

    def handler(call: Call) -> Any:
        if call.name in fixed:
            result = call.execute()
            if watch is not None:
                watch.settle()
            return result
        seen.calls[call.name] = (call, Signature.of(call, paths))
        if call.kind is None:
            result = call.execute()
            if watch is not None and call.live:
                watch.settle()  # it is named already
            return result
        if not call.live and not call.kind.draws:
            return call.execute()
        return call.kind.run(call.arguments, _Look(call, seen, quiet))

    with Interceptor(model, handler, weight_p):
        seen.output = call_model(model, tree_map_only(Tensor, torch.clone, inputs))
    return seen


# A draw may decide which calls are made (LayerDrop), so both ends of its range are tried.
KEEP, _DROP = Quiet(), Quiet(0.0, 0.0)


@dataclass(frozen=True)
class Probed:
    seen: Seen
    unseen: tuple[str, ...]  # modules that are random in a way that no call shows
    ends: tuple[Quiet, ...]  # the constants for draws under which all calls were met
    fixed: frozenset[str] = frozenset()  # see Discovery


def probe(model: nn.Module, inputs: Any, weight_p: float | None) -> Probed:
    """Every stochastic call of training-mode passes, by name."""
    try:
        fixed = _fixed_draws(model, inputs, weight_p)
        first, watch = _training_pass(model, inputs, KEEP, weight_p, fixed)
        second, watch_2 = _training_pass(model, inputs, KEEP, weight_p, fixed)
        unseen = list(watch.moved)
        if not unseen and not first.undriven:
            differs = generators.first_difference(watch, watch_2)
            if differs is None and (list(first.calls) != list(second.calls) or not alike(first.output, second.output)):
                differs = type(model).__name__
            if differs is not None:
                unseen.append(f"{differs} (two passes of equal copies differ)")
    except Exception as error:
        if isinstance(error, SiteError):
            raise
        raise SiteError(
            f"{type(model).__name__} failed in the training-mode probe that finds its dropout sites: {type(error).__name__}: {error}. "
            "If its forward needs targets in training mode, wrap it in a module that scores without them"
        ) from error
    ends = [KEEP]
    if any(call.kind is not None and call.kind.draws for call, _ in first.calls.values()):
        with contextlib.suppress(Exception):  # dropping everything at once need not work, and then shows no calls
            other, _ = _training_pass(model, inputs, _DROP, weight_p, fixed)
            if set(other.calls) - set(first.calls):
                first.add(other)
                ends.append(_DROP)
    return Probed(first, tuple(dict.fromkeys(unseen)), tuple(ends), fixed)


def _fixed_draws(model: nn.Module, inputs: Any, weight_p: float | None) -> frozenset[str]:
    """Draws and dropout for which the generator stands alike in two passes though it began otherwise: the model seeds it anew.

    Raises SiteError if a draw is made in the first pass of a model alone.
    """
    twin = _in_training(private_copy(model))
    states: list[dict[str, bytes]] = []
    live: list[set[str]] = []
    for run in range(2):
        seen: dict[str, bytes] = {}
        names: set[str] = set()
        quiet = Quiet()

        def handler(call: Call, seen: dict[str, bytes] = seen, names: set[str] = names, quiet: Quiet = quiet) -> Any:
            if call.kind is None or not (call.live or call.kind.draws):
                return call.execute()
            tensors = [x for x in tree_leaves((call.args, dict(call.kwargs))) if isinstance(x, Tensor)]
            device = torch.device(call.kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
            seen[call.name] = generators.before_call(call.kwargs.get("generator"), device)
            if not call.kind.draws:
                return call.kind.run(call.arguments, quiet)
            names.add(call.name)
            call.execute()  # as the model has it, so that the generator moves; its numbers might decide which calls are made
            return call.kind.run(call.arguments, quiet)

        torch.manual_seed(run)
        with torch.no_grad(), Interceptor(twin, handler, weight_p):
            call_model(twin, tree_map_only(Tensor, torch.clone, inputs))
        states.append(seen)
        live.append(names)
    once = live[0] - live[1]
    if once:
        raise SiteError(
            f"{type(model).__name__}: {', '.join(sorted(once))} is drawn in the first forward pass only, as an initialization is. Run the "
            "model once on some items before it is scored"
        )
    return frozenset(name for name, state in states[0].items() if states[1].get(name) == state)


def _training_pass(
    model: nn.Module, inputs: Any, quiet: Quiet, weight_p: float | None, fixed: Collection[str]
) -> tuple[Seen, generators.Watch]:
    twin = _in_training(private_copy(model))
    watch = generators.Watch(twin)
    flags = [(module, module.training) for module in model.modules()]
    try:
        # Code that holds on to the original (a lambda made in __init__) must see training mode too.
        for module, _ in flags:
            module.training = not is_normalization(module)
        with torch.no_grad(), watch:
            seen = quiet_pass(twin, inputs, quiet, weight_p, watch, fixed)
    finally:
        for module, flag in flags:
            module.training = flag
    return seen, watch


def _in_training(twin: nn.Module) -> nn.Module:
    twin.train()
    for module in twin.modules():
        if is_normalization(module):
            module.training = False
    return twin


def alike(one: Any, other: Any) -> bool:
    """Whether two outputs are equal up to rounding."""
    ours, theirs = tree_leaves(one), tree_leaves(other)
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, Tensor) != isinstance(b, Tensor):
            return False
        if not isinstance(a, Tensor):
            continue
        if is_dense(a) != is_dense(b) or (is_dense(a) and a.shape != b.shape):
            return False
        if a.is_floating_point() and is_dense(a):
            scale = float(a.detach().float().masked_fill(~a.isfinite(), 0.0).abs().amax()) if a.numel() else 0.0
            close = max(1e-5, 8 * torch.finfo(a.dtype).eps)
            if not torch.allclose(a, b, rtol=10 * close, atol=close * scale + 1e-7, equal_nan=True):
                return False
    return True
