"""Processes that share a directory: one is alone, or several take part, and of those that end the last may be alone again."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
import warnings
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from mcscore.errors import RunError
from mcscore.store import lock
from mcscore.store.holder import Holder, holder_of
from mcscore.store.lock import joined, locked

fork = multiprocessing.get_context("fork")


def test_who_comes_first_is_alone_and_the_next_share(tmp_path: Path) -> None:
    with joined(tmp_path, RunError) as one, joined(tmp_path, RunError) as other:
        assert one.join()
        assert one.exclusive
        assert holder_of(tmp_path) == Holder(os.getpid(), os.uname().nodename, True)
        assert one.share()
        assert other.join()
        assert (one.exclusive, other.exclusive) == (False, False)
        assert holder_of(tmp_path) is None  # nobody is alone
        assert not one.try_exclusive()
        assert other.try_exclusive()  # one takes no part any more
        assert other.exclusive
    assert os.listdir(tmp_path) == []


def test_of_two_that_share_each_may_leave_and_come_back(tmp_path: Path) -> None:
    with joined(tmp_path, RunError) as one:
        with joined(tmp_path, RunError) as other:
            assert one.share()
            assert other.share()
        assert os.listdir(tmp_path) == ["lock"]  # one has it still
        with joined(tmp_path, RunError) as other:
            assert other.join()
            assert not other.exclusive
        assert one.try_exclusive()


@pytest.mark.parametrize("alone", [False, True])
def test_a_writer_that_wants_it_alone_is_refused(tmp_path: Path, alone: bool) -> None:
    with joined(tmp_path, RunError) as one:
        assert one.join()
        assert alone or one.share()
        with pytest.raises(RunError, match=f"is being written by process {os.getpid()} on"), locked(tmp_path, RunError):
            pass
    with locked(tmp_path, RunError):
        pass
    assert os.listdir(tmp_path) == []


def test_who_comes_while_another_is_alone_waits_and_says_whom_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.1)
    shared: list[bool] = []

    def second() -> None:
        with joined(tmp_path, RunError) as other:
            other.share()
            shared.append(other.exclusive)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with locked(tmp_path, RunError):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(0.5)
            assert thread.is_alive()
        thread.join(30)
    assert shared == [False]
    (said,) = [str(each.message) for each in told]
    assert said.startswith(f"{tmp_path} is being written by process {os.getpid()} on {os.uname().nodename} since ")
    assert said.endswith(": waiting")


def test_who_waits_can_be_stopped(tmp_path: Path) -> None:
    with locked(tmp_path, RunError), joined(tmp_path, RunError, stop=lambda: True) as other:
        assert not other.join()
        assert not other.share()
        assert not other.exclusive


def test_what_another_machine_may_hold_stays_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"pid": "4242", "host": "node7", "boot_id": "b7"}')
    with (
        joined(tmp_path, RunError) as one,
        pytest.raises(RunError, match=r"process 4242 on another host, node7; .*remove"),
    ):
        one.join()
    assert "node7" in (tmp_path / "lock").read_text()


def _take_part(directory: Path, ready: Event, alone: bool) -> None:
    with joined(directory, RunError) as part:
        assert part.join() if alone else part.share()
        ready.set()
        time.sleep(60)


@pytest.mark.parametrize("alone", [False, True])
def test_a_part_ends_with_its_process(tmp_path: Path, alone: bool) -> None:
    ready = fork.Event()
    child = fork.Process(target=_take_part, args=(tmp_path, ready, alone))
    child.start()
    assert ready.wait(30)
    with joined(tmp_path, RunError) as one:
        assert not one.try_exclusive()
        child.kill()
        child.join()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert one.join()
        assert one.exclusive
        said = [f"{tmp_path}: took over the lock of process {child.pid}, which is gone"]
        assert [str(each.message) for each in told] == (said if alone else [])
    assert os.listdir(tmp_path) == []


def _contend(directory: Path, seed: int, seconds: float) -> None:
    """Take part in turn, alone and shared; a file each says how, so that two that may not be there together show."""
    rng, until = random.Random(seed), time.monotonic() + seconds
    mine = directory / f"{seed}.part"
    warnings.simplefilter("ignore")

    def here(alone: bool) -> None:
        mine.write_text("alone" if alone else "shared")
        others = [file for file in directory.glob("*.part") if file != mine]
        found = []
        for file in others:
            try:
                found.append(file.read_text())
            except FileNotFoundError:  # it left
                continue
        if (alone and found) or (not alone and "alone" in found):
            (directory / f"{seed}.wrong").write_text(f"{alone} beside {found}")
        time.sleep(rng.random() * 0.002)
        mine.unlink()

    with joined(directory, RunError) as part:
        while time.monotonic() < until:
            how = rng.randrange(3)
            if how == 0:
                part.join()
                here(part.exclusive)
            elif how == 1 and part.try_exclusive():
                here(True)
            elif how == 2:
                part.share()
                here(False)
            if rng.random() < 0.3:
                part.leave()
            elif rng.random() < 0.01:
                os.kill(os.getpid(), signal.SIGKILL)


def test_nobody_is_beside_one_that_is_alone_though_some_are_killed(tmp_path: Path) -> None:
    children = [fork.Process(target=_contend, args=(tmp_path, seed, 2.0)) for seed in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert {child.exitcode for child in children} <= {0, -signal.SIGKILL}
    assert not list(tmp_path.glob("*.wrong"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a lock is taken over is told
        with joined(tmp_path, RunError) as last:
            assert last.try_exclusive()
    assert os.listdir(tmp_path) == []
