"""Who writes into a directory: one process alone, which refuses others or lets them wait, or several that agreed to.

All locks are the kernel's (flock), which releases them when their process dies, however it dies: a stale lock needs no guess
about process ids that were used again. Who has a directory alone also writes pid, host and boot id into the file ``lock``. That
is for messages, and for the one case the kernel may not see: a writer on another machine, on a network file system that does
not pass locks on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import Error
from ..machine import boot_id, host, runs
from ..paths import names_in
from .mount import locks_reach_other_machines

_PROCESSES = Path("/proc")
_ALONE, _SHARED = fcntl.LOCK_EX, fcntl.LOCK_SH
_PATIENCE = 1.0  # seconds to wait before it is said
_PAUSE = 2.0  # seconds between attempts at most: on a network file system each is a request


@contextlib.contextmanager
def locked(directory: Path, error: type[Error]) -> Iterator[None]:
    """Hold the lock of a directory; a second writer is refused at once.

    Args:
        directory: where the file ``lock`` stands while the lock is held.
        error: the class of the error that is raised.

    Raises:
        error: another process holds the lock (named), or another machine may hold it (named, with what to do), or the
            file system has no locks.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with locked(folder, Error):
    ...     os.listdir(folder)
    ['lock']
    """
    path = directory / "lock"
    descriptor = _take(path, _ALONE, error)
    if descriptor is None:
        raise error(f"{directory} is being written by {_who_holds(path)}; wait for it, or stop it first")
    try:
        _sign(path, error)
        try:
            yield
        finally:
            _unsign(path)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_in_turn(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory; another holder, in any thread or process of this machine, is waited for."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def file_locked_in_turn(path: Path) -> Iterator[None]:
    """Hold the lock of the file that has a name now, which its holder may replace; another holder is waited for."""
    while True:
        # Network file systems lock only what is open to write.
        descriptor = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_named(path, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


class Joined:
    """A process's part in the lock of a directory: alone, shared with others, or none yet.

    Attributes:
        exclusive: whether this process has the directory alone.
    """

    def __init__(self, directory: Path, error: type[Error], stop: Callable[[], bool]) -> None:
        """Use ``joined``."""
        self._path, self._error, self._stop = directory / "lock", error, stop
        self._descriptor: int | None = None
        self._told = False
        self.exclusive = False

    def join(self) -> bool:
        """Take part: alone if no other process does, else shared. Waits while another process is alone; False if stopped."""
        return self._wait_for(_ALONE, _SHARED)

    def share(self) -> bool:
        """Take part and let others do so. Waits while another process is alone; False if stopped.

        Another process may have been alone before this returns: what was read of the directory must be read again.
        """
        return self._wait_for(_SHARED)

    def try_exclusive(self) -> bool:
        """Take part alone if no other process takes part now, else not at all."""
        self.leave()
        return self._try(_ALONE)

    def leave(self) -> None:
        """Take no part. The file stays for others unless this process was alone."""
        if self._descriptor is not None:
            if self.exclusive:
                _unsign(self._path)
            os.close(self._descriptor)
        self._descriptor, self.exclusive = None, False

    def _try(self, how: int) -> bool:
        self._descriptor = _take(self._path, how, self._error)
        if self._descriptor is not None and how == _ALONE:
            _sign(self._path, self._error)  # raises where another machine may have signed: its file stays
            self.exclusive = True
        return self._descriptor is not None

    def _wait_for(self, *ways: int) -> bool:
        self.leave()
        began, pause = time.monotonic(), 0.02
        while not any(self._try(how) for how in ways):
            if self._stop():
                return False
            if not self._told and time.monotonic() - began > _PATIENCE:
                self._told = True
                warnings.warn(
                    f"{self._path.parent} is being written by {_who_holds(self._path)}: waiting", stacklevel=4
                )
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _PAUSE)
        return True


class Unlocked:
    """A process's part in a place without locks, as ``Joined``: what only one may do, each may, as each write has a condition there.

    Attributes:
        exclusive: whether this process does what only one may.
    """

    exclusive = False

    def join(self) -> bool:
        """Take part alone: as far as this process knows."""
        self.exclusive = True
        return True

    def share(self) -> bool:
        """Take part and let others do so."""
        self.exclusive = False
        return True

    def try_exclusive(self) -> bool:
        """Take part alone: as far as this process knows."""
        return self.join()


@contextlib.contextmanager
def joined(directory: Path, error: type[Error], stop: Callable[[], bool] = lambda: False) -> Iterator[Joined]:
    """Take part in the lock of a directory at the end of the block no more; inside it, as the methods of what is yielded say.

    Args:
        directory: where the file ``lock`` stands; it must be there.
        error: the class of the error that the methods raise: another machine may hold the lock (named, with what to do), or the file
            system has no locks.
        stop: whether to give up waiting.

    >>> import tempfile
    >>> with joined(Path(tempfile.mkdtemp()), Error) as lock:
    ...     lock.join(), lock.exclusive, lock.share(), lock.exclusive
    (True, True, True, False)
    """
    lock = Joined(directory, error, stop)
    try:
        yield lock
    finally:
        lock.leave()


def _take(path: Path, how: int, error: type[Error]) -> int | None:
    """A descriptor that holds the kernel's lock on the file that has this name now; None if another holds it otherwise."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            if _is_named(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as cause:
            os.close(descriptor)
            raise error(
                f"{path}: this file system cannot lock files ({cause.strerror}); put {path.parent} on a local disk"
            ) from cause
        os.close(descriptor)  # the last holder removed the file between open and flock here: try the new file


def _sign(path: Path, error: type[Error]) -> None:
    """Write into the file who is alone; the kernel's lock is held.

    In place and not by a rename: the kernel's lock is on the file that has this name now.
    """
    _refuse_other_machine(path, error)
    atomic.write(path, json.dumps(_me()).encode())


def _unsign(path: Path) -> None:
    with contextlib.suppress(OSError):  # a lock file that stays is stale, and the next writer takes it over
        atomic.remove(path)


def _who_holds(path: Path) -> str:
    """Name who holds the kernel's lock: the process that took it, one that was forked from it since, or those that share it."""
    holder, holding = _holder(path), _processes_holding(path)
    if holder is None:
        several = "process " if len(holding) == 1 else "processes "
        return f"{several}{', '.join(map(str, holding))} on {host()}" if holding else "another process"
    if holding and int(holder["pid"]) not in holding:
        return f"process {holding[0]} on {holder['host']}, which inherited the lock of process {holder['pid']}"
    return f"process {holder['pid']} on {holder['host']}"


def _processes_holding(path: Path) -> list[int]:
    """The processes of this machine that hold the lock of a file, as far as /proc (of Linux) may be read.

    A lock belongs to an open file. A forked child has that file, too, and holds the lock when its parent is gone.
    """
    found = []
    for pid in names_in(_PROCESSES, "[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            file = os.stat(path)
            for descriptor in os.listdir(_PROCESSES / pid / "fd"):
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    if (
                        os.path.samestat(os.stat(_PROCESSES / pid / "fd" / descriptor), file)
                        and "FLOCK" in (_PROCESSES / pid / "fdinfo" / descriptor).read_text()
                    ):
                        found.append(int(pid))
                        break
    return sorted(found)


def _is_named(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _refuse_other_machine(path: Path, error: type[Error]) -> None:
    """Refuse a lock file of another machine that the kernel may not see; what it sees is dead, as its lock is held here."""
    holder, me = _holder(path), _me()
    if holder is None:
        return
    elsewhere = holder["host"] != me["host"] and (not me["boot_id"] or holder["boot_id"] != me["boot_id"])
    if elsewhere and not locks_reach_other_machines(path):
        raise error(
            f"{path.parent} was being written by process {holder['pid']} on another host, {holder['host']}; "
            f"if no process there writes into it any more, remove {path} and start again"
        )
    where = f" on {holder['host']}" if elsewhere else ""
    warnings.warn(f"{path.parent}: took over the lock of process {holder['pid']}{where}, which is gone", stacklevel=2)


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names.

    Attributes:
        alive: whether the process runs; None where this machine cannot tell.
    """

    pid: int
    host: str
    alive: bool | None

    def facts(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def holder_of(directory: Path) -> Holder | None:
    """Return who writes into a directory, by its lock file; None if nobody does. Takes no lock, so no writer is disturbed.

    Where the process that the file names is gone, and one that it forked still holds the lock, that one is named.
    """
    holder, me = _holder(directory / "lock"), _me()
    if holder is None:
        return None
    pid = int(holder["pid"])
    if holder["host"] != me["host"]:
        return Holder(pid, holder["host"], None)
    if holder["boot_id"] == me["boot_id"] and runs(pid):
        return Holder(pid, holder["host"], True)
    holding = _processes_holding(directory / "lock")
    return Holder(holding[0] if holding else pid, holder["host"], bool(holding))


def _holder(path: Path) -> dict[str, str] | None:
    """Return the fields of the lock file; None if it has none: new, or cut off while it was written."""
    try:
        holder = json.loads(path.read_bytes())
        return {"pid": str(int(holder["pid"])), **{name: str(holder[name]) for name in ("host", "boot_id")}}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _me() -> dict[str, str]:
    return {"pid": str(os.getpid()), "host": host(), "boot_id": boot_id()}
