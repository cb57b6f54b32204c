"""Processes that score one run together: whoever comes, goes or is killed, the run is that of one process, to the last bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import RunError
from mcscore.run import Run, Screen, score_pool
from mcscore.run.glance import glance
from mcscore.run.presence import Worker, workers_of
from mcscore.store import lock
from mcscore.store.lock import locked
from mcscore.store.mount import Mount

from .fakes import FakeScorer, begin, fail_at, grown
from .sharing import ITEMS, SCREEN, SPAN, fork, locally, pool, require_same, share, slowly, together
from .test_presence import leave

# -- together ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
def test_several_at_a_time_leave_the_run_of_one_and_the_last_closes_it(out: Path, count: int, local: Path) -> None:
    together(out, count)
    require_same(out, local)


@pytest.mark.parametrize("count", [2, 3])
def test_a_screened_run_has_the_same_cut_and_certificate(out: Path, count: int, local_screened: Path) -> None:
    together(out, count, screen=SCREEN)
    require_same(out, local_screened)


def test_the_number_of_passes_may_be_chosen_by_the_first_stage(out: Path, tmp_path: Path) -> None:
    screen = Screen(top=20, passes=8, budget=100.0)
    other = locally(tmp_path / "local", screen=screen).path
    together(out, 2, screen=screen)
    require_same(out, Path(str(other)))


def test_one_does_the_work_of_all_that_never_come(out: Path, local: Path) -> None:
    report = share(out, 2, 3)
    assert (report.items, report.spans) == (ITEMS, 32)
    assert report.run is not None
    assert str(report) == "shard 2 of 3 has scored 500 items in 32 spans; the run is complete"
    require_same(out, local)


def test_one_that_comes_when_all_is_done_scores_nothing(out: Path, local: Path, local_screened: Path) -> None:
    for done, options in ((local, {}), (local_screened, {"screen": SCREEN})):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(done, out)
        report = share(out, on_block=fail_at(-1), **options)
        assert report.items == 0
        assert report.run is not None
        require_same(out, done)


def test_what_the_killed_left_goes_though_nothing_is_to_be_scored(out: Path, local: Path) -> None:
    shutil.copytree(local, out)
    leave(out, "dead")
    (out / "lock").write_text("")
    assert share(out).items == 0
    require_same(out, local)


# -- beside a process that has the run alone ---------------------------------------------------------------------------


def test_a_local_run_that_stopped_is_finished_by_shards(out: Path, local: Path) -> None:
    with pytest.raises(RunError):
        score_pool(pool(), FakeScorer(on_block=fail_at(250)), out, span=SPAN)
    done = Run.open(out).done
    assert 200 < done <= 250
    report = share(out, step=2)  # adopts the plan
    assert report.items == ITEMS - done
    require_same(out, local)


def test_shards_that_stopped_are_finished_by_a_local_run(out: Path, local: Path) -> None:
    with pytest.raises(
        RunError, match=r"items 160..175 in span 10 .* could not be scored: MemoryError.*the same command resumes"
    ):
        share(out, 0, 1, on_block=fail_at(170))
    assert Run.open(out).done == 160
    assert os.listdir(out / "commits")
    locally(out)
    require_same(out, local)


def test_a_shard_waits_for_a_driver_and_a_driver_is_refused_beside_shards(
    out: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.1)
    with pytest.raises(RunError):
        score_pool(pool(), FakeScorer(on_block=fail_at(250)), out, span=SPAN)
    ready = fork.Event()

    def drive() -> None:
        with locked(out, RunError):
            ready.set()
            time.sleep(0.5)

    driver = fork.Process(target=drive)
    driver.start()
    assert ready.wait(30)
    refused: list[str] = []

    def drive_too(_ids: np.ndarray) -> None:
        if not refused:
            with pytest.raises(RunError, match=f"is being written by process {os.getpid()} on") as error:
                locally(out)
            refused.append(str(error.value))

    with pytest.warns(UserWarning, match=f"{out} is being written by process {driver.pid} on .*: waiting"):
        share(out, on_block=drive_too)
    assert refused
    require_same(out, local)


def test_a_killed_driver_is_followed_by_shards(out: Path, local: Path) -> None:
    driver = fork.Process(target=lambda: score_pool(pool(), FakeScorer(on_block=slowly), out, span=SPAN))
    driver.start()
    while not list(out.glob("commits/0*.json")):
        time.sleep(0.005)
    driver.kill()
    driver.join()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the lock is taken over is told
        share(out)
    require_same(out, local)


# -- what only one may do ----------------------------------------------------------------------------------------------


def test_a_pool_that_grew_is_scored_by_all_and_its_last_span_by_the_last_one(out: Path, tmp_path: Path) -> None:
    begin(tmp_path / "one", step=1)
    begin(out, step=1)
    score_pool(grown(300), FakeScorer(), tmp_path / "one", span=40)
    together(out, 2, pool=grown(300), span=40)
    require_same(out, tmp_path / "one")


def test_what_could_not_be_read_is_tried_again(out: Path, tmp_path: Path) -> None:
    for where in (out, tmp_path / "one"):
        torn = pool()
        torn.bad = [(30, 44)]
        with pytest.warns(UserWarning, match="could not be read"):
            locally(where, pool=torn, on_bad_chunk="skip")
    assert len(Run.open(out).unreadable_ids) == 12  # two are labeled
    locally(tmp_path / "one")
    report = share(out)
    assert report.items == 0  # the span is held: it is scored by the one that has the run alone
    require_same(out, tmp_path / "one")
    assert len(Run.open(out).unreadable_ids) == 0


def test_a_span_of_which_something_else_is_there_is_left_to_the_last_one(out: Path, local: Path) -> None:
    with pytest.raises(RunError):
        share(out, 0, 1, on_block=fail_at(170))
    (out / "scores.zarr" / "c" / "0" / "20").write_bytes(b"torn by a program that does not write as we do")
    together(out, 2)
    require_same(out, local)


def test_damage_is_found_and_scored_again(out: Path, local: Path) -> None:
    with pytest.raises(RunError):
        share(out, 0, 1, on_block=fail_at(170))
    shard = out / "scores.zarr" / "c" / "0" / "4"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="1 damaged place: span 4"):
        share(out)
    require_same(out, local)


# -- watching ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def seen(out: Path) -> Iterator[list[Worker]]:
    """The workers as another process sees them, after two shards have scored for a while."""
    go = fork.Event()
    children = [fork.Process(target=share, args=(out, index, 2, lambda _ids: go.wait(30))) for index in range(2)]
    for child in children:
        child.start()
    found: list[Worker] = []
    while {worker.state for worker in found} != {"scoring"} or len(found) < 2:
        found = workers_of(out)
        time.sleep(0.005)
    yield found
    go.set()
    for child in children:
        child.join(60)


def test_shards_at_work_are_seen(seen: list[Worker], out: Path) -> None:
    assert [worker.what for worker in seen] == ["shard 0 of 2", "shard 1 of 2"]
    assert all(worker.alive for worker in seen)
    assert not glance(out).over


def test_processes_that_were_killed_again_and_again_leave_the_run_of_one(tmp_path: Path) -> None:
    """The campaign of tests/soak, with command lines in processes of their own; make soak goes on for longer."""
    seed = int(os.environ.get("MCSCORE_KILL_SEED", time.time_ns() % 10**6))
    print(f"MCSCORE_KILL_SEED={seed}")  # pytest shows it when the test fails
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.soak.shards", "--kills", "3", "--seed", str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1].split(": ")[1].split()[0]) == 3


def test_what_a_process_of_another_container_left_goes_where_the_lock_is_certain(
    out: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = "commits/000005.json.00000000-1-5eed0a1b.tmp"
    for mounted, stays in ((Mount("ext4", frozenset()), False), (Mount("beegfs", frozenset()), True)):
        shutil.rmtree(out, ignore_errors=True)
        with pytest.raises(RunError):
            share(out, 0, 1, on_block=fail_at(170))
        (out / left).write_bytes(b"half")
        monkeypatch.setattr("mcscore.store.place.local.mount_of", lambda _path, mounted=mounted: mounted)
        share(out)
        assert (out / left).exists() is stays
        (out / left).unlink(missing_ok=True)
        require_same(out, local)
