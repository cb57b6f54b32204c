"""Whether a directory keeps what shards rely on: names that only one can create, renames in one step, and locks."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ... import atomic
from ...errors import RunError
from ...store.mount import mount_of


def probe(directory: Path) -> list[str]:
    """Try links, renames and locks in a directory.

    Returns:
        What is not certain to hold between machines, and what to do, as sentences.

    Raises:
        RunError: something does not hold even here.
        OSError: the directory cannot be written.
    """
    mount = mount_of(directory)
    kind = f" ({mount.type})" if mount.type else ""
    with atomic.beside(directory / "probe") as one, atomic.beside(directory / "probe") as other:
        try:
            if broken := _broken_names(one, other) or _broken_locks(other):
                raise RunError(
                    f"{directory} cannot hold a run that several processes score: its file system{kind} {broken}. {_ADVICE}"
                )
        finally:
            atomic.remove(one)
            atomic.remove(other)
    if why := mount.why_locks_stay:
        return [
            f"{directory}: a machine may not see the locks of another, as {why}. No span is committed twice all the same; but start "
            "the first shard alone, and nothing else on the run while shards are at work. Mount NFS without local_lock, and Lustre with "
            "flock, to be free of this"
        ]
    return []


_ADVICE = "Use a disk that all machines share, such as NFS 4, Lustre, CephFS or GPFS"


def _broken_names(one: Path, other: Path) -> str:
    """What of links and renames does not hold; nothing if all does. Afterwards ``other`` is there."""
    atomic.write(one, b"one")
    try:
        atomic.link(one, other)
    except OSError as error:
        return f"cannot create a file by a link ({error.strerror})"
    try:
        atomic.link(one, other)
        return "lets two create the same file"
    except FileExistsError:
        pass
    atomic.remove(one)
    atomic.write(one, b"renamed")
    atomic.rename(one, other)
    return "" if other.read_bytes() == b"renamed" else "does not replace a file by a rename"


def _broken_locks(path: Path) -> str:
    """What of locks does not hold between two that open a file; nothing if all does."""
    first, second = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _locks(second, fcntl.LOCK_SH):
            return "gives a lock to two at a time"
        fcntl.flock(first, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if not _locks(second, fcntl.LOCK_SH):
            return "has no locks that are shared"
        if _locks(second, fcntl.LOCK_EX):
            return "gives a lock to one alone that another shares"
        return ""
    except OSError as error:
        return f"cannot lock files ({error.strerror})"
    finally:
        os.close(first)
        os.close(second)


def _locks(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
