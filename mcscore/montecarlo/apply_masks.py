"""Apply masks to tensors: under vmap, and for rows that hold one copy of the batch or one copy per pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import RowsError
from ..kernels.draws import draw as draw_op
from ..kernels.draws import draws
from ..kernels.dropout import Affine, drop, signed
from ..kernels.dropout import dropout as dropout_op
from ..kernels.linear import dropout_linear, dropout_linears
from ..masks import MaskSpec, rate
from .discovery.sites import Site
from .ops.dropout import ConstantSource


class Masks(Protocol):
    """What a forward pass does at its sites."""

    def drop(self, site: Site, x: Tensor, mask_rank: int, affine: Affine, inplace: bool) -> Tensor:
        """Return ``x`` with the masks of the site's passes applied."""

    def draw(self, site: Site, like: Tensor, law: str) -> Tensor:
        """Return the site's random numbers in the shape of ``like``."""

    def bernoulli(self, site: Site, like: Tensor, p: float | Tensor) -> Tensor:
        """Return 1 with probability p, else 0."""

    def holds(self, site: Site, x: Tensor) -> bool:
        """Return whether x has room for the result, so that in-place dropout can be done in place."""

    def replicates(self, site: Site, x: Tensor) -> bool:
        """Return whether the model sees another shape behind the site than before it."""

    def linear(self, site: Site, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the dropped ``x`` times the weight, as one operation."""


@dataclass(frozen=True)
class MaskStream:
    """The seed of the masks and the ids of the items; -1 for every item if all share the mask of a pass."""

    seed: int
    ids_B: Tensor
    shared: bool

    def ids(self, site: Site) -> Tensor:
        """Return the ids whose masks the items of this site get, (B,), or one id for all."""
        if site.axis is not None and not self.shared:
            return self.ids_B
        one = torch.full((1,), -1, dtype=torch.int64, device=self.ids_B.device)
        # Expanded, not repeated: kernels see by the stride that all items share the masks.
        return one if site.axis is None else one.expand(len(self.ids_B))

    def masks(self, site: Site, passes_t: Tensor, rank: int | None = None) -> MaskSpec:
        """The masks of the site in these passes; ``rank`` of MaskSpec."""
        return MaskSpec(self.seed, site.index, passes_t, self.ids(site), rate(site.drop_p), rank)

    def numbers(self, site: Site, passes_t: Tensor, device: torch.device) -> MaskSpec:
        """The random numbers that the model draws at the site in these passes, on that device."""
        return MaskSpec(self.seed, site.index, passes_t.to(device), self.ids(site).to(device))


def _below(u: Tensor, p: float | Tensor) -> Tensor:
    """Return Bernoulli draws made of uniform ones as in PyTorch: 1 where u < p."""
    return (u < p).to(u.dtype)


@dataclass(frozen=True)
class VmapMasks:
    """Masks under vmap: ``index`` stands for all passes at once, and tensors have the shapes of a single pass."""

    stream: MaskStream
    index: Tensor

    def drop(self, site: Site, x: Tensor, mask_rank: int, affine: Affine, inplace: bool) -> Tensor:
        """Return ``x`` with the masks of the site's passes applied."""
        ids = self.stream.ids(site)
        which = self.index, ids, signed(self.stream.seed), site.index, site.drop_p
        if site.axis is None:
            return dropout_op(x[None], *which, mask_rank + 1, 0, affine)[0]
        batch_copies(site, x, len(ids))
        return dropout_op(x, *which, mask_rank, site.axis, affine)

    def draw(self, site: Site, like: Tensor, law: str) -> Tensor:
        """Return the site's random numbers in the shape of ``like``."""
        ids = self.stream.ids(site)
        seed = signed(self.stream.seed)
        if site.axis is None:
            return draw_op(like[None], self.index, ids, 0, seed, site.index, law)[0]
        batch_copies(site, like, len(ids))
        return draw_op(like, self.index, ids, site.axis, seed, site.index, law)

    def bernoulli(self, site: Site, like: Tensor, p: float | Tensor) -> Tensor:
        """Return 1 with probability p, else 0."""
        return _below(self.draw(site, like, "uniform"), p)

    def holds(self, site: Site, x: Tensor) -> bool:
        """Return whether ``x`` has room for the result of in-place dropout."""
        return False

    def replicates(self, site: Site, x: Tensor) -> bool:
        """Return whether the model sees another shape behind the site than before it."""
        return False

    def linear(self, site: Site, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the dropped ``x`` times the weight, as one operation."""
        ids = self.stream.ids(site)
        return dropout_linear(x, self.index, ids, weight, bias, signed(self.stream.seed), site.index, site.drop_p)


@dataclass(frozen=True)
class BatchedMasks:
    """Masks of a batch of B rows, or of t*B rows, pass after pass."""

    stream: MaskStream
    passes_t: Tensor

    def drop(self, site: Site, x: Tensor, mask_rank: int, affine: Affine, inplace: bool) -> Tensor:
        """Return ``x`` with the masks of the site's passes applied."""
        if site.axis is None:
            self._require_one_pass(site)
            masks = self.stream.masks(site, self.passes_t, mask_rank + 1)
            y = drop(x[None, None], masks, affine, copies=1, axis=0)[0, 0]
        else:
            masks = self.stream.masks(site, self.passes_t, mask_rank)
            copies = batch_copies(site, x, masks.B, masks.t)
            rest = [n for d, n in enumerate(x.shape) if d != site.axis]
            stacked = x.movedim(site.axis, 0).reshape(copies, masks.B * site.rows, *rest).movedim(1, site.axis + 1)
            y_t = drop(stacked, masks, affine, copies=copies, axis=site.axis)
            # Of one pass not flattened: a single item would lose the stride by which convolutions know channels-last format.
            y = y_t[0] if masks.t == 1 else y_t.movedim(site.axis + 1, 1).flatten(0, 1).movedim(0, site.axis)
        return x.copy_(y) if inplace else y  # other names of x see the result of in-place dropout too

    def draw(self, site: Site, like: Tensor, law: str) -> Tensor:
        """Return the site's random numbers in the shape of ``like``."""
        numbers, shape = self.stream.numbers(site, self.passes_t, like.device), list(like.shape)
        if site.axis is None:
            self._require_one_pass(site)
            return draws([1, *shape], numbers, law, like.dtype, axis=0)[0, 0]
        batch_copies(site, like, numbers.B, numbers.t)
        shape[site.axis] = numbers.B * site.rows
        z_t = draws(shape, numbers, law, like.dtype, axis=site.axis)
        return z_t.movedim(site.axis + 1, 1).flatten(0, 1).movedim(0, site.axis)

    def bernoulli(self, site: Site, like: Tensor, p: float | Tensor) -> Tensor:
        """Return 1 with probability p, else 0."""
        return _below(self.draw(site, like, "uniform"), p)

    def holds(self, site: Site, x: Tensor) -> bool:
        """Return whether ``x`` has room for the result of in-place dropout."""
        t = self.passes_t.numel()
        return site.axis is None or t == 1 or batch_copies(site, x, len(self.stream.ids_B), t) == t

    def replicates(self, site: Site, x: Tensor) -> bool:
        """Return whether the model sees another shape behind the site than before it."""
        return not self.holds(site, x)

    def linear(self, site: Site, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the dropped ``x`` times the weight, as one operation."""
        masks = self.stream.masks(site, self.passes_t)
        copies = batch_copies(site, x, masks.B, masks.t)
        x_s = x.reshape(copies, masks.B, *x.shape[1:])
        return dropout_linears(x_s, masks, weight, bias).flatten(0, 1)

    def _require_one_pass(self, site: Site) -> None:
        if self.passes_t.numel() != 1:
            raise RowsError(f"{site} has no batch dimension to hold several passes")


@dataclass(frozen=True)
class ZeroSite:
    """One pass in which nothing is random, and one site (None: no site) drops everything or draws the other constant.

    With ``scales`` each masked tensor is multiplied by a number of its own, so that gradients tell which sites matter.
    """

    constants: ConstantSource
    name: str | None = None
    scales: dict[str, Tensor] | None = None

    def drop(self, site: Site, x: Tensor, mask_rank: int, affine: Affine, inplace: bool) -> Tensor:
        """Return ``x`` with the masks of the site's passes applied."""
        if self.scales is not None:
            self.scales[site.name] = scale = torch.ones((), dtype=x.dtype, device=x.device, requires_grad=True)
            return x * scale
        if site.name != self.name:
            return x
        return x.zero_() if inplace else torch.zeros_like(x)

    def draw(self, site: Site, like: Tensor, law: str) -> Tensor:
        """Return the site's random numbers in the shape of ``like``."""
        z = self.constants.draw(like, law)
        return z if site.name != self.name else 1.0 - z

    def bernoulli(self, site: Site, like: Tensor, p: float | Tensor) -> Tensor:
        """Return 1 with probability p, else 0."""
        z = self.constants.bernoulli(like, p)
        return z if site.name != self.name else (z < 0.5).to(z.dtype)

    def holds(self, site: Site, x: Tensor) -> bool:
        """Return whether ``x`` has room for the result of in-place dropout."""
        return self.scales is None

    def replicates(self, site: Site, x: Tensor) -> bool:
        """Return whether the model sees another shape behind the site than before it."""
        return False

    def linear(self, site: Site, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the dropped ``x`` times the weight, as one operation."""
        raise AssertionError("no site waits for its Linear in this pass")


@dataclass(frozen=True)
class RedrawnSite(BatchedMasks):
    """One pass in which one site takes its numbers from another pass."""

    name: str
    other: Tensor  # (1,), the index of that pass

    def draw(self, site: Site, like: Tensor, law: str) -> Tensor:
        """Return the site's random numbers in the shape of ``like``."""
        passes = self.other if site.name == self.name else self.passes_t
        return BatchedMasks(self.stream, passes).draw(site, like, law)


@dataclass(frozen=True)
class SingleSite:
    """One pass in which one site alone is random."""

    rows: BatchedMasks
    name: str
    constants: ConstantSource

    def drop(self, site: Site, x: Tensor, mask_rank: int, affine: Affine, inplace: bool) -> Tensor:
        """Return ``x`` with the masks of the site's passes applied."""
        return self.rows.drop(site, x, mask_rank, affine, inplace) if site.name == self.name else x

    def draw(self, site: Site, like: Tensor, law: str) -> Tensor:
        """Return the site's random numbers in the shape of ``like``."""
        return self.rows.draw(site, like, law) if site.name == self.name else self.constants.draw(like, law)

    def bernoulli(self, site: Site, like: Tensor, p: float | Tensor) -> Tensor:
        """Return 1 with probability p, else 0."""
        return self.rows.bernoulli(site, like, p) if site.name == self.name else self.constants.bernoulli(like, p)

    def holds(self, site: Site, x: Tensor) -> bool:
        """Return whether ``x`` has room for the result of in-place dropout."""
        return True

    def replicates(self, site: Site, x: Tensor) -> bool:
        """Return whether the model sees another shape behind the site than before it."""
        return False

    def linear(self, site: Site, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the dropped ``x`` times the weight, as one operation."""
        raise AssertionError("no site waits for its Linear in this pass")


def batch_copies(site: Site, x: Tensor, B: int, t: int = 1) -> int:
    """Return how many copies of the batch x holds, 1 or t. RowsError for any other number: the model changes its batch."""
    assert site.axis is not None
    n = x.shape[site.axis]
    if n in (B * site.rows, t * B * site.rows):
        return n // (B * site.rows)
    raise RowsError(
        f"{site}: dimension {site.axis} of {tuple(x.shape)} does not hold {B} items of {site.rows} row{'s' * (site.rows > 1)}, as it "
        "did when the sites were found. Give the layer all rows of all items whatever they hold (experts: route by weights), or leave "
        "it off with Dropout(sites=[...])"
    )


def check_item_shape(site: Site, x: Tensor) -> None:
    """RowsError unless an item's values at the site have the shape with which their mask elements were numbered."""
    if tuple(n for d, n in enumerate(x.shape) if d != site.axis) != site.item_shape:
        raise RowsError(
            f"{site}: its tensor is {tuple(x.shape)}, but an item's part was {site.item_shape} when the sites were found (items in "
            f"dimension {site.axis}). Mask elements would be numbered otherwise, and scores would depend on the batch. Pad all items "
            "to one length or size in the transform; for another size of all items call prepare() anew"
        )
