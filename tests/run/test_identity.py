"""A run goes on, and is selected from, with the model, the code and the pool that it was started with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcscore.errors import RunError
from mcscore.ingest.append import append_blocks
from mcscore.pool import Pool
from mcscore.run import Run, score_pool
from mcscore.run.selecting.kept import read_selection
from mcscore.scorer.scorer import Scorer

from .fakes import FakePool, FakeScorer, begin, content, fail_at, go_on, said_records

N, SPAN = 1200, 256


def halved(x: torch.Tensor) -> torch.Tensor:
    return x / 2


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))


def scorer(transform: Any = halved, net: nn.Module | None = None) -> Scorer:
    return Scorer(net if net is not None else model(), passes=8, transform=transform)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool.create(tmp_path / "pool", np.random.default_rng(0).random((N, 8), np.float32))


class Enough(Exception):
    pass


def stop_at(items: int) -> Any:
    def progress(done: int, _total: int) -> None:
        if done >= items:
            raise Enough

    return progress


def half_done(pool: Pool, out: Path, given: Scorer) -> None:
    with pytest.raises(Enough):
        score_pool(pool, given, out, span=SPAN, progress=stop_at(2 * SPAN))
    assert Run.open(out).done == 2 * SPAN


def test_another_transform_is_refused_in_the_middle_and_at_the_end(pool: Pool, tmp_path: Path) -> None:
    half_done(pool, tmp_path / "run", scorer())
    with pytest.raises(
        RunError, match=r"other code: source of doubled \(test_identity.py\), which is new; source of halved"
    ):
        score_pool(pool, scorer(doubled), tmp_path / "run")
    score_pool(pool, scorer(), tmp_path / "run")
    with pytest.raises(RunError, match="source of doubled"):
        score_pool(pool, scorer(doubled), tmp_path / "run")
    with pytest.raises(RunError, match="; transform"):
        score_pool(pool, scorer(None), tmp_path / "run")


def test_edited_code_is_taken_when_asked_for_and_each_record_says_which_it_is_from(pool: Pool, tmp_path: Path) -> None:
    out = tmp_path / "run"
    half_done(pool, out, scorer())
    with pytest.raises(Enough):
        score_pool(pool, scorer(doubled), out, accept_edited_code=True, progress=stop_at(3 * SPAN))
    with pytest.raises(Enough):
        score_pool(pool, scorer(doubled), out, progress=stop_at(4 * SPAN))  # known by now
    run = score_pool(pool, scorer(), out)
    assert [record.get("code", 0) for record in said_records(out)] == [0, 0, 1, 1, 0]
    (edit,) = json.loads((out / "run.json").read_bytes())["edited"]
    assert edit["changed"] == [
        "source of doubled (test_identity.py), which is new",
        "source of halved (test_identity.py), which is gone",
        "transform",
    ]
    parts = {
        name: score_pool(pool, scorer(each), tmp_path / name, span=SPAN).scores("bald")
        for name, each in {"halved": halved, "doubled": doubled}.items()
    }
    expected = np.where((np.arange(N) // SPAN % 4) < 2, parts["halved"], parts["doubled"])
    np.testing.assert_array_equal(run.scores("bald"), expected)


def test_a_value_that_the_transform_closes_over_counts(pool: Pool, tmp_path: Path) -> None:
    def scaled(by: float) -> Any:
        return lambda x: x * by

    score_pool(pool, scorer(scaled(1.0)), tmp_path / "run")
    score_pool(pool, scorer(scaled(1.0)), tmp_path / "run")
    with pytest.raises(RunError, match=r"other code: value of by in .*scaled\.<locals>\.<lambda>"):
        score_pool(pool, scorer(scaled(1.5)), tmp_path / "run")


def test_a_selection_after_further_training_is_refused_with_the_same_scorer_too(pool: Pool, tmp_path: Path) -> None:
    net = model()
    run = score_pool(pool, scorer(net=net), tmp_path / "run")
    assert len(run.select(5)) == 5
    net[0].weight.data[0, 0] += 1e-3  # a write that counts no version
    with pytest.raises(RunError, match="is not the model that scored"):
        run.select(5)
    net[0].weight.data[0, 0] -= 1e-3
    with pytest.raises(RunError, match="other code: source of doubled"):
        run.select(5, scorer=scorer(doubled))
    run.select(5, scorer=scorer(doubled), accept_edited_code=True)
    _, _, how = read_selection(run)
    assert how["edited_code"][0] == "source of doubled (test_identity.py), which is new"


def test_a_forward_pass_that_counts_and_keeps_does_not_end_a_run(pool: Pool, tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls, self.kept, self.stats = model(), 0, {}, {"deep": {"calls": 0}}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.kept["last"] = x.detach()
            self.stats["deep"]["calls"] += 1
            return self.net(x)

    net = Counting()
    half_done(pool, tmp_path / "run", scorer(net=net))
    again = scorer(net=net)
    with pytest.raises(Enough):
        score_pool(pool, again, tmp_path / "run", progress=stop_at(3 * SPAN))
    run = score_pool(pool, scorer(net=Counting()), tmp_path / "run")
    assert len(run.select(5)) == 5
    assert Run.open(tmp_path / "run").meta["model"]["changing"] == [f"attribute stats of {Counting.__qualname__}"]


def test_what_cannot_be_compared_is_said_when_the_run_starts(pool: Pool, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(compile("f = lambda x: x * 1.5", "<stdin>", "exec"), names)
    with pytest.warns(UserWarning, match="not compared when this run is resumed.*<lambda> is compared by its bytecode"):
        score_pool(pool, scorer(names["f"]), tmp_path / "run")
    (told,) = Run.open(tmp_path / "run").meta["model"]["unseen"]
    assert "no source text" in told


def test_a_run_that_did_not_record_its_code_goes_on_with_a_warning(out: Path, undisturbed: dict[str, bytes]) -> None:
    with pytest.raises(RunError):
        begin(out, on_block=fail_at(45))
    given = FakeScorer(step=2)
    given.described["model"]["code"] = {"source of f": "0" * 32}
    with pytest.warns(UserWarning, match="did not record the model's code"):
        score_pool(FakePool(), given, out, span=40)
    assert content(go_on(out)) == undisturbed


@pytest.mark.parametrize("back", [False, True])
def test_a_pool_that_is_exchanged_in_the_middle_is_found_at_the_next_commit(
    pool: Pool, tmp_path: Path, back: bool
) -> None:
    other = Pool.create(tmp_path / "other", np.random.default_rng(1).random((N, 8), np.float32))
    here, aside, out = Path(str(pool.path)), tmp_path / "aside", tmp_path / "run"

    def exchange(done: int, _total: int) -> None:
        if done == 2 * SPAN and not aside.exists():
            here.rename(aside)
            Path(str(other.path)).rename(here)

    with pytest.raises(
        RunError, match=r"was exchanged or changed while it was scored.*Span 2 \(items 512\.\.767\) is not"
    ):
        score_pool(pool, scorer(), out, span=SPAN, progress=exchange)
    if back:
        here.rename(tmp_path / "other")
        aside.rename(here)
        run = score_pool(pool, scorer(), out)
        fresh = score_pool(pool, scorer(), tmp_path / "fresh", span=SPAN)
        np.testing.assert_array_equal(run.scores("bald"), fresh.scores("bald"))
    else:
        assert Run.open(out).done == 2 * SPAN
        with pytest.raises(RunError, match=r"started with pool\.fingerprint"):
            score_pool(Pool.open(here), scorer(), out)


def test_a_pool_that_was_exchanged_before_the_run_under_an_open_one_is_found(pool: Pool, tmp_path: Path) -> None:
    other = Pool.create(tmp_path / "other", np.random.default_rng(1).random((N, 8), np.float32))
    assert pool.fingerprint != other.fingerprint
    here = Path(str(pool.path))
    here.rename(tmp_path / "aside")
    Path(str(other.path)).rename(here)
    with pytest.raises(RunError, match=r"exchanged or changed.*Span 0 .* is not committed"):
        score_pool(pool, scorer(), tmp_path / "run", span=SPAN)


def test_labels_exclusions_and_appends_in_the_middle_do_not_end_a_run(pool: Pool, tmp_path: Path) -> None:
    done_at: list[int] = []

    def label(done: int, total: int) -> None:
        done_at.append(done)
        if done == 2 * SPAN:
            pool.set_labels([0, 1], [1, 2])
            pool.set_excluded([2])
            append_blocks(pool.path, [np.zeros((10, 8), np.float32)])
        assert total == N

    assert score_pool(pool, scorer(), tmp_path / "run", span=SPAN, progress=label).complete
    assert done_at[-1] == N


def test_a_transform_that_changes_the_directory_harms_no_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "away").mkdir()
    Pool.create("pool", np.random.default_rng(0).random((N, 8), np.float32))

    def moving(x: torch.Tensor) -> torch.Tensor:
        os.chdir(tmp_path / "away")
        return x

    run = score_pool(Pool.open("pool"), scorer(moving), "run", span=SPAN)
    assert run.complete
    assert run.path == tmp_path / "run"
    assert Path.cwd() == tmp_path
    assert list((tmp_path / "away").iterdir()) == []


@pytest.mark.parametrize("code", [0, None, 3, "bye"])
def test_an_exit_in_the_forward_pass_is_an_error(pool: Pool, tmp_path: Path, code: object) -> None:
    calls = []

    class Leaving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 3:
                calls.append(len(x))
            if len(calls) >= 3:
                raise SystemExit(code)
            return self.net(x)

    with pytest.raises(RunError, match=r"forward pass of Leaving .*ended the program: sys\.exit\((0|3|'bye')?\)"):
        score_pool(pool, scorer(net=Leaving()), tmp_path / "run", span=SPAN, check="off")
    assert 0 < Run.open(tmp_path / "run").done < N
