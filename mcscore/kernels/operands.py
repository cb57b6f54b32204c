"""What must hold of the operands of dropout, of dropout with a Linear, and of a head, whichever backend computes them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..acquisition import check_kernel_call
from ..masks import MaskSpec


def check_dropout(x_sBEI: Tensor, masks: MaskSpec) -> None:
    """ValueError unless x is (s, B, E, I) with s = 1 or the number of passes and B the number of ids."""
    if x_sBEI.ndim != 4 or x_sBEI.shape[0] not in (1, masks.t) or x_sBEI.shape[1] != masks.B:
        raise ValueError(
            f"dropout: x is {tuple(x_sBEI.shape)}, expected (s, B, E, I) with s = 1 or the number of passes ({masks.t}) and "
            f"B the number of ids ({masks.B})"
        )


def check_linear(x_sBLD: Tensor, masks: MaskSpec, weight_CD: Tensor, bias_C: Tensor | None) -> None:
    """ValueError unless features, masks, weight and bias of a Linear fit each other."""
    if x_sBLD.ndim != 4 or x_sBLD.shape[0] not in (1, masks.t) or x_sBLD.shape[1] != masks.B:
        raise ValueError(
            f"dropout_linear: features are {tuple(x_sBLD.shape)}, expected (s, B, L, D) with s = 1 or the number of passes "
            f"({masks.t}) and B the number of ids ({masks.B})"
        )
    _check_weight("dropout_linear", x_sBLD, weight_CD, bias_C)


def check_head(
    x_BD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None,
    scores: Sequence[str],
    likelihood: str,
) -> None:
    """ValueError unless features, masks, weight, bias and scores of a head fit each other."""
    if x_BD.ndim != 2 or x_BD.shape[0] != masks.B:
        raise ValueError(
            f"dropout_head: features are {tuple(x_BD.shape)}, expected (B, D) with B the number of ids ({masks.B})"
        )
    _check_weight("dropout_head", x_BD, weight_CD, bias_C)
    check_kernel_call("dropout_head", scores, likelihood, (masks.t, len(x_BD), len(weight_CD)))


def _check_weight(what: str, x: Tensor, weight_CD: Tensor, bias_C: Tensor | None) -> None:
    if weight_CD.ndim != 2 or weight_CD.shape[1] != x.shape[-1]:
        raise ValueError(
            f"{what}: weight {tuple(weight_CD.shape)} (C, D) does not fit features {tuple(x.shape)} (..., D)"
        )
    if bias_C is not None and bias_C.shape != weight_CD.shape[:1]:
        raise ValueError(f"{what}: bias {tuple(bias_C.shape)} does not fit weight {tuple(weight_CD.shape)} (C, D)")
