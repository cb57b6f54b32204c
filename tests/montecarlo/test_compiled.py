"""The tail under torch.compile gives the same scores; where it cannot, that is said and the scores are still right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mcscore import Execution, Scorer

from .zoo import ZOO


@pytest.fixture(scope="module", autouse=True)
def _compiler():
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        pytest.skip(f"torch.compile has no C++ compiler here: {error}")


@pytest.mark.parametrize("name", ["mlp", "resnet-blocks", "lstm"])
def test_scores_are_those_without(name):
    make, data = ZOO[name]
    torch.manual_seed(0)
    model, x, ids = make().eval(), data(24), np.arange(24)
    plain = Scorer(model, 10, execution=Execution(memory=1))  # one item and one pass at a time
    plain.prepare(x, ids)
    step = {**plain.describe()["plan"], "items": 8, "passes": 4}  # chunks of 4, 4 and 2 passes
    plain.prepare(x, ids, plan=step)
    compiled = Scorer(model, 10, execution=Execution(compile=True))
    compiled.prepare(x, ids, plan=step)
    got, expected = compiled(x, ids), plain(x, ids)
    assert compiled.steps.passes._compiled is not None
    for key in got:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-4, atol=2e-6)
    other = compiled(x.flip(0), ids + 100)
    torch.testing.assert_close(other["bald"], plain(x.flip(0), ids + 100)["bald"], rtol=1e-4, atol=2e-6)
    partly = compiled(x[:11], ids[:11])  # a full step and three items
    torch.testing.assert_close(partly["bald"], expected["bald"][:11], rtol=1e-4, atol=2e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(compiled(x, ids)["bald"], plain(x, ids)["bald"], rtol=1e-4, atol=2e-6)


class Asks(nn.Module):
    """A branch on the data before any dropout: right with vmap, impossible to record."""

    def __init__(self):
        super().__init__()
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x):
        if x.sum() > 1e9:
            x = -x
        return torch.tanh(self.out(self.drop(x)))


def test_a_model_that_cannot_be_compiled_is_scored_without():
    torch.manual_seed(0)
    model, x, ids = Asks().eval(), torch.randn(16, 6), np.arange(16)
    plain = Scorer(model, 10)
    expected = plain(x, ids)
    step = {**plain.describe()["plan"], "items": 8}
    compiled = Scorer(model, 10, execution=Execution(compile=True))
    compiled.prepare(x, ids, plan=step)
    with pytest.warns(UserWarning, match="Asks runs without torch.compile"):
        got = compiled(x, ids)
    torch.testing.assert_close(got["bald"], expected["bald"], rtol=0, atol=2e-6)


def test_batches_below_a_step_are_said_to_run_without():
    make, data = ZOO["mlp"]
    with pytest.warns(UserWarning, match=r"compile=True compiles steps of \d+ items; batches of 5 run uncompiled"):
        Scorer(make().eval(), 10, execution=Execution(compile=True))(data(5), np.arange(5))
