from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import time
import warnings
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mcscore import machine
from mcscore.errors import RunError, RunInUseError
from mcscore.run import score_pool
from mcscore.run.status import verify
from mcscore.store import lock, mount
from mcscore.store.holder import Holder, holder_of

from .fakes import SPAN, FakePool, FakeScorer, begin, content, go_on

locked = partial(lock.locked, error=RunError)


def said(run: Path) -> dict[str, str]:
    return json.loads((run / "lock").read_text())


def leave(run: Path, **changes: str) -> None:
    """A lock file as a killed process leaves it."""
    (run / "lock").write_text(json.dumps({"pid": "4242", "host": "here", "boot_id": "b1", **changes}))


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.machine()  # which remembers the real one
    monkeypatch.setattr(machine.socket, "gethostname", lambda: "here")
    monkeypatch.setattr(machine, "_BOOT_ID", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("b1\n")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_the_file_says_who_writes_and_goes_with_it(run: Path) -> None:
    with locked(run):
        file = said(run)
        assert datetime.fromisoformat(file.pop("since")).tzinfo is not None
        assert file == {"pid": str(os.getpid()), "host": "here", "boot_id": "b1"}
    assert not (run / "lock").exists()


def test_a_live_lock_is_refused_by_name(run: Path) -> None:
    with locked(run):
        with pytest.raises(RunError, match=rf"run is being written by process {os.getpid()} on here"), locked(run):
            pass
        assert (run / "lock").exists()
    with locked(run):
        pass


def _hold(run: Path, ready: Any, done: Any) -> None:
    with locked(run):
        ready.set()
        done.wait(30)


def test_a_lock_lives_as_long_as_its_process(out: Path, undisturbed: dict[str, bytes]) -> None:
    begin(out)
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()
    child = fork.Process(target=_hold, args=(out, ready, done))
    child.start()
    assert ready.wait(30)
    with pytest.raises(RunError, match=f"being written by process {child.pid}"):
        go_on(out)
    child.kill()
    child.join()
    assert said(out)["pid"] == str(child.pid)  # it had no time to tidy up
    with pytest.warns(UserWarning, match=f"took over the lock of process {child.pid}, which is gone"):
        assert content(go_on(out)) == undisturbed
    assert not (out / "lock").exists()


def _hold_and_fork(run: Path, report: Any) -> None:
    with locked(run):
        if (child := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        report.send(child)
        time.sleep(60)


@pytest.mark.skipif(not Path("/proc/self/fdinfo").exists(), reason="needs Linux's /proc")
def test_a_lock_that_a_forked_child_holds_is_named_by_the_child(run: Path) -> None:
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    parent = context.Process(target=_hold_and_fork, args=(run, send))
    parent.start()
    child = receive.recv()
    try:
        with (
            pytest.raises(RunError, match=rf"being written by process {parent.pid} on here since .*; wait"),
            locked(run),
        ):
            pass
        assert holder_of(run) == Holder(parent.pid, "here", True)
        parent.kill()
        parent.join()
        says = rf"written by process {child} on here, which inherited the lock of process {parent.pid}; wait for it"
        with pytest.raises(RunError, match=says), locked(run):
            pass
        assert holder_of(run) == Holder(child, "here", True)
        (run / "lock").write_text("")
        with pytest.raises(RunError, match=rf"written by process {child} on here; wait"), locked(run):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
    leave(run, pid=str(parent.pid))
    for _ in range(100):
        if (holder := holder_of(run)) == Holder(parent.pid, "here", False):
            break
        time.sleep(0.05)
    assert holder is not None
    assert holder.alive is False


def test_of_two_that_begin_the_same_run_the_second_changes_nothing(out: Path, undisturbed: dict[str, bytes]) -> None:
    class Slow(FakeScorer):
        def prepare(self, *args: Any, **more: Any) -> dict[str, Any]:
            begin(out)  # another process, from start to end
            return super().prepare(*args, **more)

    with pytest.raises(RunError, match="was made a run by another process meanwhile; start again"):
        score_pool(FakePool(), Slow(), out, span=7)
    assert content(go_on(out)) == undisturbed


@pytest.mark.parametrize("changes", [{}, {"boot_id": "b0"}, {"host": "renamed"}])
def test_a_dead_lock_of_this_machine_is_taken_over(run: Path, changes: dict[str, str]) -> None:
    leave(run, **changes)
    with pytest.warns(UserWarning, match="took over the lock of process 4242"), locked(run):
        assert said(run)["pid"] == str(os.getpid())


def test_a_lock_of_another_machine_is_refused_with_advice(run: Path, tmp_path: Path) -> None:
    leave(run, host="node7", boot_id="b7")
    for _ in range(2):
        with (
            pytest.raises(
                RunError, match=r"process 4242 on another host, node7; if no process there .* \(--take-over\)"
            ),
            locked(run),
        ):
            pass
        assert said(run)["host"] == "node7"
        (tmp_path / "boot_id").unlink(missing_ok=True)  # where there is no boot id, the host name decides
    (run / "lock").unlink()
    with locked(run):
        pass


def test_a_lock_of_another_machine_is_taken_over_where_the_kernel_sees_other_machines(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(run, host="node7", boot_id="b7")
    monkeypatch.setattr(mount, "mount_of", lambda _path: mount.Mount("nfs4", frozenset({"rw", "local_lock=none"})))
    with pytest.warns(UserWarning, match="took over the lock of process 4242 on node7, which is gone"), locked(run):
        assert said(run)["host"] == "here"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_file_that_was_cut_off_says_nothing(run: Path, text: str) -> None:
    (run / "lock").write_text(text)
    with warnings.catch_warnings(), locked(run):
        warnings.simplefilter("error")
        assert said(run)["host"] == "here"


def test_a_lock_file_removed_between_open_and_lock_is_not_trusted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, removed = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append((run / "lock").stat().st_ino)
            (run / "lock").unlink()
            (run / "placeholder").touch()  # so that the inode number is not used again at once
        real(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with locked(run):
        assert removed
        with pytest.raises(RunError, match="being written"), locked(run):
            pass


def test_a_file_system_without_locks_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with (
        pytest.raises(RunError, match=r"cannot lock files .No locks available.; put .*run on a local disk"),
        locked(run),
    ):
        pass


SINCE = "2026-01-02T03:04:05Z"


def test_a_lock_of_another_machine_is_taken_over_where_that_is_asked_for(run: Path) -> None:
    leave(run, host="node7", boot_id="b7", since=SINCE)
    with pytest.raises(RunInUseError, match=f"another host, node7, since {SINCE}"), locked(run, in_use=RunInUseError):
        pass
    with warnings.catch_warnings(record=True) as told, locked(run, take_over=True) as held:
        warnings.simplefilter("always")
        assert said(run)["host"] == "here"
        held.require()
    assert f"took over the lock of process 4242 on node7 since {SINCE}, as asked" in str(told[0].message)
    assert not (run / "lock").exists()


def test_a_lock_that_the_kernel_knows_of_another_machine_is_taken_over_too(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(run, in_use=RunInUseError) as held:
        monkeypatch.setattr(lock, "processes_holding", lambda _path: [])  # none of this machine
        held.signature.update(host="node7", boot_id="b7")
        (run / "lock").write_text(json.dumps(held.signature))
        with pytest.raises(RunError, match=r"If that machine is gone, .*--take-over"), locked(run):
            pass
        says = rf"taken over by process {os.getpid()} on here since .*; this process"
        with warnings.catch_warnings(), locked(run, take_over=True), pytest.raises(RunInUseError, match=says):
            held.require()
        with pytest.raises(RunInUseError, match="is gone"):
            held.require()


def test_a_live_lock_of_this_machine_is_never_taken_over(run: Path) -> None:
    with locked(run) as held:
        with pytest.raises(RunError, match="is being written by process"), locked(run, take_over=True):
            pass
        held.require()
        (run / "lock").write_text(json.dumps(held.signature | {"host": "node7", "boot_id": "b7"}))
        with pytest.raises(RunError, match="is being written by process"), locked(run, take_over=True):
            pass  # the kernel says that a process of this machine holds it


def _taking_over(out: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    """What takes the run over from another machine once, and completes it."""
    taken: list[Any] = []

    def take_over(*_args: object) -> None:
        if taken:
            return
        with monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr(machine.socket, "gethostname", lambda: "there")
            patch.setattr(machine, "_BOOT_ID", out / "no boot id")
            patch.setattr(lock, "processes_holding", lambda _path: [])
            taken.append(None)
            taken[0] = content(score_pool(FakePool(), FakeScorer(**changes), out, span=SPAN, take_over=True))

    take_over.taken = taken  # type: ignore[attr-defined]
    return take_over


def test_a_holder_that_runs_all_the_same_ends_before_its_next_commit(
    out: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_over = _taking_over(out, monkeypatch)
    on_block = lambda ids: take_over() if 50 in ids else None  # noqa: E731  # in the second of three spans
    with pytest.raises(RunInUseError, match=r"is gone: .*lock was removed") as error:
        score_pool(FakePool(), FakeScorer(on_block=on_block), out, span=SPAN)
    assert error.value.exit_code == 3
    assert take_over.taken == [undisturbed]
    assert verify(out) == []
    assert content(go_on(out)) == undisturbed


def test_a_commit_that_comes_after_the_take_over_changes_no_score(
    out: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_over = _taking_over(out, monkeypatch)
    real = lock.Held.require

    def require(held: lock.Held) -> None:  # the other completes the run between this look and the commit
        real(held)
        take_over()

    monkeypatch.setattr(lock.Held, "require", require)
    with pytest.raises(RunInUseError):
        begin(out)
    assert take_over.taken == [undisturbed]
    assert verify(out) == []
    assert content(go_on(out)) == undisturbed
