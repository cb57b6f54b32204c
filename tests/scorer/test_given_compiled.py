"""A model that is given under torch.compile is run like that, by compilation of mcscore's own, and stays as it was."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from mcscore import Execution, Scorer
from mcscore.kernels import backends


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_said", set())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 17), nn.Tanh(), nn.Dropout(0.4))
        self.out = nn.Linear(17, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.out(self.body(x)))


def wrapper(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def part_wrapped(model: nn.Module) -> nn.Module:
    model.body = torch.compile(model.body, backend="eager")
    return model


def part_in_place(model: nn.Module) -> nn.Module:
    model.body.compile(backend="eager")
    return model


@pytest.mark.parametrize("given", [wrapper, in_place, part_wrapped, part_in_place])
def test_its_passes_are_compiled_and_it_stays_compiled(given: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    plain, x = Net().eval(), torch.randn(13, 6)
    model = given(copy.deepcopy(plain))
    impls = [(vars(module).get("_compiled_call_impl"), vars(module).get("forward")) for module in model.modules()]
    with pytest.warns(
        UserWarning, match=r"Net is given under torch.compile: its passes run as with Execution\(compile=True\)"
    ):
        scorer = Scorer(model, 20)
    assert scorer.execution.compile
    assert scorer.describe()["compile"]
    expected = Scorer(plain, 20)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compile=True compiles steps")
        assert torch.equal(scorer(x)["bald"], expected(x)["bald"])
        assert torch.equal(scorer.samples(x), expected.samples(x))
        assert torch.equal(scorer.predict(x).mean, expected.predict(x).mean)
    assert (scorer.embed(x) == expected.embed(x)).all()
    assert impls == [
        (vars(module).get("_compiled_call_impl"), vars(module).get("forward")) for module in model.modules()
    ]
    torch.testing.assert_close(model(x), plain(x))


def test_a_model_that_raises_stays_compiled() -> None:
    model = in_place(Net().eval())
    with pytest.warns(UserWarning, match="under torch.compile"):
        scorer = Scorer(model, 20)
    impl = model._compiled_call_impl
    scorer.prepare(torch.randn(5, 6))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        scorer(torch.randn(5, 7))
    assert model._compiled_call_impl is impl is not None


def test_nothing_is_said_where_compilation_was_asked_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Scorer(wrapper(Net().eval()), 20, execution=Execution(compile=True)).execution.compile
        assert not Scorer(Net().eval(), 20).execution.compile


def test_hooks_of_the_wrapper_are_refused() -> None:
    model = wrapper(Net().eval())
    model.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    with pytest.raises(
        TypeError, match="wrapper has forward hooks, which would not run: register them on the module inside"
    ):
        Scorer(model, 20)
