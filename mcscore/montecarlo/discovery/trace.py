"""The trace: run a copy of the model as it will be scored, with constants for randomness.

In evaluation mode it must reach the calls that the probe met in training mode; the modules that must be in training mode for it are
found, and with nothing dropped it must give what it gives in evaluation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...errors import PassError, SiteError
from ..guard.state import checksums, evaluating, private_copy
from ..ops.dropout import ConstantSource
from ..ops.intercept import is_dense, is_normalization
from . import generators
from .probe import KEEP, PassRecord, Signature, constant_pass, outputs_close


class Tracer:
    """Passes with constants for randomness, on a private copy in evaluation mode but for some modules, as scoring will run the model."""

    def __init__(
        self, model: nn.Module, weight_p: float | None, extremes: Sequence[ConstantSource], reseeded: Collection[str]
    ) -> None:
        self.twin, self._weight_p, self._extremes, self._reseeded = private_copy(model), weight_p, extremes, reseeded
        self._weights = checksums(self.twin)  # no pass may change them
        self.moved: list[str] = []
        self.written: set[str] = set()

    def __call__(self, inputs: Any, training: Sequence[str], constants: ConstantSource | None = None) -> PassRecord:
        """With ``constants``, one pass; else one for each end of the draws, together."""
        merged: PassRecord | None = None
        for one in (constants,) if constants is not None else self._extremes:
            seen = self._pass(inputs, training, one)
            if merged is None:
                merged = seen
            else:
                merged.add(seen)
        assert merged is not None
        return merged

    def _pass(self, inputs: Any, training: Sequence[str], constants: ConstantSource) -> PassRecord:
        watch = generators.GeneratorWatch(self.twin)
        with evaluating(self.twin, training, None) as kept, watch:
            try:
                seen = constant_pass(self.twin, inputs, constants, self._weight_p, watch, self._reseeded)
            except Exception as error:
                raise PassError(
                    f"{type(self.twin).__name__} fails in evaluation mode with {', '.join(map(repr, training)) or 'nothing'} in training "
                    f"mode: {type(error).__name__}: {error}. Choose other sites with Dropout(sites=[...])"
                ) from error
            self.written.update(kept.written())
        self.moved = watch.moved
        changed = [name for name, checksum in checksums(self.twin).items() if self._weights.get(name) != checksum]
        if changed:
            raise SiteError(
                f"{type(self.twin).__name__}: a forward pass writes into {', '.join(changed[:5])} (modules in training mode: "
                f"{', '.join(map(repr, training)) or 'none'}). Scores would depend on what was scored before. Guard the update "
                "with torch.is_grad_enabled(), which is off while scoring"
            )
        return seen


@dataclass(frozen=True)
class Reached:
    """How the active sites are reached in evaluation."""

    in_evaluation: PassRecord  # a pass with every module in evaluation mode
    seen: PassRecord  # a pass that meets every active site as training mode does
    training: tuple[str, ...]  # the modules in training mode for it
    climbed: list[str]  # sites that their owners' training mode alone did not reach
    drawing: set[str]  # owners of calls that draw


def reach_sites(who: str, trace: Tracer, inputs: Any, active: Mapping[str, Signature], expected: PassRecord) -> Reached:
    """Find the modules that must be in training mode for the active sites to be reached in evaluation.

    A draw may be made in evaluation too and only be heeded in training (LayerDrop), so its owner is always put in training mode.
    """
    named = dict(trace.twin.named_modules())
    in_evaluation = trace(inputs, ())
    random_calls = expected.random_calls

    def missing(seen: PassRecord) -> list[str]:
        return [name for name, s in active.items() if name not in seen.calls or seen.calls[name][1] != s]

    ops = {name: expected.calls[name][0].op for name in active}
    drawing = {s.owner for name, s in active.items() if (op := ops[name]) is not None and op.draws}
    # Calls are counted per owner, so one that is missing would also shift the names of those after it: compare owner by owner.
    owners = {s.owner for s in active.values()}
    training = drawing | {
        o for o in owners if _calls_of_owner(in_evaluation.random_calls, o) != _calls_of_owner(random_calls, o)
    }
    seen = in_evaluation if not training else trace(inputs, _without_normalization(named, training))
    climbed = missing(seen)
    owners_to_reach = {random_calls[name].owner for name in climbed}
    while owners_to_reach and missing(seen):  # a parent may hold the condition: if self.training: x = self.drop(x)
        owners_to_reach = {owner.rpartition(".")[0] for owner in owners_to_reach}
        if owners_to_reach <= training:
            break
        training |= owners_to_reach
        seen = trace(inputs, _without_normalization(named, training))
        owners_to_reach = {random_calls[name].owner for name in missing(seen)} | (owners_to_reach - {""})
    if missing(seen):
        everything = _without_normalization(named, named)
        whole = trace(inputs, everything)
        if not missing(whole):
            seen, training = whole, set(everything)
    if lost := missing(seen):
        norms = [random_calls[name].owner for name in lost if is_normalization(named[random_calls[name].owner])]
        if norms:
            raise SiteError(f"{who}: dropout inside normalization layers cannot be driven: {', '.join(norms)}")
        raise _unreached(who, lost, random_calls)
    return Reached(in_evaluation, seen, _without_normalization(named, training), climbed, drawing)


def _unreached(who: str, lost: Sequence[str], random_calls: Mapping[str, Signature]) -> SiteError:
    listed = "; ".join(
        f"{name} ({random_calls[name].function}{probability_text(random_calls[name].p)})" for name in lost
    )
    return SiteError(
        f"{who}: these sites drop in training mode but evaluation mode does not reach them in the same way: {listed}. "
        "If only training has them (auxiliary heads), choose the others with Dropout(sites=[...]). If a module's own train() does more "
        "than set its flag (LoRA weights that it merges and takes apart), call model.train() before scoring"
    )


def probability_text(p: float | None) -> str:
    """The probability as messages show it; empty where there is no number."""
    return "" if p is None else f", p={p:g}"


def _without_normalization(named: Mapping[str, nn.Module], training: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in training if not is_normalization(named[name])))


def _calls_of_owner(calls: Mapping[str, Signature], owner: str) -> dict[str, Signature]:
    return {name: signature for name, signature in calls.items() if signature.owner == owner}


def find_constants(
    who: str, trace: Tracer, inputs: Any, reached: Reached
) -> tuple[ConstantSource | None, dict[str, float]]:
    """Find the constants for draws under which the driven model gives what it gives in evaluation; None: there are none.

    Also how far from it each constant of the Bernoulli draws leads, which tells whether 1 means keep or drop.
    """
    seen, reference, training = reached.seen, reached.in_evaluation.output, reached.training
    drawing, climbed = reached.drawing, reached.climbed
    hits = (1.0, 0.0, None) if any(s.function.startswith("bernoulli") for s in seen.random_calls.values()) else (1.0,)
    draws = any(call.op is not None and call.op.draws for call, _ in seen.calls.values())
    uniforms = (None, 0.0, 0.5) if draws else (None,)
    distance: dict[str, float] = {}
    found = None
    for hit in hits:
        for uniform in uniforms:
            constants = ConstantSource(uniform, hit)
            try:
                output = trace(inputs, training, constants).output
            except PassError:  # constants that the model cannot run with are no candidates
                continue
            if uniform is None:
                distance[str(hit)] = _distance(output, reference)
            if found is None and outputs_close(output, reference):
                found = constants
        if found is not None and len(distance) >= min(2, len(hits)):
            return found, distance
    if found is not None:
        return found, distance
    masks_only = tuple(name for name in training if name not in drawing)
    if climbed and masks_only == training:
        raise _unreached(who, climbed, seen.random_calls)
    if masks_only == training or not outputs_close(trace(inputs, masks_only, KEEP).output, reference):
        raise SiteError(
            f"{who} gives other outputs with all dropout off than in evaluation mode, when {', '.join(map(repr, masks_only or training))} "
            "is in training mode so that its dropout is reached: something else there depends on self.training. "
            "Give the dropout a module of its own, or choose other sites with Dropout(sites=[...])"
        )
    return None, distance


def _distance(output: Any, reference: Any) -> float:
    ours = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point() and is_dense(t)]
    theirs = [t for t in tree_leaves(reference) if isinstance(t, Tensor) and t.is_floating_point() and is_dense(t)]
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return sum(float((a - b).nan_to_num().abs().sum()) for a, b in zip(ours, theirs, strict=True))
