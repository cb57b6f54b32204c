"""Sums over passes on a GPU are those of PyTorch, for every size, layout and special value, in one launch or two."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from mcscore import Moments
from mcscore.acquisition import KERNEL_SCORES, oracle_scores
from mcscore.jackknife import oracle_errors
from mcscore.kernels import backends, eager
from mcscore.kernels.triton.accumulate import accumulate, plan_accumulate

pytest_plugins = ("tests.kernels.triton.places",)
Call = Callable[..., Any]

LIKELIHOODS = ("categorical", "bernoulli")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def rows_of(x: Tensor) -> Tensor:
    """(t, B, C, *pixels) -> (t, B S, C), item-major."""
    return x if x.ndim == 3 else x.flatten(3).transpose(2, 3).flatten(1, 2)


def sums(x: Tensor, likelihood: str, scores: tuple[str, ...] = KERNEL_SCORES, split: int = 1000) -> eager.State:
    """The sums after some calls of the kernel, which begin with others than 0."""
    state = eager.new_state(scores, likelihood, rows_of(x).shape[1], x.shape[2], x.device)
    for part in x.split(split):
        accumulate(part, state, likelihood)
    return state


def check(got: eager.State, x: Tensor, likelihood: str) -> None:
    """Error at most twice that of the PyTorch sums, which compute a pass in float32 too, plus 2^-21 of what a pass can add."""
    rows, C = rows_of(x), x.shape[2]
    truth, naive = (eager.new_state(KERNEL_SCORES, likelihood, rows.shape[1], C, x.device) for _ in range(2))
    eager.accumulate(rows.double(), truth, likelihood)
    eager.accumulate(rows, naive, likelihood)
    assert torch.equal(got["bad"], truth["bad"])
    ok = ~truth["bad"]
    if "votes" in got:
        assert torch.equal(got["votes"][ok], truth["votes"][ok])
    for name in {"p", "p2", "h"} & got.keys():
        error, yardstick = ((other[name] - truth[name])[ok].abs().max() for other in (got, naive))
        most = 1.0 if name != "h" else math.log(C) if likelihood == "categorical" else C * math.log(2)
        assert error <= 2 * yardstick + 2**-21 * most * math.sqrt(len(x)), f"{name}: {error:.2g}, naive {yardstick:.2g}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 199, 10), (5, 3, 507), (34, 1, 1000), (2, 2, 5003)])
def test_sums_are_those_of_pytorch(
    triton_call: Call, shape: tuple[int, int, int], likelihood: str, dtype: torch.dtype
) -> None:
    x = (3 * torch.randn(shape)).to(dtype)
    x[0, 0, 1] = -math.inf  # probability 0
    check(triton_call(sums, x, likelihood), x, likelihood)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("C", [7, 4100])
def test_a_pass_that_is_no_distribution_marks_its_row_and_no_other(triton_call: Call, likelihood: str, C: int) -> None:
    x = torch.randn(3, 7, C)
    x[1, 0, 2], x[2, 1, C - 1], x[0, 2, :] = math.nan, math.inf, -math.inf
    x[:, 3, :3] = -math.inf
    x[:, 4, 1:] = -math.inf  # certain
    x[:, 5] *= 1e10
    got = triton_call(sums, x, likelihood, split=1)
    check(got, x, likelihood)
    assert got["bad"].tolist() == [True, True, likelihood == "categorical", False, False, False, False]


@pytest.mark.parametrize("C", [1, 2, 21, 4100])
def test_pixels_are_read_as_they_lie(triton_call: Call, C: int) -> None:
    likelihood = "bernoulli" if C == 1 else "categorical"
    x = 2 * torch.randn(2, 3, C, 5, 7 if C < 100 else 1)
    for lies in (x, x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (2, 3))):
        check(triton_call(sums, lies, likelihood), x, likelihood)
        state = eager.new_state(("bald",), likelihood, rows_of(x).shape[1], C, x.device)
        launches = plan_accumulate(lies, state, likelihood)
        assert len(launches) == (1 if C <= 4096 else 2)
        assert launches[0].args["x"].data_ptr() == lies.data_ptr()


def test_rows_of_any_strides(triton_call: Call) -> None:
    x = torch.randn(4, 33, 10)
    for lies in (x.transpose(0, 2).contiguous().transpose(0, 2), x[:1].expand(4, 33, 10), x[::2, 1:, ::3]):
        check(triton_call(sums, lies, "categorical"), lies, "categorical")


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_no_sum_depends_on_the_split_or_on_what_else_is_kept(triton_call: Call, likelihood: str) -> None:
    x = torch.randn(7, 5, 21)
    whole = triton_call(sums, x, likelihood)
    for other in (triton_call(sums, x, likelihood, split=3), triton_call(sums, x, likelihood, ("bald",))):
        for name, values in other.items():
            torch.testing.assert_close(values, whole[name], rtol=1e-14, atol=0)
    assert set(other) == {"p", "h", "bad"}


def test_no_row_depends_on_its_batch(triton_call: Call) -> None:
    x = torch.randn(3, 70, 10)
    whole, alone = (triton_call(sums, part, "categorical") for part in (x, x[:, 37:38].contiguous()))
    for name, values in alone.items():
        assert torch.equal(values[0], whole[name][37]), name


def test_no_items(triton_call: Call) -> None:
    assert triton_call(sums, torch.empty(3, 0, 10), "categorical")["p"].shape == (0, 10)


@pytest.mark.parametrize("input", ["logits", "probs"])
@pytest.mark.parametrize("shape", [(40, 3, 5), (6, 2, 4, 3, 5)])
def test_moments_have_the_scores_and_errors_of_the_formulas(
    triton_call: Call, shape: tuple[int, ...], input: str
) -> None:
    logits = torch.randn(shape)
    outputs = logits if input == "logits" else torch.softmax(logits, 2)
    got = triton_call(_moments, outputs, input)
    truth = oracle_scores(logits, KERNEL_SCORES) | oracle_errors(logits, KERNEL_SCORES, "categorical")
    for name, values in truth.items():
        torch.testing.assert_close(got[name].double(), values.double(), rtol=1e-4, atol=3e-6)


def test_passes_that_agree_have_no_bald(triton_call: Call) -> None:
    """However certain they are: the entropy of a pass is as exact as that of the mean."""
    x = torch.randn(1, 300, 10) * torch.logspace(-2, 2, 300)[:, None]
    assert (triton_call(_moments, x.expand(20, -1, -1), "logits", errors=False)["bald"] <= 1e-7).all()


def _moments(outputs: Tensor, input: str, errors: bool = True) -> dict[str, Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "select", lambda _device: "triton")
        moments = Moments(KERNEL_SCORES, input=input, errors=errors)
        for part in outputs.split([1, len(outputs) - 1]):
            moments.update(part)
        return moments.compute()
