"""Dropout that waits to see who uses it: straight into a Linear, the pair becomes one operation.

A site that may wait gives the model an alias of its input and a note that the dropout is still to come. Changes of shape that
keep each item's values in order pass the note on, F.linear redeems it with the fused kernel, and anything else gets the dropped
tensor it would have got, once. Where dropping replicates the batch, a question about the shape gets it too: the answer of the
alias would be wrong. Sites whose output meets anything else are not made to wait again. As every way to run is compared with one
pass at a time before it is used, a model that gets around the notes is found out.

In-place dropout leaves a note on its input itself, where that cannot hold the results of several passes.
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
from .autocast import Lower
from .discovery.sites import Site

_RESHAPES = {Tensor.flatten, torch.flatten, Tensor.reshape, torch.reshape, Tensor.view, Tensor.contiguous}
# Of these the answer or the result does not name the number of rows, unless flatten begins at dimension 0 (then they clash).
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


def may_wait(site: Site, x: Tensor) -> bool:
    """The first dimension holds the items and nothing else."""
    return site.axis == 0 and site.rows == 1 and x.ndim >= 2 and 0.0 < site.drop_p < 1.0


@dataclass(frozen=True)
class FusedLinear:
    """A Linear that took over the dropout before it."""

    site: Site
    x: Tensor  # (B, ..., D) undropped
    weight: Tensor
    bias: Tensor | None
    y: Tensor


@dataclass
class _Note:
    site: Site
    alias: Tensor  # undropped; also keeps its id from being used again
    drop: Callable[[], Tensor]  # the tensor the model would have got
    fusable: bool  # may a Linear take it over?
    replicates: bool  # has the dropped tensor another shape?
    dropped: Tensor | None = None

    def redeem(self) -> Tensor:
        if self.dropped is None:
            self.dropped = self.drop()
        return self.dropped


class Waiting:
    """The notes of one forward pass."""

    def __init__(
        self,
        linear: Callable[[Site, Tensor, Tensor, Tensor | None], Tensor],
        fuses: Callable[[Tensor, Tensor, float], bool] = fuses,
        lower: Lower | None = None,
    ) -> None:
        self._notes: dict[int, _Note] = {}
        self._linear, self._fuses, self._lower = linear, fuses, lower
        self.fused: set[str] = set()  # sites whose output went into a Linear
        self.last: FusedLinear | None = None
        self.met: set[str] = set()  # sites whose output met something else

    def wait(
        self, site: Site, x: Tensor, drop: Callable[[], Tensor], *, inplace: bool, fusable: bool, replicates: bool
    ) -> Tensor:
        """An alias of x to go on with; of in-place dropout x itself, whose every later use is then a use of the note."""
        alias = x if inplace else x.view_as(x)
        self._notes[id(alias)] = _Note(site, alias, drop, fusable, replicates)
        return alias

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], execute: Callable[..., Any]
    ) -> Any:
        """Run an operation of the model, whose arguments may be aliases with a note. ``execute(func, args, kwargs)`` runs it."""
        if not self._mentioned(args) and not self._mentioned(kwargs.values()):
            return execute(func, args, kwargs)
        note = self._notes.get(id(args[0])) if args else None
        if note is not None and (not note.replicates or func in _KEEPING_ROWS):
            if func in _QUESTIONS or func.__name__ == "__get__":
                answer = execute(func, args, kwargs)
                if not isinstance(answer, Tensor):  # x.T and x.data are no questions
                    return answer
            if func in _RESHAPES:
                alias = execute(func, args, kwargs)
                if alias.shape[0] == note.alias.shape[0]:
                    self._notes[id(alias)] = _Note(
                        note.site,
                        alias,
                        lambda: func(note.redeem(), *args[1:], **kwargs),
                        note.fusable,
                        note.replicates,
                    )
                    return alias
            if func is F.linear and note.fusable and note.dropped is None and note.alias.ndim > 1:
                y = self._fused(note, *args[1:], **kwargs)
                if y is not None:
                    return y
        args, kwargs = tree_map_only(Tensor, self._redeemed, (args, dict(kwargs)))
        return execute(func, args, kwargs)

    def _fused(self, note: _Note, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        """F.linear of a dropout that has not happened yet, if there is a kernel for both."""
        if id(weight) in self._notes or id(bias) in self._notes:
            return None
        x = note.alias
        if self._lower is not None:
            x, weight, bias = self._lower.fused(x, weight, bias)
        if not self._fuses(x, weight, note.site.drop_p):
            return None
        y = self._linear(note.site, x, weight, bias)
        if self._lower is not None:
            y = self._lower.cast(y)
        self.fused.add(note.site.name)
        self.last = FusedLinear(note.site, x, weight, bias, y)
        return y

    def _mentioned(self, values: Iterable[Any]) -> bool:
        """Is one of them an alias, or a list (cat, stack) with one in it? Asked for every operation, so it must be cheap."""
        notes = self._notes
        return bool(notes) and any(
            id(value) in notes or (type(value) in (tuple, list) and any(id(part) in notes for part in value))
            for value in values
        )

    def _redeemed(self, x: Tensor) -> Tensor:
        note = self._notes.get(id(x))
        if note is None:
            return x
        self.met.add(note.site.name)
        return note.redeem()

    def redeem_arguments(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of another stochastic call."""
        return self.output(dict(arguments)) if self._mentioned(arguments.values()) else arguments

    def output(self, x: Any) -> Any:
        """What the model returns must not be an alias."""
        return tree_map_only(Tensor, self._redeemed, x)
