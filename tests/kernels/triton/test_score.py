"""The Triton score kernels give the scores of the float64 formulas, for every size, layout and special value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from mcscore.acquisition import KERNEL_SCORES, oracle_scores
from mcscore.kernels.score import row_blocks
from mcscore.kernels.triton import score as triton_score
from mcscore.kernels.triton.score import plan, score
from mcscore.kernels.triton.tiling import tiling

from .accuracy import check_accuracy

pytest_plugins = ("tests.kernels.triton.places",)
Call = Callable[..., Any]

LIKELIHOODS = ("categorical", "bernoulli")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LIGHT = ("bald", "entropy")
SINGLE = ("entropy", "expected_entropy", "bald", "least_confidence", "margin")  # without votes and squares


def logits(T: int, B: int, C: int, dtype: torch.dtype = torch.float32, spread: float = 3.0) -> Tensor:
    return (torch.randn(T, B, C) * spread).to(dtype)


def naive_scores(x: Tensor, likelihood: str) -> dict[str, Tensor]:
    """The formulas as one would write them in float32 PyTorch: the yardstick for rounding errors."""
    x = x.float()
    p = torch.softmax(x, -1) if likelihood == "categorical" else torch.sigmoid(x)
    k = p[..., None, :] if likelihood == "categorical" else torch.stack((p, 1 - p), -1)  # (T, B, variables, outcomes)
    mean = k.mean(0)
    two = mean.topk(2, -1).values
    winners = torch.nn.functional.one_hot(k.argmax(-1), k.shape[-1]).float().mean(0).amax(-1)

    def entropy(q: Tensor) -> Tensor:
        return torch.special.entr(q).sum((-1, -2))

    return {
        "entropy": entropy(mean),
        "expected_entropy": entropy(k).mean(0),
        "bald": entropy(mean) - entropy(k).mean(0),
        "least_confidence": (1 - two[..., 0]).sum(-1),
        "margin": (1 - two[..., 0] + two[..., 1]).sum(-1),
        "variation_ratio": (1 - winners).sum(-1),
        "mean_std": p.std(0, correction=0).mean(-1),
    }


def check(got: dict[str, Tensor], x: Tensor, likelihood: str, names: tuple[str, ...] = KERNEL_SCORES) -> None:
    """Error at most twice the naive one, plus 1e-6 of the largest possible value: 8 roundings of float32, or 4 units of
    the GPU's log2. Items that the truth calls NaN must be NaN, and no others."""
    truth, naive = oracle_scores(x, names, likelihood), naive_scores(x, likelihood)
    assert list(got) == [*names, "prediction"]
    check_accuracy(got, truth, naive, x.shape[2], likelihood, 1e-6)
    check_prediction(got["prediction"], truth["prediction"], x, likelihood)


def check_prediction(got: Tensor, expected: Tensor, x: Tensor, likelihood: str) -> None:
    """Equal, except where the two best mean probabilities differ by less than float32 can tell."""
    assert got.dtype == torch.int32
    assert torch.equal(got == -1, expected == -1)
    p = (torch.softmax(x.double(), -1) if likelihood == "categorical" else torch.sigmoid(x.double())).mean(0)
    for b in (got != expected).nonzero()[:, 0].tolist():
        if p.shape[1] == 1:
            assert abs(p[b, 0].item() - 0.5) < 1e-6
        else:
            assert (p[b, got[b]] - p[b, expected[b]]).abs() < 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(("T", "B", "C"), [(1, 1, 2), (3, 199, 10), (4, 33, 3), (3, 5, 100), (3, 2, 507), (3, 3, 1000)])
def test_scores_are_those_of_the_formulas(
    triton_call: Call, triton_place: str, T: int, B: int, C: int, likelihood: str, dtype: torch.dtype
) -> None:
    if triton_place == "interpreter" and C == 507 and dtype != torch.float16:
        pytest.skip("odd rows are slow to interpret: once is enough")
    x = logits(T, B, C, dtype)
    check(triton_call(score, x, KERNEL_SCORES, likelihood), x, likelihood)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", KERNEL_SCORES)
def test_a_score_asked_for_alone_is_the_same_score(triton_call: Call, name: str, likelihood: str) -> None:
    x = logits(4, 6, 10)
    check(triton_call(score, x, (name,), likelihood), x, likelihood, (name,))


@pytest.mark.parametrize(
    ("C", "dtype", "ahead"),
    [
        (4097, torch.float16, False),
        (6000, torch.float32, True),
        (10_000, torch.bfloat16, False),
        (24_576, torch.bfloat16, False),
    ],
)
def test_long_rows_are_held_in_pieces(triton_call: Call, C: int, dtype: torch.dtype, ahead: bool) -> None:
    """An odd row has one value per load, and so 33 pieces."""
    x = logits(3, 7, C, dtype)
    x[:, 0, : C // 2] = -math.inf  # whole pieces of probability 0, which is legal
    x[:, 1, C - 90] = x[:, 1, C - 1] = 30.0  # the best two, level: the smaller class is predicted
    x[1, 2, C - 2] = math.nan
    x[0, 3, 0] = math.inf
    x[0, 4, :] = -math.inf
    x[:, 5] = -1e5  # all level
    (launch,), _ = plan(x, SINGLE, "categorical")
    assert launch.meta["AHEAD"] == ahead
    got = triton_call(score, x, SINGLE, "categorical")
    check(got, x, "categorical", SINGLE)
    assert got["prediction"][1] == C - 90
    check(triton_call(score, x, ("margin",), "categorical"), x, "categorical", ("margin",))


def test_rows_too_long_for_pieces_are_read_twice(triton_call: Call) -> None:
    assert len(plan(logits(2, 1, 24_577), LIGHT, "categorical")[0]) == 3


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_more_classes_than_registers_hold_are_scored_in_tiles(triton_call: Call, likelihood: str) -> None:
    x = logits(2, 6, 17000)
    x[:, 0, :5000] = -math.inf  # a whole tile of probability 0, which is legal
    x[:, 1, 4090] = x[:, 1, 12345] = 30.0  # the best two in different tiles, level: the smaller class is predicted
    x[1, 2, 9000] = math.nan
    x[0, 3, 0] = math.inf
    x[0, 4, :] = -math.inf
    assert len(plan(x, KERNEL_SCORES, likelihood)[0]) > 1
    got = triton_call(score, x, KERNEL_SCORES, likelihood)
    check(got, x, likelihood)
    assert got["prediction"][1] == 4090


@pytest.mark.parametrize("names", [LIGHT, ("margin",)], ids=["light", "margin"])
def test_tiles_compute_only_what_is_asked(triton_call: Call, names: tuple[str, ...]) -> None:
    x = logits(2, 1, 25_002, torch.float16)
    check(triton_call(score, x, names, "categorical"), x, "categorical", names)


@pytest.mark.parametrize("C", [10, 1000])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_outputs_that_are_no_distribution_give_nan_and_others_stay_whole(
    triton_call: Call, likelihood: str, C: int
) -> None:
    x = logits(3, 6, C)
    x[1, 0, 1] = math.nan
    x[2, 1, C - 1] = math.inf
    x[0, 2, :] = -math.inf  # softmax: no distribution; sigmoid: every label absent
    x[:, 3, 1:4] = -math.inf  # probability 0
    x[:, 4, 1:] = -math.inf  # certain
    got = triton_call(score, x, KERNEL_SCORES, likelihood)
    check(got, x, likelihood)
    bad = [0, 1, 2] if likelihood == "categorical" else [0, 1]
    assert got["bald"].isnan().nonzero()[:, 0].tolist() == bad
    assert (got["prediction"] == -1).nonzero()[:, 0].tolist() == bad


@pytest.mark.parametrize("scale", [1e4, 3e8, 1e10, 1e37])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_finite_logits_of_any_size_are_scored(triton_call: Call, likelihood: str, scale: float) -> None:
    x = logits(4, 5, 10) * scale
    x[:, 1] = scale  # all level
    x[:, 2, :2] = -scale
    check(triton_call(score, x, KERNEL_SCORES, likelihood), x, likelihood)


def test_one_label_is_a_binary_model(triton_call: Call) -> None:
    x = logits(5, 40, 1)
    x[:, 3] = 0.0  # exactly undecided counts as present
    got = triton_call(score, x, KERNEL_SCORES, "bernoulli")
    check(got, x, "bernoulli")
    assert got["prediction"][3] == 1


def test_ties_go_to_the_smallest_class(triton_call: Call) -> None:
    x = torch.zeros(3, 2, 10)
    x[:, 1, 4] = x[:, 1, 7] = 5.0
    got = triton_call(score, x, KERNEL_SCORES, "categorical")
    assert got["prediction"].tolist() == [0, 4]
    assert got["variation_ratio"].tolist() == [0.0, 0.0]
    assert got["margin"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_equal_passes_leave_nothing_to_learn(triton_call: Call, likelihood: str) -> None:
    x = logits(1, 8, 10).expand(16, 8, 10)
    got = triton_call(score, x, ("bald", "mean_std", "variation_ratio"), likelihood)
    assert got["bald"].max() < 1e-5
    assert got["mean_std"].max() < 1e-7  # sums of squares would leave about 1e-4 here
    if likelihood == "categorical":
        assert got["variation_ratio"].max() == 0


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_logits_may_lie_in_memory_in_any_order(triton_call: Call, likelihood: str) -> None:
    x = logits(3, 5, 12)
    whole = triton_call(score, x, KERNEL_SCORES, likelihood)
    item_major = x.transpose(0, 1).contiguous().transpose(0, 1)
    padded = torch.full((3, 5, 19), math.nan)[:, :, 3:15]
    padded.copy_(x)
    class_major = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    every_other = torch.full((6, 10, 12), math.nan)[::2, ::2]
    every_other.copy_(x)
    for layout in (item_major, padded, class_major, every_other):
        assert torch.equal(layout, x)
        got = triton_call(score, layout, KERNEL_SCORES, likelihood)
        for name, values in whole.items():
            torch.testing.assert_close(got[name], values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(("B", "C"), [(1, 2), (199, 10), (67, 32), (5, 3)])
def test_class_major_logits_are_scored_as_they_lie(
    triton_call: Call, B: int, C: int, likelihood: str, dtype: torch.dtype
) -> None:
    x = logits(3, B, C, dtype).permute(0, 2, 1).contiguous().permute(0, 2, 1)
    x[0, 0, 1] = -math.inf
    if B > 1:
        x[1, 1, 0], x[2, 3, 1] = math.nan, math.inf
    (launch,), _ = plan(x, KERNEL_SCORES, likelihood)
    assert B == 1 or launch.args["x"] is x
    check(triton_call(score, x, KERNEL_SCORES, likelihood), x, likelihood)


def test_the_pixels_of_a_large_image_are_scored_without_a_copy(triton_call: Call) -> None:
    x = logits(2, 2, 5 * 257 * 256).view(2, 2, 5, 257, 256)
    blocks = list(row_blocks(x, "categorical", "logits", "triton"))
    assert [first for first, _ in blocks] == [0, 257 * 256]
    for _, block in blocks:
        assert block.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        launches, _ = plan(block, LIGHT, "categorical")
        assert launches[0].args["x"] is block
    part = blocks[1][1][:, -300:]
    check(triton_call(score, part, LIGHT, "categorical"), part, "categorical", LIGHT)


def test_scores_do_not_depend_on_the_batch(triton_call: Call) -> None:
    x = logits(4, 70, 10)
    whole = triton_call(score, x, KERNEL_SCORES, "categorical")
    for part in (slice(0, 1), slice(5, 38), slice(69, 70)):
        alone = x[:, part].contiguous()  # a batch of its own, as it comes from a model
        for name, values in triton_call(score, alone, KERNEL_SCORES, "categorical").items():
            assert torch.equal(values, whole[name][part]), name


def test_no_items_give_empty_scores(triton_call: Call) -> None:
    got = triton_call(score, torch.empty(3, 0, 10), LIGHT, "categorical")
    assert {name: tuple(values.shape) for name, values in got.items()} == dict.fromkeys((*LIGHT, "prediction"), (0,))


@pytest.mark.parametrize("C", [10, 1000, 17000])
@pytest.mark.parametrize("shift", [-3e4, 3e4])
def test_a_constant_added_to_the_logits_changes_nothing(triton_call: Call, C: int, shift: float) -> None:
    """Their maximum enters as max log2(e), rounded to 1/256 here: alike for all classes of a row, so it must cancel."""
    x = (logits(3, 2, C) * 64).round() / 64  # exact with the shift added
    plain, moved = (triton_call(score, values, KERNEL_SCORES, "categorical") for values in (x, x + shift))
    for name, values in plain.items():
        torch.testing.assert_close(moved[name], values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("vector", [1, 2, 4, 8])
@pytest.mark.parametrize("values", [16, 32])
def test_a_tiling_covers_a_row_once_and_fits_its_threads(vector: int, values: int) -> None:
    for C in [*range(1, 70), 100, 507, 1000, 1024, 1025, 4096, 8191, 16384]:
        tiles = tiling(C, vector, values)
        if tiles is None:
            assert 512 * values / 2 < C
            continue
        width, threads = tiles.chunk * tiles.chunks, 32 * tiles.warps
        assert width >= C > width // 2 or width == C == 1
        assert tiles.items * width <= threads * max(values, vector)
        assert tiles.warps <= 16
    assert tiling(512 * values + 1, vector, values) is None


def test_errors_say_what_was_wrong_and_what_to_do() -> None:
    x = torch.zeros(2, 3, 4)
    if not triton_score.triton.knobs.runtime.interpret:
        with pytest.raises(ValueError, match="needs a CUDA tensor, got one on cpu"):
            score(x, LIGHT, "categorical")
    with pytest.raises(ValueError, match="one of categorical, bernoulli for a kernel, got 'gaussian'"):
        plan(x, ("variance",), "gaussian")
    with pytest.raises(ValueError, match="use likelihood='bernoulli'"):
        plan(x[:, :, :1], LIGHT, "categorical")
    with pytest.raises(ValueError, match=r"\(T, B, C\), got \(2, 3\)"):
        plan(x[:, :, 0], LIGHT, "categorical")
    with pytest.raises(TypeError, match=r"float32, float16 or bfloat16, got torch\.float64"):
        plan(x.double(), LIGHT, "categorical")
    with pytest.raises(ValueError, match="unknown score 'blad'"):
        plan(x, ("blad",), "categorical")
