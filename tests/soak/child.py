"""Verbs of the command line in forked children of a process that has imported everything: a verb takes 0.1 s, not 3.

The parent starts no thread and opens no pool, so that its children may fork in good order.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 120.0  # seconds after which a verb counts as one that hangs
GRACE = 5.0  # seconds in which the workers of a process that was killed must be gone


@dataclass(frozen=True)
class Answer:
    """What a verb said: its exit code (negative: the signal that ended it), stdout, stderr."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def raw(self) -> bool:
        """Whether it failed with what nobody has put into words."""
        return self.code not in (0, 2, 3) and ("Traceback" in self.err or "MCSCORE_TRACEBACK" in self.err)


def preload(folder: Path, work: Callable[[], Any]) -> None:
    """Import here all that ``work()`` imports, found out in a child: what it starts (threads) stays there."""

    def modules() -> list[str]:
        known = set(sys.modules)
        work()
        return [name for name, found in list(sys.modules.items()) if name not in known and found is not None]

    for name in ask(folder, modules):
        with contextlib.suppress(ImportError):  # of what a verb made itself: the model's file
            importlib.import_module(name)


def give(*words: object) -> Answer:
    """Give one command in this process; it must be a child."""
    from mcscore.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words], prog_name="mcscore")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc(file=err)
            code = 1
    return Answer(code, out.getvalue(), err.getvalue())


class Child:
    """A forked process, the leader of a session of its own, that does ``work()`` in ``folder`` and hands back its value."""

    def __init__(self, folder: Path, work: Callable[[], Any]) -> None:
        self._end, end = os.pipe()
        self.began = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._end)
                code = _child(folder, work, end)
            finally:
                os._exit(code)  # whatever happens: a child must never go on as its parent
        os.close(end)
        self.limit = PATIENCE
        self.code: int | None = None
        self.value: Any = None

    def kill(self, number: int) -> None:
        """Send a signal to the process, and to it alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def ended(self) -> bool:
        """Whether the value is there, or the process is gone."""
        return bool(select.select([self._end], [], [], 0)[0])

    def wait(self) -> Any:
        """Return the value; None where the process was ended before, or had to be."""
        data, until = b"", self.began + self.limit
        while True:
            ready, _, _ = select.select([self._end], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                self.kill(signal.SIGKILL)
                until += PATIENCE
                continue
            part = os.read(self._end, 1 << 16)
            data += part
            if not part:
                break
        os.close(self._end)
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.value = pickle.loads(data) if data else None  # only ever a whole value: written last
        return self.value

    def end(self) -> int:
        """Return the exit code without reading the value: for a process that is being killed, whose workers hold the pipe."""
        os.close(self._end)
        until = time.monotonic() + PATIENCE
        while (found := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > until:
                self.kill(signal.SIGKILL)
            time.sleep(0.002)
        self.code = os.waitstatus_to_exitcode(found[1])
        return self.code

    def orphans(self) -> int:
        """Count the processes of the session that outlive it, and end them."""
        until = time.monotonic() + GRACE
        while (left := _session(self.pid)) and time.monotonic() < until:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(left)


def ask(folder: Path, work: Callable[[], Any]) -> Any:
    """Return what ``work()`` returns in a forked process; raises what it raised, and TimeoutError if it hangs."""
    child = Child(folder, work)
    value = child.wait()
    if isinstance(value, BaseException):
        raise value
    if child.code != 0:
        raise TimeoutError(f"ended by signal {-(child.code or 0)} after {PATIENCE:g} s, or before")
    return value


def _child(folder: Path, work: Callable[[], Any], end: int) -> int:
    """Do the work of a child process and write its value into the pipe; returns the exit code."""
    os.setsid()
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):  # which a shell's nohup has ignored
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        value = work()
    except BaseException as error:
        value = RuntimeError("".join(traceback.format_exception(error)))
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter does at its end, which os._exit leaves out
    atexit._run_exitfuncs()
    with open(end, "wb") as pipe:
        pickle.dump(value, pipe)
    return 0


def _session(leader: int) -> list[int]:
    """Return the processes of a session, except those that have ended and wait to be collected."""
    return [pid for pid, state, session in _processes() if session == leader and state != "Z"]


def _processes() -> Iterator[tuple[int, str, int]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                yield int(entry), fields[0], int(fields[3])
