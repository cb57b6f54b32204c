"""One writer per run.

The lock is the kernel's (flock on the file ``lock``): it goes when its process dies, however it dies, so a stale lock
needs no guess about process ids that were used again. What the file says (pid, host, boot id) is for messages, and for
the one case the kernel may not see: a writer on another machine, on a network file system that does not pass locks on.
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

from .. import atomic as disk
from ..errors import RunError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux; elsewhere the host name alone tells machines apart


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the lock of a run directory; released on exit.

    Raises:
        RunError: another process holds it (named), or another machine may hold it (named, with what to do), or the file
            system has no locks.
    """
    path = run / "lock"
    descriptor = _acquire(path)
    try:
        _refuse_other_machine(path)
        disk.write(path, json.dumps(_me()).encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # left behind it is a stale lock, which the next writer takes over
                disk.remove(path)
    finally:
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """A descriptor that holds the kernel's lock on the file that has this name now."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            holder = _holder(path)
            who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
            raise RunError(f"{path.parent} is being written by {who}; wait for it, or stop it first") from None
        except OSError as error:
            os.close(descriptor)
            raise RunError(
                f"{path}: this file system cannot lock files ({error.strerror}); put the run on a local disk"
            ) from error
        os.close(descriptor)  # its last holder removed the file between our open and our lock: try the new one


def _is_named(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _refuse_other_machine(path: Path) -> None:
    """We hold the kernel's lock. Whoever wrote the file is dead, unless it runs where this kernel cannot see it."""
    holder, me = _holder(path), _me()
    if holder is None:
        return
    if holder["host"] != me["host"] and (not me["boot_id"] or holder["boot_id"] != me["boot_id"]):
        raise RunError(
            f"{path.parent} was being written by process {holder['pid']} on another host, {holder['host']}; "
            f"if nothing there scores into it any more, remove {path} and start again"
        )
    warnings.warn(f"{path.parent}: took over the lock of process {holder['pid']}, which is gone", stacklevel=2)


@dataclass(frozen=True)
class Holder:
    """Who a lock file names. ``alive``: whether that process runs; None where this machine cannot tell."""

    pid: int
    host: str
    alive: bool | None

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def holder_of(run: Path) -> Holder | None:
    """Who writes into a run directory, by its lock file; None if nobody does. Takes no lock: writers are not disturbed."""
    said, me = _holder(run / "lock"), _me()
    if said is None:
        return None
    pid = int(said["pid"])
    if said["host"] != me["host"]:
        return Holder(pid, said["host"], None)
    return Holder(pid, said["host"], said["boot_id"] == me["boot_id"] and disk.runs(pid))


def _holder(path: Path) -> dict[str, str] | None:
    """What the lock file says; None if it says nothing: new, or cut off while it was written."""
    try:
        holder = json.loads(path.read_bytes())
        return {"pid": str(int(holder["pid"])), **{name: str(holder[name]) for name in ("host", "boot_id")}}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _me() -> dict[str, str]:
    boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return {"pid": str(os.getpid()), "host": socket.gethostname(), "boot_id": boot_id}
