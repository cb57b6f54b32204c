"""Selections are numbered, tell all that was asked for, and are never replaced."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from mcscore import Pool, Scorer, score_pool
from mcscore.cli import main
from mcscore.errors import RunError
from mcscore.run import Run
from mcscore.run.selecting.kept import probabilities_of, read_selection, selected_file, selections_of
from mcscore.selection import Limits, Selection

from ..steps import at_step, killed_at

N = 60


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("kept")
    items = np.random.default_rng(0).random((N, 4), np.float32)
    pool = Pool.create(folder / "pool", items, keys=[f"{i}.png" for i in range(N)])
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))
    return score_pool(pool, Scorer(model, passes=8, scores=("bald", "entropy")), folder / "run")


@pytest.fixture
def run(scored: Run) -> Run:
    """The run without the selections of former tests, and its pool without their labels."""
    for file in selections_of(scored.path):
        Path(str(file)).unlink()
    assert scored._pool is not None
    scored._pool.set_labels(np.arange(N), np.full(N, -1))
    return scored


def test_another_selection_gets_another_number_and_the_same_one_is_found(run: Run) -> None:
    first = run.select(5, "bald")
    data = Path(str(first.file)).read_bytes()
    assert run.select(5, "bald").file == first.file
    second = run.select(5, "bald", candidates=20)  # the same file name of before
    third = run.select(5, "bald")  # not the newest any more: it becomes so again
    names = [Path(str(chosen.file)).name for chosen in (first, second, third)]
    assert names == [f"selection-000{number}.parquet" for number in (1, 2, 3)]
    assert Path(str(first.file)).read_bytes() == data
    np.testing.assert_array_equal(first.ids, third.ids)
    assert [each.number for each in run.selections()] == [1, 2, 3]


def test_labels_given_in_between_make_another_selection(run: Run) -> None:
    first = run.select(3, "bald", "none")
    assert run._pool is not None
    run._pool.set_labels(first.ids[:2], [0, 1])
    second = run.select(3, "bald", "none")
    kept = run.selections()
    assert [(each.labeled_then, each.labeled) for each in kept] == [(0, 2), (2, 0)]
    assert set(first.ids[:2]).isdisjoint(second.ids)


def test_all_that_was_asked_for_stands_in_the_list(run: Run) -> None:
    many = np.arange(1001) % N
    run.select(4, "entropy", "power", beta=2.5, seed=9, limits=Limits(per_class=3, leave_out=[7, 3]), partial=True)
    run.select(2, "bald", "none", limits=Limits(leave_out=many[:0], groups=np.arange(N) // 2, per_group=1))
    one, other = run.selections()
    assert (one.by, one.method, one.k, one.facts["beta"]) == ("entropy", "power", 4, 2.5)
    assert one.asked == {
        **{
            "k": 4,
            "by": "entropy",
            "diversity": "power",
            "candidates": None,
            "seed": 9,
            "beta": 2.5,
            "map": "pca",
            "partial": True,
        },
        "limits": {"per_class": 3, "leave_out": [7, 3]},
    }
    assert other.asked["limits"]["groups"] == (np.arange(N) // 2).tolist()
    assert other.asked["limits"]["group_name"] == "group"


def test_long_arguments_stand_there_as_their_number_and_checksum() -> None:
    from mcscore.run.selecting.told import asked_of

    ids = np.arange(1500)
    told = [
        asked_of(k=1, limits=Limits(leave_out=part), targets=None)["limits"]["leave_out"] for part in (ids, ids + 1)
    ]
    assert [each["items"] for each in told] == [1500, 1500]
    assert told[0]["sha256"] != told[1]["sha256"]


def test_two_that_select_at_once_get_two_numbers(run: Run) -> None:
    files, start = [None] * 6, threading.Barrier(6)

    def choose(which: int) -> None:
        own = Run.open(run.path)
        start.wait()
        files[which] = own.select(2 + which, "bald", "none").file  # type: ignore[call-overload]

    threads = [threading.Thread(target=choose, args=(which,)) for which in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Path(str(file)).name for file in files) == [
        f"selection-000{number}.parquet" for number in range(1, 7)
    ]
    assert [pq.read_metadata(str(file)).num_rows for file in files] == [2, 3, 4, 5, 6, 7]


def test_a_kill_while_it_is_written_leaves_all_or_nothing(run: Run) -> None:
    before = Path(str(run.select(3, "bald", "none").file)).read_bytes()
    with at_step(10**9, lambda *_: None) as steps:
        run.select(4, "bald", "none")
    Path(str(selections_of(run.path)[-1])).unlink()
    for n in range(len(steps)):
        killed_at(n, lambda: run.select(4, "bald", "none"))
        kept = run.selections()
        assert [each.damage for each in kept] == [""] * len(kept)
        assert Path(str(kept[0].file)).read_bytes() == before
    run.select(5, "bald", "none")
    assert not list(Path(str(run.path)).glob("*.tmp"))


def test_a_number_a_file_or_the_newest_is_read(run: Run) -> None:
    for k in (2, 3, 4):
        run.select(k, "bald", "none")
    assert [read_selection(run, which)[2]["k"] for which in (1, "2", "0003", None, "latest")] == [2, 3, 4, 4, 4]
    assert read_selection(run, str(run.path / "selection-0002.parquet"))[2]["k"] == 3
    with pytest.raises(RunError, match=r"there is no selection 7 in .*: it has 1, 2, 3. `mcscore run selections`"):
        selected_file(run.path, 7)


def test_files_of_before_they_were_numbered_are_older(run: Run) -> None:
    chosen = Selection(np.array([1, 2]), np.float32([0.5, 0.4]), np.arange(2), None, "none")
    for name, moment in (("selection-bald-2.parquet", 5), ("selection-entropy-2.parquet", 4)):
        by = name.split("-")[1]
        file = chosen.write_parquet(run.path / name, None, {"run": run.meta["id"], "by": by})
        os.utime(str(file), ns=(moment, moment))
    assert read_selection(run)[0].name == "selection-bald-2.parquet"
    assert run.select(3, "bald", "none").file == run.path / "selection-0001.parquet"
    kept = run.selections()
    assert [(each.number, each.by, each.created != "") for each in kept] == [
        (None, "entropy", False),
        (None, "bald", False),
        (1, "bald", True),
    ]


def test_a_file_that_cannot_be_written_is_told_and_one_that_is_damaged_is_listed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.select(3, "bald", "none")
    (run.path / "selection-0002.parquet").write_bytes(b"of somebody else")  # type: ignore[union-attr]
    (run.path / "selection-0003.parquet").mkdir()  # type: ignore[union-attr]
    assert run.select(4, "bald", "none").file == run.path / "selection-0004.parquet"
    assert [bool(each.damage) for each in run.selections()] == [False, True, True, False]
    (run.path / "selection-0003.parquet").rmdir()  # type: ignore[union-attr]

    def full(*_: object) -> None:
        raise OSError("no space left on the disk")

    monkeypatch.setattr("mcscore.atomic.write", full)
    with pytest.raises(RunError, match=r"selection-0005.parquet could not be written: no space left"):
        run.select(5, "bald", "none")
    assert len(run.selections()) == 3


def test_probabilities_outlive_the_samples_of_a_later_selection(run: Run) -> None:
    first = run.select(3, "bald", "batchbald", candidates=6)
    _, table, _ = read_selection(run)
    p_kC = probabilities_of(run, table)
    assert p_kC is not None
    np.testing.assert_allclose(p_kC.sum(1), 1, atol=1e-5)
    run.select(3, "entropy", "batchbald", candidates=5, limits=Limits(leave_out=first.ids))
    (run.path / "samples-candidates.bin").unlink()  # type: ignore[union-attr]
    np.testing.assert_array_equal(probabilities_of(run, read_selection(run, 1)[1]), p_kC)
    run.select(3, "bald", "none")
    assert probabilities_of(run, read_selection(run)[1]) is None


def test_the_verb_lists_them(run: Run) -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["run", "selections", str(run.path)]).output == "none\n"
    run.select(4, "bald", "power", beta=2.0)
    chosen = runner.invoke(main, ["select", str(run.path), "-k", "3", "--diversity", "none", "--json"])
    assert json.loads(chosen.stdout)["selection"] == 2
    again = runner.invoke(main, ["select", str(run.path), "-k", "3", "--diversity", "none"])
    assert "the newest selection was the same: nothing was written" in again.output
    lines = runner.invoke(main, ["run", "selections", str(run.path)]).output.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("   1  ")
    assert lines[0].endswith("  4 items by bald, power, seed 0, beta 2; 0 labeled by now")
    assert lines[1].endswith("  3 items by bald, none; 0 labeled by now")
    told = json.loads(runner.invoke(main, ["run", "selections", str(run.path), "--json"]).stdout)
    assert [each["asked"]["k"] for each in told["selections"]] == [4, 3]
    out = Path(str(run.path)) / "two.jsonl"
    done = runner.invoke(main, ["export", str(run.path), "--selection", "1", "--format", "jsonl", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert len(out.read_text().splitlines()) == 4
