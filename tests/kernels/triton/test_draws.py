"""The Triton random numbers are those of the specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from mcscore.kernels.triton.draws import draw
from mcscore.masks import MaskSpec

from ..test_draws import IDS, PASSES, SEED, evens, normals, uniforms, words

pytest_plugins = ("tests.kernels.triton.places",)
Call = Callable[..., Any]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def device(triton_place: str) -> str:
    return "cpu" if triton_place == "interpreter" else "cuda"


@pytest.mark.parametrize("elements", [1, 2, 3, 4, 7, 64, 1030])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_uniform_numbers_equal_the_specification_bit_for_bit(
    triton_call: Call, device: str, dtype: torch.dtype, elements: int
) -> None:
    got = triton_call(draw, "uniform", MaskSpec(SEED, 9, PASSES, IDS), elements, dtype, device)
    assert got.dtype == dtype
    assert torch.equal(got, uniforms(words(elements), dtype))


@pytest.mark.parametrize("elements", [1, 2, 3, 4, 7, 64, 1030])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normal_numbers_equal_the_specification_within_a_few_ulp(
    triton_call: Call, device: str, dtype: torch.dtype, elements: int
) -> None:
    """Within 6 units in the last place of float32, and one of a narrower dtype, which the interpreter rounds toward zero."""
    got = triton_call(draw, "normal", MaskSpec(SEED, 9, PASSES, IDS), elements, dtype, device)
    expected = torch.from_numpy(normals(words(evens(elements)), single=True))[..., :elements]
    relative = 6 * 2**-23 + (0 if dtype == torch.float32 else torch.finfo(dtype).eps)
    torch.testing.assert_close(got.double(), expected, rtol=relative, atol=torch.finfo(dtype).smallest_normal * 2**-10)


@pytest.mark.parametrize(("seed", "site"), [(0, 0), (1, 65535), (2**31, 32768), (2**63 + 12345, 1), (2**64 - 1, 7)])
def test_every_seed_and_site_reaches_the_counter_whole(triton_call: Call, device: str, seed: int, site: int) -> None:
    got = triton_call(draw, "uniform", MaskSpec(seed, site, PASSES, IDS), 40, torch.float32, device)
    assert torch.equal(got, uniforms(words(40, site=site, seed=seed), torch.float32))


@pytest.mark.parametrize("law", ["uniform", "normal"])
def test_no_items_passes_or_elements_give_empty_numbers(triton_call: Call, device: str, law: str) -> None:
    for passes, ids, elements in (([], IDS, 5), (PASSES, [], 5), (PASSES, IDS, 0)):
        got = triton_call(draw, law, MaskSpec(SEED, 1, passes, ids), elements, torch.float32, device)
        assert got.shape == (len(passes), len(ids), elements)


def test_a_cpu_tensor_outside_the_interpreter_is_refused() -> None:
    with pytest.raises(ValueError, match="TRITON_INTERPRET"):
        draw("uniform", MaskSpec(SEED, 1, PASSES, IDS), 4, torch.float32, "cpu")
