"""Run one forward pass, or t at once, with masks and draws in place of every stochastic call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SiteError
from ..kernels.linear import fuses
from .apply_masks import Masks, check_item_shape
from .autocast import Autocast
from .deferred import Deferred, can_defer
from .discovery.sites import Discovery, Site, call_name, part_name
from .ops.dropout import AffineOf, ConstantSource
from .ops.intercept import Call, Interceptor, execute_plain
from .tape import Tape

_READS = {
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__index__,
    Tensor.__contains__,
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.__array__,
    torch.is_nonzero,
    Tensor.is_nonzero,
    torch.equal,
    Tensor.equal,
    torch.allclose,
    Tensor.allclose,
}
"""Functions that turn tensors into Python values, on which a model may branch."""


class MaskedForward(Interceptor):
    """One forward pass (or t at once) with the masks in place."""

    def __init__(
        self,
        model: nn.Module,
        found: Discovery,
        masks: Masks,
        tape: Tape | None,
        fused: Collection[str] = (),
        fuses: Callable[[Tensor, Tensor, float], bool] = fuses,
        autocast: Autocast | None = None,
    ) -> None:
        super().__init__(model, None, found.weight_p)
        sites = {site.name: site for site in found.sites}
        self._sites, self._masks, self._tape, self._fused = sites, masks, tape, fused
        self._active = {call_name(name) for name, site in sites.items() if site.active}
        self._found, self._model = found, model
        self._autocast = autocast
        self.deferred = Deferred(masks.linear, fuses, autocast)
        self.fired: set[str] = set()
        self.reads: set[str] = set()  # places where Python looked at values that masks have touched

    def other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an operation that is not stochastic; note where Python reads masked values."""
        if self.fired and func in _READS:
            self.reads.add(f"Tensor.{func.__name__} in {self._owner()[1] or 'the model'}")
        return self.deferred.call(func, args, kwargs, self._execute)

    def _execute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        def execute() -> Any:
            if self._autocast is None:
                return execute_plain(func, args, kwargs)
            lowered, named = self._autocast.operands(func, (args, dict(kwargs)))
            return execute_plain(func, lowered, named)

        return execute() if self._tape is None else self._tape.call(func, args, kwargs, execute)

    def stochastic(self, call: Call) -> Any:
        """Run a stochastic call with the masks and draws of its sites."""
        first = self._sites.get(call.name)
        if call.name in self._found.reseeded:
            return self.other(call.function, call.args, call.kwargs)
        if first is None:
            return self._unprobed_call(call)
        op = call.op
        if op is None:
            raise SiteError(f"{first} was called in a form that masks cannot drive ({call.function.__name__})")
        arguments = self.deferred.materialize_arguments(call.arguments)
        if self._autocast is not None:
            arguments = self._autocast.operands(call.function, dict(arguments))
        if call.name not in self._active:
            return self.other(op.run_constant, (arguments, self._found.constants), {})
        if (p := op.probability(call.arguments)) != first.model_p:
            raise SiteError(f"{first} was called with p={p} in scoring, with {first.model_p} when the sites were found")
        return op.run(arguments, _SiteSource(self, call))

    def _unprobed_call(self, call: Call) -> Any:
        """Handle a call that the probe did not meet: never leave it undropped in silence."""
        op = call.op
        if op is None:
            drops = call.is_random
        else:
            p = op.probability(call.arguments)
            drops = call.name not in self._found.idle and (op.draws or call.is_random or bool(p))
            if drops and not self._found.wants(call.name):  # the user left it off
                return self.other(op.run_constant, (call.arguments, self._found.constants), {})
        if drops or (call.name in self._found.idle and call.is_random):
            raise SiteError(
                f"{call.name} ({call.function.__name__}) would drop, but the first items did not reach it: which dropout a model calls "
                "must not depend on its items (loops over the items' own lengths, experts that only some items reach). Pad all items to "
                "one length in the transform, or leave it off by choosing the others with Dropout(sites=[...])"
            )
        return self.other(call.function, call.args, call.kwargs)

    def _fire(self, site: Site) -> None:
        self.fired.add(site.name)
        if self._tape is not None:
            self._tape.site()

    def check_all_fired(self, model: nn.Module) -> None:
        """SiteError if a site did not fire, unless a drawn number decided that (LayerDrop)."""
        if self.reads and any(site.draws and site.active for site in self._sites.values()):
            return
        silent = [str(site) for name, site in self._sites.items() if site.active and name not in self.fired]
        if silent:
            raise SiteError(
                f"{', '.join(silent)} of {type(model).__name__} never fired in scoring. Its passes would be too much alike; "
                "is the module skipped for some inputs, or replaced by a fused or compiled version?"
            )


class _SiteSource:
    """The source of one call: the masks and draws of its sites."""

    def __init__(self, driven: MaskedForward, call: Call) -> None:
        self._driven, self._call = driven, call

    def __call__(self, x: Tensor, mask_rank: int, affine: AffineOf, inplace: bool = False, part: int = 0) -> Tensor:
        driven, op = self._driven, self._call.op
        assert op is not None
        site = driven._sites[part_name(self._call.name, part)]
        if not site.active:
            return x
        assert site.p is not None
        check_item_shape(site, x)
        driven._fire(site)
        drop = functools.partial(driven._masks.drop, site, x, mask_rank, affine(site.p))
        fusable = site.name in driven._fused and op.can_defer and can_defer(site, x)
        if inplace and driven._masks.holds(site, x):
            return drop(inplace=True)
        if inplace or fusable:
            replicates = driven._masks.replicates(site, x)
            later = functools.partial(drop, inplace=False)
            return driven.deferred.defer(site, x, later, inplace=inplace, fusable=fusable, replicates=replicates)
        return drop(inplace=False)

    def _drawn(self, like: Tensor) -> Site:
        site = self._driven._sites[self._call.name]
        check_item_shape(site, like)
        self._driven._fire(site)
        return site

    def draw(self, like: Tensor, law: str) -> Tensor:
        return self._driven._masks.draw(self._drawn(like), like, law)

    def bernoulli(self, like: Tensor, p: float | Tensor) -> Tensor:
        return self._driven._masks.bernoulli(self._drawn(like), like, p)

    def fill(self, x: Tensor, value: Tensor) -> Tensor:
        driven, site = self._driven, self._driven._sites[self._call.name]
        if driven._masks.holds(site, x):
            return x.copy_(value)
        if x._base is not None or any(x is tensor for tensor in driven._model.buffers()):
            raise RuntimeError(f"{site} fills a part of another tensor in place, which holds one pass at a time")
        replicates = driven._masks.replicates(site, x)
        return driven.deferred.defer(site, x, lambda: value, inplace=True, fusable=False, replicates=replicates)


def deterministic_call(call: Call, constants: ConstantSource) -> Any:
    """Return the result of a stochastic call when every site is off. SiteError if its randomness cannot be switched off."""
    if call.op is None:
        if call.is_random:
            raise SiteError(
                f"{call.name} ({call.function.__name__}) is random in evaluation mode, and masks cannot drive it"
            )
        return call.execute()
    if call.is_random or call.op.draws:
        return call.op.run_constant(call.arguments, constants)
    return call.execute()
