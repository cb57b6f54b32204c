"""Dropout, the Linear that gives the model's output, and the scores, as one operation.

    scores[b] = reduction over t of  bias + W (keep(seed, site, passes[t], ids[b]) ? a x[b] : 0)

The features x_BD are the same for all passes. Neither the T B D dropped features nor the T B C logits reach memory: a model
whose only dropout sits before its last Linear is scored for the price of one forward pass and its masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..masks import MaskSpec
from . import backends
from .linear import reference as linear_reference
from .score import score_logits

_NATIVE = (torch.float32, torch.bfloat16)  # computed in float32


def fits(x: Tensor, weight_CD: Tensor, p: float, likelihood: str, input: str) -> bool:
    """Is there a kernel for these operands? Without one the logits of a few passes at a time are written and reduced."""
    if likelihood not in ("categorical", "bernoulli") or input != "logits" or x.ndim != 2 or not 0.0 < p < 1.0:
        return False
    chosen = backends.select(x.device)
    if chosen == "native":
        return x.dtype in _NATIVE and weight_CD.dtype in _NATIVE
    if chosen == "triton":
        return x.dtype == weight_CD.dtype and x.dtype in backends.KERNEL_DTYPES
    return False


def dropout_head(
    x_BD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None,
    scores: Sequence[str],
    *,
    likelihood: str,
    errors: bool = False,
) -> dict[str, Tensor]:
    """Scores (B,) float32, their errors and "prediction" (B,) int32, as ``score_logits`` gives them. ``fits`` must hold."""
    if backends.select(x_BD.device) == "native":
        from . import native

        return native.dropout_head(x_BD, masks, weight_CD, bias_C, scores, likelihood, errors=errors)
    from .triton import head as triton_head

    return triton_head.dropout_head(x_BD, masks, weight_CD, bias_C, scores, likelihood, errors=errors)


def reference(
    x_BD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None,
    scores: Sequence[str],
    *,
    likelihood: str,
    errors: bool = False,
) -> dict[str, Tensor]:
    """``dropout_head`` by its definition."""
    x_sBLD = x_BD[None, :, None]
    logits_TBLC = linear_reference(x_sBLD, masks, weight_CD, bias_C)
    return score_logits(logits_TBLC[:, :, 0], scores, likelihood=likelihood, errors=errors)
