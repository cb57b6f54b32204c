"""Dropout that goes straight into a Linear, and into the scores behind it, in Triton.

    y[t, b, l, c] = bias[c] + sum_d W[c, d] * (kept(seed, site, passes[t], ids[b], l D + d) ? x[s, b, l, d] / (1 - p) : 0)

``dropout_linear`` writes y; ``dropout_head`` (L = 1) reduces the rows y[t, b] to scores and writes 4 bytes per item and score.

Two ways, chosen by shape. The kernels here apply masks to the features on their way into the tensor cores, and
1 / (1 - p) when the product is done; a head's rows become scores in registers, so that neither T B D dropped features
nor T B C logits exist. Drawing and applying a mask takes 10 to 15 instructions per 16-bit feature, counted in sm_90 code, so the
masks are the limit up to about C = 128, the tensor cores beyond (float32 takes 20 to 100, most of them for its TF32
parts). A head of more outputs, which would draw the masks again for every 128, is for ``masked_gemm``: it masks first, and
multiplies then; ``kernels.linear`` leaves a Linear of more to PyTorch.

Standard errors need every pass twice, once p̄ is known. Masks and product would double the time, so ``dropout_head`` then
keeps its float32 logits, of as many items as 256 MB hold, for ``jackknife``. Counted in sm_90 code, beside the scores alone:
1.25 times the instructions at C = 10, D = 512, T = 20; 1.85 at C = 100, D = 768, T = 20 (1.5 at T = 100); 1.4 at D = 2048.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...masks import MaskSpec
from ..operands import check_head, check_linear
from . import masked_gemm
from .jackknife import plan_errors
from .launch import Launch, check_device, check_dtype
from .philox import counter_args, on_device, tile_draws
from .tile import NEEDS_STD, NEEDS_VOTES, add_pass, finish_scores, new_results, new_sums
from .tune import tuned

MAX_CLASSES = 128  # of a fused head: sums over the passes and the product share a thread's registers
_WORKSPACE = 256 << 20  # bytes of logits that wait for their standard errors


@triton.jit
def _masked_product(
    x, w, row, row_ok, first, item_id, column, site_pass, key_low, key_high, threshold,
    C: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """(ROWS, COLUMNS) float32: the kept features of these rows of x, times W^T; not yet divided by the keep rate."""
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    deep = tl.arange(0, DEPTH)
    for k in range(0, D, DEPTH):
        inside = deep + k < D
        features = tl.load(x + row[:, None] * D + k + deep[None, :], mask=row_ok[:, None] & inside[None, :], other=0.0)
        weights = tl.load(
            w + column[None, :] * D + k + deep[:, None], mask=(column < C)[None, :] & inside[:, None], other=0.0
        )
        drawn = tile_draws(first + k, item_id, site_pass, key_low, key_high, ROWS, DEPTH, BITS)
        kept = tl.where(drawn >= threshold, features, 0.0).to(features.dtype)
        product = tl.dot(kept, weights, product, input_precision=PRECISION)
    return product


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
    site_pass = site | tl.load(passes + k).to(tl.int32)
    skip = k * tl.cast(rows, tl.int64)  # rows of earlier passes
    if not SHARED:
        x += skip * D
    product = _masked_product(
        x, w, row, row_ok, first, item_id, column, site_pass, key_low, key_high, threshold,
        C, D, BITS, PRECISION, ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    out = product * scale + tl.load(bias + column, mask=column < C, other=0.0)[None, :]
    at = y + (skip + row)[:, None] * C + column[None, :]
    tl.store(at, out.to(y.dtype.element_ty), mask=row_ok[:, None] & (column < C)[None, :])


@triton.jit(do_not_specialize=["key_low", "key_high", "site", "threshold"])
def _dropout_head(
    x, w, bias, out, prediction, kept, passes, ids, key_low, key_high, site, threshold, scale, T, B,
    C: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr, PRECISION: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr,
    KEEP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One program: ROWS items, all passes. With KEEP the logits are also written, to kept (T, B, COLUMNS)."""
    item = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ok = item < B
    item_id = tl.load(ids + item, mask=ok, other=0)
    first = tl.zeros((ROWS,), tl.int32)
    column = tl.arange(0, COLUMNS)
    classes = column[None, :]
    offset = tl.load(bias + column, mask=column < C, other=float("-inf"))[None, :]  # beyond C: probability 0
    mean, m2, votes, h = new_sums(ROWS, COLUMNS, 1)
    for t in range(T):
        site_pass = site | tl.load(passes + t).to(tl.int32)
        product = _masked_product(
            x, w, item, ok, first, item_id, column, site_pass, key_low, key_high, threshold,
            C, D, BITS, PRECISION, ROWS, COLUMNS, DEPTH,
        )  # fmt: skip
        logits = product * scale + offset
        if KEEP:
            at = kept + (t * tl.cast(B, tl.int64) + tl.program_id(0).to(tl.int64) * ROWS) * COLUMNS
            tl.store(at + tl.arange(0, ROWS)[:, None] * COLUMNS + classes, logits, mask=ok[:, None])
        mean, m2, votes, h = add_pass(mean, m2, votes, h, logits, classes, t, C, SOFTMAX, WANT, 1)
    finish_scores(out, prediction, item, ok, B, mean, m2, votes, h, classes, T, C, SOFTMAX, WANT)


@dataclass(frozen=True)
class Block:
    """Rows, outputs and features that one program multiplies at a time, and how."""

    rows: int
    columns: int
    depth: int
    warps: int = 8
    stages: int = 3

    @property
    def meta(self) -> dict[str, int]:
        """The sizes as the kernel's constants."""
        return {"ROWS": self.rows, "COLUMNS": self.columns, "DEPTH": self.depth}


_BLOCKS = {
    # bytes per feature, tiles: {columns: (rows, depth)}. The largest at which sm_80, sm_90 and sm_100 spill nothing (an address at
    # most). Tiles are what is held of rows x columns float32: 1 is a product alone, 2 with the sums of bald and entropy,
    # 5 with those of all scores.
    (2, 1): {16: (128, 64), 32: (128, 64), 64: (128, 64), 128: (128, 64)},
    (2, 2): {16: (128, 64), 32: (128, 64), 64: (128, 64), 128: (128, 32)},
    (2, 5): {16: (128, 64), 32: (128, 64), 64: (64, 64), 128: (32, 64)},
    (4, 1): {16: (128, 32), 32: (128, 32), 64: (128, 32), 128: (64, 32)},
    (4, 2): {16: (128, 32), 32: (128, 32), 64: (128, 16), 128: (64, 16)},
    (4, 5): {16: (128, 32), 32: (128, 16), 64: (64, 16), 128: (32, 16)},
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
    if errors:
        return _head_with_errors(x_BD, masks, weight_CD, bias_C, scores, likelihood)
    launch, results = plan_head(x_BD, masks, weight_CD, bias_C, scores, likelihood)
    launch.run()
    return results


def _head_with_errors(
    x_BD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None,
    scores: Sequence[str],
    likelihood: str,
) -> dict[str, Tensor]:
    """Some items at a time, whose logits wait in a workspace for their standard errors."""
    check_head(x_BD, masks, weight_CD, bias_C, scores, likelihood)
    (B, _), C, T = x_BD.shape, len(weight_CD), masks.t
    wide = block_columns(C)
    some = max(1, min(B, _WORKSPACE // (4 * T * wide)))
    workspace = torch.empty(T * some * wide, dtype=torch.float32, device=x_BD.device)
    parts = []
    for lo in range(0, max(1, B), some):
        items = slice(lo, lo + some)
        x = x_BD[items]
        kept_TBK = workspace[: T * len(x) * wide].view(T, len(x), wide)
        launch, found = plan_head(x, masks.part(items=items), weight_CD, bias_C, scores, likelihood, kept_TBK)
        prediction = found.pop("prediction")
        launches, its_errors = plan_errors(kept_TBK[:, :, :C], tuple(found), likelihood, prediction)
        for step in (launch, *launches):
            step.run()
        parts.append({**found, **its_errors, "prediction": prediction})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


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

    def launch(block: Block) -> Launch:
        programs = triton.cdiv(B * L, block.rows) * t * triton.cdiv(C, block.columns)
        return Launch(_dropout_linear, (programs,), args, meta | block.meta, block.warps, block.stages)

    table = table_block(C, x.element_size(), tiles=1)
    shape = t, B, L, D, C, str(x.dtype), rate.bits
    return launch(tuned("dropout_linear", shape, table, _variants(table), launch, x.device)), y


def plan_head(
    x_BD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None,
    scores: Sequence[str],
    likelihood: str,
    kept_TBK: Tensor | None = None,
) -> tuple[Launch, dict[str, Tensor]]:
    """The launch of the fused ``dropout_head`` and the tensors that it fills.

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
    args = {
        "x": x, "w": weight, "bias": bias, "out": out, "prediction": prediction, "kept": out if kept_TBK is None else kept_TBK,
        **counter_args(masks), "threshold": rate.threshold, "scale": 1.0 / rate.keep, "T": T, "B": B,
    }  # fmt: skip
    meta = {
        "C": C, "D": D, "BITS": rate.bits, "PRECISION": _precision(), "SOFTMAX": likelihood == "categorical", "WANT": want,
        "KEEP": kept_TBK is not None,
    }  # fmt: skip

    def launch(block: Block) -> Launch:
        grid = (triton.cdiv(B, block.rows),)
        return Launch(_dropout_head, grid, args, meta | block.meta, block.warps, block.stages)

    table = table_block(C, x.element_size(), tiles=5 if want & (NEEDS_STD.value | NEEDS_VOTES.value) else 2)
    shape = T, B, D, C, str(x.dtype), rate.bits, want
    chosen = launch(tuned("dropout_head", shape, table, _variants(table), launch, x.device))
    return chosen, results


def table_block(C: int, itemsize: int, tiles: int) -> Block:
    """The table's block for C outputs of features of ``itemsize`` bytes."""
    columns = block_columns(C)
    rows, depth = _BLOCKS[itemsize, tiles][columns]
    return Block(rows, columns, depth)


def block_columns(C: int) -> int:
    """Outputs that a block multiplies at a time."""
    return max(16, min(128, triton.next_power_of_2(C)))


def _variants(block: Block) -> list[Block]:
    """What a search tries beside a block."""
    return [
        replace(block, rows=rows, depth=depth, warps=warps, stages=stages)
        for rows in (block.rows // 2, block.rows)
        for depth in (block.depth, block.depth * 2)
        for warps in (4, 8)
        for stages in (2, 3, 4)
        if rows >= 16 * warps // 4
    ]


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
