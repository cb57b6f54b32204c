"""Dropout and the Linear behind it, without a dropped copy of the features: csrc/linear.h.

    y[t, b, l, c] = bias[c] + sum_d W[c, d] * (keep(t, b, l D + d) ? x[s, b, l, d] : 0) / (1 - p)

Reads s B L D features and C D weights, which are packed once per scoring call; writes t B L C values. csrc/linear.h has three
ways of doing so, one per shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...masks import MaskSpec
from ..operands import check_linear
from ..weight_cache import made_from
from .extension import loaded
from .memory import NativeSpec, on_cpu
from .threads import split_passes

SUBSET, DOT, DENSE = range(3)  # enum class How of csrc/kernels.h


def dropout_linear(
    x_sBLD: Tensor,
    spec: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None = None,
) -> Tensor:
    """Y (t, B, L, C) = bias + W (keep x) / (1 - p), float32: dropout and the Linear behind it, without a dropped copy of x.

    x_sBLD: s = 1 or t copies of B items of L rows of D features; element l D + d of an item's mask belongs to feature d of row l.
    Results do not depend on the batch, the chunk of passes or the threads, to the last bit, save that a chunk of a single
    pass with an x of its own (s = t = 1) is summed in the order of a shared x.
    """
    x, weight = (on_cpu(value, what).contiguous() for value, what in ((x_sBLD, "features"), (weight_CD, "weight")))
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        raise TypeError(f"dropout_linear needs float32 features and weight, got {x.dtype} and {weight.dtype}")
    check_linear(x, spec, weight, bias_C)
    s, B, L, D = x.shape
    C = weight.shape[0]
    masks = NativeSpec(spec, L * D)
    bias = float_bias(bias_C)
    y = torch.empty((masks.t, B, L, C), dtype=torch.float32)
    how = _how(s, C)
    packed, padded, width = pack(weight_CD, weight, how)
    shape = s, L, D, C, padded, width
    arrays = (
        x.data_ptr(),
        packed.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        shape,
        how,
        1.0 / spec.drop_rate.keep,
    )
    cost = L * D * max(1, C // 8)
    split_passes(B, masks.t, cost, lambda *part: loaded().dropout_linear(masks.described, *arrays, *part))
    return y


def float_bias(bias_C: Tensor | None) -> Tensor | None:
    """The bias in float32, as the kernels add it."""
    return None if bias_C is None else on_cpu(bias_C, "bias").float().contiguous()


def _how(s: int, C: int) -> int:
    """One x for all passes: sums of subsets, whatever p. Else dot products for few classes and a matrix product for many."""
    return SUBSET if s == 1 else DOT if C <= 24 else DENSE


def pack(key: Tensor, weight_CD: Tensor, how: int) -> tuple[Tensor, int, int]:
    """(weights in the order in which the kernel reads them, padded D, padded C), made once per weight of a scoring call.

    key: the tensor of the model that weight_CD was made of.
    """
    lanes = loaded().lanes()
    C, D = weight_CD.shape
    if how == DOT:
        padded, width = -(-D // lanes) * lanes, C
    else:
        panel = loaded().panel_classes(C) if how == SUBSET else lanes * (4 if lanes == 16 else 2)
        padded, width = D, -(-C // panel) * panel

    def make() -> Tensor:
        if how == DOT:
            return torch.nn.functional.pad(weight_CD, (0, padded - D)).contiguous()
        # panels of classes: (width / panel, D, panel)
        order = torch.nn.functional.pad(weight_CD, (0, 0, 0, width - C)).view(-1, panel, D).transpose(1, 2)
        return order.contiguous()

    return made_from(key, ("packed", how, lanes), make), padded, width
