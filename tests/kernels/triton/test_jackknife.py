"""The Triton kernels give the standard errors and biases of the float64 jackknife, and leave the scores as they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from mcscore import jackknife, masks
from mcscore.acquisition import KERNEL_SCORES, SCORES, oracle_scores
from mcscore.kernels.triton import head as triton_head
from mcscore.kernels.triton import jackknife as triton_jackknife
from mcscore.kernels.triton import jackknife_wide
from mcscore.kernels.triton.head import dropout_head
from mcscore.kernels.triton.score import plan, score
from mcscore.masks import MaskSpec, rate

from .test_score import LIGHT, LIKELIHOODS, logits, naive_scores

pytest_plugins = ("tests.kernels.triton.places",)
Call = Callable[..., Any]

FLOOR = 1e-6
"""Of the largest possible score: 8 roundings of float32, or 4 units of the GPU's log2."""


def naive_errors(x: Tensor, names: tuple[str, ...], likelihood: str) -> dict[str, Tensor]:
    """The definition as one would write it in float32 PyTorch: the yardstick for rounding errors."""
    T, sizes = len(x), [len(group) for group in jackknife.groups(len(x))]
    whole = naive_scores(x, likelihood)
    parts = [naive_scores(x[[t for t in range(T) if t not in group]], likelihood) for group in jackknife.groups(T)]
    found = {}
    for name in names:
        without_GB = torch.stack([part[name] for part in parts])
        found[f"{name}_se"], found[f"{name}_bias"] = jackknife.estimate(whole[name], without_GB, sizes)
    return found


def check(got: dict[str, Tensor], x: Tensor, likelihood: str, names: tuple[str, ...] = KERNEL_SCORES) -> None:
    """Error at most twice the naive one plus FLOOR; NaN exactly where the score is."""
    truth, naive = jackknife.oracle_errors(x, names, likelihood), naive_errors(x, names, likelihood)
    assert list(got) == [*jackknife.columns(names, True), "prediction"]
    bad = oracle_scores(x, names, likelihood)["prediction"] == -1
    for name, expected in truth.items():
        assert got[name].dtype == torch.float32
        assert torch.equal(got[name].isnan(), bad), name
        if bad.all():
            continue
        error = (got[name] - expected)[~bad].abs().max().item()
        yardstick = (naive[name] - expected)[~bad].abs().max().item()
        of_score = name.rsplit("_", 1)[0]
        largest = max(1.0, SCORES["entropy" if of_score == "bald" else of_score].bounds(x.shape[2], likelihood)[1])
        assert error <= 2 * yardstick + FLOOR * largest, f"{name}: error {error:.2g}, naive {yardstick:.2g}"
        if name.endswith("_se"):
            assert (got[name][~bad] >= 0).all(), name


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(
    ("T", "B", "C", "dtype"),
    [
        (3, 33, 2, torch.float16),
        (16, 5, 10, torch.float32),
        (3, 2, 507, torch.float16),
        (4, 1, 1000, torch.float32),
    ],
)
def test_errors_are_those_of_the_definition(
    triton_call: Call, T: int, B: int, C: int, dtype: torch.dtype, likelihood: str
) -> None:
    x = logits(T, B, C, dtype)
    check(triton_call(score, x, KERNEL_SCORES, likelihood, errors=True), x, likelihood)


@pytest.mark.parametrize(
    ("T", "names", "likelihood"),
    [
        (33, ("entropy", "variation_ratio", "mean_std"), "categorical"),  # 16 groups of 2 and one of 1
        (66, ("bald", "least_confidence"), "bernoulli"),  # 16 groups of 4 and one of 2
        (100, ("bald",), "categorical"),
    ],
)
def test_groups_of_several_passes(triton_call: Call, T: int, names: tuple[str, ...], likelihood: str) -> None:
    x = logits(T, 3, 10)
    check(triton_call(score, x, names, likelihood, errors=True), x, likelihood, names)


def test_errors_of_many_items(triton_call: Call) -> None:
    x = logits(2, 199, 10)
    check(triton_call(score, x, LIGHT, "categorical", errors=True), x, "categorical", LIGHT)


def test_one_label_is_a_binary_model(triton_call: Call) -> None:
    x = logits(5, 33, 1)
    check(triton_call(score, x, KERNEL_SCORES, "bernoulli", errors=True), x, "bernoulli")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, and too much for the interpreter")
@pytest.mark.parametrize(
    ("B", "C", "dtype", "names", "likelihood"),
    [
        (199, 10, torch.bfloat16, LIGHT, "categorical"),
        (199, 100, torch.float32, KERNEL_SCORES, "bernoulli"),
        (50, 1000, torch.bfloat16, KERNEL_SCORES, "categorical"),
        (3, 20000, torch.float16, KERNEL_SCORES, "categorical"),
    ],
)
def test_errors_of_any_size_on_the_device_leave_the_scores_as_they_are(
    B: int, C: int, dtype: torch.dtype, names: tuple[str, ...], likelihood: str
) -> None:
    for T in (2, 3, 16, 33, 100):
        x = logits(T, B, C, dtype).cuda()
        got = score(x, names, likelihood, errors=True)
        check(got, x, likelihood, names)
        for name, values in score(x, names, likelihood).items():
            assert torch.equal(values, got[name]), name


def test_the_scores_are_the_same_bits_with_errors(triton_call: Call) -> None:
    x = logits(3, 4, 10)
    with_errors = triton_call(score, x, KERNEL_SCORES, "categorical", errors=True)
    for name, values in triton_call(score, x, KERNEL_SCORES, "categorical").items():
        assert torch.equal(values, with_errors[name]), name


@pytest.mark.parametrize("name", KERNEL_SCORES)
def test_errors_of_a_score_asked_for_alone(triton_call: Call, name: str) -> None:
    x = logits(4, 6, 10)
    check(triton_call(score, x, (name,), "categorical", errors=True), x, "categorical", (name,))


def in_tiles(x: Tensor, names: tuple[str, ...], likelihood: str) -> dict[str, Tensor]:
    """As more classes than registers hold are compared, in tiles, but of 64 classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_jackknife, "_MAX_WARPS", 0)
        patch.setattr(jackknife_wide, "_TILE", 64)
        return score(x, names, likelihood, errors=True)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_tiles_give_the_errors_of_the_definition(triton_call: Call, likelihood: str) -> None:
    x = logits(3, 4, 129)  # the last tile has one class
    x[:, 0, :64] = -math.inf  # a whole tile of probability 0, which is legal
    x[:, 1, 60] = x[:, 1, 70] = 8.0  # the best two in different tiles, ...
    x[0, 1, 128] = 10.0  # ... and another where one pass decides
    x[1, 2, 128] = math.nan
    check(triton_call(in_tiles, x, KERNEL_SCORES, likelihood), x, likelihood)


def test_tiles_of_groups_of_several_passes(triton_call: Call) -> None:
    x = logits(33, 1, 80)
    names = ("bald", "margin")
    check(triton_call(in_tiles, x, names, "categorical"), x, "categorical", names)


def test_more_classes_than_registers_hold_come_in_tiles(triton_call: Call) -> None:
    x = logits(2, 2, 4100)
    launches, _ = plan(x, LIGHT, "categorical", errors=True)
    assert launches[-2].meta["TILES"] == 3
    check(triton_call(score, x, LIGHT, "categorical", errors=True), x, "categorical", LIGHT)


@pytest.mark.parametrize("C", [10, 1000])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_outputs_that_are_no_distribution_have_no_error_and_others_keep_theirs(
    triton_call: Call, likelihood: str, C: int
) -> None:
    x = logits(3, 6, C)
    x[1, 0, 1] = math.nan
    x[2, 1, C - 1] = math.inf
    x[0, 2, :] = -math.inf  # softmax: no distribution; sigmoid: every label absent
    x[:, 3, 1:4] = -math.inf  # probability 0
    x[:2, 4, 1:] = -math.inf  # certain, in two passes
    got = triton_call(score, x, KERNEL_SCORES, likelihood, errors=True)
    check(got, x, likelihood)
    bad = [0, 1, 2] if likelihood == "categorical" else [0, 1]
    assert got["variation_ratio_se"].isnan().nonzero()[:, 0].tolist() == bad
    assert got["entropy_bias"].isnan().nonzero()[:, 0].tolist() == bad


@pytest.mark.parametrize(("T", "likelihood"), [(2, "categorical"), (7, "categorical"), (5, "bernoulli")])
def test_equal_passes_have_no_error_and_no_bias(triton_call: Call, T: int, likelihood: str) -> None:
    x = logits(1, 4, 10).expand(T, 4, 10)
    got = triton_call(score, x, KERNEL_SCORES, likelihood, errors=True)
    check(got, x, likelihood)
    for name in jackknife.columns(KERNEL_SCORES, True)[len(KERNEL_SCORES) :]:
        assert got[name].abs().max() < 2e-5, name


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_small_error_keeps_its_digits(triton_call: Call, likelihood: str) -> None:
    """Passes that differ by 1e-3 in their logits: float32 differences of whole scores would leave no digit of these biases."""
    x = logits(1, 5, 10) + torch.randn(8, 5, 10) * 1e-3
    got = triton_call(score, x, ("entropy", "bald", "mean_std"), likelihood, errors=True)
    truth = jackknife.oracle_errors(x, ("entropy", "bald", "mean_std"), likelihood)
    for name, tolerance in (("entropy_se", 1e-3), ("entropy_bias", 1e-2), ("bald_bias", 1e-2), ("mean_std_se", 1e-2)):
        torch.testing.assert_close(got[name].double(), truth[name], rtol=tolerance, atol=0)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_logits_may_lie_in_memory_in_any_order(triton_call: Call, likelihood: str) -> None:
    x = logits(3, 5, 12)
    whole = triton_call(score, x, LIGHT, likelihood, errors=True)
    class_major = x.permute(0, 2, 1).contiguous().permute(0, 2, 1)
    every_other = torch.full((6, 10, 25), math.nan)[::2, ::2, ::2][..., :12]
    every_other.copy_(x)
    padded = torch.full((3, 5, 19), math.nan)[:, :, 3:15]
    padded.copy_(x)
    for layout in (class_major, every_other, padded):
        got = triton_call(score, layout, LIGHT, likelihood, errors=True)
        for name in ("bald_se", "entropy_se", "bald_bias"):
            torch.testing.assert_close(got[name], whole[name], rtol=1e-5, atol=1e-6)


def test_no_items_have_empty_errors(triton_call: Call) -> None:
    got = triton_call(score, torch.empty(3, 0, 10), LIGHT, "categorical", errors=True)
    columns = (*jackknife.columns(LIGHT, True), "prediction")
    assert {name: tuple(values.shape) for name, values in got.items()} == dict.fromkeys(columns, (0,))


def test_one_pass_has_no_error() -> None:
    with pytest.raises(ValueError, match="at least 2 passes, got 1"):
        plan(torch.zeros(1, 3, 4), LIGHT, "categorical", errors=True)


# ---- head ------------------------------------------------------------------------------------------------------------


def head_logits(x_BD: Tensor, spec: MaskSpec, weight_CD: Tensor, bias_C: Tensor) -> Tensor:
    keep = torch.from_numpy(masks.keep_mask(spec, x_BD.shape[1]))
    return (x_BD.double() * keep / spec.drop_rate.keep) @ weight_CD.double().T + bias_C.double()


@pytest.mark.parametrize(
    ("C", "likelihood", "dtype", "names"),
    [
        (10, "categorical", torch.float32, KERNEL_SCORES),
        (10, "categorical", torch.float16, LIGHT),
        (3, "bernoulli", torch.float16, KERNEL_SCORES),
        (130, "categorical", torch.float32, LIGHT),
        (130, "categorical", torch.float16, LIGHT),
    ],
)
def test_errors_of_a_head_are_the_errors_of_its_logits(
    triton_call: Call, C: int, likelihood: str, dtype: torch.dtype, names: tuple[str, ...]
) -> None:
    """130 classes are more than the fused kernel holds: their logits are rounded to the dtype of the features."""
    x, weight, bias = torch.randn(5, 72).to(dtype), (torch.randn(C, 72) / 3).to(dtype), torch.randn(C)
    spec = MaskSpec(7, 2, list(range(6)), [3, 2**40 + 7, 0, 12, 5], rate(0.5))
    got = triton_call(dropout_head, x, spec, weight, bias, names, likelihood, errors=True)
    truth = jackknife.oracle_errors(head_logits(x, spec, weight, bias), names, likelihood)
    assert list(got) == [*jackknife.columns(names, True), "prediction"]
    rounded = dtype == torch.float16 and C == 130
    for name, expected in truth.items():
        torch.testing.assert_close(
            got[name].double(), expected, rtol=2e-2 if rounded else 1e-4, atol=2e-3 if rounded else 2e-5
        )
    for name, values in triton_call(dropout_head, x, spec, weight, bias, names, likelihood).items():
        assert torch.equal(values, got[name]), name


def pieces_of_a_head(x: Tensor, spec: MaskSpec, weight: Tensor, bias: Tensor, items: int) -> dict[str, Tensor]:
    """With so small a workspace that ``items`` have room in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_head, "_WORKSPACE", items * 4 * spec.t * 16)
        return dropout_head(x, spec, weight, bias, LIGHT, "categorical", errors=True)


def test_a_head_of_more_items_than_the_workspace_holds_comes_in_pieces(triton_call: Call) -> None:
    x, weight, bias = torch.randn(7, 64), torch.randn(10, 64) / 3, torch.randn(10)
    spec = MaskSpec(7, 2, list(range(4)), list(range(7)), rate(0.25))
    got = triton_call(pieces_of_a_head, x, spec, weight, bias, 3)
    for name, values in triton_call(dropout_head, x, spec, weight, bias, LIGHT, "categorical", errors=True).items():
        torch.testing.assert_close(got[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device; the interpreter's products are not bit-exact"
)
@pytest.mark.parametrize(
    ("C", "dtype", "names"),
    [
        (10, torch.bfloat16, LIGHT),
        (50, torch.float32, KERNEL_SCORES),
        (128, torch.bfloat16, LIGHT),
        (1000, torch.float16, LIGHT),
    ],
)
def test_the_scores_of_a_head_are_the_same_bits_with_errors_on_the_device(
    C: int, dtype: torch.dtype, names: tuple[str, ...]
) -> None:
    x, weight = torch.randn(1000, 768).to(dtype).cuda(), (torch.randn(C, 768) / 9).to(dtype).cuda()
    spec = MaskSpec(7, 2, torch.arange(20).cuda(), torch.arange(1000).cuda(), rate(0.25))
    got = dropout_head(x, spec, weight, None, names, "categorical", errors=True)
    for name, values in dropout_head(x, spec, weight, None, names, "categorical").items():
        assert torch.equal(values, got[name]), name
