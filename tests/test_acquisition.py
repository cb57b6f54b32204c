"""The catalog says what its sources say: closed forms, a second writing in plain Python, and ``finish`` against ``oracle``."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcscore.acquisition import KERNEL_SCORES, SCORES, check_kernel_call, check_scores, needed_moments, oracle_scores
from mcscore.likelihoods import (
    INPUTS,
    LIKELIHOOD_MOMENTS,
    LIKELIHOODS,
    check_input,
    check_shape,
    predict,
    reduce_pixels,
    reduce_predictions,
    reduction_share,
)

LOG2 = math.log(2)
SOFTMAX = tuple(name for name, score in SCORES.items() if "categorical" in score.likelihoods)


def probabilities(*passes: list[float]) -> torch.Tensor:
    """Passes of one item as (T, 1, C) float64."""
    return torch.tensor(passes, dtype=torch.float64)[:, None]


def in_plain_python(p_tc: list[list[float]]) -> dict[str, float]:
    """The formulas of the catalog for one item, one class at a time."""

    def entropy(p: list[float]) -> float:
        return -sum(q * math.log(q) for q in p if q > 0)

    T, C = len(p_tc), len(p_tc[0])
    mean = [sum(p[c] for p in p_tc) / T for c in range(C)]
    best = sorted(mean, reverse=True)
    votes = [max(range(C), key=lambda c: (p[c], -c)) for p in p_tc]
    deviations = [math.sqrt(sum((p[c] - mean[c]) ** 2 for p in p_tc) / T) for c in range(C)]
    return {
        "entropy": entropy(mean),
        "expected_entropy": sum(map(entropy, p_tc)) / T,
        "bald": entropy(mean) - sum(map(entropy, p_tc)) / T,
        "least_confidence": 1 - best[0],
        "margin": 1 - (best[0] - best[1]),
        "variation_ratio": 1 - max(votes.count(c) for c in range(C)) / T,
        "mean_std": sum(deviations) / C,
        "prediction": mean.index(best[0]),
    }


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        (  # every pass is certain, no two agree: all uncertainty is epistemic
            [[1.0, 0.0], [0.0, 1.0]],
            dict(zip(SOFTMAX, (LOG2, 0, LOG2, 0.5, 1, 0.5, 0.5), strict=True)),
        ),
        (  # every pass tosses the same coin: all uncertainty is aleatoric
            [[0.5, 0.5], [0.5, 0.5]],
            dict(zip(SOFTMAX, (LOG2, LOG2, 0, 0.5, 1, 0, 0), strict=True)),
        ),
        ([[0.0, 1.0, 0.0]], dict.fromkeys(SOFTMAX, 0.0)),
        (  # p̄ = (1/2, 3/8, 1/8)
            [[0.75, 0.25, 0.0], [0.25, 0.5, 0.25]],
            {"least_confidence": 0.5, "margin": 0.875, "variation_ratio": 0.5, "mean_std": 0.5 / 3, "prediction": 0},
        ),
    ],
)
def test_closed_forms(passes: list[list[float]], expected: dict[str, float]) -> None:
    got = oracle_scores(probabilities(*passes), SOFTMAX, input="probs")
    for name, value in expected.items():
        assert got[name].item() == pytest.approx(value, abs=1e-15), name


@settings(max_examples=40)
@given(T=st.integers(1, 6), C=st.integers(2, 7), scale=st.sampled_from([0.1, 1.0, 8.0]), seed=st.integers(0, 10**6))
def test_softmax_oracle_agrees_with_plain_python(T: int, C: int, scale: float, seed: int) -> None:
    logits = scale * torch.randn(T, 2, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    got = oracle_scores(logits, SOFTMAX)
    for b in range(2):
        for name, value in in_plain_python(torch.softmax(logits[:, b], -1).tolist()).items():
            assert got[name][b].item() == pytest.approx(value, abs=1e-13), name


@settings(max_examples=40)
@given(T=st.integers(1, 6), C=st.integers(1, 5), scale=st.sampled_from([0.1, 1.0, 8.0]), seed=st.integers(0, 10**6))
def test_sigmoid_labels_are_two_class_variables_summed(T: int, C: int, scale: float, seed: int) -> None:
    logits = scale * torch.randn(T, 3, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    got = oracle_scores(logits, SOFTMAX, likelihood="bernoulli")
    labels = [
        oracle_scores(torch.stack((logits[..., c], torch.zeros(T, 3)), -1), SOFTMAX, likelihood="categorical")
        for c in range(C)
    ]
    for name in SOFTMAX:
        total = sum(label[name] for label in labels)
        torch.testing.assert_close(got[name], total / C if name == "mean_std" else total, atol=1e-12, rtol=0)


def test_binary_model_has_uncertainty_and_a_prediction() -> None:
    got = oracle_scores(
        torch.tensor([[[4.0], [0.0], [-4.0]], [[-4.0], [0.0], [-4.0]]]), SOFTMAX, likelihood="bernoulli"
    )
    assert got["entropy"][0].item() == pytest.approx(LOG2)
    assert got["bald"][0] > 0.5
    assert got["prediction"].tolist() == [1, 1, 0]  # p̄ = 1/2 counts as present
    assert got["variation_ratio"].tolist() == [0.5, 0.0, 0.0]
    half = oracle_scores(torch.tensor([[[0.0]], [[-4.0]]]), ("variation_ratio",), likelihood="bernoulli")
    assert half["variation_ratio"].item() == 0.5  # so does p = 1/2 as a vote


def test_the_mean_is_of_probabilities_never_of_logits() -> None:
    logits = torch.tensor([[[9.0, 0.0]], [[0.0, 1.0]]])
    mean = torch.softmax(logits.double(), -1).mean(0)
    assert oracle_scores(logits, ["entropy"])["entropy"].item() == pytest.approx(-(mean * mean.log()).sum().item())


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-6])
def test_oracle_of_bald_keeps_its_digits_where_it_is_small(distance: float) -> None:
    passes = probabilities([0.5 + distance, 0.5 - distance], [0.5 - distance, 0.5 + distance])
    got = oracle_scores(passes, ["bald"], input="probs")["bald"].item()
    x = 2 * distance
    assert got == pytest.approx(x**2 / 2 + x**4 / 12, rel=1e-3)  # log 2 - H(1/2 + x/2), expanded


def test_gaussian_scores() -> None:
    means = torch.tensor([[1.0, 5.0], [3.0, 5.0]], dtype=torch.float64)
    variances = torch.tensor([[0.2, 1.0], [0.3, 1.0]], dtype=torch.float64)
    both = oracle_scores(torch.stack((means, variances.log()), -1), ("variance", "bald"), likelihood="gaussian")
    assert both["variance"].tolist() == [1.0, 0.0]
    torch.testing.assert_close(both["bald"], torch.tensor([0.5 * math.log(1 + 1 / 0.25), 0.0], dtype=torch.float64))
    assert both["prediction"].tolist() == [2.0, 5.0]
    known = oracle_scores(means[..., None], ("bald",), likelihood="gaussian", noise_variance=0.5)
    assert known["bald"].tolist() == [0.5 * math.log(3), 0.0]


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_finish_from_means_agrees_with_the_oracle(likelihood: str) -> None:
    p = torch.softmax(3 * torch.randn(9, 40, 6, dtype=torch.float64), -1)
    votes = (p >= 0.5) if likelihood == "bernoulli" else torch.nn.functional.one_hot(p.argmax(-1), 6)
    pairs = torch.stack((p, 1 - p), -1) if likelihood == "bernoulli" else p[..., None]
    means = {
        "p": p.mean(0),
        "p2": p.square().mean(0),
        "h": torch.special.entr(pairs).sum((-1, -2)).mean(0),
        "votes": votes.double().mean(0),
    }
    assert set(means) == set(LIKELIHOOD_MOMENTS[likelihood])
    expected = oracle_scores(p, SOFTMAX, likelihood=likelihood, input="probs")
    for name in SOFTMAX:
        needed = {key: means[key] for key in SCORES[name].moments if key in means}
        torch.testing.assert_close(SCORES[name].finish(needed, likelihood), expected[name], atol=1e-12, rtol=0)


def test_finish_from_gaussian_means_agrees_with_the_oracle() -> None:
    outputs = torch.randn(9, 40, 2, dtype=torch.float64)
    mu, noise = outputs[..., 0], outputs[..., 1].exp()
    means = {"mu": mu.mean(0), "var": mu.var(0, correction=0), "noise": noise.mean(0)}
    expected = oracle_scores(outputs, ("variance", "bald"), likelihood="gaussian")
    for name in ("variance", "bald"):
        torch.testing.assert_close(SCORES[name].finish(means, "gaussian"), expected[name])


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize("C", [2, 5])
def test_bounds_are_reached(likelihood: str, C: int) -> None:
    uniform = torch.full((C, 1, C), 1 / C if likelihood == "categorical" else 0.5, dtype=torch.float64)
    if likelihood == "categorical":
        certain = torch.eye(C, dtype=torch.float64)[:, None]  # pass c is sure of class c
    else:
        certain = torch.tensor([[[1.0] * C], [[0.0] * C]], dtype=torch.float64)
    high = {"expected_entropy": uniform}
    for name in SOFTMAX:
        low, up = SCORES[name].bounds(C, likelihood)
        sure = oracle_scores(certain[:1], [name], likelihood=likelihood, input="probs")[name].item()
        assert sure == pytest.approx(low, abs=1e-14), name
        top = oracle_scores(high.get(name, certain), [name], likelihood=likelihood, input="probs")[name].item()
        if name == "mean_std" and likelihood == "categorical":  # classes compete: 0.5 is reached by two only
            up = math.sqrt((1 / C) * (1 - 1 / C))
        assert top == pytest.approx(up, abs=1e-14), name


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_all_kinds_of_input_say_the_same(likelihood: str) -> None:
    logits = torch.randn(5, 8, 4, dtype=torch.float64)
    p = torch.softmax(logits, -1) if likelihood == "categorical" else torch.sigmoid(logits)
    expected = oracle_scores(logits, SOFTMAX, likelihood=likelihood)
    for input, outputs in (("probs", p), ("log_probs", p.log())):
        got = oracle_scores(outputs, SOFTMAX, likelihood=likelihood, input=input)
        for name in (*SOFTMAX, "prediction"):
            torch.testing.assert_close(got[name], expected[name])


def test_an_item_without_a_distribution_is_nan_and_no_other() -> None:
    nan, inf = math.nan, math.inf
    logits = torch.tensor([[[0.0, 1], [nan, 1], [inf, 1], [-inf, 1], [-inf, -inf]], [[1.0, 2]] * 5])
    softmax = oracle_scores(logits, SOFTMAX)
    sigmoid = oracle_scores(logits, SOFTMAX, likelihood="bernoulli")
    for name in SOFTMAX:
        assert softmax[name].isnan().tolist() == [False, True, True, False, True], name
        assert sigmoid[name].isnan().tolist() == [False, True, True, False, False], name
    assert softmax["prediction"].tolist() == [1, -1, -1, 1, -1]
    gaussian = oracle_scores(logits, ("bald",), likelihood="gaussian")
    assert gaussian["bald"].isnan().tolist() == [False, True, True, True, True]
    assert gaussian["prediction"].isnan().tolist() == [False, True, True, True, True]


def test_minus_infinity_is_probability_zero() -> None:
    wide = torch.randn(4, 3, 5)
    wide[..., 3:] = -math.inf
    got, expected = oracle_scores(wide, SOFTMAX), oracle_scores(wide[..., :3], SOFTMAX)
    for name in set(SOFTMAX) - {"mean_std"}:  # a mean over classes, two of them now 0
        torch.testing.assert_close(got[name], expected[name])


def test_dense_scores_are_pixel_scores_reduced() -> None:
    logits = torch.randn(4, 3, 5, 2, 6)
    one_by_one = oracle_scores(logits.movedim(2, -1).reshape(4, -1, 5), ["bald"])
    pixels = one_by_one["bald"].view(3, 12)
    for reduction, expected in (
        ("mean", pixels.mean(1)),
        ("max", pixels.amax(1)),
        (0.3, pixels.sort(descending=True).values[:, :4].mean(1)),  # ceil(0.3 * 12) = 4
        (1.0, pixels.mean(1)),
    ):
        got = oracle_scores(logits, ["bald"], reduction=reduction)
        torch.testing.assert_close(got["bald"], expected)
    assert got["prediction"].tolist() == one_by_one["prediction"].view(3, 12).mode(1).values.tolist()


def test_pixel_reductions_by_hand() -> None:
    scores = torch.tensor([[1.0, 4, 2, 3], [1, math.nan, 0, 0]])
    assert reduce_pixels(scores, 0.26)[0] == 3.5  # ceil(1.04) = 2 pixels
    for reduction in ("mean", "max", 0.25, 0.9):
        assert reduce_pixels(scores, reduction)[1].isnan()
    classes = torch.tensor([[2, 1, 1, 2], [0, 0, -1, 0]], dtype=torch.int32)
    assert reduce_predictions(classes, "categorical", 3).tolist() == [1, -1]  # a tie goes to the smallest class


def test_prediction_ties_go_to_the_smallest_class() -> None:
    assert predict(torch.tensor([[0.25, 0.375, 0.375]]), "categorical").tolist() == [1]
    assert predict(torch.tensor([[0.5], [0.49]]), "bernoulli").tolist() == [1, 0]


@pytest.mark.parametrize("reduction", ["median", 0.0, 1.5, -1, None])
def test_unknown_reductions_are_refused(reduction: object) -> None:
    with pytest.raises(ValueError, match=f"reduction .* got {re.escape(repr(reduction))}"):
        reduction_share(reduction)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scores", "likelihood", "noise", "message"),
    [
        (["bald"], "probit", None, "unknown likelihood 'probit'; choose from categorical, bernoulli, gaussian"),
        (
            ["bold"],
            "categorical",
            None,
            "unknown score 'bold'; choose from entropy, .*, mean_std, or add one: mcscore.register_score$",
        ),
        (
            ["variance"],
            "categorical",
            None,
            "'variance' is not defined for likelihood 'categorical'; choose from entropy",
        ),
        (
            ["entropy"],
            "gaussian",
            None,
            "'entropy' is not defined for likelihood 'gaussian'; choose from bald, variance",
        ),
        ("bald", "categorical", None, r"a sequence of names such as \('bald', 'entropy'\), got 'bald'"),
        ([], "categorical", None, "a sequence of names"),
        (["bald", "bald"], "categorical", None, "'bald' is asked for twice"),
        (["bald"], "categorical", 1.0, "noise_variance belongs to likelihood 'gaussian', not 'categorical'"),
        (["bald"], "gaussian", 0.0, "noise_variance must be positive and finite, got 0.0"),
    ],
)
def test_what_cannot_be_asked_is_named(scores: object, likelihood: str, noise: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_scores(scores, likelihood, noise)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "likelihood", "message"),
    [
        ((4, 5), "categorical", r"shape \(T, B, C\) or .*, got \(4, 5\)"),
        ((0, 5, 3), "categorical", r"no pass: shape \(0, 5, 3\) has T = 0"),
        ((4, 5, 1), "categorical", "use likelihood='bernoulli'"),
        ((4, 5, 0), "bernoulli", r"no class: shape \(4, 5, 0\)"),
        ((4, 5, 3, 0, 7), "categorical", r"no pixel: shape \(4, 5, 3, 0, 7\)"),
        ((4, 5, 3), "gaussian", "got C = 3"),
    ],
)
def test_shapes_that_fit_no_likelihood_are_refused(shape: tuple[int, ...], likelihood: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_shape(shape, likelihood)


def test_kinds_of_input_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown input 'odds'; choose from logits, log_probs, probs"):
        check_input("odds", "categorical")
    with pytest.raises(
        ValueError, match="likelihood 'gaussian' has no probabilities: input must be 'logits', got 'probs'"
    ):
        check_input("probs", "gaussian")


@pytest.mark.parametrize("noise", [None, 1.0])
def test_gaussian_bald_wants_exactly_one_noise(noise: float | None) -> None:
    width = 1 if noise is None else 2
    with pytest.raises(ValueError, match="noise_variance"):
        oracle_scores(torch.zeros(3, 2, width), ["bald"], likelihood="gaussian", noise_variance=noise)


def test_the_catalog_is_complete() -> None:
    assert " ".join(SCORES) == (
        "entropy expected_entropy bald least_confidence margin variation_ratio mean_std variance"
    )
    for name, score in SCORES.items():
        assert score.name == name
        assert re.search(r"\(.*\d{4}.*\)$", score.text), f"{name} names no source"
        for likelihood in score.likelihoods:
            assert set(needed_moments([name], likelihood)) <= set(LIKELIHOOD_MOMENTS[likelihood])
    assert needed_moments(["bald"], "categorical") == ("p", "h")
    assert needed_moments(["bald"], "gaussian") == ("mu", "var", "noise")
    assert needed_moments(["variance"], "gaussian") == ("mu", "var")


def test_naming_scores_needs_no_torch() -> None:
    code = "import sys; from mcscore.acquisition import SCORES, check_scores; check_scores(SCORES.keys() - {'variance'}, 'categorical')"
    subprocess.run([sys.executable, "-c", code + "; assert 'torch' not in sys.modules"], check=True)


def test_the_readme_lists_the_catalog() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r"^\| `(\w+)` \| .* \| ([\w, ]+) \|$", readme.split("### Scores")[1].split("\n### ")[0], re.M)
    )
    shown = {name: ", ".join(score.likelihoods) for name, score in SCORES.items()}
    shown["bald"] = "all"
    assert SCORES["bald"].likelihoods == LIKELIHOODS
    assert rows == shown
    assert list(rows) == list(SCORES)


def test_the_command_line_offers_the_catalog() -> None:
    from mcscore.cli.score import score

    asked = {option.name: option for option in score.params}
    assert ", ".join(SCORES) in asked["scores"].help
    assert tuple(asked["likelihood"].type.choices) == LIKELIHOODS
    assert tuple(asked["input"].type.choices) == INPUTS


def test_kernels_keep_the_order_of_the_catalog() -> None:
    assert list(SCORES)[: len(KERNEL_SCORES)] == list(KERNEL_SCORES)
    assert set(KERNEL_SCORES) == {name for name, score in SCORES.items() if "categorical" in score.likelihoods}


@pytest.mark.parametrize(
    ("scores", "likelihood", "shape", "message"),
    [
        (("variance",), "gaussian", (3, 2, 1), "score: likelihood must be one of categorical, bernoulli"),
        (("bald",), "categorical", (3, 2), r"\(T, B, C\), got \(3, 2\)"),
        (("bald",), "categorical", (3, 2, 1), "use likelihood='bernoulli'"),
        (("bald",), "categorical", (0, 2, 3), "hold no pass"),
        ((), "bernoulli", (3, 2, 0), "hold no class"),
        (("blad",), "bernoulli", (3, 2, 4), "unknown score 'blad'"),
    ],
)
def test_kernels_are_given_what_they_serve(
    scores: tuple[str, ...], likelihood: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_kernel_call("score", scores, likelihood, shape)


def test_kernels_take_any_scores_that_they_have() -> None:
    assert check_kernel_call("score", list(KERNEL_SCORES), "bernoulli", (1, 0, 1)) == KERNEL_SCORES
    assert check_kernel_call("score", (), "categorical", (1, 0, 2)) == ()
