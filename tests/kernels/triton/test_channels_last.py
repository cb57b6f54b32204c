"""Dropout of images in channels-last format has the masks of the usual format, bit for bit, and the values up to one rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mcscore.kernels.dropout import reference
from mcscore.kernels.packed_mask import fusable_images
from mcscore.masks import MaskSpec, rate

pytest.importorskip("triton")

from mcscore.kernels.triton.channels_last import dropout_images

pytest_plugins = ("tests.kernels.triton.places",)

AFFINE = (1.25, 0.5, -0.75)
PASSES, IDS = torch.tensor([5, 0, 65535]), torch.tensor([3, 2**40 + 1])


def images(copies: int, C: int, H: int, W: int, dtype: torch.dtype) -> Tensor:
    x_sBHWC = torch.randn(copies, 2, H, W, C, generator=torch.Generator().manual_seed(3)).to(dtype)
    return x_sBHWC.permute(0, 1, 4, 2, 3)


def expected(x_sBCHW: Tensor, masks: MaskSpec, whole: bool) -> Tensor:
    s, B, C, H, W = x_sBCHW.shape
    x_sBEI = x_sBCHW.reshape(s, B, C if whole else C * H * W, H * W if whole else 1)
    return reference(x_sBEI, masks, AFFINE).reshape(-1, B, C, H, W)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("C", "H", "W"), [(2, 1, 2), (5, 3, 7), (67, 6, 6), (130, 1, 3)])
@pytest.mark.parametrize(("p", "copies"), [(0.5, 1), (0.25, 3), (0.1, 1), (0.1, 3)])
def test_values_are_those_of_the_usual_format(
    triton_call: Callable[..., Any], C: int, H: int, W: int, p: float, copies: int, whole: bool
) -> None:
    x, masks = images(copies, C, H, W, torch.float32), MaskSpec(2**63 + 977, 3, PASSES, IDS, rate(p))
    got = triton_call(dropout_images, x, masks, AFFINE, whole)
    truth = expected(x, masks, whole)
    torch.testing.assert_close(got, truth, rtol=2**-23, atol=2**-23)
    assert torch.equal(got == -0.75, truth == -0.75)
    assert got.permute(0, 1, 3, 4, 2).is_contiguous()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiler_gets_the_same_values(whole: bool, dtype: torch.dtype) -> None:
    x, r = images(1, 5, 3, 7, dtype), rate(0.1)
    got = fusable_images(x, PASSES, IDS, 7, 3, r.bits, r.threshold, AFFINE, whole)
    truth = expected(x, MaskSpec(7, 3, PASSES, IDS, r), whole)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got, truth, rtol=eps, atol=eps)
    assert got.permute(0, 1, 3, 4, 2).is_contiguous()


def test_operands_that_do_not_fit_are_refused() -> None:
    from mcscore.kernels.triton.channels_last import plan_dropout_images

    with pytest.raises(ValueError, match=r"dropout_images: x is \(1, 2, 5, 3, 7\)"):
        plan_dropout_images(
            images(1, 5, 3, 7, torch.float32), MaskSpec(0, 0, PASSES, IDS[:1], rate(0.1)), AFFINE, False
        )
