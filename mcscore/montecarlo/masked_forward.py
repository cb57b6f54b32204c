"""One forward pass, or t at once, with masks and draws in place: what every stochastic call of the model becomes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SiteError
from ..kernels.linear import fuses
from .apply_masks import Masks, check_shape
from .autocast import Lower
from .deferred import Waiting, may_wait
from .discovery.sites import Discovery, Site, call_name, part_name
from .ops.dropout import AffineOf, Quiet
from .ops.intercept import Call, Interceptor, plainly
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
"""Tensors become Python values here, and a model may branch on them."""


class Driven(Interceptor):
    """One forward pass (or t at once) with the masks in place."""

    def __init__(
        self,
        model: nn.Module,
        found: Discovery,
        masks: Masks,
        tape: Tape | None,
        fused: Collection[str] = (),
        fuses: Callable[[Tensor, Tensor, float], bool] = fuses,
        lower: Lower | None = None,
    ) -> None:
        super().__init__(model, None, found.weight_p)
        sites = {site.name: site for site in found.sites}
        self._sites, self._masks, self._tape, self._fused = sites, masks, tape, fused
        self._active = {call_name(name) for name, site in sites.items() if site.active}
        self._found, self._model = found, model
        self._lower = lower
        self.waiting = Waiting(masks.linear, fuses, lower)
        self.fired: set[str] = set()
        self.reads: set[str] = set()  # places where Python looked at values that masks have touched

    def other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self.fired and func in _READS:
            self.reads.add(f"Tensor.{func.__name__} in {self._owner()[1] or 'the model'}")
        return self.waiting.call(func, args, kwargs, self._execute)

    def _execute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        def execute() -> Any:
            if self._lower is None:
                return plainly(func, args, kwargs)
            lowered, named = self._lower.operands(func, (args, dict(kwargs)))
            return plainly(func, lowered, named)

        return execute() if self._tape is None else self._tape.call(func, args, kwargs, execute)

    def stochastic(self, call: Call) -> Any:
        first = self._sites.get(call.name)
        if call.name in self._found.fixed:
            return self.other(call.function, call.args, call.kwargs)
        if first is None:
            return self._stranger(call)
        kind = call.kind
        if kind is None:
            raise SiteError(f"{first} was called in a form that masks cannot drive ({call.function.__name__})")
        arguments = self.waiting.redeem_arguments(call.arguments)
        if self._lower is not None:
            arguments = self._lower.operands(call.function, dict(arguments))
        if call.name not in self._active:
            return self.other(kind.quietly, (arguments, self._found.quiet), {})
        if (p := kind.probability(call.arguments)) != first.model_p:
            raise SiteError(f"{first} was called with p={p} in scoring, with {first.model_p} when the sites were found")
        return kind.run(arguments, _Driver(self, call))

    def _stranger(self, call: Call) -> Any:
        """A call that the probe did not meet. It is never left undropped in silence."""
        kind = call.kind
        if kind is None:
            drops = call.live
        else:
            p = kind.probability(call.arguments)
            drops = call.name not in self._found.idle and (kind.draws or call.live or bool(p))
            if drops and not self._found.wants(call.name):  # the user left it off
                return self.other(kind.quietly, (call.arguments, self._found.quiet), {})
        if drops or (call.name in self._found.idle and call.live):
            raise SiteError(
                f"{call.name} ({call.function.__name__}) would drop, but the first items did not reach it: which dropout a model calls "
                "must not depend on its items (loops over the items' own lengths, experts that only some items reach). Pad all items to "
                "one length in the transform, or leave it off by choosing the others with sites=[...]"
            )
        return self.other(call.function, call.args, call.kwargs)

    def _fire(self, site: Site) -> None:
        self.fired.add(site.name)
        if self._tape is not None:
            self._tape.site()

    def check(self, model: nn.Module) -> None:
        """SiteError if a site did not fire, unless the model decided so by a number that was drawn (LayerDrop)."""
        if self.reads and any(site.draws and site.active for site in self._sites.values()):
            return
        silent = [str(site) for name, site in self._sites.items() if site.active and name not in self.fired]
        if silent:
            raise SiteError(
                f"{', '.join(silent)} of {type(model).__name__} never fired in scoring. Its passes would be too much alike; "
                "is the module skipped for some inputs, or replaced by a fused or compiled version?"
            )


class _Driver:
    """The source of one call: the masks and draws of its sites."""

    def __init__(self, driven: Driven, call: Call) -> None:
        self._driven, self._call = driven, call

    def __call__(self, x: Tensor, mask_rank: int, affine: AffineOf, inplace: bool = False, part: int = 0) -> Tensor:
        driven, kind = self._driven, self._call.kind
        assert kind is not None
        site = driven._sites[part_name(self._call.name, part)]
        if not site.active:
            return x
        assert site.p is not None
        check_shape(site, x)
        driven._fire(site)
        drop = functools.partial(driven._masks.drop, site, x, mask_rank, affine(site.p))
        fusable = site.name in driven._fused and kind.may_wait and may_wait(site, x)
        if inplace and driven._masks.holds(site, x):
            return drop(inplace=True)
        if inplace or fusable:
            replicates = driven._masks.replicates(site, x)
            later = functools.partial(drop, inplace=False)
            return driven.waiting.wait(site, x, later, inplace=inplace, fusable=fusable, replicates=replicates)
        return drop(inplace=False)

    def _drawn(self, like: Tensor) -> Site:
        site = self._driven._sites[self._call.name]
        check_shape(site, like)
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
        return driven.waiting.wait(site, x, lambda: value, inplace=True, fusable=False, replicates=replicates)


def quietly(call: Call, quiet: Quiet) -> Any:
    """What a stochastic call gives when every site is off. SiteError if it is random in a way that cannot be switched off."""
    if call.kind is None:
        if call.live:
            raise SiteError(
                f"{call.name} ({call.function.__name__}) is random in evaluation mode, and masks cannot drive it"
            )
        return call.execute()
    if call.live or call.kind.draws:
        return call.kind.quietly(call.arguments, quiet)
    return call.execute()
