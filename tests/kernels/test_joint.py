"""Entropies given the classes of others: the C++ kernel and the reference against the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mcscore.kernels import native
from mcscore.kernels.joint import conditional_entropy, reference

SHAPES = [  # M, T, C, S
    (7, 5, 3, 1),
    (33, 100, 10, 37),
    (3, 11, 1000, 70),
    (5, 1, 2, 4),
    (9, 300, 13, 64),
    (1, 20, 6, 17),
    (18, 4, 25, 33),
]


def operands(M: int, T: int, C: int, S: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities with some that are 0, rows and weights that sum to 1."""
    p_MTC = torch.softmax(3 * torch.randn(M, 1, C) + 2 * torch.randn(M, T, C), -1)
    p_MTC[torch.rand(M, T) < 0.2] = torch.nn.functional.one_hot(torch.tensor(C - 1), C).float()
    rows_ST, weights_S = torch.rand(S, T) ** 8, torch.rand(S)
    return p_MTC, rows_ST / rows_ST.sum(1, keepdim=True), weights_S / weights_S.sum()


def formula(p_MTC: Tensor, rows_ST: Tensor, weights_S: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Configuration by configuration, term by term."""
    mean, square = np.zeros(len(p_MTC)), np.zeros(len(p_MTC))
    for m, p_TC in enumerate(p_MTC.double().numpy()):
        for row_T, weight in zip(rows_ST.double().numpy(), weights_S.double().numpy(), strict=True):
            h = -sum(q * math.log(q) for q in row_T @ p_TC if q > 0)
            mean[m] += weight * h
            square[m] += weight * h * h
    return mean, square


@pytest.mark.parametrize("shape", [(3, 5, 3, 7), (2, 4, 2, 1)])
def test_reference_is_the_formula(shape: tuple[int, int, int, int]) -> None:
    x = operands(*shape)
    for got, expected in zip(reference(*x), formula(*x), strict=True):
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_is_as_near_to_float64_as_float32_allows(isa: str, shape: tuple[int, int, int, int]) -> None:
    x = operands(*shape)
    for got, expected in zip(native.conditional_entropy(*x), reference(*x), strict=True):
        assert got.dtype == torch.float64
        assert (got - expected).abs().max() < 1e-6 * max(1.0, math.log(shape[2]) ** 2)


def test_certain_labels_have_no_entropy(isa: str) -> None:
    p_MTC = torch.zeros(3, 4, 10)
    p_MTC[:, :, 7] = 1.0
    mean_M, square_M = native.conditional_entropy(p_MTC, torch.full((20, 4), 0.25), torch.full((20,), 0.05))
    assert mean_M.tolist() == square_M.tolist() == [0.0] * 3


def test_an_item_with_nan_is_nan_and_leaves_others_alone(isa: str) -> None:
    p_MTC, rows_ST, weights_S = operands(5, 6, 10, 40)
    clean, _ = native.conditional_entropy(p_MTC, rows_ST, weights_S)
    p_MTC[2, 3, 4] = math.nan
    mean_M, square_M = native.conditional_entropy(p_MTC, rows_ST, weights_S)
    assert mean_M.isnan().tolist() == square_M.isnan().tolist() == [False, False, True, False, False]
    assert torch.equal(mean_M[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


def test_result_of_an_item_does_not_depend_on_the_others_or_on_threads(isa: str) -> None:
    p_MTC, rows_ST, weights_S = operands(90, 30, 10, 100)
    together, _ = native.conditional_entropy(p_MTC, rows_ST, weights_S)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(native.conditional_entropy(p_MTC, rows_ST, weights_S)[0], together)
    finally:
        torch.set_num_threads(before)
    alone = torch.cat([native.conditional_entropy(p_MTC[m : m + 1], rows_ST, weights_S)[0] for m in range(90)])
    assert torch.equal(alone, together)


def test_strides_and_other_dtypes() -> None:
    p_MTC, rows_ST, weights_S = operands(8, 6, 10, 9)
    expected, _ = conditional_entropy(p_MTC, rows_ST, weights_S)
    assert torch.equal(
        conditional_entropy(p_MTC.transpose(0, 1).contiguous().transpose(0, 1), rows_ST, weights_S)[0], expected
    )
    assert torch.equal(conditional_entropy(p_MTC, rows_ST.T.contiguous().T, weights_S)[0], expected)
    exact, _ = reference(p_MTC.double(), rows_ST.double(), weights_S.double())
    assert torch.equal(conditional_entropy(p_MTC.double(), rows_ST.double(), weights_S.double())[0], exact)
    half = p_MTC.half()
    assert torch.equal(
        conditional_entropy(half, rows_ST, weights_S)[0], conditional_entropy(half.float(), rows_ST, weights_S)[0]
    )


def test_no_items_and_no_configurations() -> None:
    p_MTC, rows_ST, weights_S = operands(4, 3, 5, 6)
    assert conditional_entropy(p_MTC[:0], rows_ST, weights_S)[0].shape == (0,)
    assert conditional_entropy(p_MTC, rows_ST[:0], weights_S[:0])[0].tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("p", "rows", "weights"),
    [((4, 3), (6, 3), (6,)), ((4, 0, 5), (6, 0), (6,)), ((4, 3, 5), (6, 4), (6,)), ((4, 3, 5), (6, 3), (5,))],
)
def test_operands_that_do_not_fit_are_refused(
    p: tuple[int, ...], rows: tuple[int, ...], weights: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="conditional_entropy"):
        conditional_entropy(torch.ones(p), torch.ones(rows), torch.ones(weights))
