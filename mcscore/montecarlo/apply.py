"""Masks onto tensors: for one pass under vmap, and for rows that hold one copy of the batch or one per pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..kernels.dropout import Affine, drop, signed
from ..kernels.dropout import dropout as dropout_op
from ..kernels.linear import dropout_linear, dropout_linears
from .discover import Site


class Masks(Protocol):
    def drop(self, site: Site, x: Tensor, mask_rank: int, affine: Affine, inplace: bool) -> Tensor:
        """``x`` with the masks of the site's passes applied."""

    def holds(self, site: Site, x: Tensor) -> bool:
        """Has x room for the result, so that in-place dropout can be done in place?"""

    def linear(self, site: Site, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same, fused into the Linear that follows."""


@dataclass(frozen=True)
class Stream:
    """Whose masks: the seed, and the ids of the items (all -1 if every item shares the mask of a pass)."""

    seed: int
    ids_B: Tensor
    shared: bool

    def ids(self, site: Site) -> Tensor:
        one = torch.full((1,), -1, dtype=torch.int64, device=self.ids_B.device)
        if site.axis is None:
            return one
        return (
            one.expand(len(self.ids_B)) if self.shared else self.ids_B
        )  # expanded: kernels see that the masks are shared


@dataclass(frozen=True)
class OnePass:
    """Under vmap: ``index`` stands for every pass at once, and tensors look as they do in a single pass."""

    stream: Stream
    index: Tensor

    def drop(self, site: Site, x: Tensor, mask_rank: int, affine: Affine, inplace: bool) -> Tensor:
        ids, seed = self.stream.ids(site), signed(self.stream.seed)
        if site.axis is None:
            return dropout_op(x[None], self.index, ids, 0, mask_rank + 1, seed, site.index, site.p, affine)[0]
        copies_in(site, x, len(ids))
        return dropout_op(x, self.index, ids, site.axis, mask_rank, seed, site.index, site.p, affine)

    def holds(self, site: Site, x: Tensor) -> bool:
        return False

    def linear(self, site: Site, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ids = self.stream.ids(site)
        return dropout_linear(x, self.index, ids, weight, bias, signed(self.stream.seed), site.index, site.p)


@dataclass(frozen=True)
class Rows:
    """A batch of B rows, or t*B rows, pass after pass."""

    stream: Stream
    passes_t: Tensor

    def drop(self, site: Site, x: Tensor, mask_rank: int, affine: Affine, inplace: bool) -> Tensor:
        ids, t = self.stream.ids(site), self.passes_t.numel()
        settings: dict[str, Any] = {"seed": self.stream.seed, "site": site.index, "p": site.p, "affine": affine}
        if site.axis is None:
            if t != 1:
                raise RuntimeError(f"{site} has no batch dimension to hold several passes")
            y = drop(x[None, None], self.passes_t, ids, copies=1, axis=0, mask_rank=mask_rank + 1, **settings)[0, 0]
        else:
            copies = copies_in(site, x, len(ids), t)
            rest = [n for d, n in enumerate(x.shape) if d != site.axis]
            stacked = x.movedim(site.axis, 0).reshape(copies, len(ids) * site.rows, *rest).movedim(1, site.axis + 1)
            y_t = drop(stacked, self.passes_t, ids, copies=copies, axis=site.axis, mask_rank=mask_rank, **settings)
            y = y_t.movedim(site.axis + 1, 1).flatten(0, 1).movedim(0, site.axis)
        return x.copy_(y) if inplace else y  # in-place dropout also changes what other names of x see

    def holds(self, site: Site, x: Tensor) -> bool:
        t = self.passes_t.numel()
        return site.axis is None or t == 1 or copies_in(site, x, len(self.stream.ids_B), t) == t

    def linear(self, site: Site, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ids, t = self.stream.ids(site), self.passes_t.numel()
        copies = copies_in(site, x, len(ids), t)
        x_s = x.reshape(copies, len(ids), *x.shape[1:])
        y_t = dropout_linears(x_s, self.passes_t, ids, weight, bias, signed(self.stream.seed), site.index, site.p)
        return y_t.flatten(0, 1)


@dataclass(frozen=True)
class Cut:
    """One pass in which nothing is dropped but everything of one site (None: nothing at all)."""

    name: str | None

    def drop(self, site: Site, x: Tensor, mask_rank: int, affine: Affine, inplace: bool) -> Tensor:
        if site.name != self.name:
            return x
        return x.zero_() if inplace else torch.zeros_like(x)

    def holds(self, site: Site, x: Tensor) -> bool:
        return True

    def linear(self, site: Site, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise AssertionError("no site waits for its Linear in this pass")


def copies_in(site: Site, x: Tensor, B: int, t: int = 1) -> int:
    """How many copies of the batch x holds (1 or t); anything else is a model that changes its batch on the way."""
    assert site.axis is not None
    n = x.shape[site.axis]
    if n in (B * site.rows, t * B * site.rows):
        return n // (B * site.rows)
    raise RuntimeError(f"{site}: dimension {site.axis} of {tuple(x.shape)} does not hold {B} items of {site.rows} rows")
