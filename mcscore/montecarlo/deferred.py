"""Defer dropout until its output is used. If a Linear uses it, the two become one operation.

A site that can be deferred gives the model an alias of its input and remembers that its dropout is still to come. Reshapes that keep
each item's values in order keep it deferred, F.linear takes it over with the fused kernel, and anything else gets the dropped tensor,
made once. Where dropping replicates the batch, a question about the shape gets the dropped tensor too: the alias would give the wrong
answer. Sites whose output meets anything else are not deferred again. As every strategy is compared with one pass at a time before it
is used, a model that gets around the aliases is found.

In-place dropout defers on its input itself, where that cannot hold the results of several passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..kernels.linear import fuses
from .autocast import Autocast
from .discovery.sites import Site

_RESHAPES = {Tensor.flatten, torch.flatten, Tensor.reshape, torch.reshape, Tensor.view, Tensor.contiguous}
# The results of these do not show the number of rows, unless flatten begins at dimension 0 (then the shapes clash).
_KEEPING_ROWS = {Tensor.flatten, torch.flatten, Tensor.contiguous, Tensor.dim, Tensor.is_floating_point, F.linear}
_QUESTIONS = {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.is_contiguous,
    Tensor.stride,
    Tensor.__len__,
    Tensor.is_floating_point,
}


def can_defer(site: Site, x: Tensor) -> bool:
    """Return whether dropout at the site can be deferred: the first dimension holds the items and nothing else."""
    return site.axis == 0 and site.rows == 1 and x.ndim >= 2 and 0.0 < site.drop_p < 1.0


@dataclass(frozen=True)
class FusedLinear:
    """A Linear that took over the dropout before it."""

    site: Site
    x: Tensor  # (B, ..., D) undropped
    weight: Tensor
    bias: Tensor | None


@dataclass
class _DeferredDropout:
    site: Site
    alias: Tensor  # undropped; also keeps its id from being used again
    drop: Callable[[], Tensor]  # gives the tensor that the model would have got
    fusable: bool  # may a Linear take it over?
    replicates: bool  # has the dropped tensor another shape?
    dropped: Tensor | None = None

    def materialize(self) -> Tensor:
        if self.dropped is None:
            self.dropped = self.drop()
        return self.dropped


class Deferred:
    """The deferred dropout of one forward pass."""

    def __init__(
        self,
        linear: Callable[[Site, Tensor, Tensor, Tensor | None], Tensor],
        fuses: Callable[[Tensor, Tensor, float], bool] = fuses,
        autocast: Autocast | None = None,
    ) -> None:
        self._deferred: dict[int, _DeferredDropout] = {}
        self._linear, self._fuses, self._autocast = linear, fuses, autocast
        self.fused: set[str] = set()  # sites whose output went into a Linear
        self._last: tuple[Tensor, FusedLinear] | None = None
        self.escaped: set[str] = set()  # sites whose output met something else

    def defer(
        self, site: Site, x: Tensor, drop: Callable[[], Tensor], *, inplace: bool, fusable: bool, replicates: bool
    ) -> Tensor:
        """Return an alias of x for the model; of in-place dropout x itself, whose every later use then counts."""
        alias = x if inplace else x.view_as(x)
        self._deferred[id(alias)] = _DeferredDropout(site, alias, drop, fusable, replicates)
        return alias

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], execute: Callable[..., Any]
    ) -> Any:
        """Run an operation of the model, whose arguments may be aliases of deferred dropout. ``execute(func, args, kwargs)`` runs it."""
        if not self._mentions(args) and not self._mentions(kwargs.values()):
            return execute(func, args, kwargs)
        deferred = self._deferred.get(id(args[0])) if args else None
        if deferred is not None and (not deferred.replicates or func in _KEEPING_ROWS):
            if func in _QUESTIONS or func.__name__ == "__get__":
                answer = execute(func, args, kwargs)
                if not isinstance(answer, Tensor):  # x.T and x.data give tensors
                    return answer
            if func in _RESHAPES:
                alias = execute(func, args, kwargs)
                if alias.shape[0] == deferred.alias.shape[0]:
                    self._deferred[id(alias)] = _DeferredDropout(
                        deferred.site,
                        alias,
                        lambda: func(deferred.materialize(), *args[1:], **kwargs),
                        deferred.fusable,
                        deferred.replicates,
                    )
                    return alias
            if func is F.linear and deferred.fusable and deferred.dropped is None and deferred.alias.ndim > 1:
                y = self._fused(deferred, *args[1:], **kwargs)
                if y is not None:
                    return y
        args, kwargs = tree_map_only(Tensor, self._materialized, (args, dict(kwargs)))
        return execute(func, args, kwargs)

    def _fused(self, deferred: _DeferredDropout, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        """Return F.linear of a deferred dropout as one operation; None if there is no kernel for the pair."""
        if id(weight) in self._deferred or id(bias) in self._deferred:
            return None
        x = deferred.alias
        if self._autocast is not None:
            x, weight, bias = self._autocast.fused(x, weight, bias)
        if not self._fuses(x, weight, deferred.site.drop_p):
            return None
        y = self._linear(deferred.site, x, weight, bias)
        if self._autocast is not None:
            y = self._autocast.cast(y)
        self.fused.add(deferred.site.name)
        self._last = y, FusedLinear(deferred.site, x, weight, bias)
        return y

    def linear_of(self, y: Tensor) -> FusedLinear | None:
        """Return the last Linear that took over a dropout, if its output is ``y``."""
        return self._last[1] if self._last is not None and self._last[0] is y else None

    def _mentions(self, values: Iterable[Any]) -> bool:
        """Return whether an argument is an alias, or a list (cat, stack) with one in it. Every operation calls it: keep it cheap."""
        known = self._deferred
        return bool(known) and any(
            id(value) in known or (type(value) in (tuple, list) and any(id(part) in known for part in value))
            for value in values
        )

    def _materialized(self, x: Tensor) -> Tensor:
        deferred = self._deferred.get(id(x))
        if deferred is None:
            return x
        self.escaped.add(deferred.site.name)
        return deferred.materialize()

    def materialize_arguments(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of another stochastic call with aliases replaced."""
        return self.materialize_output(dict(arguments)) if self._mentions(arguments.values()) else arguments

    def materialize_output(self, x: Any) -> Any:
        """Return the output of the model with aliases replaced."""
        return tree_map_only(Tensor, self._materialized, x)
