"""Full steps from a recorded graph: when one is made, used, made anew and given up. The device's part is played by a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mcscore import Execution, Scorer
from mcscore.kernels import backends
from mcscore.scorer import graphs
from mcscore.scorer.graphs import GraphedSteps

from ..montecarlo.zoo import GalCNN, ResNetHead

WAITS = ("aten._local_scalar_dense", "aten.equal", "aten.is_nonzero", "aten.nonzero")
"""Operations that read a value on the host, for which it would wait for a GPU."""


class Played:
    """A graph that calls the step again at each replay, into the tensors of the first time."""

    made: ClassVar[list[Played]] = []

    def __init__(self, step: Callable[..., dict[str, Tensor]], inputs: Any, ids_B: Tensor) -> None:
        self.step, self.shape, self.replays = step, (inputs.shape, ids_B.shape), 0
        self.scores = {name: values.clone() for name, values in step(inputs, ids_B).items()}
        self.made.append(self)

    def fits(self, inputs: Any, ids_B: Tensor) -> bool:
        return (inputs.shape, ids_B.shape) == self.shape

    def replay(self, inputs: Any, ids_B: Tensor) -> dict[str, Tensor]:
        self.replays += 1
        for name, values in self.step(inputs, ids_B).items():
            self.scores[name].copy_(values)
        return self.scores


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Played]:
    monkeypatch.setattr(Played, "made", [])
    monkeypatch.setattr(graphs, "_Graph", Played)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    return Played.made


def on_a_gpu(scorer: Scorer, items: Any) -> Scorer:
    """The scorer, prepared as if its device had graphs."""
    scorer.prepare(items)
    assert scorer.steps is not None
    scorer.steps._graphed = GraphedSteps("model", scorer.steps._scores)
    return scorer


def small_steps(model: nn.Module, items: Any, **options: Any) -> Scorer:
    scorer = on_a_gpu(Scorer(model, passes=11, execution=Execution(memory=480 << 10, **options)), items)
    assert scorer.steps is not None
    assert len(items) // 8 < scorer.steps.plan.items < len(items) // 3
    return scorer


def test_full_steps_are_replayed_and_give_the_same_bits(played: list[Played]) -> None:
    model, items = GalCNN().eval(), torch.rand(150, 1, 16, 16)
    expected = Scorer(model, passes=11, execution=Execution(memory=480 << 10))(items)
    scorer = small_steps(model, items)
    for _ in range(2):
        for name, values in scorer(items).items():
            assert torch.equal(values, expected[name]), name
    (graph,) = played
    full = 150 // scorer.steps.plan.items
    # Of the first call's full steps one is checked, one recorded and compared; the others and all of the second call's are replayed.
    assert graph.replays == 1 + (full - 2 - 1) + full


def test_a_model_that_changed_is_recorded_again(played: list[Played]) -> None:
    model, items = GalCNN().eval(), torch.rand(150, 1, 16, 16)
    scorer = small_steps(model, items)
    scorer(items)
    with torch.no_grad():
        model.dense2.weight.mul_(2.0)  # in place: where it lies, the graph reads it
    expected = Scorer(model, passes=11, execution=Execution(memory=480 << 10))(items)
    assert torch.equal(scorer(items)["bald"], expected["bald"])
    assert len(played) == 1
    model.dense2.weight = nn.Parameter(model.dense2.weight.detach() * 3.0)
    expected = Scorer(model, passes=11, execution=Execution(memory=480 << 10))(items)
    assert torch.equal(scorer(items)["bald"], expected["bald"])
    assert len(played) == 2


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("operation not permitted when stream is capturing"), "operation not permitted"),
        (torch.OutOfMemoryError("CUDA out of memory"), "there is no memory for it"),
    ],
)
def test_a_step_that_cannot_be_recorded_runs_on_and_says_why(
    monkeypatch: pytest.MonkeyPatch, played: list[Played], error: Exception, why: str
) -> None:
    def refused(*_: Any) -> None:
        raise error

    monkeypatch.setattr(graphs, "_Graph", refused)
    monkeypatch.setattr(backends, "_said", set())
    model, items = GalCNN().eval(), torch.rand(150, 1, 16, 16)
    scorer = small_steps(model, items)
    with pytest.warns(UserWarning, match=f"without a CUDA graph \\(.*{why}"):
        scores = scorer(items)
    assert torch.equal(scores["bald"], Scorer(model, passes=11, execution=Execution(memory=480 << 10))(items)["bald"])


def test_a_graph_that_gives_other_bits_is_not_used(monkeypatch: pytest.MonkeyPatch, played: list[Played]) -> None:
    replay = Played.replay

    def rounded(self: Played, inputs: Any, ids_B: Tensor) -> dict[str, Tensor]:
        scores = replay(self, inputs, ids_B)
        scores["bald"].mul_(1.0 + 2**-22)
        return scores

    monkeypatch.setattr(Played, "replay", rounded)
    monkeypatch.setattr(backends, "_said", set())
    model, items = GalCNN().eval(), torch.rand(150, 1, 16, 16)
    scorer = small_steps(model, items)
    with pytest.warns(UserWarning, match="its bald have other bits"):
        scorer(items)
    assert played[0].replays == 1


def test_memory_that_runs_out_costs_the_graph_first(monkeypatch: pytest.MonkeyPatch, played: list[Played]) -> None:
    model, items = GalCNN().eval(), torch.rand(150, 1, 16, 16)
    scorer = small_steps(model, items)
    expected = scorer(items)["bald"]
    step = scorer.steps._scores
    failing = [torch.OutOfMemoryError("CUDA out of memory")]

    def once(inputs: Any, ids_B: Tensor) -> dict[str, Tensor]:
        if failing:
            raise failing.pop()
        return step(inputs, ids_B)

    monkeypatch.setattr(scorer.steps, "_scores", once)
    monkeypatch.setattr(backends, "_said", set())
    before = scorer.steps.plan
    with pytest.warns(UserWarning, match="continues without graphs"):
        assert torch.equal(scorer(items)["bald"], expected)
    assert scorer.steps.plan == before


@pytest.mark.parametrize("batch", [1, 7, 64, 149])
def test_deterministic_steps_give_the_same_bits_in_any_batch(batch: int) -> None:
    model, items = GalCNN().eval(), np.random.default_rng(0).integers(0, 256, (150, 1, 16, 16), dtype=np.uint8)
    execution = Execution(memory=480 << 10, deterministic=True)
    scorer = Scorer(model, passes=11, execution=execution)
    whole = scorer(items, np.arange(150))
    seen = []
    scorer.model.register_forward_pre_hook(lambda _model, args: seen.append(len(args[0])))
    for name, values in whole.items():
        parts = [
            scorer(items[lo : lo + batch], np.arange(lo, min(lo + batch, 150)))[name] for lo in range(0, 150, batch)
        ]
        assert torch.equal(torch.cat(parts), values), name
    assert set(seen) == {scorer.steps.plan.items}


class _Calls(TorchDispatchMode):
    """The names of the operations that reach a device, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.names.append(str(func).rpartition(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("make", "shape", "most"),
    [(GalCNN, (1, 16, 16), 25), (ResNetHead, (3, 16, 16), 35)],
    ids=["gal", "resnet-head"],
)
def test_a_step_waits_for_nothing_and_launches_little(make: Any, shape: tuple[int, ...], most: int) -> None:
    items = torch.randint(256, (64, *shape), dtype=torch.uint8)
    scorer = Scorer(make().eval(), passes=11)
    scorer.normalize((0.5,) * shape[0], (0.25,) * shape[0])
    ids = torch.arange(64)
    scorer(items, ids)
    with _Calls() as calls, torch.no_grad():
        scorer.steps.scores(scorer.inputs(items), ids)
    assert not [name for name in calls.names if name in WAITS]
    assert len(calls.names) <= most, calls.names
