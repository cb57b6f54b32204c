"""Adds passes to the float64 sums of ``kernels.eager``: what ``Moments`` keeps on a GPU.

    p += sum_t p_t    p2 += sum_t p_t^2    h += sum_t H[p_t]    votes += [c = argmax_c x_t]    bad |= p_t is no distribution

Reads the logits of t passes once, as they lie in memory, and each sum that is kept once for all t; writes the sums. A pass is
computed in float32 and added in float64 registers, by the formulas of ``eager``: they take log1p of what the other classes have,
where ``tile`` takes the SFU's logarithm of the whole, as a BALD of 2^-20 of the entropy must not be noise. In PyTorch one pass of
21 classes and 512 x 512 pixels took 396 launches.

A program has tiles of 1024 values, 8 per thread: their float64 sums, p and p2, take 32 registers. Some 40 instructions per logit and
pass (counted in sm_90 code at C = 1000; 73 for pixels) let float32 logits pass at about the memory's speed. Rows of up to 4096
classes are one tile and one launch. Wider ones take two, and two more reads: first the statistics of each row, then their tiles.
"""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..eager import State
from .launch import Launch, alignment, check_device, check_dtype

_TILE = 1024
_WIDEST = 4096  # classes of a row that is one tile, of 16 warps
_FLAGS = {"P2": "p2", "H": "h", "VOTES": "votes"}  # sums that may be left out
LOG_ZERO = tl.constexpr(-1000.0)  # exp of it is 0, and so is its product with it, where -inf gives NaN


@triton.jit
def log1p(x):
    """log(1 + x) of x >= 0 with a small relative error (Kahan): the error of 1 + x cancels in log(1 + x) / ((1 + x) - 1)."""
    one_more = 1.0 + x
    gained = one_more - 1.0
    return tl.where(gained == 0.0, x, tl.log(one_more) * (x / tl.where(gained == 0.0, 1.0, gained)))


@triton.jit
def below(x, top):
    """The difference x - top, not below LOG_ZERO; NaN where one is NaN or both are infinite."""
    return tl.maximum(x - top, LOG_ZERO, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def softmax_parts(z, other):
    """(e, sum e, sum e z) with e = exp(z) of the classes other than the most probable, 0 for that one."""
    e = tl.where(other, tl.exp(z), 0.0)
    return e, tl.sum(e, 1), tl.sum(tl.where(other, e * z, 0.0), 1)


@triton.jit
def softmax_row(top, u, w):
    """(1 / (1 + u), H, is it no distribution?) of rows whose maximum is ``top``, from the sums of ``softmax_parts``."""
    inverse = tl.div_rn(tl.full(u.shape, 1.0, tl.float32), 1.0 + u)
    return inverse, log1p(u) - w * inverse, (tl.abs(top) == float("inf")) | (u != u)


@triton.jit
def label_probability(x):
    """(p float64, H float32) of labels. Near 1 float32 has lost 1 - p."""
    a = tl.minimum(tl.abs(x), -LOG_ZERO, propagate_nan=tl.PropagateNan.ALL)
    e = tl.exp(-a)
    q = e / (1.0 + e)  # the smaller of p and 1 - p
    wide = q.to(tl.float64)
    return tl.where(x < 0, wide, 1.0 - wide), log1p(e) + a * q


@triton.jit
def add_tile(p, p2, votes, at, inside, sum_p, sum_p2, sum_votes, P2: tl.constexpr, VOTES: tl.constexpr):
    """Add the sums of a tile to those in memory."""
    tl.store(p + at, tl.load(p + at, mask=inside, other=0.0) + sum_p, mask=inside)
    if P2:
        tl.store(p2 + at, tl.load(p2 + at, mask=inside, other=0.0) + sum_p2, mask=inside)
    if VOTES:
        tl.store(votes + at, tl.load(votes + at, mask=inside, other=0) + sum_votes, mask=inside)


@triton.jit
def add_row(h, bad, row, ok, sum_h, spoiled, H: tl.constexpr):
    """Add to the sums in memory that have one value per row."""
    if H:
        tl.store(h + row, tl.load(h + row, mask=ok, other=0.0) + sum_h, mask=ok)
    tl.store(bad + row, tl.load(bad + row, mask=ok, other=0) | spoiled, mask=ok)


@triton.jit(do_not_specialize=["rows", "blocks", "stride_t"])
def _add_rows(
    x, p, p2, h, votes, bad, t, rows, blocks, stride_t, stride_o, stride_i, stride_c,
    C: tl.constexpr, VECTOR: tl.constexpr, SOFTMAX: tl.constexpr, P2: tl.constexpr, H: tl.constexpr, VOTES: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program: ROWS whole rows, all passes. The strides but that of the classes count vectors, so that rows are known to align."""
    outer = (tl.program_id(0) // blocks).to(tl.int64)
    inner = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    ok = inner < rows
    classes = tl.arange(0, WIDTH)[None, :]
    inside = ok[:, None] & (classes < C)
    offset = inner.to(tl.int64)[:, None] * stride_i * VECTOR + classes.to(tl.int64) * stride_c
    x += outer * stride_o * VECTOR
    sum_p = tl.zeros((ROWS, WIDTH), tl.float64)
    sum_p2 = tl.zeros((ROWS, WIDTH), tl.float64)
    sum_votes = tl.zeros((ROWS, WIDTH), tl.int32)
    sum_h = tl.zeros((ROWS,), tl.float64)
    spoiled = tl.zeros((ROWS,), tl.int8)
    for _ in range(t):
        logits = tl.load(x + offset, mask=inside, other=float("-inf")).to(tl.float32)
        x += tl.cast(stride_t, tl.int64) * VECTOR
        if SOFTMAX:
            top = tl.max(logits, 1)
            winner = classes == tl.min(tl.where(logits == top[:, None], classes, C), 1)[:, None]
            e, u, w = softmax_parts(below(logits, top[:, None]), winner == 0)
            inverse, h_t, wrong = softmax_row(top, u, w)
            p_t = (tl.where(winner, 1.0, e) * inverse[:, None]).to(tl.float64)
            voted = winner
        else:
            p_t, bits = label_probability(logits)
            h_t = tl.sum(bits, 1)
            wrong = tl.max(((logits == float("inf")) | (logits != logits)).to(tl.int32), 1) > 0
            voted = logits >= 0
        sum_p += p_t
        if P2:
            sum_p2 += p_t * p_t
        if VOTES:
            sum_votes += voted.to(tl.int32)
        sum_h += h_t.to(tl.float64)
        spoiled |= wrong.to(tl.int8)
    row = outer * rows + inner
    add_tile(p, p2, votes, row[:, None] * C + classes, inside, sum_p, sum_p2, sum_votes, P2, VOTES)
    add_row(h, bad, row, ok, sum_h, spoiled, H)


@triton.jit(do_not_specialize=["rows", "stride_t"])
def _wide_statistics(
    x, tops, inverses, entropies, winners, t, rows, stride_t, stride_o, stride_i, stride_c,
    C: tl.constexpr, VECTOR: tl.constexpr, SOFTMAX: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program: one row of one pass -> what ``_add_wide_tiles`` makes p of. inverse is NaN where the row is no distribution."""
    at = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)  # of (rows of all items, t)
    row = tl.program_id(0).to(tl.int64) // t
    x += (row // rows * stride_o + row % rows * stride_i + (tl.program_id(0) % t).to(tl.int64) * stride_t) * VECTOR
    classes = tl.arange(0, WIDTH)[None, :]
    bits = tl.zeros((1,), tl.float32)
    if SOFTMAX:
        high = tl.full((1, WIDTH), float("-inf"), tl.float32)
        best = tl.full((1, WIDTH), C, tl.int32)
        for start in range(0, C, WIDTH):
            column = classes + start
            logits = tl.load(x + column.to(tl.int64) * stride_c, mask=column < C, other=float("-inf")).to(tl.float32)
            best = tl.where(logits > high, column, best)
            high = tl.maximum(high, logits)
        top = tl.max(high, 1)
        winner = tl.min(tl.where(high == top[:, None], best, C), 1)
        u = tl.zeros((1,), tl.float32)
        w = tl.zeros((1,), tl.float32)
        for start in range(0, C, WIDTH):
            column = classes + start
            logits = tl.load(x + column.to(tl.int64) * stride_c, mask=column < C, other=float("-inf")).to(tl.float32)
            _, u_tile, w_tile = softmax_parts(below(logits, top[:, None]), column != winner[:, None])
            u += u_tile
            w += w_tile
        inverse, bits, wrong = softmax_row(top, u, w)
        tl.store(tops + at, top)
        tl.store(winners + at, winner)
        tl.store(inverses + at, tl.where(wrong, float("nan"), inverse))
    else:
        wrong = tl.zeros((1,), tl.int32)
        for start in range(0, C, WIDTH):
            column = classes + start
            logits = tl.load(x + column.to(tl.int64) * stride_c, mask=column < C, other=float("-inf")).to(tl.float32)
            _, tile = label_probability(logits)
            bits += tl.sum(tile, 1)
            wrong |= tl.max(((logits == float("inf")) | (logits != logits)).to(tl.int32), 1)
        tl.store(inverses + at, tl.where(wrong > 0, float("nan"), 1.0))
    tl.store(entropies + at, bits)


@triton.jit(do_not_specialize=["rows", "stride_t"])
def _add_wide_tiles(
    x, tops, inverses, entropies, winners, p, p2, h, votes, bad, t, rows, stride_t, stride_o, stride_i, stride_c,
    C: tl.constexpr, VECTOR: tl.constexpr, SOFTMAX: tl.constexpr, P2: tl.constexpr, H: tl.constexpr, VOTES: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """One program: WIDTH classes of one row, all passes."""
    TILES: tl.constexpr = (C + WIDTH - 1) // WIDTH
    row = (tl.program_id(0) // TILES).to(tl.int64)
    tile = tl.program_id(0) % TILES
    classes = tile * WIDTH + tl.arange(0, WIDTH)[None, :]
    inside = classes < C
    x += (row // rows * stride_o + row % rows * stride_i) * VECTOR
    offset = classes.to(tl.int64) * stride_c
    sum_p = tl.zeros((1, WIDTH), tl.float64)
    sum_p2 = tl.zeros((1, WIDTH), tl.float64)
    sum_votes = tl.zeros((1, WIDTH), tl.int32)
    sum_h = tl.zeros((1,), tl.float64)
    spoiled = tl.zeros((1,), tl.int8)
    for k in range(t):
        at = row * t + k + tl.arange(0, 1)
        logits = tl.load(x + offset, mask=inside, other=float("-inf")).to(tl.float32)
        x += tl.cast(stride_t, tl.int64) * VECTOR
        inverse = tl.load(inverses + at)
        if SOFTMAX:
            voted = classes == tl.load(winners + at)[:, None]
            e = tl.where(voted, 1.0, tl.exp(below(logits, tl.load(tops + at)[:, None])))
            p_t = (e * inverse[:, None]).to(tl.float64)
        else:
            p_t, _ = label_probability(logits)
            voted = logits >= 0
        sum_p += p_t
        if P2:
            sum_p2 += p_t * p_t
        if VOTES:
            sum_votes += voted.to(tl.int32)
        sum_h += tl.load(entropies + at).to(tl.float64)
        spoiled |= (inverse != inverse).to(tl.int8)
    add_tile(p, p2, votes, row * C + classes, inside, sum_p, sum_p2, sum_votes, P2, VOTES)
    one = row + tl.arange(0, 1)
    add_row(h, bad, one, tl.full((1,), tile, tl.int32) == 0, sum_h, spoiled, H)


def accumulate(logits_tBC: Tensor, state: State, likelihood: str) -> None:
    """Add t passes to ``state`` (``eager.new_state``) in place.

    logits_tBC: (t, B, C) or dense (t, B, C, *pixels), float32, float16 or bfloat16, any strides; pixels that do not lie evenly are
    copied. state: contiguous sums of B rows, or one per pixel in item-major order. likelihood: "categorical" or "bernoulli".
    ValueError for other devices, TypeError for other dtypes.
    """
    check_device("accumulate", logits_tBC.device)
    for launch in plan_accumulate(logits_tBC, state, likelihood):
        launch.run()


def plan_accumulate(logits_tBC: Tensor, state: State, likelihood: str) -> list[Launch]:
    """The launches of ``accumulate``, to be run in order."""
    check_dtype("accumulate", logits_tBC)
    x = logits_tBC if logits_tBC.ndim == 3 else logits_tBC.flatten(3)
    t, B, C = x.shape[:3]
    # A row is number ``inner`` of ``outer``: of the one block of items, or a pixel of its item.
    outer, rows = (1, B) if x.ndim == 3 else (B, x.shape[3])
    sums = {name: state.get(name, state["p"]) for name in ("p", "p2", "h", "votes")} | {
        "bad": state["bad"].view(torch.int8)
    }
    stride_t, stride_o, stride_i = x.stride(0), 0 if x.ndim == 3 else x.stride(1), x.stride(-1 if x.ndim > 3 else 1)
    vector = alignment(x, stride_t, stride_o, stride_i) if x.stride(2) == 1 else 1
    shape = {
        "t": t, "rows": rows, "stride_t": stride_t // vector, "stride_o": stride_o // vector, "stride_i": stride_i // vector,
        "stride_c": x.stride(2),
    }  # fmt: skip
    meta: dict[str, Any] = {"C": C, "VECTOR": vector, "SOFTMAX": likelihood == "categorical"}
    kept = {flag: name in state for flag, name in _FLAGS.items()}
    width = triton.next_power_of_2(C)
    if width <= _WIDEST:
        some = max(1, _TILE // width)  # however few rows there are: sums over classes keep their order
        blocks = triton.cdiv(rows, some)
        sizes = {"ROWS": some, "WIDTH": width}
        args = {"x": x, **sums, **shape, "blocks": blocks}
        return [Launch(_add_rows, (outer * blocks,), args, meta | kept | sizes, some * width // 256)]
    tops, inverses, entropies = torch.empty((3, outer * rows * t), dtype=torch.float32, device=x.device)
    winners = torch.empty(outer * rows * t, dtype=torch.int32, device=x.device)
    found = {"tops": tops, "inverses": inverses, "entropies": entropies, "winners": winners}
    meta["WIDTH"] = _TILE
    tiles = triton.cdiv(C, _TILE)
    return [
        Launch(_wide_statistics, (outer * rows * t,), {"x": x, **found, **shape}, meta, 4),
        Launch(_add_wide_tiles, (outer * rows * tiles,), {"x": x, **found, **sums, **shape}, meta | kept, 4),
    ]
