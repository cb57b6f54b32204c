"""Entropies of items given the classes of others, in Triton.

    h[s, m] = H(sum_t rows[s, t] p[m, t, :]),   mean[m] = sum_s w[s] h[s, m],   square[m] = sum_s w[s] h[s, m]^2

One program multiplies 128 configurations by the classes of as many items as fill 128 columns, on tensor cores, takes the entropies
of the product in registers, and goes on with the next configurations; S M C values exist nowhere. float32 is multiplied as three
TF32 products whatever PyTorch is set to, since gains are differences of entropies; 16-bit probabilities are TF32 numbers already.
Per value of the product that is 2 T FLOPs and one logarithm of the special function unit.

Sums run over 1024 configurations in float32 and over these parts in float64, in a fixed order: results depend on no other item.
"""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, check_device, check_dtype
from .tile import log2

_COLUMNS = 128  # of the product: classes of one or more items
_ROWS, _DEPTH = (
    128,
    16,
)  # with 64 rows half as fast on an H100 (float32, 10 classes); deeper ones spill 480 bytes on sm_80
_PART = 1024  # configurations per program, summed in float32
_LN2 = tl.constexpr(0.6931471805599453)
_TINY = tl.constexpr(1e-37)  # log2 of it is finite, so 0 log 0 = 0


@triton.jit
def _conditional_entropy(
    p, rows, weights, mean_out, square_out, M, S, T,
    C: tl.constexpr, CLASSES: tl.constexpr, ITEMS: tl.constexpr, PART: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One program: ITEMS items, PART configurations."""
    COLUMNS: tl.constexpr = ITEMS * CLASSES
    first = tl.program_id(0).to(tl.int64) * ITEMS
    begin = tl.program_id(1) * PART
    column = tl.arange(0, COLUMNS)
    deep = tl.arange(0, DEPTH)
    item = first + column // CLASSES
    mean = tl.zeros((ITEMS,), tl.float32)
    square = tl.zeros((ITEMS,), tl.float32)
    for block in range(0, PART, ROWS):
        row = begin + block + tl.arange(0, ROWS)
        h = tl.zeros((ROWS, ITEMS), tl.float32)
        for start in range(0, C, CLASSES):
            label = start + column % CLASSES
            ok = (item < M) & (label < C)
            q = tl.zeros((ROWS, COLUMNS), tl.float32)
            for t in range(0, T, DEPTH):
                inside = t + deep < T
                a = tl.load(
                    rows + row.to(tl.int64)[:, None] * T + (t + deep)[None, :],
                    mask=(row < S)[:, None] & inside[None, :], other=0.0,
                )  # fmt: skip
                b = tl.load(
                    p + (item * T)[None, :] * C + ((t + deep) * C)[:, None] + label[None, :],
                    mask=inside[:, None] & ok[None, :], other=0.0,
                )  # fmt: skip
                q = tl.dot(a, b.to(tl.float32), q, input_precision="tf32x3")
            bits = q * log2(tl.maximum(q, _TINY))
            h -= tl.sum(tl.reshape(bits, (ROWS, ITEMS, CLASSES)), 2) * _LN2
        w = tl.load(weights + row, mask=row < S, other=0.0)[:, None]
        mean += tl.sum(w * h, 0)
        square += tl.sum(w * h * h, 0)
    to = first + tl.arange(0, ITEMS)
    at = tl.program_id(1) * tl.cast(M, tl.int64) + to
    tl.store(mean_out + at, mean, mask=to < M)
    tl.store(square_out + at, square, mask=to < M)


def conditional_entropy(p_MTC: Tensor, rows_ST: Tensor, weights_S: Tensor) -> tuple[Tensor, Tensor]:
    """``mcscore.kernels.joint.conditional_entropy`` on CUDA; probabilities are float32, float16 or bfloat16."""
    check_device("conditional_entropy", p_MTC.device)
    launch, mean_PM, square_PM = plan_conditional_entropy(p_MTC, rows_ST, weights_S)
    launch.run()
    return mean_PM.sum(0, dtype=torch.float64), square_PM.sum(0, dtype=torch.float64)


def plan_conditional_entropy(p_MTC: Tensor, rows_ST: Tensor, weights_S: Tensor) -> tuple[Launch, Tensor, Tensor]:
    """The launch, and the sums over parts of the configurations (parts, M) float32 that it fills."""
    check_dtype("conditional_entropy", p_MTC)
    p = p_MTC.contiguous()
    rows, weights = (x.to(device=p.device, dtype=torch.float32).contiguous() for x in (rows_ST, weights_S))
    (M, T, C), S = p.shape, len(rows)
    classes = max(2, min(_COLUMNS, triton.next_power_of_2(C)))
    items, parts = _COLUMNS // classes, triton.cdiv(S, _PART)
    mean_PM, square_PM = torch.empty((2, parts, M), dtype=torch.float32, device=p.device)
    part = min(_PART, triton.cdiv(S, _ROWS) * _ROWS)
    launch = Launch(
        _conditional_entropy,
        (triton.cdiv(M, items), parts),
        {
            "p": p,
            "rows": rows,
            "weights": weights,
            "mean_out": mean_PM,
            "square_out": square_PM,
            "M": M,
            "S": S,
            "T": T,
        },
        {"C": C, "CLASSES": classes, "ITEMS": items, "PART": part, "ROWS": _ROWS, "DEPTH": _DEPTH},
        num_warps=8,
        num_stages=2,
    )
    return launch, mean_PM, square_PM
