"""Who writes into a directory: one process alone, which refuses others or lets them wait, or several that agreed to.

All locks are the kernel's (flock), which releases them when their process dies, however it dies: a stale lock needs no guess
about process ids that were used again. Who has a directory alone also writes pid, host and boot id into the file ``lock``. That
is for messages, and for the one case the kernel may not see: a writer on another machine, on a network file system that does
not pass locks on.

Whether a holder on another machine still runs cannot be known here. A user who knows that it does not takes its lock over: the
file is removed and made anew. A holder that runs all the same finds that by ``Held.require``, before it next writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from .. import atomic
from ..errors import Error
from ..events import event
from .holder import elsewhere, holder_in, me, named, processes_holding, who_holds
from .mount import locks_reach_other_machines

_ALONE, _SHARED = fcntl.LOCK_EX, fcntl.LOCK_SH
_PATIENCE = 1.0  # seconds to wait before it is said
_TAKE_OVER = "take_over=True (--take-over) takes the lock over"
_PAUSE = 2.0  # seconds between attempts at most: on a network file system each is a request


@dataclass(frozen=True)
class Held:
    """A lock that this process holds: its file and what is written in it."""

    path: Path
    signature: dict[str, str]
    in_use: type[Error]

    def require(self) -> None:
        """Raise ``in_use`` if another process has taken the lock over: nothing may be written any more."""
        if (holder := holder_in(self.path)) == self.signature:
            return
        by = f"was taken over by {named(holder)}" if holder else f"is gone: {self.path} was removed"
        raise self.in_use(f"the lock of {self.path.parent} {by}; this process writes nothing into it any more")


@contextlib.contextmanager
def locked(
    directory: Path, error: type[Error], *, in_use: type[Error] | None = None, take_over: bool = False
) -> Iterator[Held]:
    """Hold the lock of a directory; a second writer is refused at once.

    Args:
        directory: where the file ``lock`` stands while the lock is held.
        error: the class of the error that is raised.
        in_use: its class where another process holds the lock, or may; default: ``error``.
        take_over: take the lock of a process on another machine, which is said. That of one on this machine is never taken.

    Raises:
        error: the file system has no locks.
        in_use: another process holds the lock (named), or another machine may hold it (named, with what to do).
        OSError: the file cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with locked(folder, Error):
    ...     os.listdir(folder)
    ['lock']
    """
    path, in_use = directory / "lock", in_use or error
    descriptor = _take(path, _ALONE, error)
    if take_over and _is_of_another_machine(path, free=descriptor is not None):
        if descriptor is not None:
            os.close(descriptor)
        descriptor = _take_over(path, error)
    if descriptor is None:
        raise in_use(
            f"{directory} is being written by {who_holds(path)}; wait for it, or stop it first{_if_gone(path)}"
        )
    try:
        held = Held(path, _sign(path, in_use, _TAKE_OVER), in_use)
        try:
            yield held
        finally:
            if holder_in(path) == held.signature:  # else another process has taken it over, whose file it is
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
            # Raises where another machine may have signed: its file stays.
            _sign(self._path, self._error, f"remove {self._path} and start again")
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
                warnings.warn(f"{self._path.parent} is being written by {who_holds(self._path)}: waiting", stacklevel=4)
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


def _take_over(path: Path, error: type[Error]) -> int | None:
    """Remove the file of a holder on another machine, and take the lock of a new one; None if somebody else was faster."""
    holder = holder_in(path)
    if holder is None or not elsewhere(holder):
        return None
    atomic.remove(path)
    descriptor = _take(path, _ALONE, error)
    event(__name__, "lock taken over", logging.WARNING, path=str(path), **holder)
    warnings.warn(
        f"{path.parent}: took over the lock of {named(holder)}, as asked; should that run all the same, it ends before "
        "its next commit",
        stacklevel=4,
    )
    return descriptor


def _is_of_another_machine(path: Path, free: bool) -> bool:
    """Whether the file names a process elsewhere that holds the lock, or may. free: by the kernel here nobody holds it."""
    holder = holder_in(path)
    if holder is None or not elsewhere(holder):
        return False
    return not locks_reach_other_machines(path) if free else not processes_holding(path)


def _if_gone(path: Path) -> str:
    """What to do about a holder on another machine."""
    return f". If that machine is gone, {_TAKE_OVER}" if _is_of_another_machine(path, free=False) else ""


def _sign(path: Path, error: type[Error], advice: str) -> dict[str, str]:
    """Write into the file who is alone, and return that; the kernel's lock is held.

    In place and not by a rename: the kernel's lock is on the file that has this name now.
    """
    _refuse_other_machine(path, error, advice)
    signature = me() | {"since": datetime.now().astimezone().isoformat(timespec="seconds")}
    atomic.write(path, json.dumps(signature).encode())
    return signature


def _unsign(path: Path) -> None:
    with contextlib.suppress(OSError):  # a lock file that stays is stale, and the next writer takes it over
        atomic.remove(path)


def _is_named(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _refuse_other_machine(path: Path, error: type[Error], advice: str) -> None:
    """Refuse a lock file of another machine that the kernel may not see; what it sees is dead, as its lock is held here."""
    holder = holder_in(path)
    if holder is None:
        return
    other = elsewhere(holder)
    if other and not locks_reach_other_machines(path):
        since = f", since {holder['since']}" if holder["since"] else ""
        raise error(
            f"{path.parent} was being written by process {holder['pid']} on another host, {holder['host']}{since}; "
            f"if no process there writes into it any more, {advice}"
        )
    where = f" on {holder['host']}" if other else ""
    warnings.warn(f"{path.parent}: took over the lock of process {holder['pid']}{where}, which is gone", stacklevel=2)
