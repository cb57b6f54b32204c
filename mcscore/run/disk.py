"""Every change a run makes on disk goes through here, so that a test can fail or kill any one of them.

The first half is the steps, one system call or so each. The second half combines them so that a reader, a SIGKILL or a
power cut at any moment finds a file either as it was or as it should be: temporary name, fsync, rename, fsync of the
directory. Without the last fsync the file's name may be lost in a power cut, without the first its content.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

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


def _temporary(path: Path, data: bytes) -> Path:
    """``data`` in a durable file beside ``path``; the process id in its name keeps two writers apart."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        write(temporary, data)
        sync(temporary)
    except OSError:
        _discard(temporary)
        raise
    return temporary


def _discard(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # nothing depends on it, and the error that led here matters more
        remove(temporary)
