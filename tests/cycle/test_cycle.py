"""A cycle acquires what it says, by any method, with labels of its own, and stops when it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore import Dropout, Pool, Run, Scorer
from mcscore.cycle import Stop, cycle, cycles, read_cycle
from mcscore.errors import PoolError, RunError
from mcscore.ingest import append_array
from mcscore.pool.borrow import borrow
from mcscore.run import Screen

from .conftest import ARGUMENTS, N, fit, oracle, told


def run_cycle(pool: Pool, out: Path, **changes: Any) -> Any:
    return list(cycle(pool, out=out, **{**ARGUMENTS, **changes}))


@pytest.mark.parametrize("by", ["bald", "entropy", None])
def test_every_round_labels_k_new_items(pool: Pool, tmp_path: Path, by: str | None) -> None:
    select = "random" if by is None else {"by": by, "diversity": "none"}
    turns = run_cycle(pool, tmp_path / "c", select=select)
    assert [turn.labels for turn in turns] == [3, 8, 13, 18]
    assert [turn.stopped for turn in turns] == ["", "", "", "all 3 rounds are done"]
    chosen = np.concatenate([turn.chosen for turn in turns])
    assert len(np.unique(chosen)) == 15
    own = Pool.open(tmp_path / "c/pool").labels
    np.testing.assert_array_equal(own[chosen], chosen % 3)
    assert np.flatnonzero(own >= 0).tolist() == sorted(
        [3, 7, 40, *chosen.tolist()]
    )  # 0, labeled in the pool, is not of the start
    assert np.flatnonzero(pool.labels >= 0).tolist() == [0]  # the pool itself is as it was
    for turn in turns[:-1]:
        assert turn.accuracy == turn.measures["accuracy"] != turn.measures["loss"]
        if by is None:
            assert turn.run is None
            continue
        scores = Run.open(turn.run).scores(by)
        assert scores[turn.chosen].min() >= np.nanmax(np.where(np.isin(np.arange(N), turn.chosen), -np.inf, scores))


def test_without_a_start_the_labels_of_the_pool_are_taken(pool: Pool, tmp_path: Path) -> None:
    assert [turn.labels for turn in run_cycle(pool, tmp_path / "c", start=None, rounds=1)] == [1, 6]


def test_any_method_scorer_and_screen(pool: Pool, tmp_path: Path) -> None:
    seen = []

    def shared(model: Any, seed: int) -> Scorer:
        return Scorer(model, 5, ("entropy",), seed=seed, dropout=Dropout(masks="shared"))

    def lowest(run: Run, k: int, seed: int) -> np.ndarray:
        seen.append((k, seed, run.meta["masks"]))
        return np.argsort(run.scores("entropy"))[:k]

    turns = run_cycle(pool, tmp_path / "a", select=lowest, scorer=shared, rounds=1, seed=4)
    assert seen == [(5, 4000, "shared")]
    assert turns[0].chosen.tolist() == np.argsort(Run.open(turns[0].run).scores("entropy"))[:5].tolist()
    power = {"by": "entropy", "diversity": "power", "beta": 2.0}
    turns = run_cycle(pool, tmp_path / "b", select=power, rounds=2, seed=4)
    (kept,) = Run.open(turns[1].run).selections()
    assert (kept.asked["beta"], kept.asked["seed"]) == (2.0, 4001)
    screen = Screen(top=20, passes=4, audit=0)
    turns = run_cycle(
        pool,
        tmp_path / "c",
        scorer={"passes": 12, "scores": ("bald",)},
        scoring={"screen": screen, "check": "off"},
        rounds=1,
    )
    assert Run.open(turns[0].run).header.screened


@pytest.mark.parametrize(
    ("stop", "labels", "said"),
    [
        (Stop(labels=10), [3, 8, 10], "all 10 labels of the budget are given"),
        (Stop(accuracy=0.05), [3], "accuracy .* reached 0.05"),
        (Stop(stable=0.01), [3, 8], "of predictions are those of the round before"),
    ],
)
def test_it_stops_when_told(pool: Pool, tmp_path: Path, stop: Stop, labels: list[int], said: str) -> None:
    turns = run_cycle(pool, tmp_path / "c", stop=stop, rounds=9)
    assert [turn.labels for turn in turns] == labels
    assert len(turns[-1].chosen) == 0
    assert pytest.importorskip("re").search(said, turns[-1].stopped)
    assert told(run_cycle(pool, tmp_path / "c", stop=stop, rounds=9)) == told(turns)
    longer = run_cycle(
        pool, tmp_path / "c", rounds=len(labels)
    )  # without the rule it goes on, and the last round is done again
    assert [turn.labels for turn in longer][: len(labels)] == labels
    assert len(longer) == len(labels) + 1


def test_agreement_is_that_of_predictions_of_items_in_both_rounds(pool: Pool, tmp_path: Path) -> None:
    turns = run_cycle(pool, tmp_path / "c", rounds=2)
    one, other = (Run.open(turn.run).prediction for turn in turns[:2])
    both = (one >= 0) & (other >= 0)
    assert both.sum() == N - 8
    assert [turn.agreement for turn in turns] == [None, (one == other)[both].mean(), None]


def test_a_pool_that_runs_out_ends_the_cycle(pool: Pool, tmp_path: Path) -> None:
    turns = run_cycle(pool, tmp_path / "c", k=50, rounds=9, select="random")
    assert [turn.labels for turn in turns] == [3, 53, N]
    assert turns[-1].stopped == "no item is left"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"select": "best"}, "select is 'random'"),
        ({"select": {"by": "bald", "diversty": "none"}}, "select: got an unexpected keyword argument 'diversty'"),
        ({"scorer": {"pases": 3}}, "scorer: got an unexpected keyword argument 'pases'"),
        ({"scoring": {"worker": 2}}, "scoring: got an unexpected keyword argument 'worker'"),
        ({"select": {"diversity": "magic"}}, "diversity 'magic' is unknown"),
        ({"select": "random", "stop": Stop(stable=0.9)}, "select='random' makes none"),
        ({"k": 0}, "k at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    pool: Pool, tmp_path: Path, changes: Any, says: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        cycle(pool, out=tmp_path / "c", **{**ARGUMENTS, **changes})
    assert not (tmp_path / "c").exists()


def test_a_cycle_is_taken_up_only_with_what_it_was_started_with(pool: Pool, tmp_path: Path) -> None:
    run_cycle(pool, tmp_path / "c", rounds=0)
    for changes, field in (
        ({"k": 6}, "k=5, now 6"),
        ({"start": [1]}, "start="),
        ({"scorer": {"passes": 7}}, "scorer="),
        ({"seed": 1}, "seed=0, now 1"),
    ):
        with pytest.raises(RunError, match=f"cannot be taken up: it was started with {field}"):
            run_cycle(pool, tmp_path / "c", **changes)
    turns = cycle(pool, out=tmp_path / "c", **ARGUMENTS)
    next(turns)
    with pytest.raises(RunError, match="is being written by"):
        next(cycle(pool, out=tmp_path / "c", **ARGUMENTS))
    turns.close()  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="3 labels and gave an array of shape"):
        run_cycle(pool, tmp_path / "d", oracle=lambda ids: oracle(ids)[1:])
    with pytest.raises(RunError, match="asked for 5 different items"):
        run_cycle(pool, tmp_path / "e", select=lambda run, k, seed: [3] * k)
    (tmp_path / "f/pool").mkdir(parents=True)
    with pytest.raises(RunError, match="is not a cycle"):
        run_cycle(pool, tmp_path / "f")


def test_damage_to_a_round_is_named(pool: Pool, tmp_path: Path) -> None:
    run_cycle(pool, tmp_path / "c", rounds=1)
    file = tmp_path / "c/rounds/round-00.json"
    file.write_bytes(file.read_bytes().replace(b'"labels": 3', b'"labels": 4'))
    with pytest.raises(RunError, match=r"round-00.json is damaged: checksum mismatch"):
        run_cycle(pool, tmp_path / "c", rounds=1)


def test_methods_and_seeds_are_kept_apart(pool: Pool, tmp_path: Path) -> None:
    methods = {"top": {"select": {"by": "bald", "diversity": "none"}}, "random": {"select": "random"}}
    given = {**ARGUMENTS, "rounds": 1, "start": lambda seed: [seed, 5]}
    del given["select"]
    stages: list[str] = []
    results = cycles(pool, methods=methods, seeds=[0, 3], out=tmp_path / "m", progress=stages.append, **given)
    assert {name: [[turn.labels for turn in turns] for turns in rows] for name, rows in results.items()} == {
        "top": [[2, 7]] * 2,
        "random": [[2, 7]] * 2,
    }
    assert stages[0] == "seed 1/2, top, round 0: train on 2 labels"
    for name, rows in results.items():
        for seed, turns in zip((0, 3), rows, strict=True):
            own = Pool.open(tmp_path / "m" / name / f"seed-{seed}" / "pool").labels
            assert np.flatnonzero(own >= 0).tolist() == sorted([seed, 5, *turns[0].chosen.tolist()])
            alone = run_cycle(
                pool, tmp_path / f"{name}{seed}", **{**methods[name], "rounds": 1, "seed": seed, "start": [seed, 5]}
            )
            assert told(alone) == told(turns)
    curves = read_cycle(tmp_path / "m")
    assert [(curve.method, curve.seed) for curve in curves] == [("top", 0), ("top", 3), ("random", 0), ("random", 3)]
    assert [told(curve.rounds) for curve in curves] == [told(turns) for rows in results.values() for turns in rows]  # type: ignore[arg-type]
    summary = json.loads((tmp_path / "m/cycle.json").read_bytes())
    assert [(each["method"], each["folder"]) for each in summary["curves"]][1] == ("top", "top/seed-3")
    assert summary["curves"][0]["rounds"][1]["labels"] == 7
    more = cycles(
        pool,
        methods={"entropy": {"select": {"by": "entropy", "diversity": "none"}}},
        seeds=[0],
        out=tmp_path / "m",
        **given,
    )
    assert list(more) == ["entropy"]
    assert [curve.method for curve in read_cycle(tmp_path / "m")] == ["top", "top", "random", "random", "entropy"]
    with pytest.raises(ValueError, match="cannot name a method"):
        cycles(pool, methods={"../x": {}}, seeds=[0], out=tmp_path / "m", **given)


def test_a_borrowed_pool_has_its_own_labels_and_no_items_to_change(pool: Pool, tmp_path: Path) -> None:
    own = borrow(pool, tmp_path / "own")
    own.set_labels([5], [1])
    own.set_excluded([6])
    assert (pool.labels[5], bool(pool.excluded[6])) == (-1, False)
    assert own.fingerprint == pool.fingerprint
    np.testing.assert_array_equal(own.take([80, 2]), pool.take([80, 2]))
    assert [file.name for file in sorted(own.path.iterdir()) if file.is_symlink()] == ["items"]  # type: ignore[union-attr]
    np.save(tmp_path / "more.npy", np.zeros((2, 1, 4, 4), np.uint8))
    with pytest.raises(PoolError, match=r"has the items of the pool .*, which alone can be changed"):
        append_array(own.path, tmp_path / "more.npy")
    assert pool.reopened().n == N
    with pytest.raises((PoolError, OSError)):
        borrow(pool, tmp_path / "own")
    assert own.reopened().labels[5] == 1


def test_the_model_that_was_trained_sees_the_labels_of_the_cycle(pool: Pool, tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def watching(own: Pool, labeled: np.ndarray, seed: int) -> Any:
        seen.append(own.labels[labeled].tolist())
        return fit(own, labeled, seed)

    turns = run_cycle(pool, tmp_path / "c", fit=watching, rounds=1)
    assert seen == [oracle(np.array([3, 7, 40])).tolist(), oracle(np.sort([3, 7, 40, *turns[0].chosen])).tolist()]
