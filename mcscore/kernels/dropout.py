"""Dropout whose every mask bit is a pure function of (seed, site, pass, item id, element).

    y[t, b, e, i] = a * x[s, b, e, i] + b   if keep(seed, site, passes[t], ids[b], e)   else d,        s = t, or 0 where x holds one copy

``x`` is seen as ``x_sBEI``: s copies (1 before any dropout, then one per pass), B items, E mask elements per item, I
values that share a mask element (1 for element dropout, H*W for channel dropout). With s = 1 the kernel replicates and
masks in one sweep: x is read once and ``y_tBEI`` is written once, so T copies of the input never exist.

Three layers: ``masked_passes`` picks the kernel for a device, and is the operator ``mcscore::masked_passes`` for whatever traces;
``mcscore::dropout`` is one pass of it, which ``torch.vmap`` turns into all; ``reference`` is the readable version in PyTorch,
the slow path on devices without a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..masks import MaskSpec, Rate, rate
from . import backends
from .operands import check_dropout
from .operator import operator
from .philox import random_blocks

Affine = tuple[float, float, float]
"""(a, b, d): a kept value x becomes a * x + b, a dropped one becomes d."""

_REFERENCE_BYTES = 32 << 20  # temporaries of the reference: int64 words cost 4-16 bytes per mask element


def inverted(p: float) -> Affine:
    """The affine of inverted dropout: kept values are divided by the keep rate that the mask really has.

    >>> inverted(0.5)
    (2.0, 0.0, 0.0)
    """
    return (1.0 / rate(p).keep, 0.0, 0.0) if p < 1.0 else (0.0, 0.0, 0.0)


def indicator(p: float) -> Affine:
    """The affine of the keep pattern itself: ones stay, what is dropped is 0."""
    return (1.0, 0.0, 0.0)


def alpha(p: float) -> Affine:
    """The affine of alpha dropout (Klambauer et al. 2017, self-normalizing networks): keeps mean 0 and variance 1 of a SELU input."""
    floor = -1.7580993408473766  # -scale * alpha of SELU, as torch.nn.functional.alpha_dropout has it
    q = rate(p).p
    if q == 1.0:
        return (0.0, 0.0, 0.0)
    a = 1.0 / math.sqrt((1.0 - q) * (1.0 + q * floor * floor))
    b = -a * floor * q
    return (a, b, a * floor + b)


def masked_passes(x_sBEI: Tensor, masks: MaskSpec, affine: Affine) -> Tensor:
    """Apply the masks of the given passes. Returns ``y_tBEI`` in x's dtype, contiguous."""
    check_dropout(x_sBEI, masks)
    if masks.drop_rate.bits == 0:
        return unmasked_passes(x_sBEI, masks, affine)
    chosen = backends.select(x_sBEI.device)
    if chosen != "eager" and x_sBEI.dtype not in backends.KERNEL_DTYPES:
        backends.warn_once(
            f"dropout of {x_sBEI.dtype} takes the slower PyTorch path; the {chosen} kernel has 16- and 32-bit floats"
        )
        chosen = "eager"
    if chosen == "native":
        from . import native

        return native.dropout(x_sBEI, masks, affine)
    if chosen == "triton":
        from .triton import dropout as triton_dropout

        return triton_dropout.dropout(x_sBEI, masks, affine)
    return reference(x_sBEI, masks, affine)


def unmasked_passes(x_sBEI: Tensor, masks: MaskSpec, affine: Affine) -> Tensor:
    """``masked_passes`` where p is 0, which drops nothing, or 1, which drops everything: no bits are needed."""
    a, b, d = affine
    out = torch.full_like(x_sBEI, d) if masks.drop_rate.p == 1.0 else a * x_sBEI + b
    return out.expand(masks.t, *x_sBEI.shape[1:]).contiguous()


def reference(x_sBEI: Tensor, masks: MaskSpec, affine: Affine) -> Tensor:
    """``masked_passes`` in PyTorch operations, on any device, a few passes at a time so that temporaries stay small."""
    s, B, E, I = x_sBEI.shape
    t = masks.t
    y_tBEI = torch.empty((t, B, E, I), dtype=x_sBEI.dtype, device=x_sBEI.device)
    step = max(1, _REFERENCE_BYTES // max(1, 16 * B * E))
    a, b, d = affine
    for lo in range(0, t, step):
        keep = reference_mask(masks.part(slice(lo, lo + step)), E)
        x = x_sBEI if s == 1 else x_sBEI[lo : lo + step]
        wide = x if x.dtype == torch.float64 else x.float()
        y_tBEI[lo : lo + step] = torch.where(keep[..., None], (wide * a + b).to(x.dtype), torch.full_like(x, d))
    return y_tBEI


def reference_mask(masks: MaskSpec, elements: int) -> Tensor:
    """Keep bits (t, B, elements) on the device of the ids."""
    r = masks.drop_rate
    words = random_blocks(masks, -(-elements // (128 // r.bits)))
    shifts = torch.arange(0, 32, r.bits, device=words.device)
    values = (words[..., None] >> shifts) & ((1 << r.bits) - 1)
    return (values.flatten(2) >= r.threshold)[..., :elements]


# ---- the operators that vmap and compile see --------------------------------------------------------------------------------------
# An operator takes tensors and plain numbers: a MaskSpec is taken apart in front of it and put together again behind it.


def signed(seed: int) -> int:
    """The same 64 bits as operators take them, which know no unsigned numbers. Their kernels read ``unsigned(seed)``."""
    return seed - 2**64 if seed >= 2**63 else seed


def unsigned(seed: int) -> int:
    """The seed as masks and kernels take it."""
    return seed % 2**64


def masks_of(seed: int, site: int, passes_t: Tensor, ids_B: Tensor, bits: int, threshold: int) -> MaskSpec:
    """The MaskSpec that an operator took apart."""
    return MaskSpec(unsigned(seed), site, passes_t, ids_B, Rate(threshold / 2**bits, bits, threshold))


def _like_passes(x_sBEI: Any, passes_t: Any, *_: Any) -> Tensor:
    return x_sBEI.new_empty((passes_t.numel(), *x_sBEI.shape[1:]))


@operator("mcscore::masked_passes", _like_passes)
def _masked_passes(
    x_sBEI: Tensor,
    passes_t: Tensor,
    ids_B: Tensor,
    seed: int,
    site: int,
    bits: int,
    threshold: int,
    affine: Sequence[float],
) -> Tensor:
    a, b, d = affine
    return masked_passes(x_sBEI, masks_of(seed, site, passes_t, ids_B, bits, threshold), (a, b, d))


def _like_images(x_sBCHW: Any, passes_t: Any, *_: Any) -> Tensor:
    _, B, C, H, W = x_sBCHW.shape
    return x_sBCHW.new_empty((passes_t.numel(), B, H, W, C)).permute(0, 1, 4, 2, 3)


@operator("mcscore::image_passes", _like_images)
def _image_passes(
    x_sBCHW: Tensor,
    passes_t: Tensor,
    ids_B: Tensor,
    seed: int,
    site: int,
    bits: int,
    threshold: int,
    affine: Sequence[float],
    whole: bool,
) -> Tensor:
    from .triton.channels_last import dropout_images

    a, b, d = affine
    return dropout_images(x_sBCHW, masks_of(seed, site, passes_t, ids_B, bits, threshold), (a, b, d), whole)


def drop(x: Tensor, masks: MaskSpec, affine: Affine, *, copies: int, axis: int) -> Tensor:
    """Dropout of ``x`` (copies, *shape), whose dimension ``axis`` of ``shape`` runs over the items. Returns (t, *shape).

    Images in channels-last format stay in it, as a convolution of the result in the other format costs more: on a GPU by a kernel of
    their own, elsewhere at the price of a copy, as elements are numbered in another order than they lie there.
    """
    realized, which = masks.drop_rate, (masks.passes, masks.ids, signed(masks.seed), masks.site)
    images = axis == 0 and _channels_last(x[0])
    if images and _has_image_kernel(x, masks):
        whole = masks.rank == 2
        return _image_passes(x, *which, realized.bits, realized.threshold, affine, whole)
    x_sBEI = _to_sBEI(x, masks, copies, axis)
    y_tBEI = _masked_passes(x_sBEI, *which, realized.bits, realized.threshold, affine)
    moved = list(x.shape[1:])
    moved.insert(0, moved.pop(axis))
    y = y_tBEI.reshape(masks.t, *moved).movedim(1, axis + 1)
    if images:
        y = to_channels_last(y)
    return y


def to_channels_last(y_tBCHW: Tensor) -> Tensor:
    """The same images, laid out in channels-last format."""
    return y_tBCHW.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def _has_image_kernel(x_sBCHW: Tensor, masks: MaskSpec) -> bool:
    """Is there a kernel for images in channels-last format, and a mask element for each value or each channel?"""
    if masks.rank not in (None, 2, 4) or masks.drop_rate.bits == 0 or x_sBCHW.shape[1] != masks.B:
        return False
    return x_sBCHW.dtype in backends.KERNEL_DTYPES and backends.select(x_sBCHW.device) == "triton"


def _channels_last(x: Tensor) -> bool:
    """Whether images (B, C, H, W) lie in channels-last format, and not in the usual one as well.

    Told by the strides of an image: that of B says nothing of a single one, and PyTorch's own test looks at it.
    """
    if x.ndim != 4:
        return False
    _, C, H, W = x.shape
    return C > 1 and H * W > 1 and x.stride()[1:] == (1, W * C, C)


def _to_sBEI(x: Tensor, masks: MaskSpec, copies: int, axis: int) -> Tensor:
    """(copies, *shape) -> (copies, B, E, I): the axis that holds the items comes first.

    Several rows of one item (heads, patches) join E. Elements are numbered in the row-major order of the item's own values, so
    that an item's mask never depends on its batch.
    """
    x, items = x.movedim(axis + 1, 1), masks.B
    own = x.ndim if masks.rank is None else 1 + masks.rank
    rows = x.shape[1] // items if items else 1
    elements = rows * math.prod(x.shape[2:own])
    return x.reshape(copies, items, elements, math.prod(x.shape[own:])).contiguous()


def _like(x: Any, *others: Any) -> Tensor:
    return torch.empty_like(x, memory_format=_format(x, others[6]))


@operator("mcscore::dropout", _like)
def dropout(
    x: Tensor,
    passes: Tensor,
    ids: Tensor,
    seed: int,
    site: int,
    p: float,
    rank: int,
    axis: int,
    affine: Sequence[float],
) -> Tensor:
    """One site in one pass: ``x`` any shape, ``passes`` a 0-d int64 tensor, the pass's index. Under vmap over it: all passes.

    seed: ``signed``. rank: of the MaskSpec. axis: the dimension of x that runs over the items.
    """
    a, b, d = affine
    masks = MaskSpec(unsigned(seed), site, passes.reshape(1), ids, rate(p), rank)
    return drop(x[None], masks, (a, b, d), copies=1, axis=axis)[0].contiguous(memory_format=_format(x, axis))


def _format(x: Tensor, axis: int) -> torch.memory_format:
    """Memory format of the result of one pass."""
    return torch.channels_last if axis == 0 and _channels_last(x) else torch.contiguous_format


def _vmap(
    info: Any,
    in_dims: Any,
    x: Any,
    passes: Any,
    ids: Any,
    seed: Any,
    site: Any,
    p: Any,
    rank: Any,
    axis: Any,
    affine: Any,
) -> tuple[Tensor, int | None]:
    x_dim, passes_dim = in_dims[0], in_dims[1]
    if in_dims[2] is not None:
        raise ValueError("mcscore::dropout: ids must not be mapped over; map over the pass index alone")
    passes_t = passes if passes_dim is not None else passes.expand(info.batch_size)
    copies = 1 if x_dim is None else info.batch_size
    x = x[None] if x_dim is None else x.movedim(x_dim, 0)
    masks = MaskSpec(unsigned(seed), site, passes_t.reshape(-1), ids, rate(p), rank)
    a, b, d = affine
    return drop(x, masks, (a, b, d), copies=copies, axis=axis), 0


torch.library.register_vmap(dropout, _vmap)
