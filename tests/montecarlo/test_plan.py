"""What a plan counts, and how it reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mcscore import Execution, Scorer
from mcscore.montecarlo import Passes
from mcscore.montecarlo.discovery import discover
from mcscore.montecarlo.plan import make_plan

from .zoo import ZOO


def planned(model, x, T=100, memory=64 << 20):
    passes = Passes(model.eval(), discover(model, x[:2], x[:3]), seed=0, shared=False)
    return make_plan(passes, x[:3], torch.arange(3), T, memory)


def test_flops_are_those_of_the_products():
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))
    plan = planned(model, torch.randn(4, 6))
    assert (plan.prefix_flops, plan.tail_flops) == (2 * 6 * 8, 2 * 8 * 3)


def test_flops_of_recurrent_layers_are_counted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = nn.LSTM(5, 10, num_layers=2, dropout=0.3, batch_first=True), nn.Linear(10, 3)

        def forward(self, x):
            return self.out(self.rnn(x)[0][:, -1])

    plan = planned(Net(), torch.randn(4, 7, 5))
    assert plan.prefix_flops == 2 * 7 * 40 * (5 + 10)
    assert plan.tail_flops == 2 * 7 * 40 * (10 + 10) + 2 * 10 * 3


def test_steps_fill_the_budget_and_chunks_are_even():
    model = nn.Sequential(nn.Linear(10, 1000), nn.Dropout(0.5), nn.ReLU(), nn.Linear(1000, 10))
    x = torch.randn(4, 10)
    plan = planned(model, x, T=100, memory=1 << 19)
    assert plan.items == 1
    assert plan.passes < 100
    assert plan.passes == -(-100 // -(-100 // plan.passes))
    assert plan.memory <= 1 << 19
    assert planned(model, x, T=100, memory=16 << 20).passes == 100


def test_an_image_model_with_a_class_token_is_planned():
    """Its token is an expanded Parameter, which PyTorch's own counter of FLOPs trips over when it goes straight into a module."""
    make, data = ZOO["decoder"]
    plan = planned(make(), data(4))
    assert plan.path == "vmap"
    assert plan.tail_flops > 0


@pytest.mark.parametrize("name", ZOO)
def test_the_plan_of_every_model_reads_well(name):
    make, data = ZOO[name]
    likelihood = "gaussian" if name == "two-heads" else "categorical"
    score = "variance" if name == "two-heads" else "entropy"
    scorer = Scorer(make().eval(), 50, (score,), likelihood=likelihood, execution=Execution(compile=True))
    text = scorer.plan(data(5))
    for site in scorer.steps.passes.found.sites:
        (line,) = (line for line in text.splitlines() if line.split()[:1] == [str(site.index)])
        assert f"{site.p:.3g}" in line
        assert " yes " in line
        assert site.kind in line
        assert site.name in line
    assert "path: " in text
    assert "torch.compile: " in text
    assert "MiB of activations per step" in text
    if scorer.steps.passes.found.idle:
        assert "never drop (p = 0, or training=False): " in text
