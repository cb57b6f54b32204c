"""Models that end in dropout and Linear, under torch.compile: the forward pass up to the dropout is compiled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mcscore import Execution, Scorer
from mcscore.montecarlo.compiled import CompiledHead, CompiledPasses

from .test_compiled import _compiler  # noqa: F401


def cnn() -> nn.Module:
    convolutions = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 7, 3), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Dropout(0.4), nn.Linear(7 * 5 * 3, 4)).eval()


def normed() -> nn.Module:
    """The weight of the last Linear is computed from others in every forward pass."""
    last = nn.utils.parametrizations.weight_norm(nn.Linear(11, 3, bias=False))
    return nn.Sequential(nn.Linear(12, 11), nn.Tanh(), nn.Dropout(0.3), last).eval()


def given() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"cnn": torch.randn(23, 3, 9, 7, generator=generator), "normed": torch.randn(23, 12, generator=generator)}


MODELS = {"cnn": cnn, "normed": normed}


def prepared(model: nn.Module, x: torch.Tensor, items: int, path: str = "head", **execution: object) -> Scorer:
    scorer = Scorer(model, 10, ("bald", "entropy"), execution=Execution(**execution))
    plan = scorer.prepare(x)
    assert plan["path"] == path
    scorer.prepare(x, plan={**plan, "items": items})
    return scorer


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_scores_are_those_without_also_after_weights_change_in_place(name: str, dtype: str | None) -> None:
    torch.manual_seed(0)
    model, x, ids = MODELS[name](), given()[name], np.arange(23) * 7
    plain, compiled = (prepared(model, x, 10, compile=compiled, dtype=dtype) for compiled in (False, True))
    close = {"rtol": 1e-4, "atol": 2e-6} if dtype is None else {"rtol": 0, "atol": 5e-3}
    before = None
    for _ in range(2):
        got, expected = compiled(x, ids), plain(x, ids)  # steps of 10, 10 and 3 items
        for score in ("bald", "entropy"):
            torch.testing.assert_close(got[score], expected[score], **close)
        assert before is None or (before - expected["bald"]).abs().max() > 1e-2
        before, made = expected["bald"], compiled.steps.passes._compiled
        assert isinstance(made, CompiledHead)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.7)
    torch.testing.assert_close(
        compiled.samples(x, ids), plain.samples(x, ids), rtol=1e-4 if dtype is None else 2e-2, atol=2e-2
    )


def test_neither_masks_nor_the_product_of_a_pass_are_in_the_compiled_graph() -> None:
    torch.manual_seed(0)
    x = given()["cnn"]
    compiled = prepared(cnn(), x, 10, compile=True)
    compiled(x)
    made = compiled.steps.passes._compiled
    assert isinstance(made, CompiledHead)
    called = [str(node.target) for node in made._graph.graph.nodes if node.op == "call_function"]
    assert sum("convolution" in name for name in called) == 2
    assert not [name for name in called if "mcscore" in name or "addmm" in name or "aten.mm" in name]


def test_what_is_before_the_first_site_is_compiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    whole = nn.Module.compile

    def compile(module: nn.Module, *args: object, **kwargs: object) -> None:
        parts.append([str(node.target) for node in module.graph.nodes if node.op == "call_function"])
        whole(module, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "compile", compile)
    torch.manual_seed(0)
    model = nn.Sequential(
        cnn()[:5], nn.Dropout2d(0.4), nn.Conv2d(7, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 8, 4), nn.Tanh()
    ).eval()
    x = given()["cnn"]
    plain, compiled = (prepared(model, x, 10, "vmap", compile=compiled) for compiled in (False, True))
    torch.testing.assert_close(compiled(x)["bald"], plain(x)["bald"], rtol=1e-4, atol=2e-6)
    assert isinstance(compiled.steps.passes._compiled, CompiledPasses)
    prefix, tail = parts
    assert [sum("convolution" in name for name in part) for part in (prefix, tail)] == [2, 1]
    assert [any("mcscore" in name for name in part) for part in (prefix, tail)] == [False, True]
    assert "torch.compile: what is before the first site, and what is behind it, for full steps" in compiled.plan(x)


def test_the_plan_says_what_of_a_head_is_compiled() -> None:
    x = given()["normed"]
    scorer = prepared(normed(), x, 10, compile=True)
    assert "torch.compile: the forward pass up to the last dropout, for full steps" in scorer.plan(x)


class AsksBefore(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.drop(-x if x.sum() > 1e9 else x))


def test_a_head_that_cannot_be_compiled_is_scored_without() -> None:
    torch.manual_seed(0)
    model, x = AsksBefore().eval(), given()["normed"]
    plain, compiled = (prepared(model, x, 10, compile=compiled) for compiled in (False, True))
    with pytest.warns(UserWarning, match="AsksBefore runs without torch.compile"):
        got = compiled(x)
    assert torch.equal(got["bald"], plain(x)["bald"])
