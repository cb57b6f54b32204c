"""Who works on a run now, for those who watch: each worker, or the driver of several, keeps a small file in the run directory.

    workers/<host>-<pid>-<random>.json     written at most once a second, removed at the end

Nothing depends on the files: they are not durable, a worker that cannot write its file works all the same, and those of killed
workers stay until a process that has the run alone clears them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import atomic
from ..machine import host, machine, runs
from ..paths import names_in
from ..store.files import AnyPath

DIRECTORY = "workers"
_SECONDS = 1.0  # between two states that are written, at least


class Presence:
    """The file of this process among the workers of a run, from its first state to ``close``.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with Presence(folder, "shard 0 of 4") as presence:
    ...     presence.update(100, state="scoring")
    ...     [(worker.what, worker.state) for worker in workers_of(folder)]
    [('shard 0 of 4', 'scoring')]
    >>> workers_of(folder), os.listdir(folder)
    ([], [])
    """

    def __init__(self, path: AnyPath, what: str) -> None:
        """Nothing is written yet.

        Args:
            path: the run directory; at a URL nothing is ever written: a state per second of each worker costs more than it is worth.
            what: what watchers see the process as, such as "shard 3 of 8".
        """
        self.name = f"{re.sub('[^A-Za-z0-9.]', '_', host())}-{os.getpid()}-{secrets.token_hex(4)}"
        self._file = path / DIRECTORY / f"{self.name}.json" if isinstance(path, Path) else None
        self._began = time.time()
        self._written = 0.0
        self._state: dict[str, Any] = {"what": what, "host": host(), "pid": os.getpid(), "machine": machine()}

    def __enter__(self) -> Presence:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def update(self, done: int, *, state: str = "", workers: Sequence[Mapping[str, Any]] = ()) -> None:
        """Show how far the process is; of updates within a second only the first is written, unless the state is another.

        Args:
            done: items that it has scored.
            state: what it does, in a word or two.
            workers: of a driver, its workers: what, done, and others of the attributes of ``Worker``.
        """
        now = time.time()
        if self._file is None or (now - self._written < _SECONDS and state == self._state.get("state")):
            return
        self._written = now
        seconds = max(now - self._began, 1e-9)
        self._state |= {"state": state, "done": done, "items_per_second": done / seconds, "seconds": seconds}
        self._state["workers"] = [dict(each) for each in workers]
        with contextlib.suppress(OSError):
            atomic.show_file(self._file, json.dumps(self._state).encode())

    def close(self) -> None:
        """Remove the file, and the directory if it was the last one."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
            self._file.parent.rmdir()


def clear_workers(path: AnyPath) -> None:
    """Remove the files of all. Have the run alone: who has a file is gone then, or writes it again in a second."""
    if not isinstance(path, Path):
        return
    directory = path / DIRECTORY
    with contextlib.suppress(OSError):
        atomic.discard_abandoned(directory)
        for name in names_in(directory, "*.json"):
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()


@dataclass(frozen=True)
class Worker:
    """A process that works on a run, as its file says.

    Attributes:
        what: such as "shard 3 of 8".
        host, pid: where it runs.
        state: what it does.
        done: items that it has scored.
        items_per_second: since it began.
        seconds: since it began.
        seen: seconds since the file was written.
        alive: whether the process runs; None where this machine cannot tell.
        workers: of a driver, its workers.
    """

    what: str
    host: str = ""
    pid: int = 0
    state: str = ""
    done: int = 0
    items_per_second: float = 0.0
    seconds: float = 0.0
    seen: float = 0.0
    alive: bool | None = None
    workers: tuple[Mapping[str, Any], ...] = field(default=())

    def facts(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def workers_of(path: AnyPath) -> list[Worker]:
    """Who works on the run in a directory, as far as it has been cleared, by name."""
    found: list[Worker] = []
    if not isinstance(path, Path):
        return found
    for name in names_in(path / DIRECTORY, "*.json"):
        with contextlib.suppress(
            OSError, ValueError, TypeError, KeyError
        ):  # it has ended, or was cut off by a power cut
            file = path / DIRECTORY / name
            seen = max(0.0, time.time() - file.stat().st_mtime)
            found.append(_worker(json.loads(file.read_bytes()), seen))
    return sorted(found, key=lambda worker: (_numbered(worker.what), worker.host, worker.pid))


def _worker(said: Mapping[str, Any], seen: float) -> Worker:
    return Worker(
        what=str(said["what"]),
        host=str(said["host"]),
        pid=int(said["pid"]),
        state=str(said["state"]),
        done=int(said["done"]),
        items_per_second=float(said["items_per_second"]),
        seconds=float(said["seconds"]),
        seen=seen,
        alive=runs(int(said["pid"])) if said["machine"] == machine() else None,
        workers=tuple(dict(each) for each in said["workers"]),
    )


def _numbered(text: str) -> list[tuple[int, str]]:
    """A key that sorts "shard 2" before "shard 10"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
