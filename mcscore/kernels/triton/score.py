"""Scores from the logits of all passes in Triton: logits (T, B, C) -> scores and prediction (B,).

For each item b: p_t = likelihood(x[t, b]), p̄ = mean of p_t, and from these the scores of the ``acquisition`` catalog.
Reads T B C logits once and writes 4 bytes per item and score: the memory's speed is the limit. No T x C is ever held:
when row t is complete its normaliser is known, so p_t joins p̄ at once, and the state is one row and one C-wide sum in
registers. Only what is asked for is computed; WANT is known at compile time.

Tiling (``tiling``): a thread holds 32 values of a row and 32 of p̄, 80-128 registers and no spill; with mean_std,
variation_ratio or sigmoid, where more is alive at once, 16. So an item takes C / 32 threads: several items share a warp up to
C = 512, one warp per item at 1024 (10 instructions per bfloat16 logit and pass on sm_90), 16 warps at 16384 (11.5). From
8 warps on, a multiprocessor holds one or two items, too few to hide the wait for memory: the next row is then loaded
before this one is worked on (not with 16 values: twice the work per value hides more, and sm_100 spills).
Beyond 16 warps a row no longer fits: ``triton_score_wide`` reads twice.

Rows of up to 32 classes: one thread per item, whose loads lie a row apart. The L1 cache stages them: a warp's rows are
neighbors, so every sector is fetched once, and at C = 10 the five loads of a bfloat16 row touch 25 lines for 640 bytes, 25 bytes
per cycle where the memory of an H200 delivers 19 per multiprocessor (calculated). Class-major logits need no staging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...acquisition import check_scores, check_shape
from .launch import Launch, alignment, check_device, check_dtype
from .tile import (
    NEEDS_STD,
    NEEDS_VOTES,
    add_pass,
    entropy_bits,
    load_tile,
    new_sums,
    store_scores,
    summarize,
    tile_classes,
)
from .tune import tuned

ROWS = ("entropy", "expected_entropy", "bald", "least_confidence", "margin", "variation_ratio", "mean_std")
_MAX_WARPS = 16  # 512 threads may hold 128 registers each; 1024 only 64, and then 32 values and their sums spill
_PREFETCH_WARPS = 8
_MAX_COLUMNS = 32  # classes of class-major logits that a thread holds; more are copied into rows first


@triton.jit(do_not_specialize=["stride_t", "stride_c"])
def _score_columns(
    x, out, prediction, T, B, stride_t, stride_c,
    C: tl.constexpr, VECTOR: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr, ITEMS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Class-major logits, item b of class c at b + c stride_c: VECTOR neighboring items per thread, nothing crosses lanes.

    The strides count vectors, and that is all the compiler may know of them: knowing more, it would load more items at once
    than a thread has registers for, and share their classes out among lanes.
    """
    item = tl.program_id(0).to(tl.int64) * ITEMS + tl.arange(0, ITEMS)
    ok = item < B
    classes = tl.arange(0, WIDTH)[None, :]
    pointer = x + item[:, None] + classes * (tl.cast(stride_c, tl.int64) * VECTOR)
    inside = ok[:, None] & (classes < C)
    mean, m2, votes, h = new_sums(ITEMS, WIDTH, 1)
    for t in range(T):
        tile = tl.load(pointer, mask=inside, other=float("-inf")).to(tl.float32)
        pointer += tl.cast(stride_t, tl.int64) * VECTOR
        mean, m2, votes, h = add_pass(mean, m2, votes, h, tile, classes, t, C, SOFTMAX, WANT, 1)
    total, entropy, top, arg, second, doubt, spread, modal = summarize(mean, m2, votes, classes, T, C, SOFTMAX, WANT)
    store_scores(
        out, prediction, item, ok, B, total, entropy, top, arg, second, doubt, spread, modal, entropy_bits(h), T, C, SOFTMAX, WANT
    )  # fmt: skip


@triton.jit
def _score_rows(
    x, out, prediction, T, B, stride_t, stride_b,
    C: tl.constexpr, VECTOR: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr, PREFETCH: tl.constexpr,
    ITEMS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * ITEMS
    item = first + tl.arange(0, ITEMS)
    ok = item < B if ITEMS > 1 else tl.full((1,), True, tl.int1)
    column = tl.arange(0, CHUNK)[None, :]
    classes = tile_classes(0, CHUNK, CHUNKS)
    # Strides count vectors, so that rows are known to align. The pass moves a scalar, which costs a thread no register.
    x += first * stride_b * VECTOR
    offset = (tl.arange(0, ITEMS).to(tl.int64) * stride_b * VECTOR)[:, None] + column if ITEMS > 1 else column
    step = tl.cast(stride_t, tl.int64) * VECTOR
    mean, m2, votes, h = new_sums(ITEMS, CHUNK * CHUNKS, SHARES)
    if PREFETCH:
        raw = load_tile(x + offset, column, ok[:, None], 0, 1, ITEMS, CHUNK, CHUNKS, C)
    for t in range(T):
        if PREFETCH:
            row = raw.to(tl.float32)
            x += (
                tl.minimum(t + 2, T) - (t + 1)
            ) * step  # the last row once more: a mask would cost an instruction per load
            raw = load_tile(x + offset, column, ok[:, None], 0, 1, ITEMS, CHUNK, CHUNKS, C)
        else:
            row = load_tile(x + offset, column, ok[:, None], 0, 1, ITEMS, CHUNK, CHUNKS, C).to(tl.float32)
            x += step
        mean, m2, votes, h = add_pass(mean, m2, votes, h, row, classes, t, C, SOFTMAX, WANT, SHARES)
    total, entropy, top, arg, second, doubt, spread, modal = summarize(mean, m2, votes, classes, T, C, SOFTMAX, WANT)
    store_scores(
        out, prediction, item, ok, B, total, entropy, top, arg, second, doubt, spread, modal,
        entropy_bits(h), T,
        C, SOFTMAX, WANT,
    )  # fmt: skip


@dataclass(frozen=True)
class Tiling:
    """How rows of C classes are spread over threads: see ``triton_tile``."""

    items: int  # per program
    chunk: int  # neighboring classes of one piece
    chunks: int  # pieces
    threads: int  # per item
    warps: int

    @property
    def meta(self) -> dict[str, int]:
        return {"ITEMS": self.items, "CHUNK": self.chunk, "CHUNKS": self.chunks, "SHARES": self.threads}


def values_per_thread(want: int, softmax: bool) -> int:
    """Values of a row that a thread can hold, with all the C-wide sums that go with them, and not spill."""
    return 32 if softmax and not want & (NEEDS_STD.value | NEEDS_VOTES.value) else 16


def tiling(C: int, vector: int, values: int) -> Tiling | None:
    """The tiling for rows of C classes, loads of ``vector`` values, ``values`` held per thread; None if C is too large."""
    block = triton.next_power_of_2(C)
    vector = min(vector, block)
    threads = max(1, min(block // values, block // vector))  # per item
    if threads > 32 * _MAX_WARPS:
        return None
    chunk = vector * threads
    return Tiling(max(1, 32 // threads), chunk, block // chunk, threads, warps=max(1, threads // 32))


def score(logits_TBC: Tensor, scores: Sequence[str], likelihood: str) -> dict[str, Tensor]:
    """Scores of B items from the logits of T passes: {name: (B,) float32, ..., "prediction": (B,) int32}.

    logits_TBC: (T, B, C) float32, float16 or bfloat16; T >= 1, B >= 0; any strides over passes and items. Classes must
    be neighbors in memory, or items if there are at most 32 classes (class-major, as the pixels of a dense output are);
    else the logits are copied first. scores: names for likelihood "categorical" or "bernoulli".
    Accumulates in float32. An item with NaN or +inf in any pass (softmax: or a row of -inf) gets NaN and prediction -1.
    ValueError for other shapes, scores, likelihoods or devices; TypeError for other dtypes.
    """
    check_device("score", logits_TBC.device)
    launches, results = plan(logits_TBC, scores, likelihood)
    for launch in launches:
        launch.run()
    return results


def plan(logits_TBC: Tensor, scores: Sequence[str], likelihood: str) -> tuple[list[Launch], dict[str, Tensor]]:
    """The launches of ``score``, to be run in order, and the tensors that they fill."""
    if likelihood not in ("categorical", "bernoulli"):
        raise ValueError(
            f"score: the Triton kernel knows likelihoods 'categorical' and 'bernoulli', got {likelihood!r}"
        )
    names = check_scores(scores, likelihood)
    if logits_TBC.ndim != 3:
        raise ValueError(f"score: logits must be (T, B, C), got shape {tuple(logits_TBC.shape)}")
    check_shape(logits_TBC.shape, likelihood)
    check_dtype("score", logits_TBC)
    T, B, C = logits_TBC.shape
    columns = logits_TBC.stride(1) == 1 and logits_TBC.stride(2) != 1 and 1 < C <= _MAX_COLUMNS
    x = logits_TBC if columns or logits_TBC.stride(2) == 1 or C == 1 else logits_TBC.contiguous()
    out = torch.empty((len(ROWS), B), dtype=torch.float32, device=x.device)
    prediction = torch.empty(B, dtype=torch.int32, device=x.device)
    want = sum(1 << ROWS.index(name) for name in names)
    results = {**{name: out[ROWS.index(name)] for name in names}, "prediction": prediction}
    args = {"x": x, "out": out, "prediction": prediction, "T": T, "B": B}
    values = values_per_thread(want, likelihood == "categorical")
    meta = {"C": C, "SOFTMAX": likelihood == "categorical", "WANT": want}
    if columns:
        width = triton.next_power_of_2(C)
        vector = min(alignment(x, x.stride(0), x.stride(2)), max(1, values // width))
        args |= {"stride_t": x.stride(0) // vector, "stride_c": x.stride(2) // vector}
        meta |= {"VECTOR": vector, "ITEMS": 32 * vector, "WIDTH": width}
        return [Launch(_score_columns, (triton.cdiv(B, 32 * vector),), args, meta, num_warps=1)], results
    vector = alignment(x, x.stride(0), x.stride(1))
    tiles = tiling(C, vector, values)
    strides = {"stride_t": x.stride(0) // vector, "stride_b": x.stride(1) // vector}
    meta |= {"VECTOR": vector}
    if tiles is None:
        from .score_wide import plan_wide

        return plan_wide(args | strides, meta), results

    def launch(choice: tuple[Tiling, bool]) -> Launch:
        tiles, prefetch = choice
        grid = (triton.cdiv(B, tiles.items),)
        return Launch(_score_rows, grid, args | strides, meta | {"PREFETCH": prefetch, **tiles.meta}, tiles.warps)

    table = tiles, tiles.warps >= _PREFETCH_WARPS and values == 32
    other_tiles = filter(None, (tiling(C, vector, held) for held in (8, 16, 32)))
    others = ((other, prefetch) for other in other_tiles for prefetch in (False, True))
    shape = T, B, C, str(x.dtype), vector, likelihood, want
    return [launch(tuned("score", shape, table, others, launch, x.device))], results
