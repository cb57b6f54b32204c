from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import RunError, Stopped
from mcscore.run import Run, score_pool

from .fakes import SPAN, FakePool, FakeScorer, begin, content, go_on

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
ROOT = Path(__file__).resolve().parents[2]


def signal_at(id: int, number: int, times: int = 1):
    def send(ids: np.ndarray) -> None:
        if id in ids:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return send


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(("id", "done"), [(3, 0), (39, 40), (60, 40), (85, 80)])
def test_a_stopped_run_keeps_whole_spans_and_goes_on(
    out: Path, undisturbed: dict[str, bytes], number: int, id: int, done: int
) -> None:
    handlers = list(map(signal.getsignal, SIGNALS))
    with pytest.raises(Stopped, match=rf"resumable: {done} of 100 items done in .*run") as caught:
        begin(out, on_block=signal_at(id, number))
    assert (caught.value.done, caught.value.total, caught.value.exit_code) == (done, 100, 3)
    assert list(map(signal.getsignal, SIGNALS)) == handlers
    assert Run.open(out).done == done
    assert not (out / "lock").exists()
    assert content(go_on(out)) == undisturbed


def test_a_stop_is_no_exception_that_a_loop_would_swallow() -> None:
    assert issubclass(Stopped, KeyboardInterrupt)
    assert not issubclass(Stopped, Exception)


def test_a_stop_during_the_last_block_is_still_a_stop(out: Path, undisturbed: dict[str, bytes]) -> None:
    with pytest.raises(Stopped, match="100 of 100"):
        begin(out, on_block=signal_at(99, signal.SIGINT))
    assert content(Run.open(out)) == undisturbed


def test_a_second_ctrl_c_stops_at_once_and_is_survived(out: Path, undisturbed: dict[str, bytes]) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        begin(out, on_block=signal_at(60, signal.SIGINT, times=2))
    assert not isinstance(caught.value, Stopped)
    assert not (out / "lock").exists()
    assert content(go_on(out)) == undisturbed


def test_outside_the_main_thread_scoring_works_without_signals(out: Path, undisturbed: dict[str, bytes]) -> None:
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(begin(out)))
    thread.start()
    thread.join()
    assert content(runs[0]) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_ignored_signal_stays_ignored(out: Path, undisturbed: dict[str, bytes], number: int) -> None:
    former = signal.signal(number, signal.SIG_IGN)  # as under nohup
    try:
        assert content(begin(out, on_block=signal_at(60, number))) == undisturbed
    finally:
        signal.signal(number, former)


def test_ctrl_c_ends_a_process_with_exit_code_3(out: Path, undisturbed: dict[str, bytes]) -> None:
    code = f"""
from tests.run.fakes import slowly
from mcscore.run import Stopped
try:
    slowly({str(out)!r}, 0.2, lambda done: print(done, flush=True))
except Stopped as stop:
    print(stop, flush=True)
    raise SystemExit(stop.exit_code)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while child.stdout.readline() != "40\n":  # the first span is committed
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        rest, _ = child.communicate(timeout=30)
    assert child.returncode == 3
    assert rest.endswith(f"stopped; resumable: 40 of 100 items done in {out}\n")
    assert content(go_on(out)) == undisturbed


def test_a_failing_progress_callback_leaves_a_run_that_goes_on(out: Path, undisturbed: dict[str, bytes]) -> None:
    def progress(done: int, _total: int) -> None:
        if done == 72:
            raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        score_pool(FakePool(), FakeScorer(), out, span=SPAN, progress=progress)
    assert content(go_on(out)) == undisturbed
    with pytest.raises(RunError):
        go_on(out, seed=5)
