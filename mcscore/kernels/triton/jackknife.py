"""Standard error and bias of scores in Triton: logits (T, B, C) -> ``<s>_se``, ``<s>_bias`` (B,), by ``mcscore.jackknife``.

With groups g of m passes, q = mean of p_t over the group, h = T / m, D = p̄ - q and θ_(-g) the score without the group:

    p̄_(-g) = p̄ + D / (h - 1),   u_g = (h - 1) (θ_(-g) - θ),   bias = Σ_g (m / T) u_g,   se² = mean_g (u_g - bias)² / (h - 1)

    1. groups     (b): p̄; then the passes once more, last group first -> u_g of each score, (scores, G, B) float32
    2. estimate   (b): se and bias

u is formed from differences, so that it keeps its digits where a group changes a score by 1e-4 of it. With x = D / ((h - 1) p̄)

    entropy            u = -Σ D log p̄ - curve,   curve = (h - 1) Σ p̄ f(x),   f(x) = (1 + x) log(1 + x) - x >= 0
    expected_entropy   u = -mean of H[p_t] over the group, less a constant that no standard error sees; it has no bias
    bald               their difference; -mean of curve is the bias of both, as what is linear in p has none
    least_confidence, margin   maxima of (h - 1) (p̄ - top) + D
    variation_ratio    whole numbers of votes
    mean_std           from Σp and Σp² in float64: as float32 a rest of 6e-8 of p² would be 2e-4 of p under the root

(bernoulli: with the 1 - p terms, summed over labels.) The scores come from ``score``, whose kernels know nothing of errors, so
they are the same bits with errors and without; a sum that is shared would depend on what the compiler makes of the rest.

What it costs, counted, not measured. The logits are read twice more, the second time backwards, so that of what the L2 cache
still holds (all, if T B C logits fit) nothing is read again: up to 3 times the bytes of the scores alone. Instructions of sm_90
per logit and pass: 10 for p̄ and 13 for the group, and 26 per class and group, beside the 12 of the scores and the 14 that full
memory speed allows for 2-byte logits. So a call takes up to 4.4 times the scores alone where G = T (T <= 32), and 3 times at
T = 100. Group sums in memory instead of the second read would move 8 G / T bytes per logit, which is no less.
"""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...acquisition import KERNEL_SCORES
from ...jackknife import columns, group_size, groups
from .jackknife_tile import (
    CURVE,
    NEEDS_CURVE,
    add_to_sums,
    best_two,
    compare_group,
    minority,
    reciprocals,
    row_of,
    store_group,
    sums_of_passes,
)
from .jackknife_wide import plan_groups
from .launch import Launch, alignment
from .tile import (
    EXPECTED,
    LN2,
    NEEDS_H,
    NEEDS_STD,
    NEEDS_VOTES,
    ONE,
    entropy_bits,
    load_tile,
    pass_tile,
    tile_classes,
    wanted,
)
from .tiling import tiling

_MAX_WARPS = 8  # of 255 registers per thread; 16 have 128
_BLOCK = 128  # items of a program of step 2


@triton.jit(do_not_specialize=["T", "B", "stride_t", "G", "group"])
def _group_rows(
    x, u, T, B, stride_t, stride_b, G, group,
    C: tl.constexpr, VECTOR: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr,
    ITEMS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """Step 1, whole rows in registers as in ``score``. group: passes of a group."""
    begin = tl.program_id(0).to(tl.int64) * ITEMS
    item = begin + tl.arange(0, ITEMS)
    ok = item < B
    column = tl.arange(0, CHUNK)[None, :]
    classes = tile_classes(0, CHUNK, CHUNKS)
    x += begin * stride_b * VECTOR
    x += (tl.arange(0, ITEMS).to(tl.int64) * stride_b * VECTOR)[:, None] + column
    step = tl.cast(stride_t, tl.int64) * VECTOR
    total, p1, p2, votes, _ = sums_of_passes(ITEMS, CHUNK * CHUNKS, SHARES)
    for t in range(T):
        row = load_tile(x + t * step, column, ok[:, None], 0, 1, ITEMS, CHUNK, CHUNKS, C).to(tl.float32)
        p, _, voted = pass_tile(row, classes, C, SOFTMAX, ~NEEDS_H & WANT, SHARES)
        total, p1, p2, votes = add_to_sums(total, p1, p2, votes, p, voted, WANT)
    mean = total * (1.0 / T)
    inverse, other_inverse, weight = reciprocals(mean, classes, C, SOFTMAX)
    top, runner_up = best_two(mean, classes, C)
    all_modal = minority(votes, T, SOFTMAX)
    for back in range(G):
        g = G - 1 - back
        m = tl.minimum(group, T - g * group)
        g_sum, g_p1, g_p2, g_votes, h = sums_of_passes(ITEMS, CHUNK * CHUNKS, SHARES)
        for k in range(m):
            at = x + (g * group + m - 1 - k) * step
            row = load_tile(at, column, ok[:, None], 0, 1, ITEMS, CHUNK, CHUNKS, C).to(tl.float32)
            p, h_t, voted = pass_tile(row, classes, C, SOFTMAX, WANT, SHARES)
            g_sum, g_p1, g_p2, g_votes = add_to_sums(g_sum, g_p1, g_p2, g_votes, p, voted, WANT)
            h += h_t
        linear, curve, first, second, modal, spread = compare_group(
            mean, inverse, other_inverse, weight, p1, p2, votes, g_sum, g_p1, g_p2, g_votes, top, classes, T, m,
            C, SOFTMAX, WANT,
        )  # fmt: skip
        store_group(
            u, g, item, ok, B, linear, curve, first, second, modal, spread, entropy_bits(h) * (LN2 / m), top - runner_up,
            all_modal, T, m, G * tl.cast(B, tl.int64), C, SOFTMAX, WANT,
        )  # fmt: skip


@triton.jit(do_not_specialize=["T", "B", "G", "group"])
def _estimate(u, prediction, se, bias, T, B, G, group, WANT: tl.constexpr, BLOCK: tl.constexpr):
    """Step 2: u (rows, G, B) -> se and bias (scores, B); NaN where the prediction is -1, as the score is."""
    item = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = item < B
    bad = tl.load(prediction + item, mask=ok, other=0) == -1
    for ROW in tl.static_range(0, CURVE):
        if (ONE << ROW) & WANT:
            size = G * tl.cast(B, tl.int64)
            center, variance = _spread_of_row(u + row_of(ROW, WANT) * size + item, ok, T, B, G, group, BLOCK)
            if (ONE << ROW) & NEEDS_CURVE:
                center, _ = _spread_of_row(u + row_of(CURVE, WANT) * size + item, ok, T, B, G, group, BLOCK)
            if ROW == EXPECTED:
                center = tl.zeros_like(center)
            at = ROW * tl.cast(B, tl.int64) + item
            tl.store(se + at, tl.where(bad, float("nan"), tl.sqrt(variance)), mask=ok)
            tl.store(bias + at, tl.where(bad, float("nan"), center), mask=ok)


@triton.jit
def _spread_of_row(at, ok, T, B, G, group, BLOCK: tl.constexpr):
    """Mean of u over the groups, weighted by their passes, and the variance of the score that follows from u."""
    center = tl.zeros((BLOCK,), tl.float32)
    for g in range(G):
        m = tl.minimum(group, T - g * group)
        center += tl.load(at + g * tl.cast(B, tl.int64), mask=ok, other=0.0) * (m.to(tl.float32) / T)
    variance = tl.zeros((BLOCK,), tl.float32)
    for g in range(G):
        m = tl.minimum(group, T - g * group)
        far = tl.load(at + g * tl.cast(B, tl.int64), mask=ok, other=0.0) - center
        variance += far * far * (m.to(tl.float32) / (T - m))
    return center, variance / G


def plan_errors(
    logits_TBC: Tensor, scores: Sequence[str], likelihood: str, prediction_B: Tensor
) -> tuple[list[Launch], dict[str, Tensor]]:
    """The launches that give what ``jackknife.columns`` has beyond the scores, and the tensors that they fill.

    prediction_B: of ``score``, -1 where an item is no distribution; its launches are run before these.

    Raises:
        ValueError: fewer than 2 passes.
    """
    T, B, C = logits_TBC.shape
    G = len(groups(T))
    x = logits_TBC if logits_TBC.stride(2) == 1 or C == 1 else logits_TBC.contiguous()
    u = torch.empty((len(scores) + 1, G, B), dtype=torch.float32, device=x.device)
    se, bias = torch.empty((2, len(KERNEL_SCORES), B), dtype=torch.float32, device=x.device)
    softmax, want = likelihood == "categorical", wanted(scores)
    vector = alignment(x, x.stride(0), x.stride(1))
    numbers = {"T": T, "B": B, "G": G, "group": group_size(T)}
    shape = numbers | {"stride_t": x.stride(0) // vector, "stride_b": x.stride(1) // vector}
    meta: dict[str, Any] = {"C": C, "VECTOR": vector, "SOFTMAX": softmax, "WANT": want}
    values = 8 if want & (NEEDS_STD.value | NEEDS_VOTES.value) else 16
    tiles = tiling(C, vector, values)
    if tiles is None or tiles.warps > _MAX_WARPS:
        steps = plan_groups(x, u, shape, meta, values)
    else:
        grid = (triton.cdiv(B, tiles.items),)
        steps = [Launch(_group_rows, grid, {"x": x, "u": u, **shape}, meta | tiles.meta, tiles.warps)]
    estimate = Launch(
        _estimate,
        (triton.cdiv(B, _BLOCK),),
        {"u": u, "prediction": prediction_B, "se": se, "bias": bias, **numbers},
        {"WANT": want, "BLOCK": _BLOCK},
        4,
    )
    found = {
        f"{name}_{kind}": rows_SB[KERNEL_SCORES.index(name)]
        for kind, rows_SB in (("se", se), ("bias", bias))
        for name in scores
    }
    return [*steps, estimate], {name: found[name] for name in columns(scores, True)[len(scores) :]}
