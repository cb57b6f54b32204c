"""Dropout followed by Linear as one operation: the dropped copy of the features is never written.

    y[t, b, l, c] = bias[c] + sum_d W[c, d] * (keep(seed, site, passes[t], ids[b], l D + d) ? a * x[s, b, l, d] : 0)

x_sBLD: s copies (1 before any dropout, then one per pass), B items, L rows per item (1, or tokens), D features.

An unfused pair writes and reads T B L D values between its two halves, and its random bits are most of its time: F.dropout +
F.linear of 3872 -> 128 features ran at 28 GFLOP/s on a core whose matrix product alone reaches 107.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import MaskSpec, rate
from . import backends
from .dropout import inverted, masked_passes, masks_of, signed, unsigned
from .operator import operator

_MAX_OUTPUTS = 256  # of the Triton kernel, which draws the masks again for every 128
_BLOCK = 4 << 20  # bytes of dropped features at a time in the reference: they stay in cache between its two halves


def fuses(x: Tensor, weight_CD: Tensor, p: float) -> bool:
    """Is there a kernel for x (B, ..., D), worth calling? Without one the two halves run as the model wrote them.

    Whatever B is: an item takes the same way in any batch.
    """
    if x.dtype != weight_CD.dtype or x.dtype not in backends.KERNEL_DTYPES:
        return False
    chosen = backends.select(x.device)
    return (chosen == "native" and x.dtype == torch.float32) or (chosen == "triton" and _fits_tiles(x, weight_CD, p))


def _fits_tiles(x: Tensor, weight_CD: Tensor, p: float) -> bool:
    """Does the Triton kernel gain? A product of more outputs is long beside its dropout.

    Rows that start inside a block of random bits it does not have, nor a p that drops nothing or all.
    """
    bits = rate(p).bits
    aligned = x.shape[1:-1].numel() == 1 or x.shape[-1] * bits % 128 == 0
    return bits > 0 and aligned and len(weight_CD) <= _MAX_OUTPUTS


def linear_passes(x_sBLD: Tensor, masks: MaskSpec, weight_CD: Tensor, bias_C: Tensor | None) -> Tensor:
    """y_tBLC of the given passes, contiguous, in x's dtype."""
    if fuses(x_sBLD[0], weight_CD, masks.drop_rate.p):
        operands = x_sBLD, masks, weight_CD, bias_C
        if backends.select(x_sBLD.device) == "native":
            from . import native

            return native.dropout_linear(*operands)
        from .triton import head as triton_head

        return triton_head.dropout_linear(*operands)
    return reference(x_sBLD, masks, weight_CD, bias_C)


def reference(x_sBLD: Tensor, masks: MaskSpec, weight_CD: Tensor, bias_C: Tensor | None) -> Tensor:
    """``linear_passes`` by its definition, a few passes at a time."""
    s, B, L, D = x_sBLD.shape
    step = max(1, _BLOCK // max(1, B * L * D * x_sBLD.element_size()))
    parts = []
    scaling = inverted(masks.drop_rate.p)
    for lo in range(0, masks.t, step):
        x = x_sBLD if s == 1 else x_sBLD[lo : lo + step]
        dropped = masked_passes(x.reshape(x.shape[0], B, L * D, 1), masks.part(slice(lo, lo + step)), scaling)
        parts.append(F.linear(dropped.view(-1, B, L, D), weight_CD, bias_C))
    return torch.cat(parts)


def _like_products(x_sBLD: Any, passes_t: Any, _ids_B: Any, weight_CD: Any, *_: Any) -> Tensor:
    return x_sBLD.new_empty((passes_t.numel(), *x_sBLD.shape[1:-1], weight_CD.shape[0]))


@operator("mcscore::linear_passes", _like_products)
def _linear_passes(
    x_sBLD: Tensor,
    passes_t: Tensor,
    ids_B: Tensor,
    weight_CD: Tensor,
    bias_C: Tensor | None,
    seed: int,
    site: int,
    bits: int,
    threshold: int,
) -> Tensor:
    return linear_passes(x_sBLD, masks_of(seed, site, passes_t, ids_B, bits, threshold), weight_CD, bias_C)


def dropout_linears(x: Tensor, masks: MaskSpec, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(s, B, ..., D) -> (t, B, ..., C): every copy of the batch, dropped and multiplied."""
    s, B, D = x.shape[0], x.shape[1], x.shape[-1]
    realized, which = masks.drop_rate, (signed(masks.seed), masks.site)
    x_sBLD = x.reshape(s, B, -1, D)
    y_tBLC = _linear_passes(x_sBLD, masks.passes, masks.ids, weight, bias, *which, realized.bits, realized.threshold)
    return y_tBLC.reshape(masks.t, *x.shape[1:-1], weight.shape[0])


def _like_product(x: Any, _passes: Any, _ids: Any, weight: Any, *_: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@operator("mcscore::dropout_linear", _like_product)
def dropout_linear(
    x: Tensor, passes: Tensor, ids: Tensor, weight: Tensor, bias: Tensor | None, seed: int, site: int, p: float
) -> Tensor:
    """``x`` (B, ..., D), ``passes`` a 0-d int64 tensor, the pass's index. Under vmap over it: all passes. seed: ``signed``."""
    masks = MaskSpec(unsigned(seed), site, passes.reshape(1), ids, rate(p))
    return dropout_linears(x[None], masks, weight, bias)[0].clone()


def _vmap(
    info: Any, in_dims: Any, x: Any, passes: Any, ids: Any, weight: Any, bias: Any, seed: Any, site: Any, p: Any
) -> tuple[Tensor, int | None]:
    x_dim, passes_dim = in_dims[0], in_dims[1]
    if any(dim is not None for dim in in_dims[2:]):
        raise ValueError("mcscore::dropout_linear: ids, weight and bias must not be mapped over, only the pass index")
    passes_t = passes if passes_dim is not None else passes.expand(info.batch_size)
    x = x[None] if x_dim is None else x.movedim(x_dim, 0)
    masks = MaskSpec(unsigned(seed), site, passes_t.reshape(-1), ids, rate(p))
    return dropout_linears(x, masks, weight, bias), 0


torch.library.register_vmap(dropout_linear, _vmap)
