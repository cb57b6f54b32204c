"""Every change a run makes on disk goes through here, so that a test can fail or kill any one of them.

The first half is the steps, one system call or so each. The second half combines them so that a reader, a SIGKILL or a
power cut at any moment finds a file either as it was or as it should be: temporary name, fsync, rename, fsync of the
directory. Without the last fsync the file's name may be lost in a power cut, without the first its content.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp"
STEPS = ("write", "sync", "rename", "link", "remove", "make_directory")


def write(path: Path, data: bytes) -> None:
    """Write a file, not yet durable."""
    with open(path, "wb") as file:
        file.write(data)


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file another name, replacing what has it."""
    os.replace(source, target)


def link(source: Path, target: Path) -> None:
    """Give a file a second name; FileExistsError if the name is taken."""
    os.link(source, target)


def remove(path: Path) -> None:
    """Remove a file; nothing happens if there is none."""
    path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make one directory; nothing happens if it is there."""
    path.mkdir(exist_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Make ``path`` hold ``data``: durable on return, and never anything but the old or the new content."""
    temporary = _temporary(path, data)
    try:
        rename(temporary, path)
    except OSError:
        _discard(temporary)
        raise
    sync(path.parent)


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """As replace_file, for what does not fit in memory: a file to write to, that gets its name at the end.

    What a process that was killed has left behind of the same file goes first: it may be as large.
    """
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*{TEMPORARY}"):
        pid = leftover.name.removesuffix(TEMPORARY).rpartition(".")[2]
        if pid.isdigit() and not runs(int(pid)):
            remove(leftover)
    temporary = _beside(path)
    try:
        with open(temporary, "wb") as file:
            yield file
        sync(temporary)
        rename(temporary, path)
    except BaseException:
        _discard(temporary)
        raise
    sync(path.parent)


def create_file(path: Path, data: bytes) -> None:
    """As replace_file, but exactly one of several callers succeeds; the others get FileExistsError."""
    temporary = _temporary(path, data)
    try:
        link(temporary, path)
    finally:
        _discard(temporary)
    sync(path.parent)


def create_directory(path: Path) -> None:
    """Make a directory and the missing ones above it, durable on return."""
    missing = [path, *path.parents]
    missing = missing[: next(i for i, folder in enumerate(missing) if folder.exists())]
    for folder in reversed(missing):
        make_directory(folder)
        sync(folder.parent)


def discard_temporaries(directory: Path, *patterns: str) -> None:
    """Remove what writes that were killed have left behind of the files that match."""
    for pattern in patterns:
        for leftover in directory.glob(pattern + TEMPORARY):
            remove(leftover)


def runs(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def _temporary(path: Path, data: bytes) -> Path:
    """``data`` in a durable file beside ``path``."""
    temporary = _beside(path)
    try:
        write(temporary, data)
        sync(temporary)
    except OSError:
        _discard(temporary)
        raise
    return temporary


def _beside(path: Path) -> Path:
    """A name for what will be ``path``; the process id in it keeps two writers apart."""
    return path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")


def _discard(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # nothing depends on it, and the error that led here matters more
        remove(temporary)
