"""``Moments``: the same scores, however the passes are split, merged or ordered."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcscore.acquisition import SCORES, oracle_scores
from mcscore.jackknife import columns, groups, oracle_errors
from mcscore.kernels import eager, native
from mcscore.kernels.score import accumulate, score_logits
from mcscore.moments import Moments

DISCRETE = tuple(name for name, score in SCORES.items() if "categorical" in score.likelihoods)
BY_LINK = {"categorical": DISCRETE, "bernoulli": DISCRETE, "gaussian": ("variance", "bald")}

every_likelihood = pytest.mark.parametrize("likelihood", BY_LINK)


def outputs_for(likelihood: str, T: int, B: int = 23, C: int = 7) -> torch.Tensor:
    outputs = 2 * torch.randn(T, B, 2 if likelihood == "gaussian" else C)
    if likelihood == "gaussian":
        outputs[..., 0] += 1000.0  # sums of squares would lose the variance
    return outputs


def assert_equal_scores(got: dict, expected: dict, likelihood: str, C: int = 7) -> None:
    assert list(got) == list(expected)
    for name, values in got.items():
        assert values.dtype == expected[name].dtype
        if name == "prediction" and likelihood != "gaussian":
            assert torch.equal(values, expected[name])
            continue
        scale = SCORES[name].bounds(C, likelihood)[1] if name in SCORES else 1.0
        atol = 1e-6 * max(1.0, scale if math.isfinite(scale) else 1.0)
        rtol = 1e-6 if likelihood == "gaussian" else 0.0
        torch.testing.assert_close(values, expected[name], atol=atol, rtol=rtol, equal_nan=True)


@every_likelihood
@settings(max_examples=20)
@given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_any_split_of_the_passes_gives_the_scores_of_one_shot(likelihood: str, cuts: list[int]) -> None:
    outputs = outputs_for(likelihood, sum(cuts))
    moments = Moments(BY_LINK[likelihood], likelihood=likelihood)
    for part in outputs.split(cuts):
        assert moments.update(part) is moments
    assert moments.n == sum(cuts)
    assert_equal_scores(
        moments.compute(), score_logits(outputs, BY_LINK[likelihood], likelihood=likelihood), likelihood
    )


@every_likelihood
def test_scores_agree_with_float64(likelihood: str) -> None:
    outputs = outputs_for(likelihood, 100)
    moments = Moments(BY_LINK[likelihood], likelihood=likelihood)
    for part in outputs.split(7):
        moments.update(part)
    truth = oracle_scores(outputs, BY_LINK[likelihood], likelihood)
    got = moments.compute()
    assert_equal_scores(got, {name: truth[name].to(values.dtype) for name, values in got.items()}, likelihood)


@every_likelihood
def test_merge_is_associative_and_leaves_the_other_as_it_was(likelihood: str) -> None:
    parts = outputs_for(likelihood, 24).split([1, 8, 15])

    def of(part: torch.Tensor) -> Moments:
        return Moments(BY_LINK[likelihood], likelihood=likelihood).update(part)

    left = of(parts[0]).merge(of(parts[1])).merge(of(parts[2]))
    tail = of(parts[1]).merge(of(parts[2]))
    before = {name: values.clone() for name, values in tail.compute().items()}
    right = of(parts[0]).merge(tail)
    expected = score_logits(torch.cat(parts), BY_LINK[likelihood], likelihood=likelihood)
    assert left.n == right.n == 24
    assert_equal_scores(left.compute(), expected, likelihood)
    assert_equal_scores(right.compute(), expected, likelihood)
    assert tail.n == 23
    assert all(torch.equal(values, before[name]) for name, values in tail.compute().items())


def test_merging_with_nothing_changes_nothing() -> None:
    outputs = torch.randn(4, 5, 3)
    expected = Moments().update(outputs).compute()
    for merged in (Moments().update(outputs).merge(Moments()), Moments().merge(Moments().update(outputs))):
        assert merged.n == 4
        assert all(torch.equal(values, expected[name]) for name, values in merged.compute().items())
    source = Moments().update(outputs)
    Moments().merge(source).update(outputs + 5)  # takes a copy of the sums
    assert all(torch.equal(values, expected[name]) for name, values in source.compute().items())


@every_likelihood
def test_a_pass_without_a_distribution_spoils_its_item_for_good(likelihood: str) -> None:
    outputs = outputs_for(likelihood, 6)
    outputs[2, 4, 0] = math.nan
    moments = Moments(BY_LINK[likelihood], likelihood=likelihood)
    for part in outputs.split(1):
        moments.update(part)
    merged = (
        Moments(BY_LINK[likelihood], likelihood=likelihood)
        .update(outputs[:3])
        .merge(Moments(BY_LINK[likelihood], likelihood=likelihood).update(outputs[3:]))
    )
    for got in (moments.compute(), merged.compute()):
        for name in BY_LINK[likelihood]:
            assert got[name].isnan().nonzero().flatten().tolist() == [4]
        assert got["prediction"][4] == -1 or got["prediction"][4].isnan()
    assert_equal_scores(
        moments.compute(), score_logits(outputs, BY_LINK[likelihood], likelihood=likelihood), likelihood
    )


@pytest.mark.parametrize("reduction", ["mean", "max", 0.25])
def test_dense_passes_are_reduced_after_the_last(reduction: str | float) -> None:
    outputs = torch.randn(9, 3, 4, 5, 6)
    moments = Moments(DISCRETE, reduction=reduction)
    for part in outputs.split(2):
        moments.update(part)
    truth = oracle_scores(outputs, DISCRETE, reduction=reduction)
    got = moments.compute()
    for name in DISCRETE:
        torch.testing.assert_close(got[name].double(), truth[name], atol=1e-6, rtol=0)
    assert torch.equal(got["prediction"], truth["prediction"])


@pytest.mark.parametrize("input", ["probs", "log_probs"])
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_declared_probabilities_stream_too(likelihood: str, input: str) -> None:
    logits = torch.randn(8, 9, 4)
    p = torch.softmax(logits, -1) if likelihood == "categorical" else torch.sigmoid(logits)
    outputs = p if input == "probs" else p.log()
    moments = Moments(DISCRETE, likelihood=likelihood, input=input)
    for part in outputs.split(3):
        moments.update(part)
    assert_equal_scores(moments.compute(), score_logits(logits, DISCRETE, likelihood=likelihood), likelihood, C=4)


def test_a_refused_update_changes_nothing() -> None:
    good = torch.full((2, 3, 2), 0.5)
    bad = good.clone()
    bad[1, 2] = 0.9
    moments = Moments(input="probs").update(good)
    with pytest.raises(ValueError, match=r"pass 1 of item 2 sums to 1\.8, not 1"):
        moments.update(bad)
    assert moments.n == 2
    assert moments.compute()["entropy"].tolist() == pytest.approx([math.log(2)] * 3)


def test_compute_may_be_called_between_updates() -> None:
    outputs = torch.randn(6, 5, 3)
    moments = Moments().update(outputs[:2])
    assert_equal_scores(moments.compute(), score_logits(outputs[:2]), "categorical", C=3)
    assert_equal_scores(moments.update(outputs[2:]).compute(), score_logits(outputs), "categorical", C=3)


def test_gaussian_noise_may_be_known() -> None:
    means = torch.randn(12, 6, 1) + 50
    moments = Moments(("bald", "variance"), likelihood="gaussian", noise_variance=0.3)
    for part in means.split(5):
        moments.update(part)
    truth = oracle_scores(means, ("bald", "variance"), "gaussian", noise_variance=0.3)
    got = moments.compute()
    for name in ("bald", "variance"):
        torch.testing.assert_close(got[name].double(), truth[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize("shape", [(5, 40, 10), (40, 3, 10), (3, 5, 130), (2, 2, 1500)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_native_and_pytorch_sums_agree(likelihood: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    if not native.available()[0]:
        pytest.skip(native.available()[1])
    logits = (3 * torch.randn(shape)).to(dtype)
    logits[1, 0, 0] = math.nan
    logits[0, 1, 1] = -math.inf
    states = {}
    for backend in ("native", "eager"):
        states[backend] = eager.new_state(DISCRETE, likelihood, shape[1], shape[2], logits.device)
        for part in logits.split([1, shape[0] - 1]):
            accumulate(part, states[backend], likelihood, backend=backend)
    ok = ~states["eager"]["bad"]
    assert ok.tolist() == [False] + [True] * (shape[1] - 1)
    assert torch.equal(states["native"]["bad"], ~ok)
    for name in ("p", "p2", "h"):
        scale = shape[0] * (shape[2] if name == "h" and likelihood == "bernoulli" else 1)
        torch.testing.assert_close(states["native"][name][ok], states["eager"][name][ok], atol=5e-7 * scale, rtol=0)
    assert torch.equal(states["native"]["votes"][ok], states["eager"]["votes"][ok])


def test_memory_does_not_grow_with_the_passes() -> None:
    moments = Moments(DISCRETE).update(torch.randn(3, 50, 6))
    sizes = {name: sums.shape for name, sums in moments._state.items()}
    moments.update(torch.randn(200, 50, 6))
    assert {name: sums.shape for name, sums in moments._state.items()} == sizes
    assert sizes == {"p": (50, 6), "p2": (50, 6), "votes": (50, 6), "h": (50,), "bad": (50,)}
    assert set(Moments(("entropy",)).update(torch.randn(3, 50, 6))._state) == {"p", "bad"}  # nothing that is not asked


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"scores": ("entropy",)}, "scores"),
        ({"likelihood": "bernoulli"}, "likelihood"),
        ({"input": "log_probs"}, "input"),
        ({"reduction": "max"}, "reduction"),
    ],
)
def test_moments_of_other_settings_refuse_to_merge(other: dict, field: str) -> None:
    a, b = Moments().update(torch.zeros(2, 3, 4)), Moments(**other).update(torch.full((2, 3, 4), -1.0))
    with pytest.raises(ValueError, match=f"cannot merge moments whose {field} differ: .* and "):
        a.merge(b)


def test_gaussian_moments_of_other_noise_refuse_to_merge() -> None:
    a, b = (Moments(("bald",), likelihood="gaussian", noise_variance=noise) for noise in (1.0, 2.0))
    with pytest.raises(ValueError, match=r"noise_variance differ: 1\.0 and 2\.0"):
        a.merge(b)


def test_passes_over_other_items_are_refused() -> None:
    moments = Moments().update(torch.zeros(2, 3, 4))
    message = r"\(t, 3, 5\) after passes of \(t, 3, 4\)"
    with pytest.raises(ValueError, match=message):
        moments.update(torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=message):
        moments.merge(Moments().update(torch.zeros(2, 3, 5)))
    assert moments.n == 2


def test_nothing_can_be_computed_from_no_pass() -> None:
    with pytest.raises(ValueError, match=r"no pass yet: call update\(logits\) before compute\(\)"):
        Moments().compute()
    with pytest.raises(ValueError, match="no pass: shape"):
        Moments().update(torch.zeros(0, 3, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scores": ("bold",)}, "unknown score 'bold'"),
        ({"likelihood": "probit"}, "unknown likelihood"),
        ({"reduction": "median"}, "reduction must be"),
        ({"input": "odds"}, "unknown input 'odds'"),
    ],
)
def test_settings_are_checked_at_once(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Moments(**settings)


# ---- errors ----------------------------------------------------------------------------------------------------------


@every_likelihood
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 40), min_size=2, max_size=6))
def test_errors_do_not_depend_on_the_split_of_the_passes(likelihood: str, cuts: list[int]) -> None:
    names = BY_LINK[likelihood]
    outputs = outputs_for(likelihood, sum(cuts))
    moments, plain = Moments(names, likelihood=likelihood, errors=True), Moments(names, likelihood=likelihood)
    for part in outputs.split(cuts):
        moments.update(part)
        plain.update(part)
    assert moments._groups is not None
    assert moments._groups.sizes == [len(group) for group in groups(sum(cuts))]
    got, truth = moments.compute(), oracle_errors(outputs, names, likelihood)
    assert list(got) == [*columns(names, True), "prediction"]
    for name, values in plain.compute().items():
        assert torch.equal(got[name], values)  # scores keep every bit
    for name, expected in truth.items():
        torch.testing.assert_close(got[name].double(), expected, rtol=1e-4, atol=2e-6)


def test_merged_moments_have_the_errors_of_their_groups() -> None:
    parts = [torch.randn(t, 9, 5) for t in (20, 20, 7, 61)]

    def of(*passes: torch.Tensor) -> Moments:
        moments = Moments(DISCRETE, errors=True)
        for part in passes:
            moments.update(part)
        return moments

    small = of(parts[2]).merge(of(parts[1][:20]))  # 27 groups of one pass: those of one stream
    expected = oracle_errors(torch.cat((parts[2], parts[1])), DISCRETE)
    for name, values in expected.items():
        torch.testing.assert_close(small.compute()[name].double(), values, rtol=1e-4, atol=1e-6)

    many = of(parts[0]).merge(of(parts[3]))  # 20 groups of one pass and 31 of two, joined in pairs
    assert many._groups is not None
    assert many._groups.sizes == [2] * 10 + [4] * 15 + [1]
    expected = oracle_errors(torch.cat((parts[0], parts[3])), ("bald",))
    ratio = many.compute()["bald_se"] / expected["bald_se"]
    assert ((ratio > 0.5) & (ratio < 2)).all()
    before = many.compute()
    assert torch.equal(
        of(parts[0]).merge(many).merge(Moments(DISCRETE, errors=True)).compute()["bald_se"].isnan(),
        torch.zeros(9, dtype=torch.bool),
    )
    assert all(torch.equal(values, before[name]) for name, values in many.compute().items())


def test_errors_need_two_passes_and_moments_that_have_them() -> None:
    one = Moments(errors=True).update(torch.randn(1, 3, 4))
    with pytest.raises(ValueError, match="a standard error needs at least 2 passes, got 1"):
        one.compute()
    assert "bald_se" in one.update(torch.randn(1, 3, 4)).compute()
    with pytest.raises(ValueError, match="whose errors differ: True and False"):
        one.merge(Moments().update(torch.randn(1, 3, 4)))


def test_memory_of_errors_does_not_grow_with_the_passes() -> None:
    moments = Moments(("bald",), errors=True).update(torch.randn(33, 5, 6))
    for t in (500, 1000):
        moments.update(torch.randn(t, 5, 6))
        assert moments._groups is not None
        assert len(moments._groups._states) == len(moments._groups.sizes) <= 32
