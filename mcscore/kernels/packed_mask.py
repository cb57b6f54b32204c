"""Keep masks with one bit per element, for compilers to fuse with what comes before and behind the dropout.

An operator that a compiler cannot look into is a wall: what it takes and gives goes through memory. ``fusable`` is dropout as plain
operations on a packed mask, so that a compiler makes one kernel of a GELU, the dropout behind it and the residual behind that. The
mask itself is an eighth of a byte per element, where a bfloat16 value is two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..masks import MaskSpec
from . import backends
from .dropout import masks_of, reference_mask, to_channels_last, unmasked_passes
from .operator import operator


def packed_mask(masks: MaskSpec, elements: int) -> Tensor:
    """Keep bits (t, B, ceil(elements / 32)) int32 on the device of the ids: element 32 i + j is bit j of word i, 1 if it is kept."""
    if backends.select(masks.ids.device) == "triton":
        from .triton import packed_mask as triton_packed_mask

        return triton_packed_mask.packed_mask(masks, elements, masks.ids.device)
    return reference(masks, elements)


def reference(masks: MaskSpec, elements: int) -> Tensor:
    """``packed_mask`` in PyTorch operations."""
    keep_tBE = reference_mask(masks, -(-elements // 32) * 32)
    weights = 1 << torch.arange(32, device=keep_tBE.device)
    return (keep_tBE.unflatten(2, (-1, 32)) * weights).sum(3).to(torch.int32)


def _like_packed(passes_t: Any, ids_B: Any, *others: Any) -> Tensor:
    return passes_t.new_empty((passes_t.numel(), ids_B.numel(), -(-others[-1] // 32)), dtype=torch.int32)


@operator("mcscore::packed_mask", _like_packed)
def _packed_mask(
    passes_t: Tensor, ids_B: Tensor, seed: int, site: int, bits: int, threshold: int, elements: int
) -> Tensor:
    return packed_mask(masks_of(seed, site, passes_t, ids_B, bits, threshold), elements)


def fusable(
    x_sBEI: Tensor,
    passes_t: Tensor,
    ids_B: Tensor,
    seed: int,
    site: int,
    bits: int,
    threshold: int,
    affine: Sequence[float],
) -> Tensor:
    """``mcscore::masked_passes`` as operations on a packed mask: the same values."""
    a, b, d = affine
    E = x_sBEI.shape[2]
    if bits == 0:
        return unmasked_passes(x_sBEI, masks_of(seed, site, passes_t, ids_B, bits, threshold), (a, b, d))
    packed_tBN = _packed_mask(passes_t, ids_B, seed, site, bits, threshold, E)
    places = torch.arange(32, dtype=torch.int32, device=packed_tBN.device)
    keep_tBE = (packed_tBN[..., None] >> places & 1).flatten(2)[..., :E] != 0
    wide = x_sBEI if x_sBEI.dtype == torch.float64 else x_sBEI.float()
    return torch.where(keep_tBE[..., None], wide * a + b, d).to(x_sBEI.dtype)


def fusable_images(
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
    """``mcscore::image_passes`` as operations on a packed mask: the same values, in channels-last format."""
    s, B, C, H, W = x_sBCHW.shape
    x_sBEI = x_sBCHW.reshape(s, B, C if whole else C * H * W, H * W if whole else 1)
    y_tBEI = fusable(x_sBEI, passes_t, ids_B, seed, site, bits, threshold, affine)
    return to_channels_last(y_tBEI.reshape(-1, B, C, H, W))
