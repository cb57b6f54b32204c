"""Dropout into a Linear, and into scores, is what the masks of the specification and the formulas say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton
import triton.language as tl

from mcscore import masks
from mcscore.acquisition import KERNEL_SCORES, oracle_scores
from mcscore.kernels.triton import head as triton_head
from mcscore.kernels.triton.head import dropout_head, dropout_linear, plan_head, plan_linear
from mcscore.kernels.triton.philox import bits_on_top, draws
from mcscore.masks import MaskSpec, rate

pytest_plugins = ("tests.kernels.triton.places",)
Call = Callable[..., Any]

SEED = 0x0123456789ABCDEF
PASSES = [0, 7, 65535]
IDS = [3, 2**40 + 7, -1, 0, 12]
RATES = (0.5, 0.25, 0.3)  # 1, 8 and 16 bits per element


def expected(x_sBLD: Tensor, weight_CD: Tensor, bias_C: Tensor | None, site: int, p: float) -> Tensor:
    """y_tBLC in float64, with the masks of the NumPy reference."""
    B, L, D = x_sBLD.shape[1:]
    keep = torch.from_numpy(masks.keep_mask(MaskSpec(SEED, site, PASSES, IDS, rate(p)), L * D)).view(
        len(PASSES), B, L, D
    )
    y = (x_sBLD.double() * keep / rate(p).keep) @ weight_CD.double().T
    return y if bias_C is None else y + bias_C.double()


def operands(copies: int, L: int, D: int, C: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    x_sBLD = torch.randn(copies, len(IDS), L, D).to(dtype)
    return x_sBLD, (torch.randn(C, D) / D**0.5).to(dtype), torch.randn(C)


def assert_close(y: Tensor, truth: Tensor) -> None:
    """Sums in float32; the result rounded once to the dtype."""
    rounding = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[y.dtype]
    torch.testing.assert_close(y.double(), truth, rtol=rounding, atol=max(4e-6, rounding / 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("D", [64, 200])
def test_linear_of_dropout_is_the_product_with_the_specified_masks(
    triton_call: Call, D: int, p: float, dtype: torch.dtype
) -> None:
    x, weight, bias = operands(1, 1, D, 10, dtype)
    y = triton_call(dropout_linear, x, MaskSpec(SEED, 4, PASSES, IDS, rate(p)), weight, bias)
    assert y.dtype == dtype
    assert_close(y, expected(x, weight, bias, 4, p))


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device, and the interpreter's bfloat16 product is wrong"
)
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("C", [10, 100, 200])
def test_bfloat16_product_on_the_device(C: int, p: float) -> None:
    x, weight, bias = operands(1, 1, 768, C, torch.bfloat16)
    y = dropout_linear(x.cuda(), MaskSpec(SEED, 4, PASSES, IDS, rate(p)), weight.cuda(), bias.cuda()).cpu()
    assert_close(y, expected(x, weight, bias, 4, p))


@pytest.mark.parametrize("copies", [1, len(PASSES)], ids=["shared", "per pass"])
@pytest.mark.parametrize(("L", "D", "C"), [(3, 128, 40), (1, 50, 130), (60, 16, 16)])
def test_rows_copies_and_outputs_of_any_number_fit(triton_call: Call, L: int, D: int, C: int, copies: int) -> None:
    """Tokens of an item share its id and have mask elements of their own; many rows and outputs take many programs."""
    x, weight, _ = operands(copies, L, D, C, torch.float32)
    y = triton_call(dropout_linear, x, MaskSpec(SEED, 1, PASSES, IDS, rate(0.25)), weight)
    assert_close(y, expected(x, weight, None, 1, 0.25))


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize(
    ("names", "C"), [(("bald", "entropy"), 10), (KERNEL_SCORES, 10), (("bald",), 100), (KERNEL_SCORES, 3)]
)
def test_scores_of_a_head_are_the_scores_of_its_logits(
    triton_call: Call, names: tuple[str, ...], C: int, likelihood: str
) -> None:
    x, weight, bias = operands(1, 1, 72, C, torch.float32)
    weight *= 4
    got = triton_call(
        dropout_head, x[0, :, 0], MaskSpec(SEED, 2, PASSES, IDS, rate(0.5)), weight, bias, names, likelihood
    )
    truth = oracle_scores(expected(x, weight, bias, 2, 0.5)[:, :, 0], names, likelihood)
    assert list(got) == [*names, "prediction"]
    for name in names:  # logits of size 10 are right to 4e-6, so are probabilities, and a score of C labels to C times
        torch.testing.assert_close(got[name].double(), truth[name], rtol=2e-5, atol=1e-5)
    assert got["prediction"].tolist() == truth["prediction"].tolist()


def test_a_head_in_half_precision_scores_many_items(triton_call: Call) -> None:
    ids = torch.arange(150)
    x, weight = torch.randn(150, 64).half(), (torch.randn(10, 64) / 4).half()
    got = triton_call(
        dropout_head, x, MaskSpec(SEED, 0, PASSES, ids, rate(0.25)), weight, None, ("bald", "entropy"), "categorical"
    )
    keep = torch.from_numpy(masks.keep_mask(MaskSpec(SEED, 0, PASSES, ids, rate(0.25)), 64))
    truth = oracle_scores((x.double() * keep / 0.75) @ weight.double().T, ("bald", "entropy"))
    for name in ("bald", "entropy"):
        torch.testing.assert_close(got[name].double(), truth[name], rtol=1e-5, atol=1e-5)
    assert torch.equal(got["prediction"].long(), truth["prediction"].long())


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize("T", [1, 2, 17, 70])
def test_passes_of_any_number_are_added_up_in_parts(triton_call: Call, T: int, likelihood: str) -> None:
    """Parts of 1, 2, 4 and 4 passes, of which the last may hold fewer."""
    x, weight, bias = operands(1, 1, 64, 5, torch.float32)
    which = MaskSpec(SEED, 2, list(range(T)), IDS, rate(0.25))
    got = triton_call(dropout_head, x[0, :, 0], which, weight, bias, KERNEL_SCORES, likelihood)
    keep = torch.from_numpy(masks.keep_mask(which, 64))
    logits = (x[0, :, 0].double() * keep / 0.75) @ weight.double().T + bias.double()
    truth = oracle_scores(logits, KERNEL_SCORES, likelihood)
    for name in KERNEL_SCORES:
        torch.testing.assert_close(got[name].double(), truth[name], rtol=2e-5, atol=1e-5)
    assert got["prediction"].tolist() == truth["prediction"].tolist()


@pytest.mark.parametrize(
    ("T", "likelihood", "batches"),
    [
        (1, "categorical", (1, 27, 255, 256, 300)),
        (3, "bernoulli", (1, 27, 255, 256, 300)),
        (17, "categorical", (1, 27, 33)),
        (100, "bernoulli", (1, 3)),
    ],
)
def test_scores_do_not_depend_on_the_batch(
    triton_call: Call, T: int, likelihood: str, batches: tuple[int, ...]
) -> None:
    x, weight = torch.randn(300, 40).half(), (torch.randn(7, 40) / 3).half()
    x[2], x[20] = math.nan, math.inf

    def scores(B: int) -> dict[str, Tensor]:
        which = MaskSpec(SEED, 2, list(range(T)), torch.arange(B), rate(0.5))
        return triton_call(dropout_head, x[:B], which, weight, None, KERNEL_SCORES, likelihood)

    whole = scores(batches[-1])
    assert whole["bald"].isnan().nonzero()[:, 0].tolist() == [b for b in (2, 20) if b < batches[-1]]
    for B in batches[:-1]:
        for name, values in scores(B).items():
            assert torch.equal(values.nan_to_num(9), whole[name][:B].nan_to_num(9)), (B, name)


def pieces_of_a_head(x: Tensor, which: MaskSpec, weight: Tensor, items: int) -> dict[str, Tensor]:
    """With so small a workspace that ``items`` have room in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_head, "_WORKSPACE", items * 4 * 16 * 2)  # two parts of 16 columns
        return dropout_head(x, which, weight, None, KERNEL_SCORES, "categorical")


def test_a_head_of_more_items_than_the_workspace_holds_comes_in_pieces(triton_call: Call) -> None:
    x, weight = torch.randn(7, 64), torch.randn(10, 64) / 3
    which = MaskSpec(SEED, 2, list(range(7)), list(range(7)), rate(0.25))
    got = triton_call(pieces_of_a_head, x, which, weight, 3)
    for name, values in triton_call(dropout_head, x, which, weight, None, KERNEL_SCORES, "categorical").items():
        # The interpreter's products depend on the row in a tile in their last bit.
        torch.testing.assert_close(got[name], values, rtol=1e-5, atol=1e-6)


@triton.jit
def _compare_bits(same, V: tl.constexpr, BLOCK: tl.constexpr):
    """Is the top bit of each word the draw of one bit?"""
    ids = tl.arange(0, 4).to(tl.int64)
    first = tl.zeros((4,), tl.int32) + BLOCK * V
    low = tl.full((), 12, tl.int32)
    high, stream = low + 22, low + 44
    tops = bits_on_top(first, ids, stream, low, high, V) >> 31
    found = (tops == draws(first, ids, stream, low, high, V, 1)).to(tl.int32)
    tl.store(same + tl.arange(0, 4)[:, None] * V + tl.arange(0, V)[None, :], found)


def compare_bits(same: Tensor, V: int, block: int) -> Tensor:
    _compare_bits[(1,)](same, V, block)
    return same


@pytest.mark.parametrize(("V", "block"), [(16, 0), (16, 5), (32, 3), (64, 0), (64, 1), (128, 1)])
def test_bits_on_top_are_the_draws_of_one_bit(triton_call: Call, V: int, block: int) -> None:
    assert triton_call(compare_bits, torch.zeros(4, V, dtype=torch.int32), V, block).min() == 1


def test_items_with_bad_features_get_nan(triton_call: Call) -> None:
    x, weight, bias = operands(1, 1, 64, 10, torch.float32)
    features = x[0, :, 0]
    features[1] = float("nan")
    got = triton_call(
        dropout_head,
        features,
        MaskSpec(SEED, 2, PASSES, IDS, rate(0.5)),
        weight,
        bias,
        ("bald", "entropy"),
        "categorical",
    )
    assert got["bald"].isnan().tolist() == [False, True, False, False, False]
    assert got["prediction"][1] == -1


def test_errors_say_what_was_wrong() -> None:
    x, weight, r = torch.empty(1, 5, 4, 200, device="meta"), torch.empty(10, 200, device="meta"), rate(0.25)
    with pytest.raises(ValueError, match="4 rows of 200 features per item need D"):
        plan_linear(x, MaskSpec(SEED, 0, PASSES, IDS, r), weight, None)
    with pytest.raises(ValueError, match=re.escape("weight (10, 200) (C, D) does not fit features (1, 5, 1, 100)")):
        plan_linear(x[:, :, :1, :100], MaskSpec(SEED, 0, PASSES, IDS, r), weight, None)
    with pytest.raises(ValueError, match=re.escape("bias (9,) does not fit weight (10, 200)")):
        plan_linear(x[:, :, :1], MaskSpec(SEED, 0, PASSES, IDS, r), weight, torch.empty(9))
    with pytest.raises(TypeError, match=r"torch\.float32 but the weight is torch\.float16"):
        plan_linear(x[:, :, :1], MaskSpec(SEED, 0, PASSES, IDS, r), weight.half(), None)
    with pytest.raises(ValueError, match=re.escape("expected (s, B, L, D) with s = 1 or the number of passes (3)")):
        plan_linear(x.expand(2, 5, 4, 200), MaskSpec(SEED, 0, PASSES, IDS, r), weight, None)
    with pytest.raises(ValueError, match="holds at most 128 classes, got 300"):
        plan_head(
            x[0, :, 0],
            MaskSpec(SEED, 0, PASSES, IDS, r),
            torch.empty(300, 200, device="meta"),
            None,
            ("bald",),
            "categorical",
        )
    with pytest.raises(ValueError, match=r"expected \(B, D\) with B the number of ids \(5\)"):
        plan_head(x[0], MaskSpec(SEED, 0, PASSES, IDS, r), weight, None, ("bald",), "categorical")
