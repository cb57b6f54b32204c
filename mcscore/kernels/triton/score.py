"""Scores from the logits of all passes in Triton: logits (T, B, C) -> scores and prediction (B,).

For each item b: p_t = likelihood(x[t, b]), p̄ = mean of p_t, and from these the scores of the ``acquisition`` catalog.
Reads T B C logits once and writes 4 bytes per item and score: the memory's speed is the limit. No T x C is ever held:
when row t is complete its normaliser is known, so p_t joins p̄ at once, and the state is one row and one C-wide sum in
registers. Only what is asked for is computed; WANT is known at compile time.

``tiling`` says how many threads share an item. Beyond 4096 classes the commonest scores are for ``score_pieces``, and more classes
than registers hold for ``score_wide``.

Rows of up to 32 classes: one thread per item, whose loads lie a row apart. The L1 cache stages them: a warp's rows are
neighbors, so every sector is fetched once, and at C = 10 the five loads of a bfloat16 row touch 25 lines for 640 bytes, 25 bytes
per cycle where the memory of an H200 delivers 19 per multiprocessor (calculated). Class-major logits need no staging.
"""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ...acquisition import check_kernel_call
from .jackknife import plan_errors
from .launch import Launch, alignment, check_device, check_dtype
from .score_pieces import SMALLEST, plan_pieces
from .score_wide import plan_wide
from .tile import add_pass, finish_scores, load_tile, new_results, new_sums, tile_classes
from .tiling import MOST_VALUES, tiling, values_per_thread

_MAX_COLUMNS = 32  # classes of class-major logits that a thread holds; more are copied into rows first


# What depends on the number of items is the same code for any: B = 1 would be a constant, and a kernel of its own that rounds otherwise.
@triton.jit(do_not_specialize=["B", "stride_t", "stride_c"])
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
    finish_scores(out, prediction, item, ok, B, mean, m2, votes, h, classes, T, C, SOFTMAX, WANT)


@triton.jit(do_not_specialize=["B", "stride_t"])
def _score_rows(
    x, out, prediction, T, B, stride_t, stride_b,
    C: tl.constexpr, VECTOR: tl.constexpr, SOFTMAX: tl.constexpr, WANT: tl.constexpr,
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
    for t in range(T):
        row = load_tile(x + offset, column, ok[:, None], 0, 1, ITEMS, CHUNK, CHUNKS, C).to(tl.float32)
        x += step
        mean, m2, votes, h = add_pass(mean, m2, votes, h, row, classes, t, C, SOFTMAX, WANT, SHARES)
    finish_scores(out, prediction, item, ok, B, mean, m2, votes, h, classes, T, C, SOFTMAX, WANT)


def score(logits_TBC: Tensor, scores: Sequence[str], likelihood: str, errors: bool = False) -> dict[str, Tensor]:
    """Scores of B items from the logits of T passes: {name: (B,) float32, ..., "prediction": (B,) int32}.

    logits_TBC: (T, B, C) float32, float16 or bfloat16; T >= 1, B >= 0; any strides over passes and items. Classes must
    be neighbors in memory, or items if there are at most 32 classes (class-major, as the pixels of a dense output are);
    else the logits are copied first. scores: names for likelihood "categorical" or "bernoulli".
    Accumulates in float32. An item with NaN or +inf in any pass (softmax: or a row of -inf) gets NaN and prediction -1.
    errors: also the standard errors and biases that ``mcscore.jackknife.columns`` names, (B,) float32, for which class-major
    logits are copied; the scores are the same bits.
    ValueError for other shapes, scores, likelihoods or devices, and for errors of one pass; TypeError for other dtypes.
    """
    check_device("score", logits_TBC.device)
    launches, results = plan(logits_TBC, scores, likelihood, errors)
    for launch in launches:
        launch.run()
    return results


def plan(
    logits_TBC: Tensor, scores: Sequence[str], likelihood: str, errors: bool = False
) -> tuple[list[Launch], dict[str, Tensor]]:
    """The launches of ``score``, to be run in order, and the tensors that they fill."""
    launches, results = _plan_scores(logits_TBC, scores, likelihood)
    if not errors:
        return launches, results
    prediction = results.pop("prediction")
    more, found = plan_errors(launches[0].args["x"], tuple(results), likelihood, prediction)
    return launches + more, {**results, **found, "prediction": prediction}


def _plan_scores(logits_TBC: Tensor, scores: Sequence[str], likelihood: str) -> tuple[list[Launch], dict[str, Tensor]]:
    names = check_kernel_call("score", scores, likelihood, logits_TBC.shape)
    check_dtype("score", logits_TBC)
    T, B, C = logits_TBC.shape
    columns = logits_TBC.stride(1) == 1 and logits_TBC.stride(2) != 1 and 1 < C <= _MAX_COLUMNS
    x = logits_TBC if columns or logits_TBC.stride(2) == 1 or C == 1 else logits_TBC.contiguous()
    out, prediction, want, results = new_results(names, B, x.device)
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
    args |= {"stride_t": x.stride(0) // vector, "stride_b": x.stride(1) // vector}
    meta |= {"VECTOR": vector}
    if C > SMALLEST and values == MOST_VALUES and (launch := plan_pieces(args, meta)):
        return [launch], results
    tiles = tiling(C, vector, values)
    if tiles is None:
        return plan_wide(args, meta), results
    return [Launch(_score_rows, (triton.cdiv(B, tiles.items),), args, meta | tiles.meta, tiles.warps)], results
