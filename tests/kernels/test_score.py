"""``score_logits`` keeps its promises on every backend that is active on this machine."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcscore.acquisition import SCORES, oracle_scores
from mcscore.kernels import eager, native
from mcscore.kernels.score import score_logits

BACKENDS = ["eager", *(["native"] if native.available()[0] else []), *(["triton"] if torch.cuda.is_available() else [])]
DISCRETE = tuple(name for name, score in SCORES.items() if "categorical" in score.likelihoods)
LIKELIHOODS = ("categorical", "bernoulli")

every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)


def on(backend: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cuda() if backend == "triton" else tensor


def score(logits: torch.Tensor, backend: str, scores: tuple[str, ...] = DISCRETE, **settings: object) -> dict:
    got = score_logits(on(backend, logits), scores, backend=backend, **settings)  # type: ignore[arg-type]
    return {name: values.cpu() for name, values in got.items()}


def naive_scores(logits: torch.Tensor, likelihood: str) -> dict[str, torch.Tensor]:
    """The scores as one would write them in the dtype of the logits: the yardstick for rounding errors."""
    p = torch.softmax(logits, -1) if likelihood == "categorical" else torch.sigmoid(logits)
    k = p[..., None, :] if likelihood == "categorical" else torch.stack((p, 1 - p), -1)  # (T, B, variables, outcomes)
    mean = k.mean(0)
    votes = (k == k.amax(-1, keepdim=True)).to(p.dtype).mean(0)
    best = mean.topk(2, -1).values

    def entropy(q: torch.Tensor) -> torch.Tensor:
        return -(q * q.clamp_min(torch.finfo(q.dtype).tiny).log()).sum((-1, -2))

    return {
        "entropy": entropy(mean),
        "expected_entropy": entropy(k).mean(0),
        "bald": entropy(mean) - entropy(k).mean(0),
        "least_confidence": (1 - best[..., 0]).sum(-1),
        "margin": (1 - best[..., 0] + best[..., 1]).sum(-1),
        "variation_ratio": (1 - votes.amax(-1)).sum(-1),
        "mean_std": p.std(0, correction=0).mean(-1),
    }


def assert_accurate(got: dict, logits: torch.Tensor, likelihood: str) -> None:
    """Error at most twice that of naive code of the same dtype, plus two float32 roundings of the largest value."""
    C = logits.shape[2]
    truth, naive = oracle_scores(logits, DISCRETE, likelihood), naive_scores(logits, likelihood)
    for name in DISCRETE:
        assert got[name].dtype == torch.float32
        assert got[name].shape == (logits.shape[1],)
        error = (got[name] - truth[name]).abs().max().item()
        allowed = 2 * (naive[name] - truth[name]).abs().max().item()
        scale = SCORES["entropy" if name == "bald" else name].bounds(C, likelihood)[1]
        assert error <= allowed + 2.4e-7 * max(1.0, scale), f"{name}: {error:.2g} against {allowed / 2:.2g} naive"
    assert_same_prediction(got["prediction"], truth["prediction"], logits, likelihood)


def assert_same_prediction(got: torch.Tensor, expected: torch.Tensor, logits: torch.Tensor, likelihood: str) -> None:
    """Equal, except where the two best mean probabilities differ by less than a float32 rounding."""
    mean = (torch.softmax if likelihood == "categorical" else lambda x, _: torch.sigmoid(x))(logits.double(), -1).mean(
        0
    )
    rows = torch.arange(len(mean))
    assert got.dtype == torch.int32
    if likelihood == "bernoulli" and mean.shape[1] == 1:
        assert ((got == expected) | ((mean[:, 0] - 0.5).abs() < 1e-6)).all()
    else:
        assert (mean[rows, got.long()] >= mean[rows, expected.long()] - 1e-6).all()


# ---- values ----------------------------------------------------------------------------------------------------------


@every_backend
@every_likelihood
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(20, 199, 10), (3, 1, 2), (7, 33, 507), (1, 5, 17), (5, 4, 1000), (2, 2, 20000)])
def test_scores_agree_with_float64(
    backend: str, likelihood: str, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    logits = (3 * torch.randn(shape)).to(dtype)
    assert_accurate(score(logits, backend, likelihood=likelihood), logits, likelihood)


@every_backend
@every_likelihood
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_flat_and_extreme_logits_agree_with_float64(backend: str, likelihood: str, scale: float) -> None:
    logits = scale * torch.randn(11, 64, 10)
    assert_accurate(score(logits, backend, likelihood=likelihood), logits, likelihood)


@every_backend
def test_one_sigmoid_label_agrees_with_float64(backend: str) -> None:
    logits = 3 * torch.randn(20, 50, 1)
    assert_accurate(score(logits, backend, likelihood="bernoulli"), logits, "bernoulli")


@every_backend
def test_votes_count_one_half_as_present_and_give_ties_to_the_first_class(backend: str) -> None:
    logits = torch.tensor([0.0, -0.0, -1e-9, 1e-9])[None, :, None].repeat(2, 1, 1)
    logits[1] = -4.0  # the other pass votes against
    assert score(logits, backend, likelihood="bernoulli")["variation_ratio"].tolist() == [0.5, 0.5, 0.0, 0.5]
    repeated = torch.tensor([[[1.0, 3.0, 3.0]], [[0.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])  # softmax ties: the first class
    assert score(repeated, backend)["variation_ratio"].item() == pytest.approx(1 / 3)


@every_backend
@every_likelihood
def test_each_score_alone_is_what_it_is_among_others(backend: str, likelihood: str) -> None:
    logits = 2 * torch.randn(9, 40, 12)
    together = score(logits, backend, likelihood=likelihood)
    for name in DISCRETE:
        alone = score(logits, backend, (name,), likelihood=likelihood)
        assert set(alone) == {name, "prediction"}
        atol = 2.4e-7 * max(1.0, SCORES[name].bounds(12, likelihood)[1])
        torch.testing.assert_close(alone[name], together[name], atol=atol, rtol=0)
        torch.testing.assert_close(alone["prediction"], together["prediction"])


@every_likelihood
def test_float64_logits_are_scored_in_float64(likelihood: str) -> None:
    logits = 1e-4 * torch.randn(20, 30, 10, dtype=torch.float64)
    got = score_logits(logits, DISCRETE, likelihood=likelihood, backend="eager")
    truth = oracle_scores(logits, DISCRETE, likelihood)
    for name in DISCRETE:  # BALD is about 1e-9 here: float32 passes would lose it
        torch.testing.assert_close(got[name].double(), truth[name], rtol=1e-5, atol=1e-14)


@every_likelihood
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("input", ["probs", "log_probs"])
@pytest.mark.parametrize("shape", [(6, 50, 7), (4, 3, 7, 5, 2)])
def test_probabilities_and_log_probabilities_agree_with_float64(
    likelihood: str, dtype: torch.dtype, input: str, shape: tuple[int, ...]
) -> None:
    logits = 3 * torch.randn(shape, dtype=torch.float64)
    p = torch.softmax(logits, 2) if likelihood == "categorical" else torch.sigmoid(logits)
    p[:, 0, 0] = 0.0
    if likelihood == "categorical":
        p /= p.sum(2, keepdim=True)
    outputs = (p if input == "probs" else p.log()).to(dtype)
    got = score_logits(outputs, DISCRETE, likelihood=likelihood, input=input)
    truth = oracle_scores(outputs, DISCRETE, likelihood, input)
    for name in DISCRETE:
        torch.testing.assert_close(got[name].double(), truth[name], atol=3e-6, rtol=0)


@pytest.mark.parametrize("C", [1, 2])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_gaussian_scores_agree_with_float64(C: int, offset: float) -> None:
    outputs = torch.randn(30, 50, C)
    outputs[..., 0] = offset + 0.01 * outputs[..., 0]
    settings = {"likelihood": "gaussian", "noise_variance": 0.25 if C == 1 else None}
    got = score_logits(outputs, ("variance", "bald"), **settings)
    truth = oracle_scores(outputs, ("variance", "bald"), **settings)
    for name in ("variance", "bald", "prediction"):
        assert got[name].dtype == torch.float32
        torch.testing.assert_close(got[name].double(), truth[name].double(), rtol=1e-5, atol=0)


# ---- laws ------------------------------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(1, 40), st.integers(1, 20), st.sampled_from([2, 3, 10, 16, 65, 130]))
case = {"shape": shapes, "seed": st.integers(0, 10**6), "scale": st.sampled_from([0.01, 1.0, 5.0, 50.0])}


def random_logits(shape: tuple[int, int, int], seed: int, scale: float) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@every_backend
@every_likelihood
@settings(max_examples=15)
@given(**case)
def test_scores_stay_in_their_bounds(backend: str, likelihood: str, shape: tuple, seed: int, scale: float) -> None:
    got = score(random_logits(shape, seed, scale), backend, likelihood=likelihood)
    for name in DISCRETE:
        low, high = SCORES[name].bounds(shape[2], likelihood)
        assert got[name].min() >= low, name
        assert got[name].max() <= high * (1 + 1e-6) + 1e-6, name
    assert (got["bald"] <= got["entropy"]).all()
    assert ((got["prediction"] >= 0) & (got["prediction"] < shape[2])).all()


@every_backend
@settings(max_examples=15)
@given(**case, shift=st.integers(-60, 60))
def test_softmax_scores_ignore_a_shift_of_a_row(
    backend: str, shape: tuple, seed: int, scale: float, shift: int
) -> None:
    logits = (random_logits(shape, seed, min(scale, 5.0)) * 256).round() / 256  # so that the shift is exact
    got, shifted = score(logits, backend), score(logits + shift, backend)
    for name in (*DISCRETE, "prediction"):
        torch.testing.assert_close(got[name], shifted[name], atol=1e-6, rtol=0)


@every_backend
@every_likelihood
@settings(max_examples=15)
@given(**case)
def test_scores_do_not_depend_on_the_order_of_passes(
    backend: str, likelihood: str, shape: tuple, seed: int, scale: float
) -> None:
    logits = random_logits(shape, seed, scale)
    got, permuted = (
        score(logits, backend, likelihood=likelihood),
        score(logits[torch.randperm(shape[0])], backend, likelihood=likelihood),
    )
    for name in DISCRETE:
        atol = 1e-6 * max(1.0, SCORES[name].bounds(shape[2], likelihood)[1])
        torch.testing.assert_close(got[name], permuted[name], atol=atol, rtol=0)


@every_backend
@every_likelihood
@settings(max_examples=15)
@given(**case)
def test_scores_do_not_depend_on_the_batch(
    backend: str, likelihood: str, shape: tuple, seed: int, scale: float
) -> None:
    logits = random_logits(shape, seed, scale)
    order = torch.randperm(shape[1])
    got = score(logits, backend, likelihood=likelihood)
    permuted = score(logits[:, order], backend, likelihood=likelihood)
    alone = score(logits[:, -1:], backend, likelihood=likelihood)
    for name in DISCRETE:
        # Kernels treat each item the same way wherever it stands. PyTorch's vectorized exp and its scalar tail differ in
        # the last bit.
        atol = 0.0 if backend != "eager" else 1e-6 * max(1.0, SCORES[name].bounds(shape[2], likelihood)[1])
        torch.testing.assert_close(permuted[name], got[name][order], atol=atol, rtol=0)
        torch.testing.assert_close(alone[name], got[name][-1:], atol=atol, rtol=0)


@every_backend
@every_likelihood
@settings(max_examples=15)
@given(**case)
def test_equal_passes_have_no_epistemic_uncertainty(
    backend: str, likelihood: str, shape: tuple, seed: int, scale: float
) -> None:
    T, B, C = shape
    logits = random_logits((1, B, C), seed, scale).expand(T, B, C)
    got = score(logits, backend, ("bald", "variation_ratio", "mean_std"), likelihood=likelihood)
    outcomes = 1 if likelihood == "categorical" else C
    assert got["bald"].max() <= 1e-6 * outcomes
    assert got["mean_std"].max() <= 1e-6
    assert got["variation_ratio"].max() <= 1e-6


# ---- items that cannot be scored -------------------------------------------------------------------------------------


@every_backend
@every_likelihood
@pytest.mark.parametrize("C", [2, 10, 130, 1100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_only_the_broken_items_are_nan(backend: str, likelihood: str, C: int, dtype: torch.dtype) -> None:
    logits = (2 * torch.randn(5, 40, C)).to(dtype)
    broken = logits.clone()
    broken[0, 3, 0] = math.nan
    broken[4, 17, C - 1] = math.nan
    broken[2, 20, C // 2] = math.inf
    broken[1, 39, :] = -math.inf
    broken[3, 30, 1:] = -math.inf  # legal
    bad = torch.zeros(40, dtype=torch.bool)
    bad[[3, 17, 20, 39]] = True
    if likelihood == "bernoulli":
        bad[39] = False  # every label absent is a distribution
    got, clean = score(broken, backend, likelihood=likelihood), score(logits, backend, likelihood=likelihood)
    truth = oracle_scores(broken, DISCRETE, likelihood)
    untouched = ~bad
    untouched[[30, 39]] = False
    for name in DISCRETE:
        assert torch.equal(got[name].isnan(), bad), name
        assert torch.equal(got[name][untouched], clean[name][untouched]), name
        tolerance = 1e-6 * max(1.0, SCORES[name].bounds(C, likelihood)[1])
        torch.testing.assert_close(got[name][~bad].double(), truth[name][~bad], atol=tolerance, rtol=0)
    assert torch.equal(got["prediction"] == -1, bad)
    assert torch.equal(got["prediction"][untouched], clean["prediction"][untouched])


def test_broken_probabilities_and_gaussians_are_nan() -> None:
    p = torch.tensor([[[0.5, 0.5], [math.nan, 0.5], [math.inf, 0.0]]])
    for likelihood in LIKELIHOODS:
        got = score_logits(p, likelihood=likelihood, input="probs")
        assert got["bald"].isnan().tolist() == [False, True, True]
        assert got["prediction"].tolist() == [0, -1, -1]
    outputs = torch.tensor([[[0.0, 0.0], [math.nan, 0.0], [0.0, math.inf], [-math.inf, 0.0]]])
    got = score_logits(outputs, ("variance", "bald"), likelihood="gaussian")
    for name in ("variance", "bald", "prediction"):
        assert got[name].isnan().tolist() == [False, True, True, True]


# ---- shapes and strides ----------------------------------------------------------------------------------------------


@every_backend
@every_likelihood
def test_no_items_give_no_scores(backend: str, likelihood: str) -> None:
    for shape in ((4, 0, 3), (4, 0, 3, 2, 2)):
        got = score(torch.empty(shape), backend, likelihood=likelihood)
        assert {name: (values.shape, values.dtype) for name, values in got.items()} == {
            **dict.fromkeys(DISCRETE, ((0,), torch.float32)),
            "prediction": ((0,), torch.int32),
        }


@every_backend
@every_likelihood
def test_strides_do_not_matter(backend: str, likelihood: str) -> None:
    logits = torch.randn(6, 21, 10)
    expected = score(logits, backend, likelihood=likelihood)
    for strided in (
        logits.permute(2, 0, 1).contiguous().permute(1, 2, 0),  # classes outermost
        logits.transpose(0, 1).contiguous().transpose(0, 1),  # items outermost
        torch.stack((logits, logits), 1)[:, 1],
        torch.randn(6, 21, 25)[..., 3:23:2].copy_(logits),  # a strided window
        torch.randn(12, 43, 11)[::2, 1::2, 1:].copy_(logits),
    ):
        assert not strided.is_contiguous()
        got = score(strided, backend, likelihood=likelihood)
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], atol=1e-6, rtol=0)


@every_backend
@every_likelihood
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_the_input_is_not_modified(backend: str, likelihood: str, dtype: torch.dtype) -> None:
    if dtype == torch.float64 and backend != "eager":
        pytest.skip("kernels take no float64")
    logits = torch.randn(6, 21, 10).to(dtype).requires_grad_()
    before = logits.detach().clone()
    assert not any(values.requires_grad for values in score(logits, backend, likelihood=likelihood).values())
    assert torch.equal(logits.detach(), before)


@every_backend
@every_likelihood
@pytest.mark.parametrize("reduction", ["mean", "max", 0.1])
def test_dense_scores_are_reduced_per_item(backend: str, likelihood: str, reduction: str | float) -> None:
    logits = 2 * torch.randn(5, 4, 3, 9, 7)
    truth = oracle_scores(logits, DISCRETE, likelihood, reduction=reduction)
    memory_orders = [logits, logits.movedim(2, -1).contiguous().movedim(-1, 2), logits.mT.contiguous().mT]
    for outputs in memory_orders:
        got = score(outputs, backend, likelihood=likelihood, reduction=reduction)
        for name in DISCRETE:
            torch.testing.assert_close(got[name].double(), truth[name], atol=2e-6, rtol=0)
        assert torch.equal(got["prediction"], truth["prediction"])


@every_backend
def test_one_broken_pixel_breaks_its_item(backend: str) -> None:
    logits = torch.randn(5, 3, 4, 6)
    logits[2, 1, 0, 5] = math.nan
    for reduction in ("mean", "max", 0.2):
        got = score(logits, backend, reduction=reduction)
        assert got["bald"].isnan().tolist() == [False, True, False]
        assert (got["prediction"] == -1).tolist() == [False, True, False]


@every_backend
@pytest.mark.parametrize("budget", [1, 700, 5000])
def test_results_do_not_depend_on_how_work_is_cut(backend: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, dense = torch.randn(7, 13, 10), torch.randn(7, 5, 4, 6, 3)
    probs = torch.softmax(torch.randn(7, 13, 10), -1)
    expected = [score(plain, backend), score(dense, backend), score(probs, backend, input="probs")]
    monkeypatch.setattr(eager, "STEP", max(1, budget // 8))
    monkeypatch.setattr("mcscore.kernels.score._BLOCK_BYTES", {"cpu": budget, "cuda": budget})
    for whole, cut in zip(
        expected, [score(plain, backend), score(dense, backend), score(probs, backend, input="probs")], strict=True
    ):
        for name in whole:
            torch.testing.assert_close(cut[name], whole[name], atol=1e-6, rtol=0)
