"""Several threads that score with one Scorer, or with one model, get what each would get alone, and leave the model as it was."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mcscore import Pool, Scorer, score_pool
from mcscore.montecarlo.guard import exclusive as who_waits
from mcscore.montecarlo.guard.exclusive import exclusive

TIMES = 12


class Pause(nn.Module):
    """Lets other threads run in the middle of a forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(2e-4)
        return x


class Net(nn.Module):
    """BatchNorm, whose statistics a forward pass in training mode would move, before and behind the dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(Pause(), nn.Linear(12, 32), Pause(), nn.BatchNorm1d(32), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.second = nn.Sequential(Pause(), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.drop(self.first(x.flatten(1))))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(3)
    model = Net()
    for _ in range(3):
        model(torch.randn(64, 12))
    return model.train()


@pytest.fixture
def pools(tmp_path: Path) -> list[Pool]:
    items = np.random.default_rng(0).integers(0, 256, (2, 300, 3, 2, 2), np.uint8)
    means = [(0.5, 0.4, 0.3), (0.1, 0.1, 0.2)]
    return [Pool.create(tmp_path / f"pool{i}", items[i], mean=means[i], std=(0.2, 0.2, 0.2)) for i in range(2)]


@pytest.fixture(autouse=True)
def _eager_switches() -> Iterator[None]:
    """Threads take turns 1000 times more often, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    barrier = threading.Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result(60) for future in [threads.submit(begin, call) for call in calls]]


def thrice(scorer: Scorer, x: Tensor, ids: Any) -> list[Tensor]:
    return [scorer(x, ids)["bald"] for _ in range(3)]


def content(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def require_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    assert all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_one_scorer_scores_two_pools_at_once(model: Net, pools: list[Pool], tmp_path: Path) -> None:
    before = content(model)
    alone = [score_pool(pool, Scorer(model, 8), tmp_path / f"alone{i}", span=64) for i, pool in enumerate(pools)]
    scorer = Scorer(model, 8)
    for n in range(TIMES // 3):
        outs = [tmp_path / f"run{n}-{i}" for i in range(2)]
        runs = at_once(*(partial(score_pool, pool, scorer, to, span=64) for pool, to in zip(pools, outs, strict=True)))
        for run, expected in zip(runs, alone, strict=True):
            assert run.meta["normalize"] == expected.meta["normalize"]
            assert run.scores("bald").tobytes() == expected.scores("bald").tobytes()
    assert scorer.normalization is None
    assert scorer.describe()["plan"]["path"] == alone[0].meta["plan"]["path"]
    require_unchanged(model, before)


def test_two_scorers_of_one_model_in_training_mode(model: Net) -> None:
    x, ids, before = torch.randn(200, 12), np.arange(200), content(model)
    alone = [Scorer(model, 8, seed=seed)(x, ids)["bald"] for seed in range(2)]
    for _ in range(TIMES):
        scorers = [Scorer(model, 8, seed=seed) for seed in range(2)]  # they look for sites at once, too
        got = at_once(*(partial(thrice, scorer, x, ids) for scorer in scorers))
        for parts, expected in zip(got, alone, strict=True):
            for part in parts:
                assert torch.equal(part, expected)
        require_unchanged(model, before)


def test_two_models_that_share_a_backbone(model: Net) -> None:
    x, ids, before = torch.randn(200, 12), np.arange(200), content(model)
    models = [nn.Sequential(model.first, nn.Dropout(0.4), nn.Linear(32, 3)).train() for _ in range(2)]
    alone = [Scorer(each, 8)(x, ids)["bald"] for each in models]
    for _ in range(TIMES):
        got = at_once(*(partial(Scorer(each, 8), x, ids) for each in models))
        assert all(torch.equal(a["bald"], b) for a, b in zip(got, alone, strict=True))
    assert all(module.training for each in models for module in each.modules())
    require_unchanged(model, before)


def test_two_threads_share_a_scorer(model: Net) -> None:
    x, ids, before = torch.randn(300, 12), np.arange(300), content(model)
    parts = [slice(0, 100), slice(100, 300)]
    alone = Scorer(model, 8)
    alone.prepare(x, ids)
    plan = alone.describe()["plan"]
    expected = [alone(x[part], ids[part])["bald"] for part in parts]
    for _ in range(TIMES):
        scorer = Scorer(model, 8)
        got = at_once(
            *(partial(thrice, scorer, x[part], ids[part]) for part in parts),
            partial(scorer.prepare, x, ids, plan=plan),
        )
        for values, want in zip(got, expected, strict=False):
            for value in values:
                torch.testing.assert_close(value, want, rtol=0, atol=2e-6)  # a step may be planned on either part
    require_unchanged(model, before)


@pytest.mark.parametrize("embedding", [None, "first"])
def test_embeddings_while_another_thread_scores(model: Net, embedding: str | None) -> None:
    x, ids = torch.randn(64, 12), np.arange(64)
    other = torch.randn(500, 12)
    embedder, scorer = Scorer(model, 4, embedding=embedding), Scorer(model, 4)
    expected = embedder.embed(x)
    scorer.prepare(other, np.arange(500))
    for _ in range(TIMES):
        got, *_ = at_once(
            lambda: [embedder.embed(x) for _ in range(5)],
            lambda: [scorer(other, np.arange(500)) for _ in range(3)],
        )
        for values in got:
            np.testing.assert_array_equal(values, expected)
    assert len(ids) == len(expected)


def test_the_random_generator_stays_where_it_is_when_two_scorers_look_for_sites() -> None:
    models = [nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 3)) for _ in range(2)]
    x, ids = torch.randn(20, 12), np.arange(20)
    state = torch.get_rng_state()
    for _ in range(TIMES):
        at_once(*(partial(Scorer(each, 4), x, ids) for each in models))
    assert torch.equal(torch.get_rng_state(), state)


# -- who waits for whom ------------------------------------------------------------------------------------------------


def in_thread(call: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def require_waiting() -> None:
    deadline = time.monotonic() + 10
    while not who_waits._waiting:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_disjoint_models_do_not_wait_for_each_other_and_shared_ones_do() -> None:
    shared = nn.Linear(2, 2)
    one, two, apart = nn.Sequential(shared), nn.Sequential(shared, nn.ReLU()), nn.Linear(2, 2)
    entered = {name: threading.Event() for name in ("two", "apart")}

    def enter(name: str, model: nn.Module) -> None:
        with exclusive(model):
            entered[name].set()

    with exclusive(one), exclusive(one):
        threads = [in_thread(lambda: enter("two", two)), in_thread(lambda: enter("apart", apart))]
        assert entered["apart"].wait(5)
        assert not entered["two"].wait(0.1)
    assert entered["two"].wait(5)
    for thread in threads:
        thread.join(5)


def test_who_waits_is_served_before_who_lets_go_and_takes_again() -> None:
    model, order = nn.Linear(2, 2), list[str]()

    def wait() -> None:
        with exclusive(model):
            order.append("waited")

    with exclusive(model):
        thread = in_thread(wait)
        require_waiting()
    with exclusive(model):
        order.append("again")
    thread.join(5)
    assert order == ["waited", "again"]


def test_a_holder_may_take_more_although_one_who_waits_for_it_came_first() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    both, done = nn.Sequential(first, second), threading.Event()

    def wait() -> None:
        with exclusive(both):
            pass

    def nested() -> None:
        with exclusive(first):
            waiter = in_thread(wait)
            require_waiting()
            with exclusive(second):
                done.set()
        waiter.join(5)

    thread = in_thread(nested)
    assert done.wait(10)
    thread.join(10)
