"""Entropy of an item's class given the classes of other items, the sum that BatchBALD and EPIG spend their time in.

    h[s, m] = H( sum_t rows[s, t] p[m, t, :] ),    H(q) = -sum_c q[c] log q[c],  0 log 0 = 0
    mean[m] = sum_s w[s] h[s, m],    square[m] = sum_s w[s] h[s, m]^2

p_MTC: the probabilities of items m in passes t, one sample of the model's weights each, the same for all items. A configuration s
is a class for each of the other items; w[s] is its probability, and rows[s, t] the probability of pass t given s:

    rows[s, t] = prod_i p[i, t, y_s[i]] / (T w[s]),    w[s] = (1 / T) sum_t prod_i p[i, t, y_s[i]]

(or w = 1 / S for S configurations drawn with their probabilities). The joint entropy of the other items and m is mean[m] plus
that of the other items. mean[m] itself is what a choice between items needs, and unlike the joint entropy it keeps its digits in
float32: rows and products are distributions however many items there are, where prod_i p underflows. The squares tell how sure
a mean over samples is.

A product of (S, T) by (T, M C) and an entropy: the kernels never write S M C values. Work: 2 S T M C FLOPs and S M C logarithms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backends
from .roofline import Roofline

_BLOCK = 1 << 21  # float64 values of the reference at a time


def conditional_entropy(p_MTC: Tensor, rows_ST: Tensor, weights_S: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and square (M,), float64, in nats; see the formulas above. NaN for an item with a NaN probability.

    The entropies of configurations are float32 to within some 1e-6; their sums are float64.

    Args:
        p_MTC: probabilities (M, T, C), float32, float16 or bfloat16; float64 takes the slower PyTorch path.
        rows_ST: (S, T) >= 0, each summing to 1.
        weights_S: (S,) >= 0.

    Raises:
        ValueError: shapes do not match, or there is no pass or class.

    >>> p_MTC = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # two passes that disagree about one item
    >>> mean_M, _ = conditional_entropy(p_MTC, torch.tensor([[0.5, 0.5]]), torch.ones(1))  # nothing is known of the pass
    >>> print(f"{mean_M.item():.4f}")
    0.6931
    >>> mean_M, _ = conditional_entropy(p_MTC, torch.eye(2), torch.tensor([0.5, 0.5]))  # the others tell which
    >>> print(f"{mean_M.item():.4f}")
    0.0000
    """
    check_shapes(p_MTC, rows_ST, weights_S)
    chosen = backends.select(p_MTC.device) if p_MTC.dtype in backends.KERNEL_DTYPES else "eager"
    if chosen == "native":
        from . import native

        return native.conditional_entropy(p_MTC, rows_ST, weights_S)
    if chosen == "triton":
        from .triton import joint as triton_joint

        return triton_joint.conditional_entropy(p_MTC, rows_ST, weights_S)
    return reference(p_MTC, rows_ST, weights_S)


def reference(p_MTC: Tensor, rows_ST: Tensor, weights_S: Tensor) -> tuple[Tensor, Tensor]:
    """``conditional_entropy`` by its definition in float64, a few items at a time."""
    (M, _, C), rows, weights = p_MTC.shape, rows_ST.double(), weights_S.double()
    step = max(1, _BLOCK // max(1, C * len(rows)))
    mean_M, square_M = weights.new_empty(M), weights.new_empty(M)
    for lo in range(0, M, step):
        h_mS = torch.special.entr(rows @ p_MTC[lo : lo + step].double()).sum(-1)
        mean_M[lo : lo + step], square_M[lo : lo + step] = h_mS @ weights, h_mS.square() @ weights
    return mean_M, square_M


def check_shapes(p_MTC: Tensor, rows_ST: Tensor, weights_S: Tensor) -> None:
    """ValueError unless the operands of ``conditional_entropy`` fit each other."""
    T = p_MTC.shape[1] if p_MTC.ndim == 3 else 0
    if not T or not p_MTC.shape[2]:
        raise ValueError(
            f"conditional_entropy: probabilities are {tuple(p_MTC.shape)}, expected (M, T, C) with T, C >= 1"
        )
    if rows_ST.ndim != 2 or rows_ST.shape[1] != T or weights_S.shape != rows_ST.shape[:1]:
        raise ValueError(
            f"conditional_entropy: rows are {tuple(rows_ST.shape)} and weights {tuple(weights_S.shape)}, "
            f"expected (S, {T}) and (S,)"
        )


def roofline(S: int, T: int, M: int, C: int) -> Roofline:
    """Probabilities and rows once, 16 bytes written per item; a multiply-add per product, and per entropy term 4 operations."""
    return Roofline(bytes=4 * T * (M * C + S) + 4 * S + 16 * M, flops=(2 * T + 4) * S * M * C)
