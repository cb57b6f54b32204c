"""A Scorer's standard errors: those of its passes on every path, beside scores that keep every bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mcscore import Execution, Scorer
from mcscore.jackknife import columns, oracle_errors
from mcscore.run.schema import Settings

NAMES = ("bald", "entropy", "margin", "mean_std")


def model_for(path: str) -> nn.Module:
    torch.manual_seed(3)
    if path == "head":
        return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Dropout(0.5), nn.Linear(40, 5))
    return nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 40), nn.ReLU(), nn.Dropout(0.5), nn.Linear(40, 5))


@pytest.mark.parametrize("path", ["head", "vmap"])
@pytest.mark.parametrize("memory", [1 << 30, 20_000])
@pytest.mark.parametrize("passes", [2, 33, 100])
def test_errors_are_those_of_the_passes(path: str, memory: int, passes: int) -> None:
    items = torch.randn(23, 6)
    plain = Scorer(model_for(path), passes, NAMES, execution=Execution(memory=memory))
    scorer = Scorer(model_for(path), passes, NAMES, errors=True, execution=Execution(memory=memory))
    scores, got = plain(items), scorer(items)
    assert scorer.recorded_plan["path"] == path
    assert list(got) == [*columns(NAMES, True), "prediction"]
    assert all(torch.equal(got[name], values) for name, values in scores.items())
    for name, expected in oracle_errors(scorer.samples(items), NAMES).items():
        # Of two passes the errors of BALD cancel to 0, up to a tenth of it (csrc/errors.h).
        atol = 0.1 * float(scores["bald"].max()) if passes == 2 else 2e-5
        torch.testing.assert_close(got[name].double(), expected, rtol=2e-2, atol=atol)


def test_no_items_have_no_errors() -> None:
    got = Scorer(model_for("head"), 20, ("bald",), errors=True)(torch.randn(0, 6))
    assert {name: tuple(values.shape) for name, values in got.items()} == dict.fromkeys(
        ("bald", "bald_se", "bald_bias", "prediction"), (0,)
    )


def test_errors_are_recorded_and_need_two_passes() -> None:
    for errors in (False, True):
        assert Settings.of_scorer(Scorer(model_for("head"), 20, errors=errors).describe()).errors is errors
    with pytest.raises(ValueError, match="a standard error needs at least 2 passes, got 1"):
        Scorer(model_for("head"), 1, errors=True)
