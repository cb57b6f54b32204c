"""Dropout, the Linear that gives the model's output, and the scores, in one kernel: csrc/head.h.

    scores[b] = reduction over t of  bias + W (keep(t, b) ? x[b] : 0) / (1 - p)

Reads B D features and C D weights; writes 4 bytes per item and score.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...masks import MaskSpec
from ..operands import check_head
from .extension import loaded
from .linear import SUBSET, float_bias, pack
from .memory import NativeSpec, on_cpu
from .score import LIKELIHOODS, outputs
from .threads import split


def dropout_head(
    x_BD: Tensor,
    spec: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None,
    scores: Sequence[str],
    likelihood: str = "categorical",
    *,
    errors: bool = False,
) -> dict[str, Tensor]:
    """``score(dropout_linear(x, ...), scores, likelihood)`` of a model that ends in dropout and Linear, without its logits.

    x_BD: float32 or bfloat16 features, all passes read the same; weight_CD, bias_C: float32 or bfloat16; computed in float32.
    Returns scores (B,) and "prediction" as ``score`` does. Only they are written: neither t B D features nor t B C logits.
    """
    x, weight = (
        on_cpu(value, what).float().contiguous() for value, what in ((x_BD, "features"), (weight_CD, "weight"))
    )
    check_head(x, spec, weight, bias_C, scores, likelihood)
    (B, D), C = x.shape, weight.shape[0]
    masks = NativeSpec(spec, D)
    bias = float_bias(bias_C)
    packed, _, width = pack(weight_CD, weight, SUBSET)
    out, to = outputs(scores, B, masks.t if errors else None)
    arrays = x.data_ptr(), packed.data_ptr(), 0 if bias is None else bias.data_ptr()
    what = (D, C, width), 1.0 / spec.drop_rate.keep, LIKELIHOODS.index(likelihood), to
    split(B, masks.t * D * max(1, C // 8), lambda *items: loaded().dropout_head(masks.described, *arrays, *what, items))
    return out
