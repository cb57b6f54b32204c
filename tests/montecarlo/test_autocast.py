"""bfloat16: the ranking stays, or the model stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from mcscore import Execution, Scorer
from mcscore.montecarlo import autocast as precision

from .zoo import ZOO


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_that_of_scipy(ties):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(size=50)
    b = a + b
    if ties:
        a, b = a.round(0), b.round(0)
    assert precision.spearman(torch.tensor(a), torch.tensor(b)) == pytest.approx(stats.spearmanr(a, b).statistic)
    b[3] = np.nan
    rest = np.delete(a, 3), np.delete(b, 3)
    assert precision.spearman(torch.tensor(a), torch.tensor(b)) == pytest.approx(stats.spearmanr(*rest).statistic)


@pytest.mark.parametrize("name", ZOO)
def test_every_model_runs_in_bfloat16_and_keeps_its_ranking(name):
    make, data = ZOO[name]
    torch.manual_seed(0)
    model, x = make().eval(), data(48)
    likelihood = "gaussian" if name == "two-heads" else "categorical"
    exact = Scorer(model, 20, ("bald",), likelihood=likelihood)(x, np.arange(48))["bald"]
    scorer = Scorer(model, 20, ("bald",), likelihood=likelihood, execution=Execution(dtype="bfloat16"))
    rounded = scorer(x, np.arange(48))["bald"]
    assert not torch.equal(rounded, exact)
    # resnet-blocks is made with random weights whose BALD of 3e-6 is itself a rounding
    assert precision.spearman(exact, rounded) > (0.9 if name == "resnet-blocks" else 0.99)
    assert scorer.describe()["plan"]["autocast"] == "bfloat16"
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_auto_takes_bfloat16_where_it_is_fast_and_says_what_it_measured(monkeypatch):
    monkeypatch.setattr(precision, "_fast_bfloat16", lambda _device: (True, ""))
    make, data = ZOO["gal-cnn"]
    torch.manual_seed(0)
    model, x = make().eval(), data(64)
    scorer = Scorer(model, 20, execution=Execution(dtype="auto"))
    with pytest.warns(
        UserWarning, match=r"dtype='auto' takes bfloat16: Spearman .* against float32 0\.99\d\d on the first 64 items"
    ):
        scores = scorer(x, np.arange(64))
    assert "precision: bfloat16 (Spearman" in scorer.plan(x)
    asked = Scorer(model, 20, execution=Execution(dtype="bfloat16"))(x, np.arange(64))
    assert torch.equal(scores["bald"], asked["bald"])
    again = Scorer(model, 20, execution=Execution(dtype="auto"))
    again.prepare(x[:3], np.arange(3), plan=scorer.describe()["plan"])  # a recorded choice is not made again
    assert torch.equal(again(x, np.arange(64))["bald"], asked["bald"])


class LargeLogits(nn.Module):
    """bfloat16 tells 1000 from 1008: all that matters is lost."""

    def __init__(self):
        super().__init__()
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x):
        return (self.out(torch.relu(self.drop(x))) + 1000.0) @ torch.eye(3)


def test_auto_keeps_float32_where_the_ranking_would_go(monkeypatch):
    monkeypatch.setattr(precision, "_fast_bfloat16", lambda _device: (True, ""))
    torch.manual_seed(0)
    model, x = LargeLogits().eval(), torch.randn(64, 6)
    exact = Scorer(model, 20)(x, np.arange(64))
    scorer = Scorer(model, 20, execution=Execution(dtype="auto"))
    with pytest.warns(UserWarning, match=r"takes float32: Spearman .*, under 0\.99"):
        scores = scorer(x, np.arange(64))
    assert torch.equal(scores["bald"], exact["bald"])
    few = Scorer(model, 20, execution=Execution(dtype="auto"))
    with pytest.warns(UserWarning, match="takes float32: the ranking of 5 items says too little"):
        few(x[:5], np.arange(5))


def test_auto_asks_the_hardware_first(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precision.choose(torch.device("cpu"), lambda _: pytest.fail("not measured")) == (
        "",
        "this processor has no bfloat16 instructions",
    )


class OnlyFloat32(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x):
        y = self.out(torch.relu(self.drop(x)))
        if y.dtype != torch.float32:
            raise RuntimeError("no kernel for this dtype")
        return y


def test_a_model_that_cannot_is_named(monkeypatch):
    model, x = OnlyFloat32().eval(), torch.randn(64, 6)
    with pytest.raises(
        precision.PrecisionError, match=r"OnlyFloat32 does not run in bfloat16 on cpu .*no kernel for this dtype"
    ):
        Scorer(model, 20, execution=Execution(dtype="bfloat16"))(x, np.arange(64))
    monkeypatch.setattr(precision, "_fast_bfloat16", lambda _device: (True, ""))
    with pytest.warns(UserWarning, match="takes float32: OnlyFloat32 does not run"):
        Scorer(model, 20, execution=Execution(dtype="auto"))(x, np.arange(64))
    with pytest.raises(ValueError, match="dtype must be 'model'"):
        Scorer(model, execution=Execution(dtype="float8"))


def test_channels_last_changes_the_format_and_not_the_scores():
    make, data = ZOO["gal-cnn"]
    torch.manual_seed(0)
    model, x = make().eval(), torch.cat([data(8)] * 3, 1)
    model.conv1 = nn.Conv2d(3, 4, 4)
    seen = []
    model.conv1.register_forward_hook(
        lambda _m, inputs, _o: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    scores = Scorer(model, 20, execution=Execution(channels_last=True))(x, np.arange(8))
    assert all(seen)
    expected = Scorer(model, 20)(x, np.arange(8))
    assert not seen[-1]
    torch.testing.assert_close(scores["bald"], expected["bald"], rtol=0, atol=2e-6)
