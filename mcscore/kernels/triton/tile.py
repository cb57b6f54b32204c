"""What the Triton score kernels do to a tile of logits, (items, classes): load, likelihood, accumulate, summarize, store.

A tile is loaded in CHUNKS pieces of CHUNK neighboring classes, joined so that a thread holds its values of every piece.
With CHUNK = (values of one 16-byte load) x (threads per item) the number of threads that share an item is free: one for
C <= 32, up to 32 for C = 1024, each with 32 values. Sums over classes are then mostly sums within a thread. Left to itself
Triton spreads a row over as many lanes as it can: counted in sm_90 code, per bfloat16 logit and pass, that is 42
instructions at C = 10 and 28 at C = 100, against 14 and 12 with this layout. About 14 is what full memory speed allows
on an H200.

Position j of a tile holds class start + (j % CHUNKS) * CHUNK + j // CHUNKS. Positions beyond C hold the logit -inf, that
is probability 0, and drop out of every sum.
"""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...acquisition import BALD_NOISE, KERNEL_SCORES, SCORES, TRITON_BALD_NOISE


def wanted(names: Sequence[str]) -> int:
    """WANT of a kernel: bit r is set where row r of the results is asked for, in the order of KERNEL_SCORES."""
    return sum(1 << KERNEL_SCORES.index(name) for name in names)


def _needing(moment: str) -> tl.constexpr:
    return tl.constexpr(wanted([name for name in KERNEL_SCORES if moment in SCORES[name].moments]))


NEEDS_H, NEEDS_VOTES, NEEDS_STD = _needing("h"), _needing("votes"), _needing("p2")
ENTROPY, EXPECTED, BALD, LEAST, MARGIN, VARIATION, STD = (
    tl.constexpr(KERNEL_SCORES.index(name))
    for name in ("entropy", "expected_entropy", "bald", "least_confidence", "margin", "variation_ratio", "mean_std")
)  # rows of the results
ONE = tl.constexpr(1)

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
TINY = tl.constexpr(1.2e-38)  # above the smallest normal float32: log2 of it is finite where denormals count as 0
FAR = tl.constexpr(-1e4)  # exp(FAR) = 2^FAR = 0 in float32, and FAR * 0 = 0 where -inf * 0 would be NaN

# At and below these BALD is noise, and 0. SFU logarithms and float32 sums over the passes are off by some 2^-22 each.
BALD_SHARE = tl.constexpr(BALD_NOISE)
SOFTMAX_NOISE = tl.constexpr(TRITON_BALD_NOISE["categorical"])
SIGMOID_NOISE = tl.constexpr(TRITON_BALD_NOISE["bernoulli"])

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def log2(x):
    """log2 by the special function unit, to 2^-22 (absolute for 1/2 < x < 2, else relative).

    tl.log2 is a polynomial of some 20 instructions. Of 32 of them at the end of an item, Triton 3.6 makes 146 registers
    (80 with this) and spills at 16 warps; for ``sigmoid``, which needs one per logit, they would be half of the work.
    The interpreter knows no assembly and takes tl.log2.
    """
    if INTERPRETED:
        return tl.log2(x)
    else:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def rounded_product(a, b):
    """The product a b, of which nothing is fused into the sum that it goes to.

    The compiler made one multiply-add of p - mean where p is a product. After the first pass that is not 0, as mean = p, but the
    rounding of p: on an H100 the standard deviation of equal passes was 6e-6, and that of one pass 2e-5.
    """
    if INTERPRETED:
        return a * b
    else:
        return tl.inline_asm_elementwise(
            "mul.rn.f32 $0, $1, $2;", "=f,f,f", [a, b], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def tile_classes(start, CHUNK: tl.constexpr, CHUNKS: tl.constexpr):
    """The class at each position of a tile: (1, CHUNK * CHUNKS) int32."""
    j = tl.arange(0, CHUNK * CHUNKS)[None, :]
    return start + (j % CHUNKS) * CHUNK + j // CHUNKS


@triton.jit
def load_tile(
    pointer, column, ok, FIRST: tl.constexpr, STEP: tl.constexpr,
    ITEMS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Logits (ITEMS, CHUNK * CHUNKS) in their own dtype. pointer, column: of the first piece; call with FIRST=0, STEP=1.

    Pieces FIRST, FIRST + STEP, ...: even and odd ones are joined last, which leaves piece k at position k of each run.
    """
    if CHUNKS == 1 and CHUNK * STEP == C:  # no position is beyond C
        return tl.load(pointer + FIRST * CHUNK, mask=ok, other=float("-inf"))
    elif CHUNKS == 1:
        return tl.load(pointer + FIRST * CHUNK, mask=ok & (column + FIRST * CHUNK < C), other=float("-inf"))
    else:
        even = load_tile(pointer, column, ok, FIRST, 2 * STEP, ITEMS, CHUNK, CHUNKS // 2, C)
        odd = load_tile(pointer, column, ok, FIRST + STEP, 2 * STEP, ITEMS, CHUNK, CHUNKS // 2, C)
        return tl.reshape(tl.join(even, odd), (ITEMS, CHUNK * CHUNKS))


@triton.jit
def scaled_difference(x, c, origin):
    """X c - origin, rounded once. The interpreter has no fused multiply-add: there the product is exact in float64."""
    if INTERPRETED:
        return (x.to(tl.float64) * c - origin.to(tl.float64)).to(tl.float32)
    else:
        return tl.fma(x, c, -origin)


@triton.jit
def scale_of(top):
    """The factor that turns logits into exponents of 2: log2(e), or 1 from 2^29 on.

    There the rounding of top log2(e) could exceed 32, and shift 2^z out of range. Float32 values of that size are at least 32
    apart, so what is not the maximum has no weight in any base, and the factor 1 makes the product exact.
    """
    return tl.where(tl.abs(top) < 536870912.0, LOG2E, 1.0)


@triton.jit
def fold(a, b, sums):
    """Sums (items, shares, n) + the products a b, (items, shares, n 2^k), by multiply-adds alone.

    Left to tl.sum, half of the products are multiplications whose results are then added: 1.5 instructions each, not 1.
    """
    if a.shape[2] == sums.shape[2]:
        return a * b + sums
    else:
        a0, a1 = tl.split(tl.reshape(a, (a.shape[0], a.shape[1], a.shape[2] // 2, 2)))
        b0, b1 = tl.split(tl.reshape(b, (a.shape[0], a.shape[1], a.shape[2] // 2, 2)))
        return fold(a1, b1, fold(a0, b0, sums))


@triton.jit
def softmax_tile(x, classes, C: tl.constexpr, WANT: tl.constexpr, SHARES: tl.constexpr):
    """A whole row of one pass -> p (items, classes), entropy in bits as ``new_sums`` keeps it, argmax (items,).

    The last two are 0 if not needed. H = log2 s - sum(e z) / s with z = (x - max) log2(e), e = 2^z, s = sum e.
    NaN, +inf and rows of -inf make z, hence p, NaN.

    z is one multiply-add, x log2(e) - m with m the rounded max log2(e). That rounding shifts all z of a row alike, which
    changes neither p nor H.
    """
    top = tl.max(x, 1)
    c = scale_of(top)
    z = scaled_difference(x, c[:, None], (top * c)[:, None])
    if NEEDS_H & WANT:
        z = tl.maximum(z, FAR, propagate_nan=tl.PropagateNan.ALL)
    e = tl.exp2(z)
    total = tl.sum(e, 1)
    inverse = 1.0 / total
    h = tl.zeros((x.shape[0], SHARES, 1), tl.float32)
    if NEEDS_H & WANT:
        if SHARES == 1:
            h = (log2(total) - tl.sum(e * z, 1) * inverse)[:, None, None]
        else:
            held = tl.reshape(e, (x.shape[0], SHARES, x.shape[1] // SHARES))
            h = (log2(total) * (1.0 / SHARES))[:, None, None] - fold(held, tl.reshape(z, held.shape), h) * inverse[
                :, None, None
            ]
    vote = tl.zeros_like(top).to(tl.int32)
    if NEEDS_VOTES & WANT:
        vote = tl.min(tl.where(x == top[:, None], classes, C), 1)
    p = rounded_product(e, inverse[:, None]) if NEEDS_STD & WANT else e * inverse[:, None]
    return p, h, vote


@triton.jit
def sigmoid_tile(x, WANT: tl.constexpr, SHARES: tl.constexpr):
    """Labels of one pass -> p (items, labels), sum of H[Bernoulli(p)] as ``new_sums`` keeps it. +inf and NaN give NaN."""
    z = tl.maximum(x, FAR, propagate_nan=tl.PropagateNan.ALL)
    a = tl.abs(z) * LOG2E
    e = tl.exp2(-a)
    q = 1.0 / (1.0 + e)  # the larger of p and 1 - p
    p = tl.where(z < float("inf"), tl.where(z >= 0, q, e * q), float("nan"))
    h = tl.zeros((x.shape[0], SHARES, 1), tl.float32)
    if NEEDS_H & WANT:
        bits = tl.reshape(log2(1.0 + e) + a * e * q, (x.shape[0], SHARES, x.shape[1] // SHARES))
        h = tl.sum(bits, 2)[:, :, None]
    return p, h


@triton.jit
def new_sums(ITEMS: tl.constexpr, WIDTH: tl.constexpr, SHARES: tl.constexpr):
    """What a program keeps of its items over the passes: mean, m2, votes (items, classes), h (items, SHARES, 1).

    h sums up to the bits of entropy of the passes. SHARES: threads among which the classes of an item are dealt out, in
    order; each adds up its own, and nothing crosses lanes before the end. 1 also where that is not known, as behind tl.dot.
    """
    mean = tl.zeros((ITEMS, WIDTH), tl.float32)
    m2 = tl.zeros((ITEMS, WIDTH), tl.float32)
    votes = tl.zeros((ITEMS, WIDTH), tl.int32)
    h = tl.zeros((ITEMS, SHARES, 1), tl.float32)
    return mean, m2, votes, h


@triton.jit
def add_pass(
    mean, m2, votes, h, logits, classes, t,
    C: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """Add the logits (items, classes) of pass t (0, 1, ...) to the sums of ``new_sums``."""
    p, h_t, voted = pass_tile(logits, classes, C, SOFTMAX, WANT, SHARES)
    if NEEDS_VOTES & WANT:
        votes += voted
    mean, m2 = accumulate(mean, m2, p, t, WANT)
    return mean, m2, votes, h + h_t


@triton.jit
def merge_moments(mean, m2, n, other_mean, other_m2, m):
    """Mean and squared deviations of n values and of m others -> those of all n + m > 0 (Chan, Golub and LeVeque 1979)."""
    delta = other_mean - mean
    share = tl.cast(m, tl.float32) / (n + m)
    return mean + delta * share, m2 + other_m2 + delta * delta * (share * n)


@triton.jit
def pass_tile(logits, classes, C: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr, SHARES: tl.constexpr):
    """One pass -> p (items, classes), its entropy as ``new_sums`` keeps it, votes (items, classes) int32; 0 if not needed."""
    voted = tl.zeros(logits.shape, tl.int32)
    if SOFTMAX:
        p, h, vote = softmax_tile(logits, classes, C, WANT, SHARES)
        if NEEDS_VOTES & WANT:
            voted = (classes == vote[:, None]).to(tl.int32)
    else:
        p, h = sigmoid_tile(logits, WANT, SHARES)
        if NEEDS_VOTES & WANT:
            voted = (logits >= 0).to(tl.int32)
    return p, h, voted


@triton.jit
def entropy_bits(h):
    """H of ``new_sums`` added up, (items,)."""
    return tl.sum(tl.sum(h, 2), 1)


@triton.jit
def accumulate(mean, m2, p, t, WANT: tl.constexpr):
    """Add pass t (0, 1, ...) to ``mean``, a plain sum; with mean_std wanted, to Welford's running mean and squares.

    Squares of probabilities summed as they are would cancel in float32 where the passes nearly agree. p must have been rounded:
    see ``rounded_product``.
    """
    if NEEDS_STD & WANT:
        delta = p - mean
        # Rounded to nearest: 1 / 1 must be 1. By the GPU's quick division one pass had a standard deviation of 2e-5.
        mean += delta * tl.div_rn(tl.cast(1.0, tl.float32), tl.cast(t + 1, tl.float32))
        m2 += delta * (p - mean)
    else:
        mean += p
    return mean, m2


@triton.jit
def summarize(mean, m2, votes, classes, T, C: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr):
    """One tile after all passes -> eight values per item that merge over tiles: see ``score_wide``.

    total = sum p (NaN if a pass was no distribution), entropy, top, arg (class of top, the smallest if several), second
    (best of the rest), doubt = sum min(p, 1-p) (sigmoid), spread = sum of the std, modal = votes of the modal class
    (softmax) or minority votes (sigmoid).
    """
    if (NEEDS_STD & WANT) == 0:
        mean *= 1.0 / T
    total = tl.sum(mean, 1)
    # max() drops NaN here, which is harmless: mean * log is NaN all the same
    entropy = tl.sum(mean * log2(tl.maximum(mean, TINY)), 1) * -LN2
    top = tl.max(mean, 1)
    arg = tl.min(tl.where(mean == top[:, None], classes, C), 1)
    second = tl.max(tl.where(classes == arg[:, None], -1.0, mean), 1)
    other = tl.where(classes < C, 1.0 - mean, 0.0)
    doubt = tl.sum(tl.minimum(mean, other), 1)
    if not SOFTMAX:
        entropy -= tl.sum(other * log2(tl.maximum(other, TINY)), 1) * LN2
    spread = tl.sum(tl.sqrt(m2 / T), 1)
    if SOFTMAX:
        modal = tl.max(votes, 1).to(tl.float32)
    else:
        modal = tl.sum(tl.minimum(votes, T - votes), 1).to(tl.float32)
    return total, entropy, top, arg, second, doubt, spread, modal


@triton.jit
def finish_scores(
    out, prediction, item, ok, B, mean, m2, votes, h, classes, T, C: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr
):  # fmt: skip
    """Write the results of whole items from the sums of ``new_sums`` over all T passes."""
    total, entropy, top, arg, second, doubt, spread, modal = summarize(mean, m2, votes, classes, T, C, SOFTMAX, WANT)
    store_scores(
        out, prediction, item, ok, B, total, entropy, top, arg, second, doubt, spread, modal, entropy_bits(h), T, C, SOFTMAX, WANT
    )  # fmt: skip


@triton.jit
def store_scores(
    out, prediction, item, ok, B, total, entropy, top, arg, second, doubt, spread, modal, h, T,
    C: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr,
):  # fmt: skip
    """Write the wanted rows of out (7, B) and the prediction (B,) of whole items. h: sum over passes of their bits."""
    bad = total != total
    entropy = tl.maximum(entropy, 0.0)
    expected = tl.maximum(h * (LN2 / T), 0.0)
    if SOFTMAX:
        least = 1.0 - top
        margin = 1.0 - (top - second)
        variation = 1.0 - modal / T
    else:
        least = doubt
        margin = 2.0 * doubt  # 1 - |2p - 1| = 2 min(p, 1 - p)
        variation = modal / T
    store_row(out, ENTROPY, item, ok, B, entropy, bad, WANT)
    store_row(out, EXPECTED, item, ok, B, expected, bad, WANT)
    bald = entropy - expected
    if SOFTMAX:
        noise = SOFTMAX_NOISE + BALD_SHARE * entropy  # of one pass; sums over the passes round T times
    else:
        noise = SIGMOID_NOISE * C + BALD_SHARE * entropy
    store_row(out, BALD, item, ok, B, tl.where(bald > noise * (1.0 + T / 32), bald, 0.0), bad, WANT)
    store_row(out, LEAST, item, ok, B, least, bad, WANT)
    store_row(out, MARGIN, item, ok, B, margin, bad, WANT)
    store_row(out, VARIATION, item, ok, B, variation, bad, WANT)
    store_row(out, STD, item, ok, B, spread / C, bad, WANT)
    if C == 1:
        arg = (top >= 0.5).to(tl.int32)  # one label: is it present?
    tl.store(prediction + item, tl.where(bad, -1, arg), mask=ok)


@triton.jit
def store_row(out, ROW: tl.constexpr, item, ok, B, value, bad, WANT: tl.constexpr):
    """Write one row of the results, if it is wanted: NaN where an item is bad, never below 0."""
    if (ONE << ROW) & WANT:
        value = tl.where(bad, float("nan"), tl.maximum(value, 0.0))
        tl.store(out + tl.cast(B, tl.int64) * ROW + item, value, mask=ok)


def new_results(names: Sequence[str], B: int, device: torch.device) -> tuple[Tensor, Tensor, int, dict[str, Tensor]]:
    """What a kernel fills for B items: (out (scores, B), prediction (B,), WANT, results by name, which are views)."""
    out = torch.empty((len(KERNEL_SCORES), B), dtype=torch.float32, device=device)
    prediction = torch.empty(B, dtype=torch.int32, device=device)
    results = {name: out[KERNEL_SCORES.index(name)] for name in names}
    return out, prediction, wanted(names), {**results, "prediction": prediction}
