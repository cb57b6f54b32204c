"""Which sites a model has: a probe finds them, a trace measures them, and nothing is taken on trust.

1. *Probe.* Two items go through a private copy of the model in training mode (normalization layers stay in evaluation),
   with every stochastic call intercepted. What would drop or draw there is the list of sites. This finds what lists of module
   classes miss: functional dropout, ``dropout_p=self.p if self.training else 0``, attention dropout, stochastic depth.
   Masks keep everything and draws are constants meanwhile, so every generator must stay where it was, and a second run must
   end alike: else something is random that is not seen.
2. *Trace.* Another copy in evaluation mode must reach the same calls. Where one hides behind ``if self.training``, its owner, then
   the owner's parents are put in training mode for the length of a forward pass (never a normalization layer). With nothing
   dropped, the model must then give what it gives in evaluation.
3. *Shapes.* Two items, then three: the one dimension that grows by half is where a site's tensor holds the items.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..kernels import backends
from ..masks import MAX_SITES, rate
from . import generators
from .errors import SiteError
from .exclusive import exclusive
from .intercept import Call, Interceptor, call_model, is_normalization
from .kinds import RECURRENT, WEIGHTS, AffineOf, Quiet
from .state import Snapshot, contents, evaluating, private_copy, require_same

__all__ = ["Discovery", "Site", "SiteError", "call_name", "discover", "evaluating", "part_name"]


@dataclass(frozen=True)
class Site:
    """One place in the model where dropout acts."""

    index: int  # order of first execution; part of the mask's definition
    name: str
    kind: str
    p: float | None  # of dropping, in scoring (masks realize it to within 2^-17); None: a draw that has no such number
    model_p: float | None  # as the call has it: of dropping, or with which a Bernoulli draw is 1
    shape: tuple[int, ...]  # of the masked tensor for one item, the item's own axis left out
    axis: (
        int | None
    )  # dimension of the masked tensor that runs over items; None: no item axis, one mask per pass for all items
    rows: int  # rows of that axis that belong to one item (heads, patches), item after item
    mask_rank: int  # leading dimensions of the tensor with mask elements of their own
    active: bool = True
    draws: bool = False  # random numbers that the model draws itself, not a mask

    def __str__(self) -> str:
        return f"site {self.index} ({self.name}: {self.kind}{'' if self.p is None else f', p={self.p:g}'})"

    @property
    def drop_p(self) -> float:
        """The drop probability of a site that masks."""
        assert self.p is not None
        return self.p

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Of the tensor at this site, without the dimension that runs over the items."""
        return self.shape[1:] if self.rows > 1 else self.shape


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
    chosen: tuple[str | int, ...] | None = None  # the sites that the user asked for
    quiet: Quiet = field(default_factory=Quiet)  # what stands in for draws that are off
    written: tuple[str, ...] = ()  # buffers and attributes into which a forward pass writes
    fixed: tuple[str, ...] = ()  # draws from a generator that the model seeds anew in every pass: no randomness
    batched: tuple[bool, ...] | None = None  # which leaves of the inputs hold the items in their first dimension

    def wants(self, name: str) -> bool:
        """Whether the user's choice covers a call of this name."""
        return self.chosen is None or any(isinstance(c, str) and fnmatchcase(name, c) for c in self.chosen)


@dataclass(frozen=True)
class _Signature:
    """What must be equal of a call in training mode and in evaluation mode for the two to be the same."""

    function: str
    p: float | None
    owner: str

    @staticmethod
    def of(call: Call, paths: Mapping[int, str]) -> _Signature:
        p = call.kind.probability(call.arguments) if call.kind is not None else 0.0
        return _Signature(call.function.__name__, p, paths.get(id(call.owner), ""))


@dataclass
class _Seen:
    """What one quiet forward pass met."""

    calls: dict[str, tuple[Call, _Signature]] = field(default_factory=dict)
    shapes: dict[str, tuple[tuple[int, ...], int]] = field(
        default_factory=dict
    )  # at each site: shape, rank of its mask
    tensors: dict[str, Tensor] = field(default_factory=dict)
    output: Any = None

    @property
    def live(self) -> dict[str, _Signature]:
        return {name: s for name, (call, s) in self.calls.items() if call.live and call.kind is not None}

    @property
    def undriven(self) -> dict[str, Call]:
        return {name: call for name, (call, _) in self.calls.items() if call.live and call.kind is None}

    def add(self, other: _Seen) -> None:
        """What another pass met and this one did not."""
        self.calls = {**other.calls, **self.calls}
        self.shapes = {**self.shapes, **{n: v for n, v in other.shapes.items() if n not in self.shapes}}
        self.tensors = {**other.tensors, **self.tensors}


class _Look:
    """The source of one call in a quiet pass: keeps shapes and tensors of the sites as they are met."""

    def __init__(self, call: Call, seen: _Seen, quiet: Quiet) -> None:
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


def _quiet_pass(
    model: nn.Module,
    inputs: Any,
    quiet: Quiet,
    weight_p: float | None,
    watch: generators.Watch | None = None,
    fixed: Collection[str] = (),
) -> _Seen:
    """One forward pass of the model as its flags stand, in which nothing is random that mcscore can drive."""
    paths = {id(module): name for name, module in model.named_modules()}
    seen = _Seen()

    def handler(call: Call) -> Any:
        if call.name in fixed:
            result = call.execute()
            if watch is not None:
                watch.settle()
            return result
        seen.calls[call.name] = (call, _Signature.of(call, paths))
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


# -- 1. the probe -------------------------------------------------------------------------------------------------------

_KEEP, _DROP = Quiet(), Quiet(0.0, 0.0)
# A draw may decide which calls are made (LayerDrop), so both ends of its range are tried.


@dataclass(frozen=True)
class _Probed:
    seen: _Seen
    unseen: tuple[str, ...]  # modules that are random in a way that no call shows
    ends: tuple[Quiet, ...]  # the constants for draws under which all calls were met
    fixed: frozenset[str] = frozenset()  # see Discovery


def _probe(model: nn.Module, inputs: Any, weight_p: float | None) -> _Probed:
    """Every stochastic call of training-mode passes, by name."""
    try:
        fixed = _fixed_draws(model, inputs, weight_p)
        first, watch = _training_pass(model, inputs, _KEEP, weight_p, fixed)
        second, watch_2 = _training_pass(model, inputs, _KEEP, weight_p, fixed)
        unseen = list(watch.moved)
        if not unseen and not first.undriven:
            differs = generators.first_difference(watch, watch_2)
            if differs is None and (list(first.calls) != list(second.calls) or not _alike(first.output, second.output)):
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
    ends = [_KEEP]
    if any(call.kind is not None and call.kind.draws for call, _ in first.calls.values()):
        with contextlib.suppress(Exception):  # dropping everything at once need not work, and then shows no calls
            other, _ = _training_pass(model, inputs, _DROP, weight_p, fixed)
            if set(other.calls) - set(first.calls):
                first.add(other)
                ends.append(_DROP)
    return _Probed(first, tuple(dict.fromkeys(unseen)), tuple(ends), fixed)


def _fixed_draws(model: nn.Module, inputs: Any, weight_p: float | None) -> frozenset[str]:
    """Draws for which the generator stands alike in two passes one after the other, though it began otherwise: it is seeded anew.

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
            if not call.kind.draws:
                return call.kind.run(call.arguments, quiet)
            tensors = [x for x in tree_leaves((call.args, dict(call.kwargs))) if isinstance(x, Tensor)]
            device = torch.device(call.kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
            seen[call.name] = generators.before_call(call.kwargs.get("generator"), device)
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
) -> tuple[_Seen, generators.Watch]:
    twin = _in_training(private_copy(model))
    watch = generators.Watch(twin)
    flags = [(module, module.training) for module in model.modules()]
    try:
        for (
            module,
            _,
        ) in flags:  # code that holds on to the original (a lambda made in __init__) must see training mode too
            module.training = not is_normalization(module)
        with torch.no_grad(), watch:
            seen = _quiet_pass(twin, inputs, quiet, weight_p, watch, fixed)
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


def _alike(one: Any, other: Any) -> bool:
    """Whether two outputs are equal up to rounding."""
    ours, theirs = tree_leaves(one), tree_leaves(other)
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, Tensor) != isinstance(b, Tensor):
            return False
        if not isinstance(a, Tensor):
            continue
        if a.shape != b.shape or a.layout != b.layout:
            return False
        if a.is_floating_point() and a.layout == torch.strided:
            scale = float(a.detach().float().masked_fill(~a.isfinite(), 0.0).abs().amax()) if a.numel() else 0.0
            close = max(1e-5, 8 * torch.finfo(a.dtype).eps)
            if not torch.allclose(a, b, rtol=10 * close, atol=close * scale + 1e-7, equal_nan=True):
                return False
    return True


# -- 2. the trace -------------------------------------------------------------------------------------------------------


class _Tracer:
    """Quiet passes of a private copy in evaluation mode but for some modules, as scoring will run the model."""

    def __init__(self, model: nn.Module, weight_p: float | None, ends: Sequence[Quiet], fixed: Collection[str]) -> None:
        self.twin, self._weight_p, self._ends, self._fixed = private_copy(model), weight_p, ends, fixed
        self.moved: list[str] = []
        self.written: set[str] = set()

    def __call__(self, inputs: Any, training: Sequence[str], quiet: Quiet | None = None) -> _Seen:
        """With ``quiet``, one pass; else one for each end of the draws, together."""
        merged: _Seen | None = None
        for one in (quiet,) if quiet is not None else self._ends:
            seen = self._pass(inputs, training, one)
            if merged is None:
                merged = seen
            else:
                merged.add(seen)
        assert merged is not None
        return merged

    def _pass(self, inputs: Any, training: Sequence[str], quiet: Quiet) -> _Seen:
        weights = contents(self.twin)
        kept = Snapshot(self.twin, None)
        watch = generators.Watch(self.twin)
        with evaluating(self.twin, training, None), watch:
            try:
                seen = _quiet_pass(self.twin, inputs, quiet, self._weight_p, watch, self._fixed)
            except Exception as error:
                raise SiteError(
                    f"{type(self.twin).__name__} fails in evaluation mode with {', '.join(map(repr, training)) or 'nothing'} in training "
                    f"mode: {type(error).__name__}: {error}. Choose other sites with sites=[...]"
                ) from error
            self.written.update(kept.written())
        self.moved = watch.moved
        changed = [name for name, checksum in contents(self.twin).items() if weights.get(name) != checksum]
        if changed:
            raise SiteError(
                f"{type(self.twin).__name__}: a forward pass writes into {', '.join(changed[:5])} (modules in training mode: "
                f"{', '.join(map(repr, training)) or 'none'}). Scores would depend on what was scored before. Guard the update "
                "with torch.is_grad_enabled(), which is off while scoring"
            )
        return seen


def _reach(
    who: str, trace: _Tracer, inputs: Any, active: Mapping[str, _Signature], expected: _Seen
) -> tuple[_Seen, _Seen, tuple[str, ...], list[str]]:
    """(a pass in evaluation mode, one that meets every active site as training mode does, the modules in training mode for it, the
    sites that their owners' training mode alone did not reach).

    A draw may be made in evaluation too and only be heeded in training (LayerDrop), so its owner is always put in training mode.
    """
    named = dict(trace.twin.named_modules())
    quiet = trace(inputs, ())
    live = expected.live

    def missing(seen: _Seen) -> list[str]:
        return [name for name, s in active.items() if name not in seen.calls or seen.calls[name][1] != s]

    drawing = {s.owner for name, s in active.items() if expected.calls[name][0].kind.draws}  # type: ignore[union-attr]
    # Calls are counted per owner, so one that is missing would also shift the names of those after it: compare owner by owner.
    owners = {s.owner for s in active.values()}
    training = drawing | {o for o in owners if _of_owner(quiet.live, o) != _of_owner(live, o)}
    seen = quiet if not training else trace(inputs, _allowed(named, training))
    climbed = missing(seen)
    reach = {live[name].owner for name in climbed}
    while reach and missing(seen):  # the guard may stand in a parent: if self.training: x = self.drop(x)
        reach = {owner.rpartition(".")[0] for owner in reach}
        if reach <= training:
            break
        training |= reach
        seen = trace(inputs, _allowed(named, training))
        reach = {live[name].owner for name in missing(seen)} | (reach - {""})
    if missing(seen):
        everything = _allowed(named, named)
        whole = trace(inputs, everything)
        if not missing(whole):
            seen, training = whole, set(everything)
    if lost := missing(seen):
        norms = [live[name].owner for name in lost if is_normalization(named[live[name].owner])]
        if norms:
            raise SiteError(f"{who}: dropout inside normalization layers cannot be driven: {', '.join(norms)}")
        raise _unreached(who, lost, live)
    return quiet, seen, _allowed(named, training), climbed


def _unreached(who: str, lost: Sequence[str], live: Mapping[str, _Signature]) -> SiteError:
    listed = "; ".join(f"{name} ({live[name].function}{_with_number(live[name].p)})" for name in lost)
    return SiteError(
        f"{who}: these sites drop in training mode but evaluation mode does not reach them in the same way: {listed}. "
        "If only training has them (auxiliary heads), choose the others with sites=[...]. If a module's own train() does more "
        "than set its flag (LoRA weights that it merges and takes apart), call model.train() before scoring"
    )


def _with_number(p: float | None) -> str:
    return "" if p is None else f", p={p:g}"


def _allowed(named: Mapping[str, nn.Module], training: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in training if not is_normalization(named[name])))


def _of_owner(calls: Mapping[str, _Signature], owner: str) -> dict[str, _Signature]:
    return {name: signature for name, signature in calls.items() if signature.owner == owner}


def _find_quiet(
    who: str,
    trace: _Tracer,
    inputs: Any,
    seen: _Seen,
    reference: Any,
    training: tuple[str, ...],
    drawing: set[str],
    climbed: Sequence[str],
) -> tuple[Quiet | None, dict[str, float]]:
    """The constants for draws under which the driven model gives what it gives in evaluation, measured; None: there are none.

    Also how far from it each constant of the Bernoulli draws leads, which tells whether 1 means keep or drop.
    """
    hits = (1.0, 0.0, None) if any(s.function.startswith("bernoulli") for s in seen.live.values()) else (1.0,)
    draws = any(call.kind is not None and call.kind.draws for call, _ in seen.calls.values())
    uniforms = (None, 0.0, 0.5) if draws else (None,)
    distance: dict[str, float] = {}
    found = None
    for hit in hits:
        for uniform in uniforms:
            quiet = Quiet(uniform, hit)
            try:
                output = trace(inputs, training, quiet).output
            except SiteError:
                raise
            except Exception:
                continue
            if uniform is None:
                distance[str(hit)] = _distance(output, reference)
            if found is None and _alike(output, reference):
                found = quiet
        if found is not None and len(distance) >= min(2, len(hits)):
            return found, distance
    if found is not None:
        return found, distance
    masks_only = tuple(name for name in training if name not in drawing)
    if climbed and masks_only == training:
        raise _unreached(who, climbed, seen.live)
    if masks_only == training or not _alike(trace(inputs, masks_only, _KEEP).output, reference):
        raise SiteError(
            f"{who} gives other outputs with all dropout off than in evaluation mode, when {', '.join(map(repr, masks_only or training))} "
            "is in training mode so that its dropout is reached: something else there depends on self.training. "
            "Give the dropout a module of its own, or choose other sites with sites=[...]"
        )
    return None, distance


def _distance(output: Any, reference: Any) -> float:
    ours = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    theirs = [t for t in tree_leaves(reference) if isinstance(t, Tensor) and t.is_floating_point()]
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return sum(float((a - b).nan_to_num().abs().sum()) for a, b in zip(ours, theirs, strict=True))


# -- together -----------------------------------------------------------------------------------------------------------


def discover(
    model: nn.Module,
    inputs_2: Any,
    inputs_3: Any,
    chosen: Sequence[str | int] | None = None,
    p: float | Mapping[str | int, float] | None = None,
    weight_p: float | None = None,
) -> Discovery:
    """Find the sites of ``model`` with two and with three items as input, the same two first. The model itself is not run.

    Args:
        chosen: names (shell patterns) or indices of the sites to use; the others are switched off. None: all.
        p: a drop probability for all sites, or by name (shell pattern) or index, instead of the model's own.
        weight_p: for a model without dropout, drop the weights of Linear and convolution with this probability.

    Raises:
        SiteError: no dropout at all, randomness that cannot be driven, a site that evaluation mode cannot reach, a site whose
            tensor holds the items in a way that cannot be followed, a name that matches nothing, a model that a copy's
            forward pass changes.
    """
    before = contents(model)
    with exclusive(model), generators.kept(model):
        found = _discover(model, inputs_2, inputs_3, chosen, p, weight_p)
    require_same(model, before, "the probe of its dropout sites")
    return found


def _discover(
    model: nn.Module,
    inputs_2: Any,
    inputs_3: Any,
    chosen: Sequence[str | int] | None,
    p: float | Mapping[str | int, float] | None,
    weight_p: float | None,
) -> Discovery:
    who = type(model).__name__
    probed = _probe(model, inputs_2, weight_p)
    calls, live = probed.seen.calls, probed.seen.live
    trace = _Tracer(model, weight_p, probed.ends, probed.fixed)
    _refuse_undriven(who, probed, trace, inputs_2, chosen)
    if not live:
        never = ", ".join(calls) or "none"
        raise SiteError(
            f"{who} has no live dropout: all passes would be equal (stochastic calls that do nothing: {never}). Score a model "
            "that was trained with dropout, set p > 0 on its dropout layers, drop weights instead with weight_dropout=0.1, "
            "or feed passes of another posterior (an ensemble, Laplace samples) to mcscore.Moments"
        )
    own = [name for name, (call, _) in calls.items() if name in live and call.function not in WEIGHTS]
    if weight_p is not None and own:
        raise SiteError(f"weight_dropout is for models without dropout; {who} has {', '.join(own)}")
    sites: list[Site] = []
    for name, (shape, mask_rank) in probed.seen.shapes.items():
        kind = calls[call_name(name)][0].kind
        assert kind is not None
        number = live[call_name(name)].p
        guess = shape[1:] if shape[:1] == (2,) else shape
        sites.append(Site(len(sites), name, kind.name, number, number, guess, None, 1, mask_rank, draws=kind.draws))
    if len(sites) > MAX_SITES:
        raise SiteError(f"{len(sites)} sites; the mask counter has room for {MAX_SITES}")
    sites = list(_choose(sites, chosen))
    active = {call_name(site.name): live[call_name(site.name)] for site in sites if site.active}
    quiet, seen, training, climbed = _reach(who, trace, inputs_2, active, probed.seen)
    if trace.moved:
        raise SiteError(
            f"{who} draws randomness that masks cannot drive while it is scored: {generators.join(trace.moved)}. Remove it"
        )
    _refuse_strangers(who, seen, probed.seen, training)
    drawing = {signature.owner for name, signature in active.items() if calls[name][0].kind.draws}  # type: ignore[union-attr]
    off, distance = _find_quiet(who, trace, inputs_2, seen, quiet.output, training, drawing, climbed)
    ends = probed.ends if off is None else (off, *probed.ends[1:])
    trace = _Tracer(model, weight_p, ends, probed.fixed)
    seen, seen_3 = trace(inputs_2, training), trace(inputs_3, training)
    sites = [_measured(site, seen, seen_3, distance) for site in sites]
    if off is None:
        silent = [str(s) for s in sites if s.draws and not s.active and s.name in seen.shapes]
        if silent:
            raise SiteError(
                f"{who}: {'; '.join(silent)} cannot be left off: it is drawn where other sites are reached, and no constant in its "
                "place gives what evaluation gives. Choose it too, or give it a module of its own"
            )
    _same_calls(who, seen, seen_3)
    if any(site.axis is not None for site in sites):
        swapped = tree_map_only(Tensor, lambda x: x.flip(0) if x.ndim and x.shape[0] == 2 else x, inputs_2)
        _check_order(sites, seen.tensors, trace(swapped, training).tensors)
    _check_independence(who, sites, seen, seen_3)
    idle = tuple(name for name in calls if name not in live)
    leaves = zip(tree_leaves(inputs_2), tree_leaves(inputs_3), strict=False)
    batched = tuple(isinstance(a, Tensor) and a.ndim > 0 and (len(a), len(b)) == (2, 3) for a, b in leaves)
    written = tuple(sorted(trace.written))
    return Discovery(
        tuple(_with_p(sites, p)),
        idle,
        training,
        weight_p,
        None if chosen is None else tuple(chosen),
        off or Quiet(),
        written,
        tuple(sorted(probed.fixed)),
        batched,
    )


def _refuse_undriven(
    who: str, probed: _Probed, trace: _Tracer, inputs: Any, chosen: Sequence[str | int] | None
) -> None:
    """SiteError if something is random that masks cannot drive, unless the user chose sites and it can be left off."""
    undriven = [f"{name} ({_described(call)})" for name, call in probed.seen.undriven.items()] + list(probed.unseen)
    if not undriven or (chosen is not None and probed.seen.live):
        return
    at_rest = trace(inputs, ())
    if at_rest.undriven or trace.moved:
        advice = "It is random in evaluation mode too, so it cannot be left off: remove it"
    elif probed.seen.live:
        some = next(iter(probed.seen.live))
        advice = f"Remove it, or leave it off and choose the dropout sites to use: sites=[{some!r}, ...]"
    else:
        advice = "Write it with torch.rand, torch.randn, torch.bernoulli or nn.Dropout, which can be driven"
    raise SiteError(
        f"{who} draws randomness in training mode that masks cannot drive: {generators.join(undriven)}. {advice}"
    )


def _described(call: Call) -> str:
    if call.function in RECURRENT:
        return f"{call.function.__name__} dropout on a packed sequence"
    return str(getattr(call.function, "__name__", call.function))


def _refuse_strangers(who: str, seen: _Seen, expected: _Seen, training: tuple[str, ...]) -> None:
    """SiteError if the model as it will be scored is random where its training-mode pass was not."""
    strangers = [f"{name} ({_described(call)})" for name, call in seen.undriven.items()]
    if strangers:
        raise SiteError(
            f"{who}: {'; '.join(strangers)} cannot be left off: it is random while the chosen sites are reached (modules in training "
            f"mode: {', '.join(map(repr, training)) or 'none'}). Remove it, or give it a module of its own"
        )
    new = [f"{name} ({s.function}{_with_number(s.p)})" for name, s in seen.live.items() if name not in expected.calls]
    if new:
        raise SiteError(
            f"{who} drops in evaluation mode where it does not in training mode: {'; '.join(new)}. Drop in both, or in training mode alone"
        )


def _same_calls(who: str, two: _Seen, three: _Seen) -> None:
    both = set(two.live) ^ set(three.live)
    if both:
        raise SiteError(
            f"{who}: {', '.join(sorted(both))} is called for two items and not for three, or the other way round; the number of dropout "
            "calls must not depend on the batch. Draw for all items at once, pad them to one length in the transform, or leave it off by "
            "choosing the others with sites=[...]"
        )


def _measured(site: Site, seen: _Seen, seen_3: _Seen, distance: Mapping[str, float]) -> Site:
    """The site with the shape, item axis and polarity that were found."""
    p = site.p
    if site.draws and p is not None:
        # Whether 1 means keep or drop: the constant under which the model is nearer to evaluation keeps.
        keeps = distance.get("1.0", 0.0) <= distance.get("0.0", float("inf"))
        p = 1.0 - p if keeps else p
    if site.name not in seen.shapes:
        if site.active:
            raise SiteError(f"{site} was not reached a second time; is the number of calls random?")
        return replace(site, p=p)
    shape, mask_rank = seen.shapes[site.name]
    axis, rows = _item_axis(site.name, shape, seen_3.shapes.get(site.name, ((), 0))[0], strict=site.active)
    if axis is not None and axis >= mask_rank:
        raise SiteError(
            f"{site} on {shape} reads its input as one unbatched item, so one mask would cover "
            "several items of the batch; give it a tensor with a batch dimension"
        )
    item_shape = tuple(n for d, n in enumerate(shape) if d != axis)
    item_shape = item_shape if rows == 1 else (rows, *item_shape)
    return replace(site, p=p, shape=item_shape, axis=axis, rows=rows, mask_rank=mask_rank)


def _item_axis(
    name: str, shape_2: tuple[int, ...], shape_3: tuple[int, ...], *, strict: bool
) -> tuple[int | None, int]:
    """(the dimension that holds the items, how many of its rows are one item's); (None, 1) if there is none."""
    if not strict:
        grown = [d for d, (n2, n3) in enumerate(zip(shape_2, shape_3, strict=False)) if n2 != n3]
        return (grown[0], 1) if len(grown) == 1 and shape_2[grown[0]] == 2 else (None, 1)
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
            "a mask per item cannot be defined there. Pad all items to one length in the transform, and give every layer all rows"
        )
    return grown[0], shape_2[grown[0]] // 2


def _check_order(sites: Sequence[Site], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Swapping the two items of the input must swap them in every site's tensor, and change nothing else.

    Otherwise the rows are in another order than the items (sorted by length, patch after patch), or one item's values
    depend on its neighbours: masks and scores would depend on the batch.
    """
    for site in sites:
        if (
            site.axis is None or site.draws or not site.active
        ):  # numbers are drawn row by row: nothing there can be swapped
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
        if site.axis is not None and site.active and not site.draws
    ]
    output_2, output_3 = two.output, three.output
    if isinstance(output_2, Tensor) and isinstance(output_3, Tensor) and output_2.ndim and output_2.is_floating_point():
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
    chosen: dict[int, float | None] = {site.index: site.p for site in sites}
    for pattern, value in wanted.items():
        for index in _matching(sites, pattern):
            if sites[index].draws:
                raise SiteError(
                    f"{sites[index]} is drawn by the model, with a probability of its own; set it in the model instead"
                )
            chosen[index] = float(value)
    for index, realized in chosen.items():
        if realized is not None and realized != 1.0 and not sites[index].draws:
            try:
                rate(realized)
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
