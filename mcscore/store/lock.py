"""One writer per directory: locks that refuse a second writer, or let it wait.

Both are the kernel's (flock), which releases them when their process dies, however it dies: a stale lock needs no guess
about process ids that were used again. ``locked`` also writes a file ``lock`` with pid, host and boot id. The file is for
messages, and for the one case the kernel may not see: a writer on another machine, on a network file system that does
not pass locks on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import Error
from ..paths import exists, names_in

_PROCESSES = Path("/proc")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux; elsewhere the host name alone tells machines apart


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
    descriptor = _acquire(path, error)
    try:
        _refuse_other_machine(path, error)
        # In place and not by a rename: the kernel's lock is on the file that has this name now.
        atomic.write(path, json.dumps(_me()).encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a lock file that stays is stale, and the next writer takes it over
                atomic.remove(path)
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


def _acquire(path: Path, error: type[Error]) -> int:
    """Return a descriptor that holds the kernel's lock on the file that has this name now."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise error(
                f"{path.parent} is being written by {_who_holds(path)}; wait for it, or stop it first"
            ) from None
        except OSError as cause:
            os.close(descriptor)
            raise error(
                f"{path}: this file system cannot lock files ({cause.strerror}); put {path.parent} on a local disk"
            ) from cause
        os.close(descriptor)  # the last holder removed the file between open and flock here: try the new file


def _who_holds(path: Path) -> str:
    """Name the process that holds the kernel's lock: the one that took it, or one that was forked from it since."""
    holder, holding = _holder(path), _processes_holding(path)
    host = holder["host"] if holder else socket.gethostname()
    if holding and (holder is None or int(holder["pid"]) not in holding):
        forked = f", which inherited the lock of process {holder['pid']}" if holder else ""
        return f"process {holding[0]} on {host}{forked}"
    return f"process {holder['pid']} on {host}" if holder else "another process"


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
    """Refuse a lock file of another machine; the kernel's lock is held, so a writer of this machine is dead."""
    holder, me = _holder(path), _me()
    if holder is None:
        return
    if holder["host"] != me["host"] and (not me["boot_id"] or holder["boot_id"] != me["boot_id"]):
        raise error(
            f"{path.parent} was being written by process {holder['pid']} on another host, {holder['host']}; "
            f"if no process there writes into it any more, remove {path} and start again"
        )
    warnings.warn(f"{path.parent}: took over the lock of process {holder['pid']}, which is gone", stacklevel=2)


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
    if holder["boot_id"] == me["boot_id"] and atomic.runs(pid):
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
    boot_id = _BOOT_ID.read_text().strip() if exists(_BOOT_ID) else ""
    return {"pid": str(os.getpid()), "host": socket.gethostname(), "boot_id": boot_id}
