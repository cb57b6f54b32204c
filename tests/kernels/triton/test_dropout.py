"""The Triton masks are the masks of the specification, bit for bit, and dropout applies them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from mcscore import masks
from mcscore.kernels.triton.dropout import dropout, plan_dropout
from mcscore.masks import MaskSpec, rate

pytest_plugins = ("tests.kernels.triton.places",)
Call = Callable[..., Any]

SEED = 0x0123456789ABCDEF
PASSES = [0, 5, 65535, 3]
IDS = [0, 1, -1, 2**32 - 1, 2**40 + 7, 2**63 - 1]
RATES = (0.5, 0.25, 0.3)  # 1, 8 and 16 bits per element
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def masked(x_sBEI: Tensor, passes: list[int], ids: list[int], site: int, p: float, affine: tuple) -> Tensor:
    """Dropout written from the definition, with the masks of the NumPy reference."""
    keep = torch.from_numpy(masks.keep_mask(MaskSpec(SEED, site, passes, ids, rate(p)), x_sBEI.shape[2]))[..., None]
    a, b, d = affine
    return torch.where(keep, x_sBEI.float() * a + b, torch.tensor(d)).to(x_sBEI.dtype)


def assert_masked(y: Tensor, expected: Tensor, triton_place: str) -> None:
    """Equal; the interpreter rounds bfloat16 toward zero, so there one unit in the last place may differ."""
    assert y.dtype == expected.dtype
    assert y.is_contiguous()
    rounding = 2**-7 if triton_place == "interpreter" and y.dtype == torch.bfloat16 else 0.0
    torch.testing.assert_close(y, expected, rtol=rounding, atol=0)


def require_masks(triton_call: Call, spec: MaskSpec, elements: int) -> None:
    """Dropout of ones is the mask."""
    got = triton_call(dropout, torch.ones(1, len(IDS), elements, 1), spec, (1.0, 0.0, 0.0))
    np.testing.assert_array_equal(got[..., 0].numpy(), masks.keep_mask(spec, elements))


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("elements", [1, 2, 7, 16, 24, 130, 512])
def test_masks_equal_the_specification_bit_for_bit(triton_call: Call, elements: int, p: float) -> None:
    require_masks(triton_call, MaskSpec(SEED, 3, PASSES, IDS, rate(p)), elements)


@pytest.mark.parametrize(("seed", "site"), [(0, 0), (1, 65535), (2**31, 32768), (2**63 + 12345, 1), (2**64 - 1, 7)])
def test_every_seed_and_site_reaches_the_counter_whole(triton_call: Call, seed: int, site: int) -> None:
    require_masks(triton_call, MaskSpec(seed, site, PASSES, IDS, rate(0.25)), 40)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("copies", [1, 4], ids=["shared", "per pass"])
def test_dropout_applies_the_masks_of_the_specification(
    triton_call: Call, triton_place: str, copies: int, p: float, dtype: torch.dtype
) -> None:
    x = torch.randn(copies, len(IDS), 136, 1).to(dtype)
    affine = (1 / (1 - rate(p).p), 0.0, 0.0)
    assert_masked(
        triton_call(dropout, x, MaskSpec(SEED, 9, PASSES, IDS, rate(p)), affine),
        masked(x, PASSES, IDS, 9, p, affine),
        triton_place,
    )


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize(("E", "I"), [(1, 1), (5, 1), (13, 1), (50, 1), (6, 49), (3, 6), (20, 4), (5, 64), (1, 8)])
def test_every_shape_gets_its_masks(triton_call: Call, triton_place: str, E: int, I: int, p: float) -> None:
    x = torch.randn(1, len(IDS), E, I, dtype=torch.float16)
    affine = (2.0, 0.0, 0.0)
    assert_masked(
        triton_call(dropout, x, MaskSpec(SEED, 1, PASSES, IDS, rate(p)), affine),
        masked(x, PASSES, IDS, 1, p, affine),
        triton_place,
    )


def test_alpha_dropout_is_an_affine_map_of_what_is_kept(triton_call: Call, triton_place: str) -> None:
    x = torch.randn(4, len(IDS), 24, 1)
    affine = (0.75, 0.25, -1.5)  # exact in float32, so that a fused and an unfused multiply-add agree on small numbers
    got = triton_call(dropout, x, MaskSpec(SEED, 0, PASSES, IDS, rate(0.25)), affine)
    torch.testing.assert_close(got, masked(x, PASSES, IDS, 0, 0.25, affine), rtol=3e-7, atol=1e-7)
    keep = torch.from_numpy(masks.keep_mask(MaskSpec(SEED, 0, PASSES, IDS, rate(0.25)), 24))[..., None]
    assert (got[~keep] == -1.5).all()


def test_dropped_values_leave_no_trace(triton_call: Call) -> None:
    x = torch.full((1, len(IDS), 64, 1), float("nan"))
    got = triton_call(dropout, x, MaskSpec(SEED, 2, PASSES, IDS, rate(0.5)), (2.0, 0.0, 0.0))
    keep = torch.from_numpy(masks.keep_mask(MaskSpec(SEED, 2, PASSES, IDS, rate(0.5)), 64))[..., None]
    assert (got[~keep] == 0).all()
    assert got[keep].isnan().all()


def test_an_item_keeps_its_masks_in_any_batch_order_and_chunk_of_passes(triton_call: Call) -> None:
    ids = torch.arange(1000, 1040)
    x = torch.randn(1, 40, 72, 1)
    affine = (1.25, 0.0, 0.0)
    whole = triton_call(dropout, x, MaskSpec(SEED, 4, torch.arange(6), ids, rate(0.2)), affine)
    order = torch.randperm(40)
    mixed = triton_call(dropout, x[:, order], MaskSpec(SEED, 4, torch.arange(6), ids[order], rate(0.2)), affine)
    assert torch.equal(mixed, whole[:, order])
    some = triton_call(dropout, x[:, 7:8], MaskSpec(SEED, 4, torch.arange(6)[2:5], ids[7:8], rate(0.2)), affine)
    assert torch.equal(some, whole[2:5, 7:8])


def test_many_small_programs_share_the_passes_out() -> None:
    """One item and 100 passes: the grid is wide enough to fill a GPU, whichever way work is cut."""
    x = torch.empty(1, 1, 4096, 1, device="meta")
    launch, y = plan_dropout(x, MaskSpec(SEED, 0, torch.arange(100), torch.arange(1), rate(0.5)), (2.0, 0.0, 0.0))
    assert y.shape == (100, 1, 4096, 1)
    assert launch.grid[0] >= 100


@pytest.mark.parametrize(("t", "B", "E"), [(0, 3, 8), (2, 0, 8), (2, 3, 0)])
def test_nothing_to_mask_is_no_error(triton_call: Call, t: int, B: int, E: int) -> None:
    x = torch.empty(1, B, E, 1)
    got = triton_call(dropout, x, MaskSpec(SEED, 0, torch.arange(t), torch.arange(B), rate(0.5)), (2.0, 0.0, 0.0))
    assert got.shape == (t, B, E, 1)


def test_errors_say_what_was_wrong() -> None:
    x, r, affine = torch.empty(1, 3, 8, 1, device="meta"), rate(0.5), (2.0, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"number of passes \(2\) and B the number of ids \(4\)"):
        plan_dropout(x, MaskSpec(SEED, 0, [0, 1], [0, 1, 2, 3], r), affine)
    with pytest.raises(ValueError, match=r"x is \(3, 8, 1\), expected \(s, B, E, I\)"):
        plan_dropout(x[0], MaskSpec(SEED, 0, [0, 1], [0, 1, 2], r), affine)
    with pytest.raises(ValueError, match=r"passes must lie in \[0, 65536\)"):
        plan_dropout(x, MaskSpec(SEED, 0, [0, 65536], [0, 1, 2], r), affine)
    with pytest.raises(ValueError, match=r"item ids must be >= 0"):
        plan_dropout(x, MaskSpec(SEED, 0, [0], [0, -2, 2], r), affine)
    with pytest.raises(TypeError, match=r"float32, float16 or bfloat16, got torch\.float64"):
        plan_dropout(x.double(), MaskSpec(SEED, 0, [0], [0, 1, 2], r), affine)
    with pytest.raises(ValueError, match=r"needs a CUDA tensor, got one on meta"):
        dropout(x, MaskSpec(SEED, 0, [0], [0, 1, 2], r), affine)
