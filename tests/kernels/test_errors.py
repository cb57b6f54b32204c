"""Standard errors and biases from every backend on the CPU against their definition in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mcscore import masks
from mcscore.acquisition import KERNEL_SCORES, SCORES
from mcscore.jackknife import MAX_GROUPS, columns, estimate, groups, oracle_errors
from mcscore.kernels import eager, head, native
from mcscore.kernels.native import extension
from mcscore.kernels.score import score_logits
from mcscore.masks import MaskSpec
from mcscore.moments import Moments

BACKENDS = ["eager", "moments", *(native.available_isas() if native.available()[0] else [])]
LIKELIHOODS = ["categorical", "bernoulli"]
# An error is off by 2 % of itself; where it is nearly 0, by this share of the greatest entropy. For a few passes what is left of the
# polynomial (csrc/errors.h) is a share of BALD, though the errors cancel: two passes have a BALD of 0 each.
FLOOR = 2.0**-20

every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)


def scored(logits: Tensor, names: tuple[str, ...], likelihood: str, backend: str, errors: bool = True) -> dict:
    if backend == "moments":
        moments = Moments(names, likelihood=likelihood, errors=errors)
        for part in logits.split(7):
            moments.update(part)
        return moments.compute()
    if backend == "eager":
        return score_logits(logits, names, likelihood=likelihood, errors=errors, backend="eager")
    with native.use_isa(backend):
        return score_logits(logits, names, likelihood=likelihood, errors=errors, backend="native")


def naive_errors(logits: Tensor, likelihood: str) -> dict[str, Tensor]:
    """The jackknife as one writes it in PyTorch, in float32, of the entropies and of BALD."""
    p = logits.float().softmax(-1) if likelihood == "categorical" else logits.float().sigmoid()
    k = p[..., None, :] if likelihood == "categorical" else torch.stack((p, 1 - p), -1)

    def of(passes: Tensor) -> tuple[Tensor, ...]:
        entropy, expected = (torch.special.entr(q).sum((-1, -2)) for q in (passes.mean(0), passes))
        return entropy, expected.mean(0), entropy - expected.mean(0)

    sizes = [len(group) for group in groups(len(logits))]
    whole = of(k)
    parts = [of(torch.cat((k[: group.start], k[group.stop :]))) for group in groups(len(logits))]
    found = {}
    for i, name in enumerate(("entropy", "expected_entropy", "bald")):
        se, bias = estimate(whole[i], torch.stack([part[i] for part in parts]), sizes)
        found |= {f"{name}_se": se, f"{name}_bias": bias}
    return found


def assert_close(
    got_of: dict[str, dict], logits: Tensor, names: tuple[str, ...], likelihood: str, rtol: float = 2e-2
) -> dict[str, Tensor]:
    """What each backend got lies within twice the error of naive float32 plus the stated floor; the definition's comes out."""
    T, _, C = logits.shape
    # Both are slow: once for all backends.
    truth, naive = oracle_errors(logits, names, likelihood), naive_errors(logits, likelihood)
    ok = ~next(iter(truth.values())).isnan()
    bald = truth["bald_bias"].abs()[ok]  # of the size of BALD for few passes
    left = 0.1 if T <= 3 else 0.02  # each group is a large part of the passes
    for backend, got in got_of.items():
        assert list(got) == [*columns(names, True), "prediction"], backend
        for name, expected in truth.items():
            assert torch.equal(got[name].isnan(), ~ok), f"{backend}, {name}"
            wrong = (got[name].double() - expected).abs()[ok]
            scale = max(1.0, SCORES[name.rpartition("_")[0]].bounds(C, likelihood)[1])
            allowed = rtol * expected.abs()[ok] + FLOOR * scale + left * bald
            if name in naive:
                allowed = allowed + 2 * (naive[name].double()[ok] - expected[ok]).abs()
            assert (wrong <= allowed).all(), (
                f"{backend}, {name}: {wrong.max():.1e}, allowed {allowed[wrong.argmax()]:.1e}"
            )
    return truth


@every_likelihood
@pytest.mark.parametrize("T", [2, 3, 16, 33, 100])
@pytest.mark.parametrize(("B", "C"), [(199, 1), (17, 2), (19, 10), (7, 64), (3, 65), (3, 100), (2, 507), (1, 1000)])
def test_errors_are_those_of_the_definition(likelihood: str, T: int, B: int, C: int) -> None:
    if likelihood == "categorical" and C == 1:
        pytest.skip("softmax over one class is always 1")
    backends = [name for name in BACKENDS if name != "moments"]  # see tests/test_moments.py
    for logits in (2 * torch.randn(T, B, C), 3 * torch.randn(B, C) + 0.1 * torch.randn(T, B, C)):
        got_of = {backend: scored(logits, KERNEL_SCORES, likelihood, backend) for backend in backends}
        assert_close(got_of, logits, KERNEL_SCORES, likelihood)


@every_backend
@every_likelihood
@pytest.mark.parametrize(
    ("T", "C"), [(2, 3), (16, 10), (33, 64), (50, 100), (100, 10), (103, 130), (100, 2500), (300, 5)]
)
def test_scores_keep_every_bit_with_errors(backend: str, likelihood: str, T: int, C: int) -> None:
    logits = 2 * torch.randn(T, 21, C)
    logits[0, 4, 1] = math.nan
    for names in (
        ("bald", "entropy"),
        KERNEL_SCORES,
        ("margin",),
        ("expected_entropy", "variation_ratio"),
        ("mean_std",),
    ):
        plain = scored(logits, names, likelihood, backend, errors=False)
        got = scored(logits, names, likelihood, backend)
        for name, values in plain.items():
            assert torch.equal(got[name].nan_to_num(-1), values.nan_to_num(-1)), name


@every_likelihood
@pytest.mark.parametrize("C", [3, 10, 70, 300])
@pytest.mark.parametrize("T", [16, 100])
def test_confident_items_with_rare_exceptions(likelihood: str, C: int, T: int) -> None:
    """One pass in a hundred holds all the information, and the best class differs in it."""
    logits = torch.randn(T, 20, C)
    logits[..., 0] += 4 + 14 * torch.rand(20)
    logits[..., 1:] -= 4 if likelihood == "bernoulli" else 0
    logits[5, :, 1] = logits[5, :, 0] + 2
    got_of = {backend: scored(logits, KERNEL_SCORES, likelihood, backend) for backend in BACKENDS}
    # One group has nearly all of a class: there the polynomial of csrc/errors.h is at its worst.
    truth = assert_close(got_of, logits, KERNEL_SCORES, likelihood, rtol=1e-1)["bald_se"]
    for backend, got in got_of.items():
        wrong = (got["bald_se"].double() - truth).abs()
        assert (wrong <= 1e-7 + 5e-2 * truth).all(), f"{backend}: {wrong.max():.1e}"


@every_likelihood
@pytest.mark.parametrize("C", [2, 10, 100])
def test_small_errors_of_confident_items_keep_their_digits(likelihood: str, C: int) -> None:
    logits = torch.randn(1, 40, C) + 0.5 * torch.randn(100, 40, C)
    logits[..., 0] += 14
    if likelihood == "bernoulli":
        logits = logits[:1].sign() * (8 + logits.abs())  # no pass disagrees
    names = ("bald", "entropy", "least_confidence")
    truth = oracle_errors(logits, names, likelihood)
    for backend in BACKENDS:
        got = scored(logits, names, likelihood, backend)
        for name in ("bald_se", "entropy_se", "least_confidence_se"):
            assert truth[name].max() < 1e-2
            # In PyTorch p is a float32 number near 1.
            atol = 1e-8 if name == "least_confidence_se" and backend in ("eager", "moments") else 1e-13
            wrong = (got[name].double() - truth[name]).abs()
            assert (wrong <= atol + 2e-2 * truth[name]).all(), f"{backend}, {name}: {wrong.max():.1e}"


@every_likelihood
@pytest.mark.parametrize("C", [2, 10, 100])
def test_probability_zero_and_broken_items(likelihood: str, C: int) -> None:
    logits = torch.randn(40, 30, C)
    logits[torch.rand_like(logits) < 0.4] = -math.inf
    logits[..., 1] = torch.randn(40, 30)
    logits[:, 3, 0] = -math.inf  # in every pass
    logits[7, 11, 0] = math.nan
    logits[39, 29, 1] = math.inf
    got_of = {backend: scored(logits, KERNEL_SCORES, likelihood, backend) for backend in BACKENDS}
    for backend, got in got_of.items():
        assert got["bald_se"].isnan().nonzero().flatten().tolist() == [11, 29], backend
    assert_close(got_of, logits, KERNEL_SCORES, likelihood)


@every_backend
@every_likelihood
@pytest.mark.parametrize("T", [2, 16, 100])
def test_equal_passes_have_no_error(backend: str, likelihood: str, T: int) -> None:
    for C in (2, 10, 100):
        got = scored((3 * torch.randn(1, 40, C)).expand(T, 40, C), KERNEL_SCORES, likelihood, backend)
        for name in KERNEL_SCORES:
            limit = 1e-6 * max(1.0, SCORES[name].bounds(C, likelihood)[1])
            assert got[f"{name}_se"].max() <= limit, name
        assert (got["variation_ratio_se"] == 0).all()


@every_backend
@pytest.mark.parametrize("B", [0, 1])
def test_no_item_and_one_item(backend: str, B: int) -> None:
    logits = torch.randn(16, B, 10)
    got = scored(logits, ("bald", "margin"), "categorical", backend)
    assert all(values.shape == (B,) for values in got.values())
    if B:
        assert_close({backend: got}, logits, ("bald", "margin"), "categorical")


@every_backend
def test_an_item_has_the_same_errors_in_any_batch(backend: str) -> None:
    for C in (10, 100):
        logits = torch.randn(100, 37, C)
        whole = scored(logits, KERNEL_SCORES, "categorical", backend)
        alone = scored(logits[:, 5:6], KERNEL_SCORES, "categorical", backend)
        for name, values in whole.items():
            torch.testing.assert_close(
                alone[name], values[5:6], rtol=0, atol=1e-6 if backend in ("eager", "moments") else 0
            )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_dtype_and_layout(dtype: torch.dtype, likelihood: str) -> None:
    logits = torch.randn(33, 20, 30).to(dtype)
    for order in [(0, 1, 2), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)]:
        view = logits.permute(order).contiguous().permute([order.index(axis) for axis in range(3)])
        got = score_logits(view, KERNEL_SCORES, likelihood=likelihood, errors=True)
        assert_close({str(order): got}, logits, KERNEL_SCORES, likelihood)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("input", ["probs", "log_probs"])
def test_declared_probabilities(likelihood: str, input: str) -> None:
    logits = torch.randn(20, 9, 4)
    p = torch.softmax(logits, -1) if likelihood == "categorical" else torch.sigmoid(logits)
    outputs = p if input == "probs" else p.log()
    got = score_logits(outputs, KERNEL_SCORES, likelihood=likelihood, input=input, errors=True)
    truth = oracle_errors(logits, KERNEL_SCORES, likelihood)
    for name, expected in truth.items():
        torch.testing.assert_close(got[name].double(), expected, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("C", [1, 2])
@pytest.mark.parametrize("T", [2, 16, 33, 100])
def test_gaussian_errors(C: int, T: int) -> None:
    outputs = torch.randn(T, 50, C)
    outputs[..., 0] += 1000.0
    settings = {"likelihood": "gaussian", "noise_variance": 0.3 if C == 1 else None}
    truth = oracle_errors(outputs, ("variance", "bald"), **settings)
    got = score_logits(outputs, ("variance", "bald"), errors=True, **settings)
    streamed = Moments(("variance", "bald"), errors=True, **settings)
    for part in outputs.split(3):
        streamed.update(part)
    for name, expected in truth.items():
        for found in (got, streamed.compute()):
            torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "max", 0.25])
@pytest.mark.parametrize("budget", [1, 1 << 15])
def test_pixels_are_reduced_before_anything_is_estimated(
    reduction: str | float, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcscore.kernels.score._ERROR_ROWS", budget)
    outputs = torch.randn(18, 3, 4, 5, 6)
    truth = oracle_errors(outputs, KERNEL_SCORES, reduction=reduction)
    plain = score_logits(outputs, KERNEL_SCORES, reduction=reduction)
    got = score_logits(outputs, KERNEL_SCORES, reduction=reduction, errors=True)
    assert list(got) == [*columns(KERNEL_SCORES, True), "prediction"]
    assert all(torch.equal(got[name], values) for name, values in plain.items())
    for name, expected in truth.items():
        torch.testing.assert_close(got[name].double(), expected, rtol=1e-4, atol=1e-6)


@every_likelihood
@pytest.mark.parametrize(("C", "T"), [(10, 100), (100, 33), (2, 16)])
def test_errors_of_a_head(likelihood: str, C: int, T: int) -> None:
    if not native.available()[0]:
        pytest.skip(native.available()[1])
    x, weight, bias = torch.randn(11, 60), torch.randn(C, 60) / 4, torch.randn(C)
    which = MaskSpec(3, 1, torch.arange(T), torch.arange(11), masks.rate(0.5))
    operands = (x, which, weight, bias, KERNEL_SCORES)
    plain = head.dropout_head(*operands, likelihood=likelihood)
    got = head.dropout_head(*operands, likelihood=likelihood, errors=True)
    assert all(torch.equal(got[name], values) for name, values in plain.items())
    expected = head.reference(*operands, likelihood=likelihood, errors=True)
    assert list(got) == list(expected)
    for name in columns(KERNEL_SCORES, True)[len(KERNEL_SCORES) :]:
        if not name.startswith("variation_ratio"):  # a vote may go the other way where two logits agree to float32
            torch.testing.assert_close(got[name], expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "native"])
def test_one_pass_has_no_error(backend: str) -> None:
    if backend == "native" and not native.available()[0]:
        pytest.skip(native.available()[1])
    with pytest.raises(ValueError, match="a standard error needs at least 2 passes, got 1"):
        score_logits(torch.randn(1, 4, 3), errors=True, backend=backend)


def test_the_extension_has_as_many_groups_as_the_definition() -> None:
    if not native.available()[0]:
        pytest.skip(native.available()[1])
    assert extension.native.max_groups == MAX_GROUPS


def test_leaving_out_a_part_undoes_a_merge() -> None:
    for likelihood, C in (("gaussian", 2), ("categorical", 5)):
        names = ("bald",)
        first, second = (eager.new_state(names, likelihood, 9, C, torch.device("cpu")) for _ in range(2))
        eager.accumulate(torch.randn(7, 9, C) + 100, first, likelihood)
        eager.accumulate(3 * torch.randn(4, 9, C) - 50, second, likelihood)
        both = {name: sums.clone() for name, sums in first.items()}
        eager.merge(both, second, likelihood)
        for name, sums in eager.without(both, second, likelihood).items():
            torch.testing.assert_close(sums, first[name], rtol=1e-9, atol=1e-9)
