"""Products of features, masked on their way into the tensor cores, with the weights of a Linear, for up to four passes at once."""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from .philox import bits_on_top, tile_draws
from .tile import INTERPRETED


@triton.jit
def masked_products(
    x, w, row, row_ok, first, item_id, column, site, passes, k, T, key_low, key_high, threshold,
    C: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr, PRECISION: tl.constexpr,
    TOGETHER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Four products, (ROWS, COLUMNS) float32, of passes k, k + 1, ...: the kept features of these rows of x, times W^T.

    Not yet divided by the keep rate. TOGETHER (1, 2 or 4): so many are computed; features and weights are loaded once for all.
    """
    product0 = tl.zeros((ROWS, COLUMNS), tl.float32)
    product1, product2, product3 = product0, product0, product0
    stream0 = site | tl.load(passes + k).to(tl.int32)
    stream1, stream2, stream3 = stream0, stream0, stream0
    if TOGETHER > 1:
        stream1 = site | tl.load(passes + tl.minimum(k + 1, T - 1)).to(tl.int32)
    if TOGETHER > 2:
        stream2 = site | tl.load(passes + tl.minimum(k + 2, T - 1)).to(tl.int32)
        stream3 = site | tl.load(passes + tl.minimum(k + 3, T - 1)).to(tl.int32)
    deep = tl.arange(0, DEPTH)
    for d in range(0, D, DEPTH):
        inside = deep + d < D
        features = tl.load(x + row[:, None] * D + d + deep[None, :], mask=row_ok[:, None] & inside[None, :], other=0.0)
        weights = tl.load(
            w + column[None, :] * D + d + deep[:, None], mask=(column < C)[None, :] & inside[:, None], other=0.0
        )
        kept = _masked(features, first + d, item_id, stream0, key_low, key_high, threshold, ROWS, DEPTH, BITS)
        product0 = tl.dot(kept, weights, product0, input_precision=PRECISION)
        if TOGETHER > 1:
            kept = _masked(features, first + d, item_id, stream1, key_low, key_high, threshold, ROWS, DEPTH, BITS)
            product1 = tl.dot(kept, weights, product1, input_precision=PRECISION)
        if TOGETHER > 2:
            kept = _masked(features, first + d, item_id, stream2, key_low, key_high, threshold, ROWS, DEPTH, BITS)
            product2 = tl.dot(kept, weights, product2, input_precision=PRECISION)
            kept = _masked(features, first + d, item_id, stream3, key_low, key_high, threshold, ROWS, DEPTH, BITS)
            product3 = tl.dot(kept, weights, product3, input_precision=PRECISION)
    return product0, product1, product2, product3


@triton.jit
def _masked(
    features, first, item_id, stream, key_low, key_high, threshold,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """The features that are kept, and 0."""
    if BITS == 1 and DEPTH <= 128 and features.dtype.primitive_bitwidth == 16 and not INTERPRETED:
        # Two 16-bit features at a time: a bit on top of each word, spread over 16, is their mask. 2 instructions per feature, not 5.
        bits = bits_on_top(first, item_id, stream, key_low, key_high, DEPTH)
        return tl.inline_asm_elementwise(
            "{ .reg .b32 m; prmt.b32 m, $1, $2, 0xFFBB; and.b32 $0, m, $3; }", "=r,r,r,r", [bits, features],
            dtype=features.dtype, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        drawn = tile_draws(first, item_id, stream, key_low, key_high, ROWS, DEPTH, BITS)
        return tl.where(drawn >= threshold, features, 0.0).to(features.dtype)
