"""Small BALD is a number, not noise: float32 scores against float64 oracles, in each decade of BALD down to 1e-12."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mcscore import Moments
from mcscore.acquisition import BALD_NOISE, LABEL_BALD_NOISE, oracle_scores
from mcscore.kernels import native
from mcscore.kernels.score import score_logits
from mcscore.masks import MaskSpec, rate

SCORES = ("bald", "entropy", "expected_entropy")
SHAPES = [
    ("categorical", 2),
    ("categorical", 10),
    ("categorical", 100),
    ("categorical", 1000),
    ("bernoulli", 1),
    ("bernoulli", 100),
]
BACKENDS = ["eager", "moments", *native.available_isas()] if native.available()[0] else ["eager", "moments"]


def scored(logits: Tensor, likelihood: str, backend: str) -> dict[str, Tensor]:
    if backend == "moments":
        moments = Moments(SCORES, likelihood=likelihood)
        for part in logits.split(3):
            moments.update(part)
        return moments.compute()
    if backend == "eager":
        return score_logits(logits, SCORES, likelihood=likelihood, backend="eager")
    with native.use_isa(backend):
        return score_logits(logits, SCORES, likelihood=likelihood, backend="native")


def confident(T: int, B: int, C: int, likelihood: str) -> Tensor:
    """Logits of items that leave e^-1 to e^-26 to all but one class, and whose passes differ by 0.05 to 1.5 in each logit."""
    rows = torch.arange(B)
    gap_B = 1 + 25 * torch.rand(B)
    if likelihood == "categorical":
        logits_BC = torch.randn(B, C)
        logits_BC[rows, torch.randint(0, C, (B,))] = logits_BC.logsumexp(-1) + gap_B
    else:
        logits_BC = torch.randn(B, C).sign() * (gap_B[:, None] + torch.randn(B, C).abs())
    return logits_BC + (0.05 * 30 ** torch.rand(B, 1)) * torch.randn(T, B, C)


def ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()


@pytest.mark.parametrize(("likelihood", "C"), SHAPES)
@pytest.mark.parametrize("T", [20, 100])
def test_small_bald_ranks_as_in_float64_in_every_decade(likelihood: str, C: int, T: int) -> None:
    logits = confident(T, 200 if C == 1000 else 600, C, likelihood)
    truth = oracle_scores(logits, ("bald",), likelihood)["bald"]  # slow: once for all backends
    got_of = {backend: scored(logits, likelihood, backend)["bald"] for backend in BACKENDS}
    decades = 0
    for power in range(-12, -2):
        if likelihood == "bernoulli" and 10.0**power < 4 * C * LABEL_BALD_NOISE:
            continue
        inside = (truth >= 10.0**power) & (truth < 10.0 ** (power + 1))
        if inside.sum() >= 10:
            for backend, got in got_of.items():
                both = torch.stack((ranks(got[inside]), ranks(truth[inside])))
                assert torch.corrcoef(both)[0, 1] > 0.99, f"{backend}, BALD of 1e{power}"
            decades += 1
    assert decades >= 5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("likelihood", "C"), SHAPES)
@pytest.mark.parametrize("T", [2, 20, 100, 500])
def test_equal_passes_have_no_bald(backend: str, likelihood: str, C: int, T: int) -> None:
    items = (0.1 * 200 ** torch.rand(200, 1)) * torch.randn(200, C)
    got = scored(items.expand(T, 200, C), likelihood, backend)
    assert (got["bald"] == 0).all()
    assert (got["entropy"] > 0).any()


@pytest.mark.parametrize(("likelihood", "C"), SHAPES)
def test_the_error_of_bald_is_below_the_noise_floor(likelihood: str, C: int) -> None:
    near = torch.randn(200, C) + (1e-5 * 1e4 ** torch.rand(200, 1)) * torch.randn(50, 200, C)
    for logits in (confident(50, 200, C, likelihood), near):
        truth = oracle_scores(logits, ("bald", "entropy"), likelihood)
        noise = BALD_NOISE * truth["entropy"] + C * 3e-13
        for backend in BACKENDS:
            got = scored(logits, likelihood, backend)["bald"]
            kept = got > 0
            assert ((got.double() - truth["bald"]).abs()[kept] <= noise[kept]).all(), backend
            assert (truth["bald"][~kept] <= 2 * noise[~kept]).all(), backend


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize("C", [10, 100])
def test_a_confident_head_ranks_as_its_logits_do(likelihood: str, C: int) -> None:
    if not native.available()[0]:
        pytest.skip(native.available()[1])
    weight, x = 3 * torch.randn(C, 64) / 8, 4 * torch.rand(1, 300, 1, 1) * torch.randn(1, 300, 1, 64)
    which = MaskSpec(1, 0, torch.arange(30), torch.arange(300), rate(0.1))
    got = native.dropout_head(x[0, :, 0], which, weight, None, SCORES, likelihood)
    logits = native.dropout_linear(x, which, weight)[:, :, 0]
    truth = oracle_scores(logits, SCORES, likelihood)
    assert ((got["bald"].double() - truth["bald"]).abs() <= 2e-6 * truth["entropy"] + C * 3e-13).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_far_below_the_others_leave_the_oracle_finite(backend: str) -> None:
    logits = torch.tensor([[0.0, -745.0], [0.0, -750.0], [0.0, -800.0]])[:, None]
    truth = oracle_scores(logits, SCORES)
    assert truth["bald"].isfinite().all()
    assert torch.equal(scored(logits, "categorical", backend)["bald"].double(), torch.zeros(1).double())
