"""The Triton kernel of entropies given the classes of others against the float64 formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from mcscore.kernels.joint import reference
from mcscore.kernels.triton.joint import conditional_entropy, plan_conditional_entropy

from ..test_joint import operands

pytest_plugins = ("tests.kernels.triton.places",)
Call = Callable[..., Any]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "shape",
    [
        (9, 5, 10, 37),
        (3, 33, 3, 65),  # items of 4 columns, two blocks of rows, three of passes
        (65, 1, 2, 1),
        (2, 17, 129, 5),  # classes in two runs
        (1, 100, 10, 1100),  # two parts
    ],
    ids=str,
)
def test_kernel_is_as_near_to_float64_as_float32_allows(
    triton_call: Call, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    p_MTC, rows_ST, weights_S = operands(*shape)
    p_MTC = p_MTC.to(dtype)
    got = triton_call(conditional_entropy, p_MTC, rows_ST, weights_S)
    for ours, expected in zip(got, reference(p_MTC, rows_ST, weights_S), strict=True):
        assert ours.dtype == torch.float64
        assert (ours - expected).abs().max() < 2e-6 * max(1.0, math.log(shape[2]) ** 2)


def test_certain_labels_have_no_entropy_and_nan_stays_with_its_item(triton_call: Call) -> None:
    p_MTC = torch.zeros(3, 4, 10)
    p_MTC[:, :, 7] = 1.0
    p_MTC[1, 2, 3] = math.nan
    mean_M, square_M = triton_call(conditional_entropy, p_MTC, torch.full((5, 4), 0.25), torch.full((5,), 0.2))
    assert mean_M[[0, 2]].tolist() == square_M[[0, 2]].tolist() == [0.0, 0.0]
    assert mean_M.isnan().tolist() == square_M.isnan().tolist() == [False, True, False]


def test_nothing_of_the_size_of_all_configurations_is_allocated() -> None:
    """10,000 items of 10 classes and 10,000 configurations: 0.8 MB of sums."""
    _, mean_PM, square_PM = plan_conditional_entropy(
        torch.empty(10_000, 100, 10, device="meta"),
        torch.empty(10_000, 100, device="meta"),
        torch.empty(10_000, device="meta"),
    )
    assert mean_PM.shape == square_PM.shape == (10, 10_000)
