"""Keep masks, and dropout that applies them on the fly: csrc/dropout.h.

    y[t, b, e, i] = keep(t, b, e) ? a x[s, b, e, i] + b : d

Reads s B E I values, once (s = 1: once for all passes); writes t B E I.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...masks import MaskSpec
from ..operands import check_dropout
from .extension import loaded
from .memory import DTYPES, NativeSpec, on_cpu
from .threads import split_passes


def keep_mask(spec: MaskSpec, elements: int) -> Tensor:
    """Keep masks (t, B, elements), bool, True = kept: ``masks.keep_mask`` bit for bit."""
    masks = NativeSpec(spec, elements)
    out = torch.empty((masks.t, masks.B, elements), dtype=torch.bool)
    split_passes(masks.B, masks.t, elements, lambda *part: loaded().keep_mask(masks.described, out.data_ptr(), *part))
    return out


def dropout(
    x_sBEI: Tensor,
    spec: MaskSpec,
    affine: tuple[float, float, float],
) -> Tensor:
    """Y (t, B, E, I) = a x + b where element (t, b, e) is kept, else d; float32 inside, x's dtype in and out.

    x_sBEI: float32, float16 or bfloat16; s = 1 (every pass reads the same x) or s = t. The I values of an element share its fate.
    affine: (a, b, d). Memory moved: s B E I + t B E I values.
    """
    x = on_cpu(x_sBEI, "dropout input").contiguous()
    check_dropout(x, spec)
    s, B, E, I = x.shape
    masks = NativeSpec(spec, E)
    y = torch.empty((masks.t, B, E, I), dtype=x.dtype)
    arrays = x.data_ptr(), y.data_ptr(), DTYPES.index(x.dtype), s, I, tuple(affine)
    split_passes(masks.B, masks.t, E * I, lambda *part: loaded().dropout(masks.described, *arrays, *part))
    return y
