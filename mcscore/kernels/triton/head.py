"""Dropout that goes straight into a Linear, and into the scores behind it, in Triton.

    y[t, b, l, c] = bias[c] + sum_d W[c, d] * (kept(seed, site, passes[t], ids[b], l D + d) ? x[s, b, l, d] / (1 - p) : 0)

``dropout_linear`` writes y; ``dropout_head`` (L = 1) reduces the rows y[t, b] to scores and writes 4 bytes per item and score.

Two ways, chosen by shape. The kernels here apply masks to the features on their way into the tensor cores, and
1 / (1 - p) when the product is done; a head's rows become probabilities in registers, so that neither T B D dropped features
nor T B C logits exist. Drawing and applying a mask and the product take 4 (p = 1/2, C = 10) to 9 instructions per 16-bit
feature, counted in sm_90 code, so the masks are the limit up to about C = 128, the tensor cores beyond (float32 takes more, for
its TF32 parts). A head of more outputs, which would draw the masks again for every 128, is for ``masked_gemm``: it masks first, and
multiplies then; ``kernels.linear`` leaves a Linear of more to PyTorch.

A head's passes are dealt out to programs, so that few items fill the GPU, too: a program has some items and one part of the
passes, 4 or more, writes their sums (mean probabilities, entropies, ...), and a second kernel adds the parts, in order. How
passes are cut into parts depends on T alone, so that no score depends on the batch of its item. Up to 4 passes are multiplied
together, whose features and weights are loaded once.

Standard errors need every pass twice, once p̄ is known. Masks and product would double the time, so ``dropout_head`` then
keeps its float32 logits, of as many items as 256 MB hold, for ``jackknife``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...jackknife import group_size
from ...masks import MaskSpec
from ..operands import check_head, check_linear
from . import masked_gemm
from .jackknife import plan_errors
from .launch import Launch, check_device, check_dtype
from .masked_product import masked_products
from .philox import counter_args, on_device
from .tile import (
    NEEDS_H,
    NEEDS_STD,
    NEEDS_VOTES,
    add_pass,
    entropy_bits,
    finish_scores,
    merge_moments,
    new_results,
    new_sums,
)

MAX_CLASSES = 128  # of a fused head: sums over the passes and the product share a thread's registers
_WORKSPACE = 256 << 20  # bytes of the parts' mean probabilities, or of logits that wait for their standard errors


@triton.jit(do_not_specialize=["key_low", "key_high", "site", "threshold", "t", "rows"])
def _dropout_linear(
    x, w, bias, y, passes, ids, key_low, key_high, site, threshold, scale, t, rows,
    L: tl.constexpr, C: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr, SHARED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One program: ROWS rows of one pass, COLUMNS outputs. Programs that share rows run together, so x stays in the L2."""
    ACROSS: tl.constexpr = (C + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    column = program % ACROSS * COLUMNS + tl.arange(0, COLUMNS)
    k = program // ACROSS % t
    row = (program // ACROSS // t).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_ok = row < rows
    item_id = tl.load(ids + row // L, mask=row_ok, other=0)
    first = (row % L * D).to(tl.int32)
    skip = k * tl.cast(rows, tl.int64)  # rows of earlier passes
    if not SHARED:
        x += skip * D
    product, _, _, _ = masked_products(
        x, w, row, row_ok, first, item_id, column, site, passes, k, t, key_low, key_high, threshold,
        C, D, BITS, PRECISION, 1, ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    out = product * scale + tl.load(bias + column, mask=column < C, other=0.0)[None, :]
    at = y + (skip + row)[:, None] * C + column[None, :]
    tl.store(at, out.to(y.dtype.element_ty), mask=row_ok[:, None] & (column < C)[None, :])


@triton.jit(do_not_specialize=["key_low", "key_high", "site", "threshold", "T", "B"])
def _head_parts(
    x, w, bias, mean_out, m2_out, votes_out, h_out, kept, passes, ids, key_low, key_high, site, threshold, scale, T, B,
    C: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr, PRECISION: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr,
    KEEP: tl.constexpr, PART: tl.constexpr, TOGETHER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One program: ROWS items, the PART passes of one part, TOGETHER of them at a time. Sums: (parts, B, COLUMNS).

    With KEEP the logits are also written, to kept (T, B, COLUMNS).
    """
    parts = tl.cdiv(T, PART)
    part = tl.program_id(0) % parts
    item = (tl.program_id(0) // parts).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ok = item < B
    item_id = tl.load(ids + item, mask=ok, other=0)
    first = tl.zeros((ROWS,), tl.int32)
    column = tl.arange(0, COLUMNS)
    offset = tl.load(bias + column, mask=column < C, other=float("-inf"))[None, :]  # beyond C: probability 0
    mean, m2, votes, h = new_sums(ROWS, COLUMNS, 1)
    for step in range(PART // TOGETHER):
        k = part * PART + step * TOGETHER
        products = masked_products(
            x, w, item, ok, first, item_id, column, site, passes, tl.minimum(k, T - 1), T, key_low, key_high, threshold,
            C, D, BITS, PRECISION, TOGETHER, ROWS, COLUMNS, DEPTH,
        )  # fmt: skip
        for i in tl.static_range(TOGETHER):
            exists = k + i < T  # of the last part there may be fewer
            logits = products[i] * scale + offset
            if KEEP:
                at = kept + ((k + i) * tl.cast(B, tl.int64) + item)[:, None] * COLUMNS + column[None, :]
                tl.store(at, logits, mask=(item < tl.where(exists, B, 0))[:, None])
            new_mean, new_m2, new_votes, new_h = add_pass(
                mean, m2, votes, h, logits, column[None, :], step * TOGETHER + i, C, SOFTMAX, WANT, 1
            )
            mean, m2 = tl.where(exists, new_mean, mean), tl.where(exists, new_m2, m2)
            votes, h = tl.where(exists, new_votes, votes), tl.where(exists, new_h, h)
    at = part * tl.cast(B, tl.int64) + item
    tile = at[:, None] * COLUMNS + column[None, :]
    tl.store(mean_out + tile, mean, mask=ok[:, None])
    if NEEDS_STD & WANT:
        tl.store(m2_out + tile, m2, mask=ok[:, None])
    if NEEDS_VOTES & WANT:
        tl.store(votes_out + tile, votes, mask=ok[:, None])
    if NEEDS_H & WANT:
        tl.store(h_out + at, entropy_bits(h), mask=ok)


@triton.jit(do_not_specialize=["T", "B"])
def _merge_parts(
    mean_in, m2_in, votes_in, h_in, out, prediction, T, B,
    C: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    ITEMS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program: the parts of ITEMS items added up, in order, and their scores."""
    item = tl.program_id(0).to(tl.int64) * ITEMS + tl.arange(0, ITEMS)
    ok = item < B
    classes = tl.arange(0, COLUMNS)[None, :]
    mean, m2, votes, h = new_sums(ITEMS, COLUMNS, 1)
    for part in tl.static_range(PARTS):  # unrolled: the loads of all parts are in flight together
        at = part * tl.cast(B, tl.int64) + item
        tile = at[:, None] * COLUMNS + classes
        other = tl.load(mean_in + tile, mask=ok[:, None], other=0.0)
        if NEEDS_STD & WANT:
            other_m2 = tl.load(m2_in + tile, mask=ok[:, None], other=0.0)
            mean, m2 = merge_moments(mean, m2, part * PART, other, other_m2, tl.minimum(T - part * PART, PART))
        else:
            mean += other
        if NEEDS_VOTES & WANT:
            votes += tl.load(votes_in + tile, mask=ok[:, None], other=0)
        if NEEDS_H & WANT:
            h += tl.load(h_in + at, mask=ok, other=0.0)[:, None, None]
    finish_scores(out, prediction, item, ok, B, mean, m2, votes, h, classes, T, C, SOFTMAX, WANT)


@dataclass(frozen=True)
class Block:
    """Rows, outputs and features that one program multiplies at a time, for how many passes, and how."""

    rows: int
    columns: int
    depth: int
    warps: int = 8
    stages: int = 3
    together: int = 1

    @property
    def meta(self) -> dict[str, int]:
        """The sizes as the kernel's constants."""
        return {"ROWS": self.rows, "COLUMNS": self.columns, "DEPTH": self.depth}


_LINEAR = {
    # bytes per feature: {columns: (rows, depth)}. The largest at which sm_80, sm_90 and sm_100 spill nothing (an address at most).
    2: {16: (128, 64), 32: (128, 64), 64: (128, 64), 128: (128, 64)},
    4: {16: (128, 32), 32: (128, 32), 64: (128, 32), 128: (64, 32)},
}
_HEAD = {
    # bytes per feature, tiles: {columns: (rows, depth, warps, together)}. Tiles are what is held of rows x columns float32:
    # 2 with the sums of bald and entropy, 5 with those of all scores. Programs of 32 items and two or four warps, of which
    # several share a multiprocessor; weights serve 32 items and up to four passes. More items where the product is large.
    (2, 2): {16: (32, 64, 2, 4), 32: (32, 64, 2, 4), 64: (32, 64, 4, 4), 128: (32, 64, 4, 4)},
    (2, 5): {16: (32, 64, 2, 4), 32: (32, 32, 2, 2), 64: (32, 64, 4, 2), 128: (32, 64, 8, 1)},
    (4, 2): {16: (32, 32, 2, 2), 32: (32, 32, 2, 1), 64: (128, 16, 8, 1), 128: (128, 16, 8, 1)},
    (4, 5): {16: (32, 32, 2, 1), 32: (128, 16, 8, 1), 64: (64, 16, 8, 1), 128: (32, 16, 8, 1)},
}


def dropout_linear(
    x_sBLD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None = None,
) -> Tensor:
    """y_tBLC, contiguous, in x's dtype: dropout and the Linear behind it, summed in float32.

    x_sBLD: (s, B, L, D), s = 1 or t copies of B items of L rows of D features; weight_CD in the same dtype: float32, float16
    or bfloat16. Element l D + d of an item's mask belongs to feature d of row l. float32 is multiplied as three TF32 products, or
    as one if torch.set_float32_matmul_precision allows it. ValueError for shapes that do not fit, and for rows that start inside
    a block of random bits (``kernels.linear.fuses`` knows them); TypeError for other dtypes.
    """
    check_device("dropout_linear", x_sBLD.device)
    launch, y_tBLC = plan_linear(x_sBLD, masks, weight_CD, bias_C)
    launch.run()
    return y_tBLC


def dropout_head(
    x_BD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None,
    scores: Sequence[str],
    likelihood: str,
    errors: bool = False,
) -> dict[str, Tensor]:
    """Scores of B items whose logits are dropout and a Linear of x_BD, over all passes, as ``score.score`` of them.

    weight_CD: any number of classes or labels; logits of more than 128 are rounded to x's dtype, in which they wait for their
    reduction. errors: also ``jackknife.columns``, of at least 2 passes, or ValueError; the scores are the same bits.
    Other arguments and precision as ``dropout_linear``.
    """
    check_device("dropout_head", x_BD.device)
    if len(weight_CD) > MAX_CLASSES:
        check_head(x_BD, masks, weight_CD, bias_C, scores, likelihood)
        shared = masked_gemm.share_masks(masks.ids)
        masks = on_device(masks, x_BD.device)
        x, weight, bias = _contiguous("dropout_head", x_BD, weight_CD, bias_C)
        return masked_gemm.head(x, masks, weight, bias, scores, likelihood, shared=shared, errors=errors)
    check_head(x_BD, masks, weight_CD, bias_C, scores, likelihood)
    B, T, wide = len(x_BD), masks.t, block_columns(len(weight_CD))
    some = max(1, min(B, _WORKSPACE // (4 * wide * (T if errors else _parts(T)))))
    kept = torch.empty(T * some * wide if errors else 0, dtype=torch.float32, device=x_BD.device)
    pieces = []
    for lo in range(0, max(1, B), some):
        items = slice(lo, lo + some)
        x = x_BD[items]
        kept_TBK = kept[: T * len(x) * wide].view(T, len(x), wide) if errors else None
        launches, found = plan_head(x, masks.part(items=items), weight_CD, bias_C, scores, likelihood, kept_TBK)
        if kept_TBK is not None:
            prediction = found.pop("prediction")
            more, its_errors = plan_errors(kept_TBK[:, :, : len(weight_CD)], tuple(found), likelihood, prediction)
            launches, found = launches + more, {**found, **its_errors, "prediction": prediction}
        for launch in launches:
            launch.run()
        pieces.append(found)
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]} if len(pieces) > 1 else pieces[0]


def plan_linear(
    x_sBLD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None,
) -> tuple[Launch, Tensor]:
    """The launch of the fused ``dropout_linear`` and the tensor that it fills."""
    check_linear(x_sBLD, masks, weight_CD, bias_C)
    masks = on_device(masks, x_sBLD.device)
    x, weight, bias = _contiguous("dropout_linear", x_sBLD, weight_CD, bias_C)
    rate = masks.drop_rate
    s, B, L, D = x.shape
    if L > 1 and D * rate.bits % 128:
        raise ValueError(
            f"dropout_linear: {L} rows of {D} features per item need D * bits divisible by 128, bits = {rate.bits}; "
            "drop first, then multiply"
        )
    C, t = weight.shape[0], masks.t
    y = torch.empty((t, B, L, C), dtype=x.dtype, device=x.device)
    args = {
        "x": x, "w": weight, "bias": bias, "y": y, **counter_args(masks), "threshold": rate.threshold,
        "scale": 1.0 / rate.keep, "t": t, "rows": B * L,
    }  # fmt: skip
    meta = {"L": L, "C": C, "D": D, "BITS": rate.bits, "SHARED": s == 1, "PRECISION": _precision()}

    rows, depth = _LINEAR[x.element_size()][block_columns(C)]
    block = Block(rows, block_columns(C), depth)
    programs = triton.cdiv(B * L, block.rows) * t * triton.cdiv(C, block.columns)
    return Launch(_dropout_linear, (programs,), args, meta | block.meta, block.warps, block.stages), y


def plan_head(
    x_BD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None,
    scores: Sequence[str],
    likelihood: str,
    kept_TBK: Tensor | None = None,
) -> tuple[list[Launch], dict[str, Tensor]]:
    """The launches of the fused ``dropout_head``, to be run in order, and the tensors that they fill.

    kept_TBK: gets the logits, too, if it is given: (T, B, ``block_columns``) float32, contiguous.
    """
    check_head(x_BD, masks, weight_CD, bias_C, scores, likelihood)
    masks = on_device(masks, x_BD.device)
    x, weight, bias = _contiguous("dropout_head", x_BD, weight_CD, bias_C)
    rate = masks.drop_rate
    (B, D), C, T = x.shape, weight.shape[0], masks.t
    if C > MAX_CLASSES:
        raise ValueError(f"dropout_head: the fused kernel holds at most {MAX_CLASSES} classes, got {C}")
    out, prediction, want, results = new_results(scores, B, x.device)
    columns, parts = block_columns(C), _parts(T)
    mean = torch.empty((parts, B, columns), dtype=torch.float32, device=x.device)
    m2 = torch.empty_like(mean) if want & NEEDS_STD.value else mean
    votes = torch.empty_like(mean, dtype=torch.int32) if want & NEEDS_VOTES.value else mean
    h = torch.empty((parts, B), dtype=torch.float32, device=x.device)
    args = {
        "x": x, "w": weight, "bias": bias, "mean_out": mean, "m2_out": m2, "votes_out": votes, "h_out": h,
        "kept": mean if kept_TBK is None else kept_TBK,
        **counter_args(masks), "threshold": rate.threshold, "scale": 1.0 / rate.keep, "T": T, "B": B,
    }  # fmt: skip
    summary = {"C": C, "SOFTMAX": likelihood == "categorical", "WANT": want, "PART": _part(T)}
    meta = summary | {"D": D, "BITS": rate.bits, "PRECISION": _precision(), "KEEP": kept_TBK is not None}

    tiles = 5 if want & (NEEDS_STD.value | NEEDS_VOTES.value) else 2
    rows, depth, warps, together = _HEAD[x.element_size(), tiles][columns]
    block = Block(rows, columns, depth, warps, together=together)
    meta |= block.meta | {"TOGETHER": min(together, _part(T))}
    first = Launch(_head_parts, (triton.cdiv(B, rows) * parts,), args, meta, block.warps, block.stages)
    items = max(1, 256 // columns)
    merge = Launch(
        _merge_parts,
        (triton.cdiv(B, items),),
        {
            "mean_in": mean,
            "m2_in": m2,
            "votes_in": votes,
            "h_in": h,
            "out": out,
            "prediction": prediction,
            "T": T,
            "B": B,
        },
        summary | {"PARTS": parts, "ITEMS": items, "COLUMNS": columns},
        num_warps=1,
    )
    return [first, merge], results


def _part(T: int) -> int:
    """The passes of a part: 4, or more where there would be more than 32 parts. A power of 2."""
    return max(group_size(T), min(4, triton.next_power_of_2(T)))


def _parts(T: int) -> int:
    """How many programs share the passes of an item."""
    return triton.cdiv(T, _part(T))


def block_columns(C: int) -> int:
    """Outputs that a block multiplies at a time."""
    return max(16, min(128, triton.next_power_of_2(C)))


def _contiguous(what: str, x: Tensor, weight_CD: Tensor, bias_C: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Features, weight and float32 bias, contiguous on one device. TypeError for dtypes that the kernels do not have."""
    check_dtype(what, x)
    if weight_CD.dtype != x.dtype:
        raise TypeError(f"{what}: features are {x.dtype} but the weight is {weight_CD.dtype}")
    weight = weight_CD.to(x.device).contiguous()
    bias = weight.new_zeros(weight.shape[0]) if bias_C is None else bias_C
    return x.contiguous(), weight, bias.to(device=x.device, dtype=torch.float32).contiguous()


def _precision() -> str:
    """How float32 enters the tensor cores; 16-bit features ignore it."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
