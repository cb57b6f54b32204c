"""What can go wrong with a run."""

from __future__ import annotations

from pathlib import Path


class RunError(ValueError):
    """A run cannot be made, continued, read or selected from; the message says why and what to do."""


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came: what was committed is kept, and scoring into the same directory goes on from there.

    A KeyboardInterrupt, so that ``except Exception`` around a long loop does not swallow it.
    """

    exit_code = 3

    def __init__(self, path: Path, done: int, total: int) -> None:
        super().__init__(f"stopped; resumable: {done:,} of {total:,} items done in {path}")
        self.path, self.done, self.total = path, done, total
