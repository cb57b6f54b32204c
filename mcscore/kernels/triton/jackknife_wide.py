"""Step 1 of ``jackknife`` for more classes than registers hold: u of each score from tiles of classes.

    1. row statistics   (t, b): those of ``score_wide`` (softmax)
    2. class tiles      (b, 2048 classes): p̄ of the tile, then the passes once more -> summaries of the tile without each group
    3. merge            (b, group): summaries of all tiles -> u (scores, G, B)

Reads 3 T B C logits, beside the 2 T B C of the scores; 28 (G + 1) B C / 2048 bytes of workspace.
"""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .jackknife_tile import add_to_sums, best_two, compare_group, minority, reciprocals, store_group, sums_of_passes
from .launch import Launch
from .score_wide import plan_statistics, probabilities
from .tile import LN2, NEEDS_H, NEEDS_VOTES, entropy_bits, load_tile, pass_tile, tile_classes
from .tiling import tiling

_TILE = 2048  # classes per program: up to 8 warps, of 8 or 16 values per thread
_SUMMARIES = 7  # rows of the workspace: the six of compare_group, and the bits of entropy (sigmoid)


@triton.jit
def _pass_of_tile(
    x, top_in, inverse_in, vote_in, t, b, T, B, stride_t, column, classes,
    C: tl.constexpr, VECTOR: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """``pass_tile`` of the tile in pass t; its entropy is 0 for softmax, as it is among the statistics."""
    at = x + t * (tl.cast(stride_t, tl.int64) * VECTOR)
    row = load_tile(at, column, True, 0, 1, 1, CHUNK, CHUNKS, C).to(tl.float32)
    if SOFTMAX:
        of_row = t * tl.cast(B, tl.int64) + b
        p = probabilities(row, top_in + of_row, inverse_in + of_row, 0)
        voted = tl.zeros(row.shape, tl.int32)
        if NEEDS_VOTES & WANT:
            voted = (classes == tl.load(vote_in + of_row)).to(tl.int32)
        return p, tl.zeros((1, SHARES, 1), tl.float32), voted
    else:
        return pass_tile(row, classes, C, SOFTMAX, WANT, SHARES)


@triton.jit(do_not_specialize=["T", "B", "stride_t", "G", "group"])
def _group_tiles(
    x, top_in, inverse_in, vote_in, parts, T, B, stride_t, stride_b, G, group,
    C: tl.constexpr, VECTOR: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr,
    TILES: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """Step 2. Slot G of the summaries is for all passes: first and second are then the two largest p̄ of the tile."""
    b = (tl.program_id(0) // TILES).to(tl.int64)
    tile = tl.program_id(0) % TILES
    column = tile * (CHUNK * CHUNKS) + tl.arange(0, CHUNK)[None, :]
    classes = tile_classes(tile * (CHUNK * CHUNKS), CHUNK, CHUNKS)
    x += b * stride_b * VECTOR + column
    total, p1, p2, votes, _ = sums_of_passes(1, CHUNK * CHUNKS, SHARES)
    for t in range(T):
        p, _, voted = _pass_of_tile(
            x, top_in, inverse_in, vote_in, t, b, T, B, stride_t, column, classes,
            C, VECTOR, SOFTMAX, ~NEEDS_H & WANT, CHUNK, CHUNKS, SHARES,
        )  # fmt: skip
        total, p1, p2, votes = add_to_sums(total, p1, p2, votes, p, voted, WANT)
    mean = total * (1.0 / T)
    inverse, other_inverse, weight = reciprocals(mean, classes, C, SOFTMAX)
    top, runner_up = best_two(mean, classes, C)
    slot = B * tl.cast(TILES, tl.int64)
    size = (G + 1) * slot
    parts += b * TILES + tile + tl.arange(0, 1)
    tl.store(parts + 2 * size + G * slot, top)
    tl.store(parts + 3 * size + G * slot, runner_up)
    tl.store(parts + 4 * size + G * slot, minority(votes, T, SOFTMAX))
    for back in range(G):
        g = G - 1 - back
        m = tl.minimum(group, T - g * group)
        g_sum, g_p1, g_p2, g_votes, h = sums_of_passes(1, CHUNK * CHUNKS, SHARES)
        for k in range(m):
            p, h_t, voted = _pass_of_tile(
                x, top_in, inverse_in, vote_in, g * group + m - 1 - k, b, T, B, stride_t, column, classes,
                C, VECTOR, SOFTMAX, WANT, CHUNK, CHUNKS, SHARES,
            )  # fmt: skip
            g_sum, g_p1, g_p2, g_votes = add_to_sums(g_sum, g_p1, g_p2, g_votes, p, voted, WANT)
            h += h_t
        linear, curve, first, second, modal, spread = compare_group(
            mean, inverse, other_inverse, weight, p1, p2, votes, g_sum, g_p1, g_p2, g_votes, top, classes, T, m,
            C, SOFTMAX, WANT,
        )  # fmt: skip
        to = parts + g * slot
        tl.store(to, linear)
        tl.store(to + size, curve)
        tl.store(to + 2 * size, first)
        tl.store(to + 3 * size, second)
        tl.store(to + 4 * size, modal)
        tl.store(to + 5 * size, spread)
        tl.store(to + 6 * size, entropy_bits(h))


@triton.jit(do_not_specialize=["T", "B", "G", "group"])
def _merge_groups(
    u, parts, h_in, T, B, G, group,
    C: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Step 3, one item without one group: sums of sums, and the best two of the best two of each tile."""
    b = (tl.program_id(0) // G).to(tl.int64)
    g = tl.program_id(0) % G
    m = tl.minimum(group, T - g * group)
    tile = tl.arange(0, WIDTH)[None, :]
    ok = tile < TILES
    slot = B * tl.cast(TILES, tl.int64)
    size = (G + 1) * slot
    whole = parts + G * slot + b * TILES + tile
    at = parts + g * slot + b * TILES + tile
    linear = tl.sum(tl.load(at, mask=ok, other=0.0), 1)
    curve = tl.sum(tl.load(at + size, mask=ok, other=0.0), 1)
    spread = tl.sum(tl.load(at + 5 * size, mask=ok, other=0.0), 1)
    if SOFTMAX:
        tops = tl.load(whole + 2 * size, mask=ok, other=float("-inf"))
        top, runner_up = _merge_best(tops, tl.load(whole + 3 * size, mask=ok, other=float("-inf")), tile, WIDTH)
        lower = (tops - top[:, None]) * (
            (T - m).to(tl.float32) / m
        )  # a tile's first and second are relative to its own top
        firsts = tl.load(at + 2 * size, mask=ok, other=float("-inf")) + lower
        seconds = tl.load(at + 3 * size, mask=ok, other=float("-inf")) + lower
        first, second = _merge_best(firsts, seconds, tile, WIDTH)
        margin = top - runner_up
        modal = tl.max(tl.load(at + 4 * size, mask=ok, other=0.0), 1)
        all_modal = tl.max(tl.load(whole + 4 * size, mask=ok, other=0.0), 1)
        h = tl.zeros_like(linear)
        if NEEDS_H & WANT:
            for k in range(m):
                h += tl.load(h_in + (g * group + k) * tl.cast(B, tl.int64) + b)
    else:
        first = tl.sum(tl.load(at + 2 * size, mask=ok, other=0.0), 1)
        second = first
        margin = first
        modal = tl.sum(tl.load(at + 4 * size, mask=ok, other=0.0), 1)
        all_modal = tl.sum(tl.load(whole + 4 * size, mask=ok, other=0.0), 1)
        h = tl.sum(tl.load(at + 6 * size, mask=ok, other=0.0), 1)
    item = b + tl.arange(0, 1)
    store_group(
        u, g, item, item < B, B, linear, curve, first, second, modal, spread, h * (LN2 / m), margin, all_modal,
        T, m, G * tl.cast(B, tl.int64), C, SOFTMAX, WANT,
    )  # fmt: skip


@triton.jit
def _merge_best(tops, seconds, tile, WIDTH: tl.constexpr):
    """The best of all tiles, and the runner-up, which is a tile's second only where the best is."""
    top = tl.max(tops, 1)
    where = tl.min(tl.where(tops == top[:, None], tile, WIDTH), 1)
    return top, tl.max(tl.where(tile == where[:, None], seconds, tops), 1)


def plan_groups(x: Tensor, u: Tensor, shape: dict[str, int], meta: dict[str, Any], values: int) -> list[Launch]:
    """The launches that fill u. shape: T, B, G, group and the strides of x; values: classes that a thread holds."""
    B, G = shape["B"], shape["G"]
    tiles = triton.cdiv(meta["C"], _TILE)
    parts = torch.empty((_SUMMARIES, G + 1, B, tiles), dtype=torch.float32, device=x.device)
    statistics, left, h = plan_statistics(x, {name: shape[name] for name in ("T", "B", "stride_t", "stride_b")}, meta)
    held = tiling(_TILE, meta["VECTOR"], values)
    assert held is not None
    merged = {name: shape[name] for name in ("T", "B", "G", "group")}
    return [
        *statistics,
        Launch(
            _group_tiles,
            (B * tiles,),
            {"x": x, **left, "parts": parts, **shape},
            meta | {"TILES": tiles} | held.pieces,
            held.warps,
        ),
        Launch(
            _merge_groups,
            (B * G,),
            {"u": u, "parts": parts, "h_in": h, **merged},
            {name: meta[name] for name in ("C", "SOFTMAX", "WANT")}
            | {"TILES": tiles, "WIDTH": triton.next_power_of_2(tiles)},
            1,
        ),
    ]
