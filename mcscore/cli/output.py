"""Where the output of the user's code goes: to stderr, and with --log-json into the log, an event a line."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator

from . import lines, log


@contextlib.contextmanager
def diverted(into_log: bool) -> Iterator[None]:
    """Keep what is printed, by threads, by C and by child processes too, off stdout, which is for the answer alone."""
    try:
        out, err = sys.stdout.fileno(), sys.stderr.fileno()
    except (io.UnsupportedOperation, AttributeError, ValueError):  # no files, as in a test or a notebook
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    reader = _reader() if into_log else None
    sink = os.dup(err) if reader is None else reader.sink
    kept = {out: os.dup(out), err: os.dup(err)}
    _flush()
    os.dup2(sink, out)
    os.dup2(sink, err)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            if reader is not None:
                told = open(kept[err], "w", 1, sys.stderr.encoding, sys.stderr.errors, closefd=False)  # noqa: SIM115
                stack.enter_context(log.to(stack.enter_context(told)))
            yield
    finally:
        _flush()
        if reader is not None:
            reader.catch_up()
        for descriptor, before in kept.items():
            os.dup2(before, descriptor)
            os.close(before)
        # What runs at the end of the process is the user's, too: this runs before what that code has registered.
        atexit.register(_at_end, sink, out)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__):
        if stream is not None:
            stream.flush()


def _at_end(sink: int, out: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        os.dup2(sink, out)


class _Reader:
    """The process that makes events of lines; ``sink`` is the descriptor to print into."""

    def __init__(self, log_descriptor: int) -> None:
        self._end = secrets.token_hex(16)
        command = [sys.executable, "-I", "-S", lines.__file__, self._end]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_descriptor)
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self.sink, self._answer = process, process.stdin.fileno(), process.stdout.fileno()

    def catch_up(self) -> None:
        """Return when all that was printed is in the log."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.sink, f"\n{self._end}\n".encode())  # on a line of its own, after whatever had no newline
            os.read(self._answer, 1)


@functools.cache
def _reader() -> _Reader:
    return _Reader(sys.stderr.fileno())
