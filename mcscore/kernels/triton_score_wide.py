"""Scores for more classes than one program can hold: two reads of the logits (softmax) or one (sigmoid).

    1. row statistics   (t, b): max, 1 / sum exp(x - max), entropy, argmax, swept over the classes with running sums
    2. class tiles      (b, 4096 classes): p_t from the statistics, summed over all passes in registers, then summarised
    3. merge            (b): the summaries of the tiles -> scores

Reads 2 T B C logits and about 16 T B + 36 B C / 4096 bytes of workspace; nothing of size B C exists. Softmax cannot do with
one read: the weight of p_t in p̄ is known only when row t has been read whole. Labels of ``sigmoid`` are independent, so it
skips step 1.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .triton_launch import Launch
from .triton_score import tiling, values_per_thread
from .triton_tile import (
    FAR,
    LN2,
    LOG2E,
    NEEDS_H,
    NEEDS_VOTES,
    accumulate,
    load_tile,
    log2,
    sigmoid_tile,
    store_scores,
    summarise,
    tile_classes,
)

_TILE = 4096  # classes per program: 4 warps of 32 values per thread, small enough for many programs per multiprocessor
_SUMMARIES = 8  # float32 rows of the workspace: total, entropy, top, second, doubt, spread, modal, h


@triton.jit
def _row_statistics(
    x, top_out, inverse_out, h_out, vote_out, T, B, stride_t, stride_b,
    C: tl.constexpr, VECTOR: tl.constexpr, WANT: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """One row: maximum m, sum s of e^(x-m) and w of e^(x-m) (x-m), rescaled whenever a tile raises the maximum."""
    row = tl.program_id(0)
    b = (row // T).to(tl.int64)
    t = (row % T).to(tl.int64)
    column = tl.arange(0, CHUNK)[None, :]
    pointer = x + b * stride_b * VECTOR + t * stride_t * VECTOR + column
    m = tl.full((1,), float("-inf"), tl.float32)
    s = tl.zeros((1,), tl.float32)
    w = tl.zeros((1,), tl.float32)
    vote = tl.zeros((1,), tl.int32)
    for start in range(0, C, CHUNK * CHUNKS):
        tile = load_tile(pointer + start, column + start, True, 0, 1, 1, CHUNK, CHUNKS, C).to(tl.float32)
        peak = tl.max(tile, 1)
        if NEEDS_VOTES & WANT:
            best = tl.min(tl.where(tile == peak[:, None], tile_classes(start, CHUNK, CHUNKS), C), 1)
            vote = tl.where(peak > m, best, vote)
        higher = tl.maximum(m, peak)
        origin = tl.where(higher == float("-inf"), 0.0, higher)  # nothing but -inf so far: keep the sums 0, not NaN
        d = tl.maximum(tile - origin[:, None], FAR, propagate_nan=tl.PropagateNan.ALL)
        e = tl.exp2(d * LOG2E)
        fall = tl.maximum(m - origin, FAR, propagate_nan=tl.PropagateNan.ALL)
        scale = tl.exp2(fall * LOG2E)
        w = scale * (w + fall * s) + tl.sum(e * d, 1)
        s = scale * s + tl.sum(e, 1)
        m = higher
    inverse = tl.where(m == float("-inf"), float("nan"), 1.0 / s)
    at = t * B + b + tl.arange(0, 1)
    tl.store(top_out + at, m)
    tl.store(inverse_out + at, inverse)
    if NEEDS_H & WANT:
        tl.store(h_out + at, log2(s) * LN2 - w * inverse)
    if NEEDS_VOTES & WANT:
        tl.store(vote_out + at, vote)


@triton.jit
def _class_tiles(
    x, top_in, inverse_in, vote_in, parts, part_arg, T, B, stride_t, stride_b,
    C: tl.constexpr, VECTOR: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr,
    TILES: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // TILES).to(tl.int64)
    tile = tl.program_id(0) % TILES
    start = tile * (CHUNK * CHUNKS)
    column = start + tl.arange(0, CHUNK)[None, :]
    classes = tile_classes(start, CHUNK, CHUNKS)
    pointer = x + b * stride_b * VECTOR + column
    step = tl.cast(stride_t, tl.int64) * VECTOR
    mean = tl.zeros((1, CHUNK * CHUNKS), tl.float32)
    m2 = tl.zeros((1, CHUNK * CHUNKS), tl.float32)
    votes = tl.zeros((1, CHUNK * CHUNKS), tl.int32)
    h = tl.zeros((1,), tl.float32)
    at = b
    for t in range(T):
        row = load_tile(pointer, column, True, 0, 1, 1, CHUNK, CHUNKS, C).to(tl.float32)
        pointer += step
        if SOFTMAX:
            p = tl.exp2((row - tl.load(top_in + at)) * LOG2E) * tl.load(inverse_in + at)
            if NEEDS_VOTES & WANT:
                votes += (classes == tl.load(vote_in + at)).to(tl.int32)
        else:
            p, h_t = sigmoid_tile(row, WANT)
            h += h_t
            if NEEDS_VOTES & WANT:
                votes += (row >= 0).to(tl.int32)
        at += B
        mean, m2 = accumulate(mean, m2, p, t, WANT)
    total, entropy, top, arg, second, doubt, spread, modal = summarise(mean, m2, votes, classes, T, C, SOFTMAX, WANT)
    size = B * tl.cast(TILES, tl.int64)
    to = parts + b * TILES + tile + tl.arange(0, 1)
    tl.store(to, total)
    tl.store(to + size, entropy)
    tl.store(to + 2 * size, top)
    tl.store(to + 3 * size, second)
    tl.store(to + 4 * size, doubt)
    tl.store(to + 5 * size, spread)
    tl.store(to + 6 * size, modal)
    tl.store(to + 7 * size, h)
    tl.store(part_arg + b * TILES + tile + tl.arange(0, 1), arg)


@triton.jit
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


def plan_wide(args: dict[str, Any], meta: dict[str, Any]) -> list[Launch]:
    """Launches that fill the ``out`` and ``prediction`` of ``args``, which are those of the one-read kernel."""
    x, T, B = args["x"], args["T"], args["B"]
    strides = {name: args[name] for name in ("stride_t", "stride_b")}
    C, vector, softmax, want = (meta[name] for name in ("C", "VECTOR", "SOFTMAX", "WANT"))
    tiles = triton.cdiv(C, _TILE)
    # Rows beyond what is asked for are never touched, but each is at most 4 bytes per row of C logits.
    statistics = torch.empty((3, T, B), dtype=torch.float32, device=x.device)
    votes = torch.empty((T, B), dtype=torch.int32, device=x.device)
    parts = torch.empty((_SUMMARIES, B, tiles), dtype=torch.float32, device=x.device)
    part_arg = torch.empty((B, tiles), dtype=torch.int32, device=x.device)
    top, inverse, h = statistics
    shape = {"T": T, "B": B}
    row_tile = tiling(_TILE, vector, 32)
    class_tile = tiling(_TILE, vector, values_per_thread(want, softmax))
    assert row_tile is not None
    assert class_tile is not None
    pieces = {"CHUNK": class_tile.chunk, "CHUNKS": class_tile.chunks}
    launches = [
        Launch(
            _class_tiles,
            (B * tiles,),
            {"x": x, "top_in": top, "inverse_in": inverse, "vote_in": votes, "parts": parts, "part_arg": part_arg}
            | shape
            | strides,
            {"C": C, "VECTOR": vector, "SOFTMAX": softmax, "WANT": want, "TILES": tiles, **pieces},
            class_tile.warps,
        ),
        Launch(
            _merge,
            (B,),
            {"out": args["out"], "prediction": args["prediction"], "parts": parts, "part_arg": part_arg, "h_in": h}
            | shape,
            {"C": C, "SOFTMAX": softmax, "WANT": want, "TILES": tiles, "WIDTH": triton.next_power_of_2(tiles)},
            1,
        ),
    ]
    if softmax:
        rows = Launch(
            _row_statistics,
            (T * B,),
            {"x": x, "top_out": top, "inverse_out": inverse, "h_out": h, "vote_out": votes} | shape | strides,
            {"C": C, "VECTOR": vector, "WANT": want, "CHUNK": row_tile.chunk, "CHUNKS": row_tile.chunks},
            row_tile.warps,
        )
        launches.insert(0, rows)
    return launches
