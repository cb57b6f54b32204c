"""Scores of the user's own: what is registered computes what it says, wherever names of scores are taken."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mcscore
from mcscore import SCORES, Moments, Pool, Run, Scorer, register_score, score_logits, score_pool
from mcscore.acquisition import BUILT_IN, oracle_scores
from mcscore.likelihoods import GaussianSamples
from mcscore.recipe import Pickled
from mcscore.scorer.options import Execution

POWER = 2.0


def gini(means: dict[str, Tensor], _likelihood: str) -> Tensor:
    return 1 - means["p"].pow(POWER).sum(-1)


def widest(p_TBC: Tensor, _likelihood: str) -> Tensor:
    """The largest range over the passes of the probability of a class: of no moment."""
    return (p_TBC.amax(0) - p_TBC.amin(0)).amax(-1)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    for name in set(SCORES) - BUILT_IN:
        del SCORES[name]


def both() -> None:
    register_score("gini", finish=gini, moments=["p"], smooth=True, text="1 - sum of p squared")
    register_score("widest", widest)


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 4)).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(9, 7, 4), (9, 3, 4, 2, 5)])
def test_scores_are_those_of_their_definition(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    both()
    logits = 3 * torch.randn(*shape, dtype=dtype)
    logits[2, 1] = torch.nan
    names = ("widest", "bald", "gini")
    found, truth = score_logits(logits, names), oracle_scores(logits, names)
    for name in names:
        torch.testing.assert_close(found[name].double(), truth[name], rtol=1e-5, atol=1e-5, equal_nan=True)
    assert list(found) == [*names, "prediction"]
    assert found["prediction"].tolist() == truth["prediction"].tolist()
    alone = score_logits(logits, ("bald",))
    assert torch.equal(found["bald"].nan_to_num(), alone["bald"].nan_to_num())  # bit for bit
    streamed = Moments(("gini",)).update(logits[:4]).update(logits[4:]).compute()
    torch.testing.assert_close(streamed["gini"], found["gini"], equal_nan=True)


def test_errors_come_from_moments_and_not_from_an_oracle() -> None:
    both()
    logits = torch.randn(20, 5, 4)
    found = score_logits(logits, ("gini", "bald"), errors=True)
    assert list(found) == ["gini", "bald", "gini_se", "bald_se", "gini_bias", "bald_bias", "prediction"]
    torch.testing.assert_close(found["gini_se"], Moments(("gini",), errors=True).update(logits).compute()["gini_se"])
    plain = score_logits(logits, ("bald",), errors=True)
    assert torch.equal(found["bald_se"], plain["bald_se"])
    told = "no standard error of score 'widest': it was registered by its oracle alone"
    with pytest.raises(ValueError, match=told):
        score_logits(logits, ("widest",), errors=True)
    with pytest.raises(ValueError, match=told):
        Scorer(mlp(), 5, ("widest",), errors=True)
    with pytest.raises(ValueError, match="a stream of passes cannot make values of score 'widest'"):
        Moments(("widest",))


def test_a_scorer_computes_them_from_its_passes_in_steps_of_any_size() -> None:
    both()
    x = torch.randn(7, 6)
    for memory in (1, 1 << 26):
        scorer = Scorer(mlp(), 40, ("gini", "widest", "bald"), execution=Execution(memory=memory))
        with (
            pytest.warns(UserWarning, match="'widest' is computed from the outputs of all passes")
            if memory == 1
            else _quiet()
        ):
            found = scorer(x)
        truth = oracle_scores(scorer.samples(x), ("gini", "widest"))
        for name, values in truth.items():
            torch.testing.assert_close(found[name].double(), values.double(), rtol=1e-4, atol=1e-5)
        predicted = scorer.predict(x).scores
        assert list(predicted) == list(found)
        torch.testing.assert_close(predicted["widest"], found["widest"])


def _quiet() -> object:
    import contextlib

    return contextlib.nullcontext()


def test_a_run_has_them_selects_by_them_and_knows_their_code(tmp_path: Path) -> None:
    both()
    pool = Pool.create(tmp_path / "pool", np.random.default_rng(0).random((40, 6), np.float32))
    scorer = Scorer(mlp(), 8, ("gini", "bald"), errors=True)
    run = score_pool(pool, scorer, tmp_path / "run", check="off")
    assert run.meta["own_scores"] == {"gini": {"moments": ["p"], "smooth": True}}
    chosen = run.select(3, by="gini", diversity="none")
    assert chosen.scores.tolist() == sorted(run.scores("gini").tolist(), reverse=True)[:3]
    assert {"score gini: source of gini test_own_scores.py", "score gini: value of POWER test_own_scores.py"} <= {
        f"{name} {what.partition(' ')[2]}" for name, what in run.meta["model"]["code"].items()
    }
    del SCORES["gini"]  # as in another process
    again = Run.open(tmp_path / "run")
    assert again.columns == ("gini", "bald", "gini_se", "bald_se", "gini_bias", "bald_bias")
    assert np.array_equal(again.scores("gini"), run.scores("gini"))
    assert len(again.select(3, by="gini", diversity="k-center", scorer=Scorer(mlp(), 8), pool=pool)) == 3
    register_score("gini", finish=lambda means, _: 1 - means["p"].amax(-1), moments=["p"], smooth=True)
    with pytest.raises(
        mcscore.RunError, match=r"scored with other code: score gini: function; score gini: source of gini"
    ):
        score_pool(pool, scorer, tmp_path / "run", check="off")


def test_a_copy_of_a_scorer_takes_them_to_another_process() -> None:
    both()
    x = torch.randn(5, 6)
    scorer = Scorer(mlp(), 8, ("gini", "widest"))
    copied = pickle.loads(pickle.dumps(Pickled.of(scorer)))
    SCORES.pop("gini"), SCORES.pop("widest")
    found = copied.build("cpu")(x)
    assert "gini" in SCORES
    for name, values in scorer(x).items():
        assert torch.equal(values, found[name])


def test_gaussian_scores_have_their_noise() -> None:
    def share(means: dict[str, Tensor], _likelihood: str) -> Tensor:
        return means["var"] / (means["var"] + means["noise"])

    def share_oracle(samples: GaussianSamples, _likelihood: str) -> Tensor:
        variance = samples.mean_TB.var(0, correction=0)
        return variance / (variance + samples.noise_B())

    register_score(
        "share", share_oracle, share, moments=["var", "noise"], likelihoods=["gaussian"], bounds=lambda *_: (0, 1)
    )
    outputs = torch.randn(6, 5, 2)
    found = score_logits(outputs, ("share",), likelihood="gaussian")["share"]
    torch.testing.assert_close(
        found.double(), oracle_scores(outputs, ("share",), "gaussian")["share"], rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="score 'share' with likelihood 'gaussian' needs the noise"):
        score_logits(outputs[..., :1], ("share",), likelihood="gaussian")
    with pytest.raises(ValueError, match="'share' is not defined for likelihood 'categorical'"):
        score_logits(outputs, ("share",))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "bald", "oracle": widest}, "'bald' is one of the package's own"),
        ({"name": "my score", "oracle": widest}, "'my score' cannot be a score's"),
        ({"name": "x_se", "oracle": widest}, "not end in _se"),
        ({"name": "x"}, "'x' has no function: give finish, oracle or both"),
        (
            {"name": "x", "finish": gini, "moments": ["p2"]},
            r"finish of score 'x' reads 'p', which is not among moments=\['p2'\]",
        ),
        (
            {"name": "x", "finish": gini, "moments": ["p3"]},
            "moments of score 'x' must be names out of p, p2, h, votes, got 'p3'",
        ),
        ({"name": "x", "oracle": widest, "likelihoods": "categorical"}, "likelihoods must be names out of"),
        (
            {"name": "x", "oracle": lambda p, _: p.mean(0)},
            r"must return a tensor of floats of shape \(B,\).*torch.float64 \(5, 3\)",
        ),
        ({"name": "x", "oracle": lambda p, _: p.amax(0).sum(-1) - p[..., 0].mean()}, "oracle of score 'x' mixes items"),
        (
            {"name": "x", "oracle": lambda p, _: p.nothing},
            "fails on an example of 7 passes and 5 items .*AttributeError",
        ),
        ({"name": "x", "oracle": widest, "bounds": lambda *_: (0.9, 1.0)}, r"leaves its bounds 0.9..1.0"),
        ({"name": "x", "oracle": widest, "finish": gini, "moments": ["p"]}, "oracle and finish of score 'x' differ"),
    ],
)
def test_what_cannot_be_a_score_is_refused(given: dict, told: str) -> None:
    before = dict(SCORES)
    with pytest.raises(ValueError, match=told):
        register_score(**given)
    assert before == SCORES


def test_a_name_is_taken_by_other_code_only_if_that_is_asked_for() -> None:
    first = register_score("gini", finish=gini, moments=["p"])
    assert register_score("gini", finish=gini, moments=["p"]) is not first  # the cell is run again
    with pytest.raises(ValueError, match=r"'gini' is registered already, with other code: .*replace=True"):
        register_score("gini", widest)
    assert register_score("gini", widest, replace=True) is SCORES["gini"]
    assert SCORES["gini"].bounds(3, "categorical") == (-math.inf, math.inf)
