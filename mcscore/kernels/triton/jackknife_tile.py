"""What the jackknife kernels do to a tile of probabilities, (items, classes): sum, compare without a group, store.

Formulas: see ``jackknife``.
"""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from ...acquisition import KERNEL_SCORES
from .tile import (
    BALD,
    ENTROPY,
    EXPECTED,
    LEAST,
    LN2,
    MARGIN,
    NEEDS_STD,
    NEEDS_VOTES,
    ONE,
    STD,
    TINY,
    VARIATION,
    log2,
    wanted,
)

# Row of u that holds what of the entropy's is not linear in p, and whose mean is the bias.
CURVE = tl.constexpr(len(KERNEL_SCORES))
NEEDS_CURVE = tl.constexpr(wanted(("entropy", "bald")))
NEEDS_TOP = tl.constexpr(wanted(("least_confidence", "margin")))


@triton.constexpr_function
def row_of(row, want):
    """Where a row of the results, or CURVE, lies in u, which has only those asked for."""
    return (want & ((1 << row) - 1)).bit_count()


@triton.jit
def divergence(x):
    """(1 + x) log(1 + x) - x for x >= -1, to 2e-6 of itself where x is small and it is x² / 2: a series below 1/16.

    From there the logarithm is off by 2^-22 at most, for a class whose mean in the group is above p̄ (1 + (h - 1) / 16).
    """
    y = tl.maximum(1.0 + x, TINY)
    return tl.where(
        tl.abs(x) < 0.0625, x * x * (1 / 2 - x * (1 / 6 - x * (1 / 12 - x * (1 / 20)))), y * log2(y) * LN2 - x
    )


@triton.jit
def sums_of_passes(ITEMS: tl.constexpr, WIDTH: tl.constexpr, SHARES: tl.constexpr):
    """Sums over passes: p float32, p and p² float64 (for mean_std), votes, all (items, classes); h (items, SHARES, 1)."""
    p = tl.zeros((ITEMS, WIDTH), tl.float32)
    p1 = tl.zeros((ITEMS, WIDTH), tl.float64)
    p2 = tl.zeros((ITEMS, WIDTH), tl.float64)
    votes = tl.zeros((ITEMS, WIDTH), tl.int32)
    h = tl.zeros((ITEMS, SHARES, 1), tl.float32)
    return p, p1, p2, votes, h


@triton.jit
def add_to_sums(sums, p1, p2, votes, p, voted, WANT: tl.constexpr):
    """Add p and votes of one pass."""
    sums += p
    if NEEDS_STD & WANT:
        wide = p.to(tl.float64)
        p1 += wide
        p2 += wide * wide
    if NEEDS_VOTES & WANT:
        votes += voted
    return sums, p1, p2, votes


@triton.jit
def std_of_sums(p1, p2, n):
    """Population standard deviation of n values by their sums."""
    mean = p1 / n
    return tl.sqrt(tl.maximum(p2 / n - mean * mean, 0.0))


@triton.jit
def best_two(values, classes, C: tl.constexpr):
    """The largest value of each item, and the largest of the others."""
    top = tl.max(values, 1)
    arg = tl.min(tl.where(values == top[:, None], classes, C), 1)
    return top, tl.max(tl.where(classes == arg[:, None], float("-inf"), values), 1)


@triton.jit
def minority(votes, n, SOFTMAX: tl.constexpr):
    """Votes of n passes: of the modal class (softmax), or against the majority, over all labels (sigmoid)."""
    if SOFTMAX:
        return tl.max(votes, 1).to(tl.float32)
    else:
        return tl.sum(tl.minimum(votes, n - votes), 1).to(tl.float32)


@triton.jit
def reciprocals(mean, classes, C: tl.constexpr, SOFTMAX: tl.constexpr):
    """Of the mean, for the entropy without a group: 1 / p̄ and 1 / (1 - p̄), 0 where infinite; log2 p̄ (sigmoid: - log2(1 - p̄))."""
    inverse, weight = _reciprocal(mean)
    if SOFTMAX:
        return inverse, inverse, weight
    else:
        other_inverse, other_weight = _reciprocal(tl.where(classes < C, 1.0 - mean, 0.0))
        return inverse, other_inverse, weight - other_weight


@triton.jit
def _reciprocal(p):
    held = tl.maximum(p, TINY)
    return tl.where(p > TINY, 1.0 / held, 0.0), log2(held)


@triton.jit
def compare_group(
    mean, inverse, other_inverse, weight, p1, p2, votes, g_sum, g_p1, g_p2, g_votes, top, classes, T, m,
    C: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr,
):  # fmt: skip
    """One tile of classes without a group of m passes -> six values per item that merge over tiles.

    mean: of all passes, with its ``reciprocals``, and top, the largest of the tile; p1, p2, votes: sums over all passes; g_...:
    sums over the group. linear, curve: the two parts of the entropy's u. first, second (softmax): the two largest of
    (h - 1) (p̄_(-g) - top). first (sigmoid): u of least_confidence. modal: ``minority`` of the other passes. spread: sum over
    the classes of the u of their std.
    """
    others = (T - m).to(tl.float32) / m  # h - 1
    D = mean - g_sum * (1.0 / m)
    linear = tl.zeros((mean.shape[0],), tl.float32)
    curve, first, second, modal, spread = linear, linear, linear, linear, linear
    if NEEDS_CURVE & WANT:
        excess = D * (1.0 / others)
        curve = tl.sum(mean * divergence(excess * inverse), 1)
        if not SOFTMAX:
            curve += tl.sum((1.0 - mean) * divergence(-excess * other_inverse), 1)
        curve *= -others
        linear = tl.sum(D * weight, 1) * -LN2
    if NEEDS_TOP & WANT:
        if SOFTMAX:
            first, second = best_two((mean - top[:, None]) * others + D, classes, C)
        else:  # min(p, 1 - p) = 1/2 - |p - 1/2|
            far = (mean - 0.5) * others
            first = tl.sum(tl.abs(far) - tl.abs(far + D), 1)
    if NEEDS_VOTES & WANT:
        modal = minority(votes - g_votes, T - m, SOFTMAX)
    if NEEDS_STD & WANT:
        change = std_of_sums(p1 - g_p1, p2 - g_p2, T - m) - std_of_sums(p1, p2, T)
        spread = tl.sum(change, 1).to(tl.float32) * others
    return linear, curve, first, second, modal, spread


@triton.jit
def store_group(
    u, g, item, ok, B, linear, curve, first, second, modal, spread, h, margin, all_modal, T, m, size,
    C: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr,
):  # fmt: skip
    """Write u of group g of whole items for each wanted score, from what ``compare_group`` gives.

    h: mean entropy of the group's passes; margin: p̄_(1) - p̄_(2); all_modal: ``minority`` of all passes; size: G B.
    """
    others = (T - m).to(tl.float32) / m
    u += g * tl.cast(B, tl.int64) + item
    if (ONE << ENTROPY) & WANT:
        tl.store(u + row_of(ENTROPY, WANT) * size, linear + curve, mask=ok)
    if (ONE << EXPECTED) & WANT:
        tl.store(u + row_of(EXPECTED, WANT) * size, -h, mask=ok)
    if (ONE << BALD) & WANT:
        tl.store(u + row_of(BALD, WANT) * size, linear + curve + h, mask=ok)
    if NEEDS_CURVE & WANT:
        tl.store(u + row_of(CURVE, WANT) * size, curve, mask=ok)
    if (ONE << LEAST) & WANT:
        tl.store(u + row_of(LEAST, WANT) * size, -first if SOFTMAX else first, mask=ok)
    if (ONE << MARGIN) & WANT:
        tl.store(
            u + row_of(MARGIN, WANT) * size, margin * others - (first - second) if SOFTMAX else 2.0 * first, mask=ok
        )
    if (ONE << VARIATION) & WANT:  # (h - 1) (modal / T - modal_(-g) / (T - m)), softmax; its opposite for votes against
        change = (all_modal - modal) / m - all_modal / T
        tl.store(u + row_of(VARIATION, WANT) * size, change if SOFTMAX else -change, mask=ok)
    if (ONE << STD) & WANT:
        tl.store(u + row_of(STD, WANT) * size, spread / C, mask=ok)
