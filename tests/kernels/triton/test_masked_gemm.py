"""Heads of any number of classes, cut into chunks, and Linears that no kernel gains on give what the masks and the formulas say."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton")

from mcscore import Dropout, Execution, Scorer, masks
from mcscore.acquisition import KERNEL_SCORES, oracle_scores
from mcscore.kernels import backends, linear
from mcscore.kernels.triton import masked_gemm
from mcscore.kernels.triton.head import dropout_head, dropout_linear
from mcscore.kernels.triton.masked_gemm import Chunk, cut_head, share_masks
from mcscore.masks import MaskSpec, rate

from .accuracy import check_accuracy

pytest_plugins = ("tests.kernels.triton.places",)
Call = Callable[..., Any]

SEED, SITE = 0xFEDCBA9876543210, 5
WORKSPACE = {False: 200_000, True: 4 << 20}  # by shared: several chunks of features, or masked weights
LIGHT = ("bald", "entropy")
PASSES = 3  # of a scorer
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]


def operands(B: int, D: int, C: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(B, D).to(dtype), (3 * torch.randn(C, D) / D**0.5).to(dtype), torch.randn(C).to(dtype)


def ids_of(B: int, shared: bool) -> Tensor:
    return torch.full((1,), -1).expand(B) if shared else torch.arange(B) * 3 + 2**40


def keep_tBE(passes: Tensor, ids: Tensor, elements: int, p: float) -> Tensor:
    return torch.from_numpy(masks.keep_mask(MaskSpec(SEED, SITE, passes, ids, rate(p)), elements))


def check_scores(
    got: dict[str, Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    passes: Tensor,
    ids: Tensor,
    p: float,
    likelihood: str,
) -> None:
    """Error at most twice that of the same steps in the same dtype, plus 2e-6 of the largest possible value."""
    keep = keep_tBE(passes, ids, x.shape[1], p)
    scale = 1 / rate(p).keep
    # keep picks values, as 0 x NaN would not be 0
    truth_TBC = (torch.where(keep, x.double(), 0.0) * scale) @ weight.double().T + bias.double()
    naive_TBC = F.linear(torch.where(keep, x, 0.0) * scale, weight, bias)
    names = tuple(name for name in got if name != "prediction")
    truth, naive = (oracle_scores(logits.double(), names, likelihood) for logits in (truth_TBC, naive_TBC))
    # Of few items the largest error is a draw: logits are rounded to 16 bits once, here and there.
    share = 2e-6 if x.dtype == torch.float32 else torch.finfo(x.dtype).eps / 100
    check_accuracy(got, truth, naive, len(weight), likelihood, share)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shared", [False, True], ids=["independent", "shared"])
@pytest.mark.parametrize(("B", "C"), [(1, 130), (300, 33), (3, 507), (9, 1000)])
def test_scores_are_those_of_the_logits(
    triton_call: Call, triton_place: str, B: int, C: int, shared: bool, dtype: torch.dtype
) -> None:
    if triton_place == "interpreter" and dtype == torch.bfloat16:
        pytest.skip("the interpreter rounds bfloat16 toward zero")
    x, weight, bias = operands(B, 72, C, dtype)
    passes, ids = torch.tensor([0, 7, 65535]), ids_of(B, shared)
    got = triton_call(
        _head,
        x,
        MaskSpec(SEED, SITE, passes, ids, rate(0.25)),
        weight,
        bias,
        LIGHT,
        "categorical",
        shared=shared,
        workspace=WORKSPACE[shared],
    )
    check_scores(got, x, weight, bias, passes, ids, 0.25, "categorical")


@pytest.mark.parametrize("shared", [False, True], ids=["independent", "shared"])
@pytest.mark.parametrize(
    ("C", "likelihood"), [(1, "bernoulli"), (2, "categorical"), (10, "bernoulli"), (130, "categorical")]
)
@pytest.mark.parametrize("p", [0.5, 0.3])
def test_every_score_and_likelihood(triton_call: Call, C: int, likelihood: str, p: float, shared: bool) -> None:
    x, weight, bias = operands(21, 40, C, torch.float32)
    passes, ids = torch.arange(4), ids_of(21, shared)
    args = x, MaskSpec(SEED, SITE, passes, ids, rate(p)), weight, bias, KERNEL_SCORES, likelihood
    check_scores(
        triton_call(_head, *args, shared=shared, workspace=WORKSPACE[shared]),
        x,
        weight,
        bias,
        passes,
        ids,
        p,
        likelihood,
    )


def test_more_classes_than_one_program_holds(triton_call: Call) -> None:
    x, weight, bias = operands(2, 24, 20_000, torch.float16)
    passes, ids = torch.arange(2), ids_of(2, False)
    got = triton_call(dropout_head, x, MaskSpec(SEED, SITE, passes, ids, rate(0.5)), weight, bias, LIGHT, "categorical")
    check_scores(got, x, weight, bias, passes, ids, 0.5, "categorical")


@pytest.mark.parametrize("shared", [False, True], ids=["independent", "shared"])
def test_features_that_are_not_finite_mark_their_item_and_no_other(triton_call: Call, shared: bool) -> None:
    x, weight, bias = operands(260, 40, 33, torch.float32)
    bias[3] = -math.inf  # a class that never is: legal
    x[1], x[2], x[259] = math.nan, math.inf, -math.inf
    passes, ids = torch.arange(3), ids_of(260, shared)
    got = triton_call(
        _head, x, MaskSpec(SEED, SITE, passes, ids, rate(0.5)), weight, bias, LIGHT, "categorical", shared=shared
    )
    check_scores(got, x, weight, bias, passes, ids, 0.5, "categorical")
    assert got["bald"].isnan().nonzero()[:, 0].tolist() == [1, 2, 259]


def test_a_lone_bad_feature_of_shared_masks_marks_its_item(triton_call: Call) -> None:
    x, weight, bias = operands(70, 40, 130, torch.float32)
    x[7, 11] = math.nan
    got = triton_call(
        dropout_head,
        x,
        MaskSpec(SEED, SITE, torch.arange(3), ids_of(70, True), rate(0.5)),
        weight,
        bias,
        LIGHT,
        "categorical",
    )
    assert got["entropy"].isnan().nonzero()[:, 0].tolist() == [7]


@pytest.mark.parametrize(
    ("shared", "workspace", "chunk"), [(False, 50_000, Chunk(40, False)), (True, 110_000, Chunk(256, True))]
)
def test_the_chunks_do_not_show(triton_call: Call, shared: bool, workspace: int, chunk: Chunk) -> None:
    B = chunk.items * 2 + 39
    assert cut_head(5, B, 20, 40, 4, shared, workspace) == chunk
    x, weight, bias = operands(B, 40, 20, torch.float32)
    args = (
        x,
        MaskSpec(SEED, SITE, torch.arange(PASSES), ids_of(B, shared), rate(0.25)),
        weight,
        bias,
        LIGHT,
        "categorical",
    )
    whole = triton_call(_head, *args, shared=shared)
    for name, values in triton_call(_head, *args, shared=shared, workspace=workspace).items():
        torch.testing.assert_close(values, whole[name], rtol=0, atol=2e-6)


def test_shared_masks_are_the_masks_of_each_item(triton_call: Call) -> None:
    """Masked weights (told by the stride of the ids) and masked features agree."""
    x, weight, bias = operands(70, 64, 130, torch.float32)
    tail = weight, bias, LIGHT, "categorical"
    expanded, listed = ids_of(70, True), torch.full((70,), -1)
    assert share_masks(expanded)
    assert not share_masks(listed)
    specs = (MaskSpec(SEED, SITE, torch.arange(2), ids, rate(0.3)) for ids in (expanded, listed))
    got, other = (triton_call(dropout_head, x, spec, *tail) for spec in specs)
    for name in LIGHT:
        torch.testing.assert_close(got[name], other[name], rtol=0, atol=5e-6)


@pytest.mark.parametrize("C", [10, 128])
def test_a_head_of_few_classes_takes_one_formula_in_any_batch(triton_call: Call, C: int) -> None:
    """In float16, where logits that wait in memory are rounded and those in registers are not."""
    x, weight, bias = operands(257, 32, C, torch.float16)
    specs = [MaskSpec(SEED, SITE, torch.arange(3), ids_of(B, True), rate(0.25)) for B in (255, 257)]
    few, many = (triton_call(dropout_head, x[: spec.B], spec, weight, bias, LIGHT, "categorical") for spec in specs)
    for name, values in few.items():
        assert torch.equal(values, many[name][:255]), name


def test_operands_in_any_order_in_memory(triton_call: Call) -> None:
    x, weight, bias = operands(9, 40, 140, torch.float32)
    spec = MaskSpec(SEED, SITE, torch.arange(3), torch.arange(9), rate(0.5))
    whole = triton_call(dropout_head, x, spec, weight, bias, LIGHT, "categorical")
    spread = torch.full((18, 80), math.nan)[::2, ::2]
    spread.copy_(x)
    got = triton_call(dropout_head, spread, spec, weight.T.contiguous().T, bias, LIGHT, "categorical")
    for name, values in whole.items():
        assert torch.equal(got[name], values), name


def test_no_items_and_no_passes(triton_call: Call) -> None:
    x, weight, bias = operands(0, 40, 140, torch.float32)
    for ids in (ids_of(0, True), torch.arange(0)):
        spec = MaskSpec(SEED, SITE, torch.arange(3), ids, rate(0.5))
        got = triton_call(dropout_head, x, spec, weight, bias, LIGHT, "categorical")
        assert {name: tuple(v.shape) for name, v in got.items()} == dict.fromkeys((*LIGHT, "prediction"), (0,))
    y = triton_call(dropout_linear, x[None, :, None], spec, weight.repeat(2, 1))
    assert y.shape == (3, 0, 1, 280)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("copies", [1, 3], ids=["one x", "x per pass"])
@pytest.mark.parametrize(("L", "D", "C"), [(1, 40, 300), (3, 50, 20), (2, 16, 257)])
def test_a_linear_that_gains_nothing_is_left_to_its_two_halves(
    triton_call: Call, L: int, D: int, C: int, copies: int, dtype: torch.dtype
) -> None:
    """More than 256 outputs, and rows that start inside a block of random bits."""
    passes, ids = torch.tensor([0, 7, 65535]), ids_of(5, False)
    x_sBLD = torch.randn(copies, 5, L, D).to(dtype)
    _, weight, bias = operands(1, D, C, dtype)
    fused, y = triton_call(_linear, x_sBLD, MaskSpec(SEED, SITE, passes, ids, rate(0.25)), weight, bias)
    assert not fused
    keep = keep_tBE(passes, ids, L * D, 0.25).view(3, 5, L, D)
    truth = (x_sBLD.double() * keep / rate(0.25).keep) @ weight.double().T + bias.double()
    rounding = {torch.float32: 2e-6, torch.float16: 2**-8}[dtype]  # dropped features are rounded, too
    torch.testing.assert_close(y.double(), truth, rtol=rounding, atol=max(1e-5, rounding))


@pytest.mark.parametrize("p", [0.5, 0.25, 0.3])
def test_whether_a_linear_is_fused_depends_on_its_item_alone(monkeypatch: pytest.MonkeyPatch, p: float) -> None:
    monkeypatch.setattr(backends, "select", lambda _device: "triton")
    block = 128 // rate(p).bits
    for B in (1, 1000):
        assert linear.fuses(torch.empty(B, 50), torch.empty(256, 50), p)
        assert not linear.fuses(torch.empty(B, 50), torch.empty(257, 50), p)
        assert linear.fuses(torch.empty(B, 3, 2 * block), torch.empty(20, 2 * block), p)
        assert not linear.fuses(torch.empty(B, 3, block + 1), torch.empty(20, block + 1), p)


@pytest.mark.parametrize("T", [1, 20, 100, 1000])
@pytest.mark.parametrize("C", [2, 104, 1000, 20_000, 128_000])
@pytest.mark.parametrize("shared", [False, True])
def test_a_chunk_fits_the_workspace(T: int, C: int, shared: bool) -> None:
    D, workspace = 2048, 512 << 20
    for B in (0, 1, 27, 1000, 100_000):
        chunk = cut_head(T, B, C, D, 2, shared, workspace)
        held = 2 * T * chunk.items * (C if chunk.weights else C + D)
        assert 1 <= chunk.items <= max(1, B)
        assert held <= workspace or chunk.items == 1
        assert B == 0 or chunk.weights == cut_head(T, 12_345, C, D, 2, shared, workspace).weights  # whatever B is
        if chunk.weights:
            assert shared
            assert 2 * T * C * D <= 1 << 30


def test_chunks_are_few_and_weights_are_masked_where_they_fit() -> None:
    space = 512 << 20
    assert cut_head(100, 16_384, 1000, 2048, 2, True, space) == Chunk(2432, True)  # 7 of them; 410 MB of weights
    assert cut_head(100, 640, 1000, 2048, 2, True, space) == Chunk(640, True)
    assert cut_head(100, 4096, 1000, 2048, 2, False, space) == Chunk(820, False)  # 5 of them
    assert not cut_head(1000, 10_000, 1000, 2048, 2, True, space).weights  # 4 GB of weights
    assert not cut_head(1000, 10_000, 2000, 8, 2, True, space).weights  # 134 items, whose logits fill the workspace


@pytest.mark.parametrize("shared", ["independent", "shared"])
@pytest.mark.parametrize("C", [10, 300])
@pytest.mark.parametrize("place", ["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_scorer_takes_these_kernels_for_any_number_of_classes(
    request: pytest.FixtureRequest, place: str, C: int, shared: str
) -> None:
    if place == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    net = [torch.nn.Linear(6, 64), torch.nn.ReLU(), torch.nn.Dropout(0.25), torch.nn.Linear(64, C)]
    model = torch.nn.Sequential(*net).eval()
    items = torch.randn(310 if C == 10 else 20, 6)
    expected = oracle_of(model, items, shared)
    if place == "interpreter":
        path, got = request.getfixturevalue("triton_interpreter").submit(_scored, model, items, shared, "cpu").result()
    else:
        path, got = _scored(model, items, shared, "cuda")
    assert path == "head"
    for name in LIGHT:
        torch.testing.assert_close(got[name].double(), expected[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("wide", [64, 300])  # fused, and left to its two halves
def test_a_linear_between_dropout_and_the_rest_gives_the_same_scores(
    triton_interpreter: ProcessPoolExecutor, wide: int
) -> None:
    net = [torch.nn.Linear(6, 64), torch.nn.ReLU(), torch.nn.Dropout(0.25), torch.nn.Linear(64, wide), torch.nn.Tanh()]
    model = torch.nn.Sequential(*net, torch.nn.Linear(wide, 5)).eval()
    items = torch.randn(17, 6)
    path, got = triton_interpreter.submit(_scored, model, items, "independent", "cpu").result()
    assert path != "head"
    keep = torch.from_numpy(masks.keep_mask(MaskSpec(0, 0, range(PASSES), range(17), rate(0.25)), 64))
    expected = oracle_scores(model[3:](model[:2](items) * keep / 0.75).detach(), LIGHT)
    for name in LIGHT:
        torch.testing.assert_close(got[name].double(), expected[name], rtol=0, atol=2e-5)


def oracle_of(model: torch.nn.Sequential, items: Tensor, shared: str) -> dict[str, Tensor]:
    x = model[:2](items).detach()
    ids = ids_of(len(items), True) if shared == "shared" else torch.arange(len(items))
    keep = torch.from_numpy(masks.keep_mask(MaskSpec(0, 0, range(PASSES), ids, rate(0.25)), 64))
    last = model[3]
    return oracle_scores(
        (x.double() * keep / 0.75) @ last.weight.detach().double().T + last.bias.detach().double(), LIGHT
    )


def _scored(model: torch.nn.Module, items: Tensor, shared: str, device: str) -> tuple[str, dict[str, Tensor]]:
    """The path and the scores of a Scorer whose device has the Triton kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "select", lambda _device: "triton")
        full = Execution(dtype="model")
        scorer = Scorer(model, PASSES, device=device, dropout=Dropout(masks=shared), execution=full)
        got = scorer(items, torch.arange(len(items)))
        return scorer.describe()["plan"]["path"], {name: values.cpu() for name, values in got.items()}


def _head(*args: Any, **settings: Any) -> dict[str, Tensor]:
    return masked_gemm.head(*args, **settings)


def _linear(*args: Any) -> tuple[bool, Tensor]:
    """Whether the operands are fused, and the result."""
    x_sBLD, spec, weight, _ = args
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "select", lambda _device: "triton")
        return linear.fuses(x_sBLD[0], weight, spec.drop_rate.p), linear.linear_passes(*args)
