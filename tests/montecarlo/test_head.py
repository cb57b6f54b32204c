"""Models that end in dropout and Linear: one forward pass and one kernel give the scores of T passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mcscore import Scorer
from mcscore.acquisition import oracle_scores
from mcscore.cli.model import grouped
from mcscore.kernels import head, native
from mcscore.masks import MaskSpec, rate
from mcscore.montecarlo import Strategy

ALL = ("entropy", "expected_entropy", "bald", "least_confidence", "margin", "variation_ratio", "mean_std")
pytestmark = pytest.mark.skipif(not native.available()[0], reason="the native extension is not built")


class Net(nn.Module):
    def __init__(self, classes=5, p=0.3, after=lambda y: y):
        super().__init__()
        self.body, self.drop, self.out = nn.Linear(6, 40), nn.Dropout(p), nn.Linear(40, classes)
        self.after = after

    def forward(self, x):
        return self.after(self.out(self.drop(torch.relu(self.body(x)))))


def scored(model, x, T=70, ids=None, **settings):
    scorer = Scorer(model.eval(), T, **grouped(**{"scores": ALL, **settings}))
    ids = np.arange(len(x)) * 3 + 2**40 if ids is None else ids
    return scorer, scorer(x, ids), torch.as_tensor(ids)


def oracle(scorer, x, ids, **settings):
    logits_TBC = torch.cat(list(scorer.steps.passes.chunks(x, ids, [torch.arange(scorer.passes)], Strategy("loop"))))
    return oracle_scores(logits_TBC.double(), scorer.scores, **settings)


@pytest.mark.parametrize(
    ("classes", "likelihood"),
    [(2, "categorical"), (5, "categorical"), (33, "categorical"), (1, "bernoulli"), (7, "bernoulli")],
)
@pytest.mark.parametrize("masks", ["independent", "shared"])
@pytest.mark.parametrize("T", [1, 70, 300])
def test_scores_are_those_of_one_pass_after_another(classes, likelihood, masks, T):
    torch.manual_seed(0)
    scores = ("entropy", "bald") if likelihood == "bernoulli" else ALL
    x = torch.randn(9, 6)
    scorer, got, ids = scored(Net(classes), x, T, masks=masks, likelihood=likelihood, scores=scores)
    assert scorer.describe()["plan"]["path"] == "head"
    expected = oracle(scorer, x, ids, likelihood=likelihood)
    for name in scores:
        torch.testing.assert_close(got[name].double(), expected[name], rtol=0, atol=3e-6)
    if T > 1:
        assert got["bald"].max() > 1e-3


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Net(after=lambda y: 2 * y), {}),
        (Net(after=lambda y: torch.log_softmax(y, -1)), {"input": "log_probs"}),
        (Net(2), {"likelihood": "gaussian", "scores": ("variance",)}),
        (nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)), {}),
        (nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3)), {}),
    ],
)
def test_other_ends_take_other_paths(model, settings):
    torch.manual_seed(0)
    scorer, _, _ = scored(model, torch.randn(4, 6), **settings)
    assert scorer.describe()["plan"]["path"] == "vmap"


def test_one_site_of_two_left_on_before_the_last_linear():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    x = torch.randn(4, 6)
    scorer, got, ids = scored(model, x, sites=[1])
    assert scorer.describe()["plan"]["path"] == "head"
    torch.testing.assert_close(got["bald"].double(), oracle(scorer, x, ids)["bald"], rtol=0, atol=3e-6)


class SometimesMore(Net):
    """For batches with a large value its output is another one."""

    def forward(self, x):
        factor = 3 if x.max() > 5 else None
        y = super().forward(x)
        return y if factor is None else factor * y


def test_a_batch_that_ends_otherwise_is_scored_pass_by_pass():
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    scorer, got, ids = scored(SometimesMore(), x)
    assert scorer.describe()["plan"]["path"] == "head"
    large = x.clone()
    large[0, 0] = 9.0
    with pytest.warns(UserWarning, match="but not for all: batches in which it does not"):
        other = scorer(large, ids)
    torch.testing.assert_close(other["bald"].double(), oracle(scorer, large, ids)["bald"], rtol=0, atol=3e-6)
    torch.testing.assert_close(scorer(x, ids)["bald"], got["bald"], rtol=0, atol=0)


def test_items_that_are_not_finite_are_marked():
    torch.manual_seed(0)
    x = torch.randn(9, 6)
    x[4, 2] = float("nan")
    _, got, _ = scored(Net(), x)
    assert got["bald"].isnan().nonzero().flatten().tolist() == [4]
    assert got["prediction"][4] == -1


def test_the_reference_is_the_kernel():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(7, 33), torch.randn(4, 33), torch.randn(4)
    spec = MaskSpec(2**64 - 1, 3, torch.arange(20), torch.arange(7), rate(0.3))
    ours, truth = (
        of(x, spec, weight, bias, ALL, likelihood="categorical") for of in (head.dropout_head, head.reference)
    )
    for name in ALL:
        torch.testing.assert_close(ours[name], truth[name], rtol=0, atol=3e-6)
    assert torch.equal(ours["prediction"], truth["prediction"])


@pytest.mark.parametrize(
    ("classes", "dtypes", "expected"),
    [
        (128, (torch.float16, torch.float16), True),
        (20_000, (torch.bfloat16, torch.bfloat16), True),
        (10, (torch.float16, torch.float32), False),
        (10, (torch.float64, torch.float64), False),
    ],
)
def test_on_a_gpu_only_what_its_kernel_takes_is_given_to_it(monkeypatch, classes, dtypes, expected):
    pytest.importorskip("triton")
    monkeypatch.setattr(head.backends, "select", lambda _device: "triton")
    x, weight = torch.zeros(2, 8, dtype=dtypes[0]), torch.zeros(classes, 8, dtype=dtypes[1])
    assert head.fits(x, weight, 0.5, "categorical", "logits") is expected
    assert head.fits(x, weight, 0.5, "gaussian", "logits") is False
