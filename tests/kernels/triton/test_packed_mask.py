"""Packed masks are the masks of the definition, and dropout made of them is dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mcscore import masks
from mcscore.kernels.dropout import masked_passes
from mcscore.kernels.packed_mask import fusable, reference
from mcscore.masks import MaskSpec, rate

pytest.importorskip("triton")

from mcscore.kernels.triton.packed_mask import packed_mask

pytest_plugins = ("tests.kernels.triton.places",)

SEED = 2**63 + 977
PASSES, IDS = torch.tensor([5, 0, 65535]), torch.tensor([3, 2**40 + 1, 0, 17, 2**62])


def _expected(p: float, elements: int) -> np.ndarray:
    keep = masks.keep_mask(MaskSpec(SEED, 3, PASSES, IDS, rate(p)), -(-elements // 32) * 32)
    return np.packbits(keep, axis=2, bitorder="little").view("<i4")


@pytest.mark.parametrize("elements", [1, 8, 13, 128, 199, 2000])
@pytest.mark.parametrize("p", [0.5, 0.25, 0.1])
def test_bits_are_those_of_the_definition(
    triton_call: Callable[..., Any], triton_place: str, p: float, elements: int
) -> None:
    device = "cpu" if triton_place == "interpreter" else "cuda"
    got = triton_call(packed_mask, MaskSpec(SEED, 3, PASSES, IDS, rate(p)), elements, device)
    np.testing.assert_array_equal(got.numpy(), _expected(p, elements))


@pytest.mark.parametrize("elements", [1, 8, 13, 199])
def test_the_reference_has_the_same_bits(elements: int) -> None:
    got = reference(MaskSpec(SEED, 3, PASSES, IDS, rate(0.1)), elements)
    np.testing.assert_array_equal(got.numpy(), _expected(0.1, elements))


@pytest.mark.parametrize("shape", [(1, 5, 13, 1), (3, 5, 8, 4), (1, 5, 1, 49)])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_of_plain_operations_is_the_kernels(shape: tuple[int, ...], p: float, dtype: torch.dtype) -> None:
    x_sBEI, affine, r = torch.randn(shape).to(dtype), (1.25, 0.5, -0.75), rate(p)
    expected = masked_passes(x_sBEI, MaskSpec(7, 3, PASSES, IDS, r), affine)
    got = fusable(x_sBEI, PASSES, IDS, 7, 3, r.bits, r.threshold, affine)
    assert got.dtype == dtype
    eps = torch.finfo(dtype).eps  # the kernel rounds a x + b once
    torch.testing.assert_close(got, expected, rtol=eps, atol=eps)
    assert torch.equal(got == -0.75, expected == -0.75)
