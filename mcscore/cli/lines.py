"""Lines of the log, as JSON. Run as a program, this makes a line of the log of each line on stdin: what the user's code prints.

That is a program and not a thread, because code that holds the interpreter's lock may print more than a pipe holds, and because what a
crash prints comes last of all. It imports nothing but the standard library, so it starts at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from datetime import datetime
from typing import Any

_LONGEST = 2048  # bytes of an event: text without a newline, such as a progress bar, is told in parts


def json_line(level: str, event: str, created: float | None = None, **fields: Any) -> str:
    """One line of a log: an object with time, level, event and its fields."""
    return json.dumps({"time": stamp(created), "level": level, "event": event, **fields}, default=str)


def stamp(created: float | None = None) -> str:
    """A moment, by default now, as ISO 8601 with its zone."""
    return (
        (datetime.now() if created is None else datetime.fromtimestamp(created)).astimezone().isoformat("T", "seconds")
    )


def _tell(end: bytes) -> None:
    """Write an event for each line of stdin to stderr; for the line ``end`` a byte to stdout: all before it is written."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)  # they reach the whole group; this ends with the last process that prints
    while line := sys.stdin.buffer.readline(_LONGEST):
        with contextlib.suppress(BrokenPipeError):  # who read the log is gone; what prints goes on
            if line == end:
                os.write(1, b".")
            elif text := line.decode("utf-8", "replace").strip("\r\n"):
                os.write(2, f"{json_line('info', 'output', message=text)}\n".encode())


if __name__ == "__main__":
    _tell(sys.argv[1].encode() + b"\n")
