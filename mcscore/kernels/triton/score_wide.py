"""Scores for more classes than one program can hold: two reads of the logits (softmax) or one (sigmoid).

    1. row statistics   (t, b): max, 1 / sum exp(x - max), entropy, argmax, swept over the classes with running sums
    2. class tiles      (b, 4096 classes): p_t from the statistics, summed over all passes in registers, then summarized
    3. merge            (b): the summaries of the tiles -> scores

Reads 2 T B C logits and about 16 T B + 36 B C / 4096 bytes of workspace; nothing of size B C exists. Softmax cannot do with
one read: the weight of p_t in p̄ is known only when row t has been read whole. Labels of ``sigmoid`` are independent, so it
skips step 1.
"""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch
from .tile import (
    FAR,
    LOG2E,
    NEEDS_H,
    NEEDS_STD,
    NEEDS_VOTES,
    accumulate,
    add_pass,
    entropy_bits,
    fold,
    load_tile,
    log2,
    new_sums,
    rounded_product,
    scale_of,
    scaled_difference,
    store_scores,
    summarize,
    tile_classes,
)
from .tiling import tiling, values_per_thread

_TILE = 4096  # classes per program: 4 warps of 32 values per thread, small enough for many programs per multiprocessor
_SUMMARIES = 8  # float32 rows of the workspace: total, entropy, top, second, doubt, spread, modal, h


@triton.jit(do_not_specialize=["B", "stride_t"])
def _row_statistics(
    x, top_out, inverse_out, h_out, vote_out, T, B, stride_t, stride_b,
    C: tl.constexpr, VECTOR: tl.constexpr, WANT: tl.constexpr,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """One row: maximum m, sum s of e^(x-m) and w of e^(x-m) log2 e^(x-m), rescaled whenever a tile raises the maximum.

    Every thread does so for the classes that it sees; threads meet only once, at the end of the row.
    """
    HELD: tl.constexpr = CHUNK * CHUNKS // SHARES
    row = tl.program_id(0)
    b = (row // T).to(tl.int64)
    t = (row % T).to(tl.int64)
    column = tl.arange(0, CHUNK)[None, :]
    pointer = x + b * stride_b * VECTOR + t * stride_t * VECTOR + column
    m = tl.full((1, SHARES), float("-inf"), tl.float32)
    s = tl.zeros((1, SHARES), tl.float32)
    w = tl.zeros((1, SHARES), tl.float32)
    vote = tl.full((1, SHARES), C, tl.int32)
    for start in range(0, C, CHUNK * CHUNKS):
        tile = load_tile(pointer + start, column + start, True, 0, 1, 1, CHUNK, CHUNKS, C).to(tl.float32)
        tile = tl.reshape(tile, (1, SHARES, HELD))
        peak = tl.max(tile, 2)
        if NEEDS_VOTES & WANT:
            classes = tl.reshape(tile_classes(start, CHUNK, CHUNKS), (1, SHARES, HELD))
            best = tl.min(tl.where(tile == peak[:, :, None], classes, C), 2)
            vote = tl.where(peak > m, best, vote)
        higher = tl.maximum(m, peak)
        origin = finite_origin(higher)
        z = tl.maximum((tile - origin[:, :, None]) * LOG2E, FAR, propagate_nan=tl.PropagateNan.ALL)
        e = tl.exp2(z)
        fall, scale = rescale(m, origin)
        w = fold(e, z, tl.reshape(scale * (w + fall * s), (1, SHARES, 1)))
        w = tl.sum(w, 2)
        s = scale * s + tl.sum(e, 2)
        m = higher
    top = tl.max(m, 1)
    fall, scale = rescale(m, finite_origin(top)[:, None])
    w = tl.sum(scale * (w + fall * s), 1)
    s = tl.sum(scale * s, 1)
    inverse = tl.where(top == float("-inf"), float("nan"), 1.0 / s)
    at = t * B + b + tl.arange(0, 1)
    tl.store(top_out + at, top)
    tl.store(inverse_out + at, inverse)
    if NEEDS_H & WANT:
        tl.store(h_out + at, log2(s) - w * inverse)
    if NEEDS_VOTES & WANT:
        tl.store(vote_out + at, tl.min(tl.where(m == top[:, None], vote, C), 1))


@triton.jit
def finite_origin(top):
    """What to subtract: nothing but -inf so far keeps the sums 0, not NaN."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def rescale(m, origin):
    """log2 of the factor, and the factor, that sums relative to m take to be relative to origin >= m."""
    fall = tl.maximum((m - origin) * LOG2E, FAR, propagate_nan=tl.PropagateNan.ALL)
    return fall, tl.exp2(fall)


@triton.jit
def probabilities(row, top_at, inverse_at, WANT: tl.constexpr):
    """Softmax of some classes (1, classes) of a row whose ``_row_statistics`` lie at these addresses."""
    top = tl.load(top_at + tl.arange(0, 1))
    c = scale_of(top)
    origin = top * c
    # The rounding of origin, which all classes share, is known exactly and taken out of the factor.
    factor = tl.load(inverse_at + tl.arange(0, 1)) * tl.exp2(-scaled_difference(top, c, origin))
    e = tl.exp2(scaled_difference(row, c[:, None], origin[:, None]))
    return rounded_product(e, factor[:, None]) if NEEDS_STD & WANT else e * factor[:, None]


@triton.jit(do_not_specialize=["B", "stride_t"])
def _class_tiles(
    x, top_in, inverse_in, vote_in, parts, part_arg, T, B, stride_t, stride_b,
    C: tl.constexpr, VECTOR: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr,
    TILES: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // TILES).to(tl.int64)
    tile = tl.program_id(0) % TILES
    start = tile * (CHUNK * CHUNKS)
    column = start + tl.arange(0, CHUNK)[None, :]
    classes = tile_classes(start, CHUNK, CHUNKS)
    pointer = x + b * stride_b * VECTOR + column
    step = tl.cast(stride_t, tl.int64) * VECTOR
    mean, m2, votes, h = new_sums(1, CHUNK * CHUNKS, SHARES)
    at = b
    for t in range(T):
        row = load_tile(pointer, column, True, 0, 1, 1, CHUNK, CHUNKS, C).to(tl.float32)
        pointer += step
        if SOFTMAX:
            p = probabilities(row, top_in + at, inverse_in + at, WANT)
            if NEEDS_VOTES & WANT:
                votes += (classes == tl.load(vote_in + at)).to(tl.int32)
            mean, m2 = accumulate(mean, m2, p, t, WANT)
        else:
            mean, m2, votes, h = add_pass(mean, m2, votes, h, row, classes, t, C, SOFTMAX, WANT, SHARES)
        at += B
    total, entropy, top, arg, second, doubt, spread, modal = summarize(mean, m2, votes, classes, T, C, SOFTMAX, WANT)
    size = B * tl.cast(TILES, tl.int64)
    to = parts + b * TILES + tile + tl.arange(0, 1)
    tl.store(to, total)
    tl.store(to + size, entropy)
    tl.store(to + 2 * size, top)
    tl.store(to + 3 * size, second)
    tl.store(to + 4 * size, doubt)
    tl.store(to + 5 * size, spread)
    tl.store(to + 6 * size, modal)
    tl.store(to + 7 * size, entropy_bits(h))
    tl.store(part_arg + b * TILES + tile + tl.arange(0, 1), arg)


@triton.jit(do_not_specialize=["B"])
def _merge(
    out, prediction, parts, part_arg, h_in, T, B,
    C: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One item: sums of sums; the best class of all tiles; the runner-up, which is a tile's second only where the best is."""
    item = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    tile = tl.arange(0, WIDTH)[None, :]
    ok = tile < TILES
    size = B * tl.cast(TILES, tl.int64)
    at = parts + (item * TILES)[:, None] + tile
    total = tl.sum(tl.load(at, mask=ok, other=0.0), 1)
    entropy = tl.sum(tl.load(at + size, mask=ok, other=0.0), 1)
    tops = tl.load(at + 2 * size, mask=ok, other=-1.0)
    seconds = tl.load(at + 3 * size, mask=ok, other=-1.0)
    doubt = tl.sum(tl.load(at + 4 * size, mask=ok, other=0.0), 1)
    spread = tl.sum(tl.load(at + 5 * size, mask=ok, other=0.0), 1)
    modals = tl.load(at + 6 * size, mask=ok, other=0.0)
    args = tl.load(part_arg + (item * TILES)[:, None] + tile, mask=ok, other=C)
    top = tl.max(tops, 1)
    arg = tl.min(tl.where(tops == top[:, None], args, C), 1)
    second = tl.max(tl.where(args == arg[:, None], seconds, tops), 1)
    if SOFTMAX:
        modal = tl.max(modals, 1)
    else:
        modal = tl.sum(modals, 1)
    h = tl.sum(tl.load(at + 7 * size, mask=ok, other=0.0), 1)
    if SOFTMAX and (NEEDS_H & WANT):
        for t in range(T):
            h += tl.load(h_in + t * tl.cast(B, tl.int64) + item)
    store_scores(
        out, prediction, item, item < B, B, total, entropy, top, arg, second, doubt, spread, modal, h, T, C, SOFTMAX, WANT
    )  # fmt: skip


def plan_statistics(
    x: Tensor, shape: dict[str, int], meta: dict[str, Any]
) -> tuple[list[Launch], dict[str, Tensor], Tensor]:
    """Step 1 (no launch for sigmoid), what it leaves for ``probabilities`` and votes, and the entropies in bits (T, B).

    shape: T, B and the strides of x.
    """
    # Rows beyond what is asked for are never touched, but each is at most 4 bytes per row of C logits.
    top, inverse, h = torch.empty((3, shape["T"], shape["B"]), dtype=torch.float32, device=x.device)
    vote = torch.empty((shape["T"], shape["B"]), dtype=torch.int32, device=x.device)
    left = {"top_in": top, "inverse_in": inverse, "vote_in": vote}
    if not meta["SOFTMAX"]:
        return [], left, h
    tiles = tiling(_TILE, meta["VECTOR"], 32)
    assert tiles is not None
    launch = Launch(
        _row_statistics,
        (shape["T"] * shape["B"],),
        {"x": x, "top_out": top, "inverse_out": inverse, "h_out": h, "vote_out": vote} | shape,
        {name: meta[name] for name in ("C", "VECTOR", "WANT")} | tiles.pieces,
        tiles.warps,
    )
    return [launch], left, h


def plan_wide(args: dict[str, Any], meta: dict[str, Any]) -> list[Launch]:
    """Launches that fill the ``out`` and ``prediction`` of ``args``, which are those of the one-read kernel."""
    x, T, B = args["x"], args["T"], args["B"]
    shape = {name: args[name] for name in ("T", "B", "stride_t", "stride_b")}
    C, softmax, want = (meta[name] for name in ("C", "SOFTMAX", "WANT"))
    tiles = triton.cdiv(C, _TILE)
    parts = torch.empty((_SUMMARIES, B, tiles), dtype=torch.float32, device=x.device)
    part_arg = torch.empty((B, tiles), dtype=torch.int32, device=x.device)
    statistics, left, h = plan_statistics(x, shape, meta)
    class_tile = tiling(_TILE, meta["VECTOR"], values_per_thread(want, softmax))
    assert class_tile is not None
    return [
        *statistics,
        Launch(
            _class_tiles,
            (B * tiles,),
            {"x": x, **left, "parts": parts, "part_arg": part_arg} | shape,
            meta | {"TILES": tiles} | class_tile.pieces,
            class_tile.warps,
        ),
        Launch(
            _merge,
            (B,),
            {
                "out": args["out"],
                "prediction": args["prediction"],
                "parts": parts,
                "part_arg": part_arg,
                "h_in": h,
                "T": T,
                "B": B,
            },
            {"C": C, "SOFTMAX": softmax, "WANT": want, "TILES": tiles, "WIDTH": triton.next_power_of_2(tiles)},
            1,
        ),
    ]
