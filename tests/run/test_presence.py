"""The files of those who work on a run: what they say, and that nothing depends on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mcscore.machine import host, machine
from mcscore.run import presence
from mcscore.run.presence import Presence, clear_workers, workers_of


def leave(run: Path, name: str, **said: Any) -> Path:
    """A file as a worker leaves it when it is killed."""
    (run / "workers").mkdir(exist_ok=True)
    file = run / "workers" / f"{name}.json"
    content = {"what": "shard", "host": "node7", "pid": 4242, "machine": "00000000", "state": "scoring", "done": 7}
    content |= {"items_per_second": 0.5, "seconds": 14.0, "workers": []}
    file.write_text(json.dumps({**content, **said}))
    return file


def test_a_worker_is_seen_as_long_as_it_works(tmp_path: Path) -> None:
    with Presence(tmp_path, "shard 3 of 8") as one:
        assert workers_of(tmp_path) == []
        one.update(40, state="scoring")
        (worker,) = workers_of(tmp_path)
        assert (worker.what, worker.host, worker.pid) == ("shard 3 of 8", host(), os.getpid())
        assert (worker.state, worker.done, worker.alive) == ("scoring", 40, True)
        assert worker.items_per_second == pytest.approx(40 / worker.seconds)
        assert 0 <= worker.seen < 5
        assert json.loads(json.dumps(worker.facts())) == {**worker.facts(), "workers": []}
    assert os.listdir(tmp_path) == []


def test_within_a_second_only_another_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(presence.time, "time", lambda: now)
    one = Presence(tmp_path, "driver")
    done = lambda: [(worker.done, worker.state) for worker in workers_of(tmp_path)]  # noqa: E731
    one.update(1, state="scoring")
    now = 1000.9
    one.update(2, state="scoring")
    assert done() == [(1, "scoring")]
    one.update(3, state="finishing")
    assert done() == [(3, "finishing")]
    now = 1002.0
    one.update(4, state="finishing", workers=[{"what": "cuda:0", "done": 4}])
    assert done() == [(4, "finishing")]
    assert workers_of(tmp_path)[0].workers == ({"what": "cuda:0", "done": 4},)


def test_workers_come_by_number_and_what_is_torn_is_left_out(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        leave(tmp_path, f"a{number}", what=f"shard {number} of 11")
    leave(tmp_path, "torn").write_text("{")
    leave(tmp_path, "foreign").write_text('{"what": "else"}')
    assert [worker.what for worker in workers_of(tmp_path)] == ["shard 0 of 11", "shard 2 of 11", "shard 10 of 11"]


def test_who_is_gone_from_this_machine_is_told_and_of_others_only_when_it_was_seen(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leave(tmp_path, "dead", what="a", machine=machine(), pid=dead.pid)
    file = leave(tmp_path, "elsewhere", what="b")
    os.utime(file, (time.time() - 100, time.time() - 100))
    one, other = workers_of(tmp_path)
    assert (one.alive, other.alive) == (False, None)
    assert other.seen == pytest.approx(100, abs=5)


def test_who_has_the_run_alone_clears_the_others(tmp_path: Path) -> None:
    leave(tmp_path, "dead")
    with Presence(tmp_path, "shard 0 of 2") as one, Presence(tmp_path, "shard 1 of 2") as other:
        one.update(1)
        other.update(1)
        clear_workers(tmp_path)
        assert os.listdir(tmp_path) == []
        other.update(2, state="scoring")  # it lives, and comes back
        one.update(2, state="scoring")
        assert [worker.what for worker in workers_of(tmp_path)] == ["shard 0 of 2", "shard 1 of 2"]
    assert os.listdir(tmp_path) == []


def test_a_directory_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    with Presence(tmp_path / "missing", "driver") as one:
        one.update(1)
        clear_workers(tmp_path / "missing")
    (tmp_path / "workers").write_text("a file")
    with Presence(tmp_path, "driver") as one:
        one.update(1)
        clear_workers(tmp_path)
    assert (tmp_path / "workers").read_text() == "a file"
