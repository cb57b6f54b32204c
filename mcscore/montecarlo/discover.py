"""Which sites a model has: a probe finds them, a trace measures them, and nothing is taken on trust.

1. *Probe.* Two items go through a private copy of the model in training mode (normalisation layers stay in evaluation),
   with every stochastic call intercepted. What would drop there is the list of sites. This finds what lists of module
   classes miss: functional dropout, ``dropout_p=self.p if self.training else 0``, attention dropout, stochastic depth.
2. *Trace.* The user's model in evaluation mode must reach the same calls. Where one hides behind ``if self.training``,
   its owner alone (never a normalisation layer, never its children) is put in training mode for the length of a forward
   pass.
3. *Shapes.* Two items, then three: the one dimension that grows by half is where a site's tensor holds the items.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..kernels import backends
from ..masks import MAX_SITES, rate
from .exclusive import exclusive
from .intercept import Call, Interceptor, call_model, is_dense, is_normalisation, without_statistics
from .kinds import WEIGHTS, AffineOf


class SiteError(ValueError):
    """A model's dropout is missing, cannot be driven, or did not fire. The message names the sites."""


@dataclass(frozen=True)
class Site:
    """One place in the model where dropout acts."""

    index: int  # order of first execution; part of the mask's definition
    name: str
    kind: str
    p: float  # of dropping, in scoring (masks realise it to within 2^-17)
    model_p: float  # as the model has it
    shape: tuple[int, ...]  # of the masked tensor for one item, the item's own axis left out
    axis: (
        int | None
    )  # dimension of the masked tensor that runs over items; None: no item axis, one mask per pass for all items
    rows: int  # rows of that axis that belong to one item (heads, patches), item after item
    mask_rank: int  # leading dimensions of the tensor with mask elements of their own
    active: bool = True

    def __str__(self) -> str:
        return f"site {self.index} ({self.name}: {self.kind}, p={self.p:g})"


def part_name(call: str, part: int) -> str:
    """Several sites of one call are numbered behind a slash: rnn, rnn/1, rnn/2."""
    return f"{call}/{part}" if part else call


def call_name(site: str) -> str:
    return site.partition("/")[0]


@dataclass(frozen=True)
class Discovery:
    sites: tuple[Site, ...]
    idle: tuple[str, ...]  # stochastic calls that do nothing even in training (p = 0, training=False)
    training: tuple[str, ...]  # modules that must be in training mode for their sites to be reached
    weight_p: float | None = None  # weights of Linear and convolution are dropped with this probability


@dataclass(frozen=True)
class _Seen:
    """What a deterministic pass in evaluation mode met."""

    calls: dict[str, _Signature]
    shapes: dict[str, tuple[tuple[int, ...], int]]  # of the masked tensor, and the rank of its mask
    tensors: dict[str, Tensor]
    outputs: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class _Signature:
    """What must be equal of a call in training mode and in evaluation mode for the two to be the same."""

    function: str
    p: float
    owner: str

    @staticmethod
    def of(call: Call, paths: Mapping[int, str]) -> _Signature:
        p = call.kind.probability(call.arguments) if call.kind is not None else 0.0
        return _Signature(call.function.__name__, float(p), paths.get(id(call.owner), ""))


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy that shares the parameters (never written here) and owns its buffers and Python state."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    try:
        return copy.deepcopy(model, shared)
    except Exception as error:
        raise SiteError(
            f"{type(model).__name__} cannot be copied for the training-mode probe ({type(error).__name__}: {error}); "
            "give its class a __deepcopy__, or wrap it in a plain nn.Module"
        ) from error


@contextlib.contextmanager
def evaluating(model: nn.Module, training: Sequence[str] = ()) -> Iterator[None]:
    """Evaluation mode but for the named modules, without gradients; every flag is put back, also after an exception."""
    with exclusive(model):
        flags = [(module, module.training) for module in model.modules()]
        try:
            for name, module in model.named_modules():
                module.training = name in training
            with torch.no_grad():
                yield
        finally:
            for module, flag in flags:
                module.training = flag


def probe(model: nn.Module, inputs: Any, weight_p: float | None = None) -> dict[str, tuple[Call, _Signature]]:
    """Every stochastic call of one training-mode pass, by name."""
    twin = private_copy(model)
    twin.train()
    for module in twin.modules():
        if is_normalisation(module):
            module.training = False
    paths = {id(module): name for name, module in twin.named_modules()}
    calls: dict[str, tuple[Call, _Signature]] = {}

    def handler(call: Call) -> Any:
        calls[call.name] = (call, _Signature.of(call, paths))
        return call.execute() if call.kind is None else call.kind.without_dropping(call.arguments)

    class Probe(Interceptor):
        def other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            return without_statistics(func, args, kwargs)

    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), Probe(twin, handler, weight_p):
            call_model(twin, inputs)
    except Exception as error:
        raise SiteError(
            f"{type(model).__name__} failed in the training-mode probe that finds its dropout sites: {type(error).__name__}: {error}. "
            "If its forward needs targets in training mode, wrap it in a module that scores without them"
        ) from error
    return calls


def _trace(
    model: nn.Module, inputs: Any, live: Collection[str], training: Sequence[str], weight_p: float | None
) -> _Seen:
    """One deterministic pass in evaluation mode."""
    paths = {id(module): name for name, module in model.named_modules()}
    seen = _Seen({}, {}, {})

    def handler(call: Call) -> Any:
        seen.calls[call.name] = _Signature.of(call, paths)
        if call.name not in live or call.kind is None:
            return call.execute()

        def look(x: Tensor, mask_rank: int, affine: AffineOf, inplace: bool = False, part: int = 0) -> Tensor:
            name = part_name(call.name, part)
            seen.shapes[name] = (tuple(x.shape), mask_rank)
            seen.tensors[name] = x.detach()
            return x

        return call.kind.run(call.arguments, look)

    with evaluating(model, training), Interceptor(model, handler, weight_p):
        seen.outputs.append(call_model(model, inputs))
    return seen


def _reach(
    model: nn.Module,
    inputs: Any,
    live: Mapping[str, _Signature],
    expected: Mapping[str, _Signature],
    weight_p: float | None,
    chosen: Sequence[str | int] | None,
) -> tuple[_Seen, tuple[str, ...]]:
    """A trace that meets every live site as training mode does, and the modules that had to be in training mode for it.

    Sites that are not chosen by name may be missing: heads that only training has.
    """
    seen = _trace(model, inputs, live, (), weight_p)
    training: tuple[str, ...] = ()
    if {name: seen.calls.get(name) for name in live} != live or set(seen.calls) != set(expected):
        # Some call hides behind ``if self.training``, or its p does: nn.MultiheadAttention passes 0 in evaluation.
        # Calls are counted per owner, so one that is missing would also shift the names of those after it: compare
        # owner by owner.
        both = {s.owner for s in (*seen.calls.values(), *expected.values())}
        training = tuple(
            sorted(o for o in both if _of_owner(seen.calls, o) != _of_owner(expected, o) and _of_owner(live, o))
        )
        named = dict(model.named_modules())
        norms = [owner for owner in training if is_normalisation(named[owner])]
        if norms:
            raise SiteError(f"dropout inside normalisation layers cannot be driven: {', '.join(norms)}")
        seen = _trace(model, inputs, live, training, weight_p)
    missing = [
        f"{name} ({s.function}, p={s.p:g})"
        for name, s in live.items()
        if seen.calls.get(name) != s
        and (chosen is None or any(isinstance(pattern, str) and fnmatchcase(name, pattern) for pattern in chosen))
    ]
    if missing:
        raise SiteError(
            f"these sites drop in training mode but evaluation mode does not reach them in the same way: {'; '.join(missing)}. "
            "If only training has them (auxiliary heads), choose the others with sites=[...]"
        )
    return seen, training


def _of_owner(calls: Mapping[str, _Signature], owner: str) -> dict[str, _Signature]:
    return {name: signature for name, signature in calls.items() if signature.owner == owner}


def discover(
    model: nn.Module,
    inputs_2: Any,
    inputs_3: Any,
    chosen: Sequence[str | int] | None = None,
    p: float | Mapping[str | int, float] | None = None,
    weight_p: float | None = None,
) -> Discovery:
    """Find the sites of ``model`` with two and with three items as input, the same two first.

    chosen: names (shell patterns) or indices of the sites to use; the others are switched off. None: all.
    p: a drop probability for all sites, or by name (shell pattern) or index, instead of the model's own.
    weight_p: for a model without dropout, drop the weights of Linear and convolution with this probability.
    Raises SiteError: no dropout at all, randomness that cannot be driven, a site that evaluation mode cannot reach, a
    site whose tensor holds the items in a way that cannot be followed, a name that matches nothing.
    """
    who = type(model).__name__
    calls = probe(model, inputs_2, weight_p)
    undriven = [
        f"{name} ({call.function.__name__})" for name, (call, _) in calls.items() if call.live and call.kind is None
    ]
    live = {name: signature for name, (call, signature) in calls.items() if call.live and call.kind is not None}
    if undriven and (chosen is None or not live):
        raise SiteError(
            f"{who} draws randomness in training mode that masks cannot drive: {'; '.join(undriven)}. "
            "Remove it, guard it, or choose the dropout sites to use with sites=[...] to leave it off"
        )
    if not live:
        off = ", ".join(calls) or "none"
        raise SiteError(
            f"{who} has no live dropout: all passes would be equal (stochastic calls that do nothing: {off}). Score a model "
            "that was trained with dropout, set p > 0 on its dropout layers, drop weights instead with weight_dropout=0.1, "
            "or feed passes of another posterior (an ensemble, Laplace samples) to mcscore.Moments"
        )
    own = [name for name, (call, _) in calls.items() if name in live and call.function not in WEIGHTS]
    if weight_p is not None and own:
        raise SiteError(f"weight_dropout is for models without dropout; {who} has {', '.join(own)}")
    expected = {name: signature for name, (_, signature) in calls.items()}
    seen, training = _reach(model, inputs_2, live, expected, weight_p, chosen)
    seen_3 = _trace(model, inputs_3, live, training, weight_p)
    sites = []
    for index, name in enumerate(seen.shapes):
        kind = calls[call_name(name)][0].kind
        assert kind is not None
        shape_3 = seen_3.shapes.get(name, ((), 0))[0]
        sites.append(_site(index, name, live[call_name(name)].p, kind.name, *seen.shapes[name], shape_3))
    if len(sites) > MAX_SITES:
        raise SiteError(f"{len(sites)} sites; the mask counter has room for {MAX_SITES}")
    if any(site.axis is not None for site in sites):
        swapped = tree_map_only(Tensor, lambda x: x.flip(0) if x.ndim and x.shape[0] == 2 else x, inputs_2)
        _check_order(sites, seen.tensors, _trace(model, swapped, live, training, weight_p).tensors)
    _check_independence(who, sites, seen, seen_3)
    idle = tuple(name for name in calls if name not in live)
    return Discovery(_choose(_with_p(sites, p), chosen), idle, training, weight_p)


def _site(
    index: int, name: str, p: float, kind: str, shape: tuple[int, ...], mask_rank: int, shape_3: tuple[int, ...]
) -> Site:
    axis, rows = _item_axis(name, shape, shape_3)
    if axis is not None and axis >= mask_rank:
        raise SiteError(
            f"site {index} ({name}, {kind} on {shape}) reads its input as one unbatched item, so one mask would cover "
            "several items of the batch; give it a tensor with a batch dimension"
        )
    item_shape = tuple(n for d, n in enumerate(shape) if d != axis)
    return Site(index, name, kind, p, p, item_shape if rows == 1 else (rows, *item_shape), axis, rows, mask_rank)


def _item_axis(name: str, shape_2: tuple[int, ...], shape_3: tuple[int, ...]) -> tuple[int | None, int]:
    if len(shape_2) != len(shape_3):
        raise SiteError(
            f"site {name}: its tensor is {shape_2} for two items and {shape_3} for three; the rank must not depend on the batch"
        )
    grown = [d for d, (n2, n3) in enumerate(zip(shape_2, shape_3, strict=True)) if n2 != n3]
    if not grown:
        return None, 1
    if len(grown) > 1 or shape_2[grown[0]] * 3 != shape_3[grown[0]] * 2:
        raise SiteError(
            f"site {name}: its tensor is {shape_2} for two items and {shape_3} for three, so no single dimension holds the items; "
            "a mask per item cannot be defined there"
        )
    return grown[0], shape_2[grown[0]] // 2


def _check_order(sites: Sequence[Site], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Swapping the two items of the input must swap them in every site's tensor, and change nothing else.

    Otherwise the rows are in another order than the items (sorted by length, patch after patch), or one item's values
    depend on its neighbours: masks and scores would depend on the batch.
    """
    for site in sites:
        if site.axis is None:
            continue
        first, second = before[site.name].movedim(site.axis, 0), after[site.name].movedim(site.axis, 0)
        swapped = first.roll(site.rows, 0)
        if torch.equal(first, swapped):
            if site.rows > 1:
                backends.warn_once(
                    f"{site}: the two probe items look alike, so the order of its {site.rows} rows per item could not be verified"
                )
        elif not torch.allclose(swapped, second, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise SiteError(
                f"{site}: swapping two items of the batch does not swap their {'' if site.rows == 1 else f'{site.rows} '}rows in "
                f"dimension {site.axis} of its input. Keep the items in order, item after item, and independent of each other"
            )


def _check_independence(who: str, sites: Sequence[Site], two: _Seen, three: _Seen) -> None:
    """A third item must not change what becomes of the first two: batch statistics in evaluation, attention across items."""
    pairs = [
        (str(site), two.tensors[site.name].movedim(site.axis, 0), three.tensors[site.name].movedim(site.axis, 0))
        for site in sites
        if site.axis is not None
    ]
    (output_2,), (output_3,) = two.outputs, three.outputs
    if all(isinstance(x, Tensor) and is_dense(x) and x.ndim and x.is_floating_point() for x in (output_2, output_3)):
        pairs.append(("the output", output_2, output_3))
    for where, alone, together in pairs:
        if alone.shape[1:] != together.shape[1:] or len(alone) * 3 != len(together) * 2:
            continue
        scale = float(alone.nan_to_num(0.0, 0.0, 0.0).abs().max()) if alone.numel() else 0.0
        if not torch.allclose(alone, together[: len(alone)], rtol=1e-2, atol=1e-2 * scale + 1e-6, equal_nan=True):
            raise SiteError(
                f"{who}: {where} of two items changes when a third joins the batch, so scores would depend on the batch. "
                "Does a layer use the statistics of the batch (BatchNorm without running statistics), or items see each other?"
            )


def _with_p(sites: Sequence[Site], p: float | Mapping[str | int, float] | None) -> list[Site]:
    """The sites with the probabilities asked for, each checked against what random bits can tell apart."""
    wanted: Mapping[str | int, float] = {} if p is None else p if isinstance(p, Mapping) else {"*": p}
    chosen = {site.index: site.p for site in sites}
    for pattern, value in wanted.items():
        for index in _matching(sites, pattern):
            if sites[index].kind == "bernoulli_":
                raise SiteError(f"{sites[index]} divides by its own keep probability; set p in the model instead")
            chosen[index] = float(value)
    for index, value in chosen.items():
        if value != 1.0:
            try:
                rate(value)
            except ValueError as error:
                raise SiteError(f"site {index} ({sites[index].name}): {error}") from None
    return [replace(site, p=chosen[site.index]) for site in sites]


def _matching(sites: Sequence[Site], pattern: str | int) -> set[int]:
    hits = {
        s.index for s in sites if (s.index == pattern if isinstance(pattern, int) else fnmatchcase(s.name, pattern))
    }
    if not hits:
        raise SiteError(f"sites: {pattern!r} matches none of {', '.join(f'{s.index} {s.name}' for s in sites)}")
    return hits


def _choose(sites: Sequence[Site], chosen: Sequence[str | int] | None) -> tuple[Site, ...]:
    if chosen is None:
        return tuple(sites)
    wanted = set[int]().union(*(_matching(sites, pattern) for pattern in chosen))
    return tuple(replace(s, active=s.index in wanted) for s in sites)
