"""Scores of rows of 4,097 to 24,576 classes from one read: an item is a program, and its row some pieces that the program holds.

A tensor of Triton has a power of two of values, so a tile of 10,000 classes computes 16,384. Pieces are tensors of their own, of one
load per thread each, and there are as many as the row needs. A thread holds e^(x - max) of its values until the row's sum is
known, and p̄ of the same classes.

Measured on an H100 in bfloat16, T = 20, 1 GiB of logits, in one process: 10,000 classes are 1.41 times as fast as by a tile, 20,000 and
24,576 are 1.4 times as fast as by two reads (21,841 in odd rows 1.22), 8192 and 16,000 as fast as by a tile. Up to 32 values per thread
the next row is loaded before this one is worked on; with 40 that takes the registers of a second item on the multiprocessor (a
quarter slower at 10,000 classes), and with more it spills.
"""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
# ruff: noqa: RUF005  Triton adds tuples up, and unpacks none.
from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .launch import Launch
from .tile import FAR, LN2, NEEDS_H, TINY, log2, scale_of, scaled_difference, store_scores

SMALLEST = 4096  # classes up to which ``score`` is as fast
_WARPS = (4, 8, 16)
_MOST = {4: 40, 8: 40, 16: 48}  # values of a row that a thread can hold, by warps
_AHEAD = 32  # values per thread up to which there is room for the next row


@triton.jit
def _load_pieces(pointer, column, C: tl.constexpr, CHUNK: tl.constexpr, PIECES: tl.constexpr):
    """The logits of a row, PIECES tensors (CHUNK,); beyond C they are -inf, that is probability 0."""
    row = ()
    for k in tl.static_range(PIECES):
        if (k + 1) * CHUNK <= C:
            row = row + (tl.load(pointer + k * CHUNK),)
        else:
            row = row + (tl.load(pointer + k * CHUNK, mask=column + k * CHUNK < C, other=float("-inf")),)
    return row


@triton.jit
def _add_row(row, mean, products, logs, WANT: tl.constexpr, CHUNK: tl.constexpr, PIECES: tl.constexpr):
    """Add a pass: p to the sums ``mean``, e z / s to ``products`` (CHUNK,), log2 s to ``logs``; see ``tile.softmax_tile``."""
    peak = row[0].to(tl.float32)
    for k in tl.static_range(1, PIECES):
        peak = tl.maximum(peak, row[k].to(tl.float32))
    top = tl.max(peak, 0)
    c = scale_of(top)
    origin = top * c
    total = tl.zeros((CHUNK,), tl.float32)
    product = tl.zeros((CHUNK,), tl.float32)
    exponentials = ()
    for k in tl.static_range(PIECES):
        z = scaled_difference(row[k].to(tl.float32), c, origin)
        if NEEDS_H & WANT:
            z = tl.maximum(z, FAR, propagate_nan=tl.PropagateNan.ALL)
        e = tl.exp2(z)
        total += e
        if NEEDS_H & WANT:
            product += e * z
        exponentials = exponentials + (e,)
    s = tl.sum(total, 0)
    inverse = 1.0 / s
    sums = ()
    for k in tl.static_range(PIECES):
        sums = sums + (mean[k] + exponentials[k] * inverse,)
    if NEEDS_H & WANT:
        products += product * inverse
        logs += log2(s)
    return sums, products, logs


@triton.jit(do_not_specialize=["B", "stride_t"])
def _score_pieces(
    x, out, prediction, T, B, stride_t, stride_b,
    C: tl.constexpr, VECTOR: tl.constexpr, WANT: tl.constexpr, AHEAD: tl.constexpr, CHUNK: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, CHUNK)
    x += item * stride_b * VECTOR
    step = tl.cast(stride_t, tl.int64) * VECTOR
    mean = ()
    for _ in tl.static_range(PIECES):
        mean = mean + (tl.zeros((CHUNK,), tl.float32),)
    products = tl.zeros((CHUNK,), tl.float32)
    logs = tl.cast(0.0, tl.float32)
    if AHEAD:
        following = _load_pieces(x + column, column, C, CHUNK, PIECES)
    for t in range(T):
        if AHEAD:
            row = following
            x += (tl.minimum(t + 2, T) - (t + 1)) * step  # at the end the last row once more
            following = _load_pieces(x + column, column, C, CHUNK, PIECES)
        else:
            row = _load_pieces(x + column, column, C, CHUNK, PIECES)
            x += step
        mean, products, logs = _add_row(row, mean, products, logs, WANT, CHUNK, PIECES)
    _finish(out, prediction, item, B, mean, products, logs, column, T, C, WANT, CHUNK, PIECES)


@triton.jit
def _finish(
    out, prediction, item, B, mean, products, logs, column, T,
    C: tl.constexpr, WANT: tl.constexpr, CHUNK: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Write the results of an item from its sums over all passes. Threads meet once, after each has been through its pieces."""
    total = tl.zeros((CHUNK,), tl.float32)
    bits = tl.zeros((CHUNK,), tl.float32)
    best = tl.full((CHUNK,), -1.0, tl.float32)
    second = best
    arg = column
    for k in tl.static_range(PIECES):
        p = mean[k] * (1.0 / T)
        total += p
        bits += p * log2(tl.maximum(p, TINY))
        higher = p > best
        second = tl.where(higher, best, tl.maximum(second, p))
        arg = tl.where(higher, column + k * CHUNK, arg)
        best = tl.maximum(best, p)
    one = tl.arange(0, 1)
    none = tl.zeros((1,), tl.float32)
    top = tl.max(best, 0)
    first = tl.min(tl.where(best == top, arg, C), 0)
    runner_up = tl.max(tl.where(arg == first, second, best), 0)
    h = logs - tl.sum(products, 0)
    store_scores(
        out, prediction, item + one, one == 0, B, tl.sum(total, 0) + none, tl.sum(bits, 0) * -LN2 + none, top + none,
        first + one, runner_up + none, none, none, none, h + none, T, C, True, WANT,
    )  # fmt: skip


def plan_pieces(args: dict[str, Any], meta: dict[str, Any]) -> Launch | None:
    """The launch for softmax scores without mean_std and votes, with the arguments of ``score``; None if a row is too long to hold."""
    for warps in _WARPS:
        chunk = 32 * warps * meta["VECTOR"]
        pieces = triton.cdiv(meta["C"], chunk)
        values = pieces * meta["VECTOR"]
        if values <= _MOST[warps]:
            own = {name: meta[name] for name in ("C", "VECTOR", "WANT")}
            own |= {"AHEAD": values <= _AHEAD, "CHUNK": chunk, "PIECES": pieces}
            return Launch(_score_pieces, (args["B"],), args, own, warps)
    return None
