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
from ..ops.dropout import AffineOf, ConstantSource
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
        """The signature of a call; ``paths`` names the modules by id."""
        p = call.op.probability(call.arguments) if call.op is not None else 0.0
        return Signature(call.function.__name__, p, paths.get(id(call.owner), ""))


@dataclass
class PassRecord:
    """What one forward pass with constants met."""

    calls: dict[str, tuple[Call, Signature]] = field(default_factory=dict)
    # At each site: shape, rank of its mask.
    shapes: dict[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    output: Any = None

    @property
    def random_calls(self) -> dict[str, Signature]:
        """Calls that would draw or drop as they stand, and that masks can drive."""
        return {name: s for name, (call, s) in self.calls.items() if call.is_random and call.op is not None}

    @property
    def unsupported(self) -> dict[str, Call]:
        """Calls that are random as they stand, and that masks cannot drive."""
        return {name: call for name, (call, _) in self.calls.items() if call.is_random and call.op is None}

    def add(self, other: PassRecord) -> None:
        """What another pass met and this one did not."""
        self.calls = {**other.calls, **self.calls}
        self.shapes = {**self.shapes, **{n: v for n, v in other.shapes.items() if n not in self.shapes}}
        self.tensors = {**other.tensors, **self.tensors}


class _RecordingSource:
    """The source of one call in a pass with constants: keeps shapes and tensors of the sites as they are met."""

    def __init__(self, call: Call, seen: PassRecord, constants: ConstantSource) -> None:
        self._call, self._seen, self._constants = call, seen, constants

    def _note(self, x: Tensor, mask_rank: int, part: int = 0) -> None:
        name = part_name(self._call.name, part)
        self._seen.shapes.setdefault(name, (tuple(x.shape), mask_rank))
        self._seen.tensors.setdefault(name, x.detach().clone())

    def __call__(self, x: Tensor, mask_rank: int, affine: AffineOf, inplace: bool = False, part: int = 0) -> Tensor:
        self._note(x, mask_rank, part)
        return self._constants(x, mask_rank, affine, inplace, part)

    def draw(self, like: Tensor, law: str) -> Tensor:
        self._note(like, like.ndim)
        return self._constants.draw(like, law)

    def bernoulli(self, like: Tensor, p: float | Tensor) -> Tensor:
        self._note(like, like.ndim)
        return self._constants.bernoulli(like, p)

    def fill(self, x: Tensor, value: Tensor) -> Tensor:
        return self._constants.fill(x, value)


def constant_pass(
    model: nn.Module,
    inputs: Any,
    constants: ConstantSource,
    weight_p: float | None,
    watch: generators.GeneratorWatch | None = None,
    reseeded: Collection[str] = (),
) -> PassRecord:
    """One forward pass of the model as its flags stand, in which nothing is random that mcscore can drive."""
    paths = {id(module): name for name, module in model.named_modules()}
    seen = PassRecord()

    def handler(call: Call) -> Any:
        if call.name in reseeded:
            result = call.execute()
            if watch is not None:
                watch.settle()
            return result
        seen.calls[call.name] = (call, Signature.of(call, paths))
        if call.op is None:
            result = call.execute()
            if watch is not None and call.is_random:
                watch.settle()  # it is named already
            return result
        if not call.is_random and not call.op.draws:
            return call.execute()
        return call.op.run(call.arguments, _RecordingSource(call, seen, constants))

    with Interceptor(model, handler, weight_p):
        seen.output = call_model(model, tree_map_only(Tensor, torch.clone, inputs))
    return seen


# A draw may decide which calls are made (LayerDrop), so both extremes of its range are tried.
KEEP, _DROP = ConstantSource(), ConstantSource(0.0, 0.0)


@dataclass(frozen=True)
class ProbeResult:
    """What training-mode passes of copies showed."""

    seen: PassRecord
    hidden: tuple[str, ...]  # modules that are random in a way that no call shows
    extremes: tuple[ConstantSource, ...]  # the constants for draws under which all calls were met
    reseeded: frozenset[str] = frozenset()  # see Discovery


def probe(model: nn.Module, inputs: Any, weight_p: float | None) -> ProbeResult:
    """Every stochastic call of training-mode passes, by name."""
    try:
        reseeded = _reseeded_draws(model, inputs, weight_p)
        first, watch = _training_pass(model, inputs, KEEP, weight_p, reseeded)
        second, watch_2 = _training_pass(model, inputs, KEEP, weight_p, reseeded)
        hidden = list(watch.moved)
        if not hidden and not first.unsupported:
            differs = generators.first_difference(watch, watch_2)
            if differs is None and (
                list(first.calls) != list(second.calls) or not outputs_close(first.output, second.output)
            ):
                differs = type(model).__name__
            if differs is not None:
                hidden.append(f"{differs} (two passes of equal copies differ)")
    except Exception as error:
        if isinstance(error, SiteError):
            raise
        raise SiteError(
            f"{type(model).__name__} failed in the training-mode probe that finds its dropout sites: {type(error).__name__}: {error}. "
            "If its forward needs targets in training mode, wrap it in a module that scores without them"
        ) from error
    extremes = [KEEP]
    if any(call.op is not None and call.op.draws for call, _ in first.calls.values()):
        with contextlib.suppress(Exception):  # dropping everything at once need not work, and then shows no calls
            other, _ = _training_pass(model, inputs, _DROP, weight_p, reseeded)
            if set(other.calls) - set(first.calls):
                first.add(other)
                extremes.append(_DROP)
    return ProbeResult(first, tuple(dict.fromkeys(hidden)), tuple(extremes), reseeded)


def _reseeded_draws(model: nn.Module, inputs: Any, weight_p: float | None) -> frozenset[str]:
    """Draws and dropout for which the generator stands alike in two passes though it began otherwise: the model seeds it anew.

    Raises SiteError if a draw is made in the first pass of a model alone.
    """
    twin = _in_training(private_copy(model))
    states: list[dict[str, bytes]] = []
    drawn: list[set[str]] = []
    for run in range(2):
        seen: dict[str, bytes] = {}
        names: set[str] = set()
        constants = ConstantSource()

        def handler(
            call: Call, seen: dict[str, bytes] = seen, names: set[str] = names, constants: ConstantSource = constants
        ) -> Any:
            if call.op is None or not (call.is_random or call.op.draws):
                return call.execute()
            tensors = [x for x in tree_leaves((call.args, dict(call.kwargs))) if isinstance(x, Tensor)]
            device = torch.device(call.kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
            seen[call.name] = generators.before_call(call.kwargs.get("generator"), device)
            if not call.op.draws:
                return call.op.run(call.arguments, constants)
            names.add(call.name)
            call.execute()  # as the model has it, so that the generator moves; its numbers might decide which calls are made
            return call.op.run(call.arguments, constants)

        torch.manual_seed(run)
        with torch.no_grad(), Interceptor(twin, handler, weight_p):
            call_model(twin, tree_map_only(Tensor, torch.clone, inputs))
        states.append(seen)
        drawn.append(names)
    once = drawn[0] - drawn[1]
    if once:
        raise SiteError(
            f"{type(model).__name__}: {', '.join(sorted(once))} is drawn in the first forward pass only, as an initialization is. Run the "
            "model once on some items before it is scored"
        )
    return frozenset(name for name, state in states[0].items() if states[1].get(name) == state)


def _training_pass(
    model: nn.Module, inputs: Any, constants: ConstantSource, weight_p: float | None, reseeded: Collection[str]
) -> tuple[PassRecord, generators.GeneratorWatch]:
    twin = _in_training(private_copy(model))
    watch = generators.GeneratorWatch(twin)
    flags = [(module, module.training) for module in model.modules()]
    try:
        # Code that holds on to the original (a lambda made in __init__) must see training mode too.
        for module, _ in flags:
            module.training = not is_normalization(module)
        with torch.no_grad(), watch:
            seen = constant_pass(twin, inputs, constants, weight_p, watch, reseeded)
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


def outputs_close(one: Any, other: Any) -> bool:
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
