"""What the passes give, for those who want it: their outputs, and the mean prediction; ids may be left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mcscore import Scorer
from mcscore.acquisition import oracle_scores
from mcscore.cli.model import grouped

ALL = ("entropy", "bald", "variation_ratio")


def mlp(dropouts: int = 2, outputs: int = 5) -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Dropout(0.3)] if dropouts == 2 else []
    return nn.Sequential(*first, nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, outputs)).eval()


@pytest.mark.parametrize("dropouts", [1, 2], ids=["head", "vmap"])
@pytest.mark.parametrize("memory", [1, 1 << 26], ids=["one at a time", "all at once"])
def test_scores_are_those_of_the_samples(dropouts: int, memory: int) -> None:
    x, ids = torch.randn(7, 8), np.array([3, 1, 99, 0, 7, 2**40, 5])
    scorer = Scorer(mlp(dropouts), 70, ALL, **grouped(memory=memory))
    logits_TBC = scorer.samples(x, ids)
    assert logits_TBC.shape == (70, 7, 5)
    truth = oracle_scores(logits_TBC.double(), ALL)
    scores = scorer(x, ids)
    for name in ALL:
        torch.testing.assert_close(scores[name].double(), truth[name], rtol=1e-4, atol=1e-5)
    found = scorer.predict(x, ids)
    p_TBC = scorer.samples(x, ids, probabilities=True)
    torch.testing.assert_close(p_TBC, logits_TBC.double().softmax(-1))
    torch.testing.assert_close(found.mean, p_TBC.mean(0), rtol=1e-5, atol=1e-6)
    for name, values in scores.items():
        torch.testing.assert_close(found.scores[name], values, rtol=1e-4, atol=1e-5)
    assert (found.variance, found.noise) == (None, None)


def test_samples_are_functions_of_seed_and_id() -> None:
    x = torch.randn(4, 8)
    scorer = Scorer(mlp(), 9, seed=3)
    whole = scorer.samples(x, [4, 5, 6, 7])
    torch.testing.assert_close(scorer.samples(x[2:], [6, 7]), whole[:, 2:], rtol=1e-5, atol=1e-6)
    assert not torch.equal(Scorer(mlp(), 9, seed=4).samples(x, [4, 5, 6, 7]), whole)


def test_the_mean_prediction_of_labels_and_of_numbers() -> None:
    x = torch.randn(6, 8)
    labels = Scorer(mlp(outputs=3), 30, ("entropy",), likelihood="bernoulli")
    truth = labels.samples(x).double().sigmoid().mean(0)
    torch.testing.assert_close(labels.predict(x).mean, truth, rtol=1e-5, atol=1e-6)
    numbers = Scorer(mlp(outputs=2), 30, ("variance",), likelihood="gaussian", errors=True)
    found, outputs = numbers.predict(x), numbers.samples(x).double()
    torch.testing.assert_close(found.mean, outputs[:, :, 0].mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.variance, outputs[:, :, 0].var(0, correction=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.noise, outputs[:, :, 1].exp().mean(0), rtol=1e-5, atol=1e-6)
    assert list(found.scores) == ["variance", "variance_se", "variance_bias", "prediction"]
    for name, values in numbers(x).items():
        torch.testing.assert_close(found.scores[name], values, rtol=1e-4, atol=1e-6)
    known = Scorer(mlp(outputs=1), 30, ("bald",), likelihood="gaussian", noise_variance=0.25)
    assert known.predict(x).noise.tolist() == [0.25] * 6
    assert Scorer(mlp(outputs=1), 30, ("variance",), likelihood="gaussian").predict(x).noise is None


def test_an_item_that_is_not_finite_has_no_prediction() -> None:
    x = torch.randn(4, 8)
    x[1] = torch.nan
    found = Scorer(mlp(), 8).predict(x)
    assert found.mean.isnan().all(1).tolist() == [False, True, False, False] == found.scores["bald"].isnan().tolist()


def test_ids_that_are_left_out_are_row_numbers() -> None:
    x = torch.randn(5, 8)
    scorer = Scorer(mlp(), 20)
    assert torch.equal(scorer(x)["bald"], scorer(x, np.arange(5))["bald"])


@pytest.mark.parametrize("method", ["samples", "predict"])
def test_no_item_has_no_outputs(method: str) -> None:
    with pytest.raises(ValueError, match=f"{method} needs at least one item"):
        getattr(Scorer(mlp(), 5), method)(torch.empty(0, 8))
