"""The only durable writes of the package: every file and directory it makes, replaces or moves goes through here.

The first half holds the steps, one system call or so each, so that a test can fail or kill any one of them. The second
half combines the steps so that a reader, a SIGKILL or a power cut at any moment finds a file either as it was or as it
should be: temporary name, fsync, rename or link, fsync of the directory. Without the last fsync a power cut may lose
the file's name, without the first its content.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .machine import machine, runs
from .paths import exists, files_below, is_directory, status_of

TEMPORARY = ".tmp"
DISCARDED = ".gone"
STEPS = ("write", "sync", "rename", "link", "link_directory", "remove", "make_directory", "remove_tree")

# After so long a temporary file that another machine has written to is nobody's any more.
ABANDONED_SECONDS = 120.0

# Machine, process number, and a random part (a counter in names of older versions).
_MADE_BESIDE = re.compile(rf"\.([0-9a-f]{{8}})-([0-9]{{1,9}})-[0-9a-f]+{re.escape(TEMPORARY)}$", re.ASCII)
_being_written: set[str] = set()  # temporary names in use by this process

# -- steps -------------------------------------------------------------------------------------------------------------


def write(path: Path, *parts: Any) -> None:
    """Write a file from bytes-like parts, one after another; not yet durable."""
    with open(path, "wb") as file:
        for part in parts:
            file.write(part)


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file or directory another name; a file that has the name is replaced."""
    os.replace(source, target)


def link(source: Path, target: Path) -> None:
    """Give a file a second name; FileExistsError if the name is taken."""
    os.link(source, target)


def link_directory(target: Path, path: Path) -> None:
    """Make ``path`` a symbolic link to a directory, by its absolute path; FileExistsError if the name is taken."""
    os.symlink(os.path.realpath(target), path, target_is_directory=True)


def remove(path: Path) -> None:
    """Remove a file; nothing happens if there is none."""
    path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make one directory; nothing happens if it is there."""
    path.mkdir(exist_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a directory with all it holds, as far as that is possible."""
    shutil.rmtree(path, ignore_errors=True)


# -- files -------------------------------------------------------------------------------------------------------------


def replace_file(path: Path, *parts: Any) -> None:
    """Make ``path`` hold ``parts``: durable on return, and never anything but the old or the new content.

    A new file has the mode that the umask leaves; a regular file that is replaced keeps its mode.

    Args:
        path: the file; its directory must be there.
        parts: bytes-like, written one after another.

    Raises:
        OSError: the file could not be written; it is as it was.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> replace_file(folder / "a", b"old")
    >>> replace_file(folder / "a", b"ne", b"w")
    >>> (folder / "a").read_bytes(), os.listdir(folder)
    (b'new', ['a'])
    """
    with _written_beside(path, parts) as temporary:
        rename(temporary, path)
    sync(path.parent)


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write to that becomes ``path`` at the end: replace_file for what does not fit in memory.

    What killed processes left in the directory, of this or any other file, is removed first: it may be as large.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replaced(folder / "a") as file:
    ...     _ = file.write(b"new")
    >>> (folder / "a").read_bytes()
    b'new'
    """
    discard_abandoned(path.parent)
    with beside(path) as temporary:
        write(temporary)
        with open(temporary, "r+b") as file:
            _take_mode(temporary, path)
            yield file
        sync(temporary)
        rename(temporary, path)
    sync(path.parent)


def create_file(path: Path, *parts: Any) -> None:
    """Make a file as replace_file does, but only one of several callers succeeds.

    Raises:
        FileExistsError: there is a file of this name already.
        OSError: the file could not be written; there is none.
    """
    with _written_beside(path, parts) as temporary:
        link(temporary, path)
        _discard(temporary)
    sync(path.parent)


def show_file(path: Path, *parts: Any) -> None:
    """Make ``path`` hold ``parts`` for all who read it now, and its directory if that is missing; a power cut may lose or tear it.

    For what is worthless afterwards: it takes a tenth of a millisecond, and replace_file takes tens.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(path.parent)
    with beside(path) as temporary:
        with open(temporary, "wb") as file:  # no steps: nothing is lost with it
            file.writelines(parts)
        os.replace(temporary, path)


def move(source: Path, target: Path) -> None:
    """Give a file or directory that is durable another place on the same disk; durable on return."""
    rename(source, target)
    sync(target.parent)
    if source.parent != target.parent:
        sync(source.parent)


def move_files(source: Path, target: Path) -> None:
    """Move every file below one directory to the same place below another; files that moved earlier stay.

    The files must be durable. Each directory of the target is synced once, after all renames; a power cut may bring the
    old names back, so the caller discards ``source``.
    """
    touched = {target}
    for file in files_below(source):
        place = target / file.relative_to(source)
        create_directory(place.parent)
        rename(file, place)
        touched.update(parent for parent in place.parents if parent.is_relative_to(target))
    for directory in sorted(touched):
        sync(directory)


# -- directories -------------------------------------------------------------------------------------------------------


def create_directory(path: Path) -> None:
    """Make a directory and the missing ones above it, durable on return."""
    missing = [path, *path.parents]
    missing = missing[: next(i for i, folder in enumerate(missing) if exists(folder))]
    for folder in reversed(missing):
        make_directory(folder)
        sync(folder.parent)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Make a directory to fill that becomes ``path`` at the end, or vanishes on any exception.

    It is filled under a hidden name beside ``path``, so a half-made directory never has the final name. Whatever is put
    into it must be durable, except for the names directly in it, which are synced here. A SIGKILL leaves the hidden
    directory behind. Its maker holds a lock on it while it lives, so the next call with the same ``path`` removes the
    ones whose maker died.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a"
    >>> with new_directory(target) as folder:
    ...     replace_file(folder / "b", b"content")
    >>> os.listdir(target)
    ['b']
    """
    create_directory(path.parent)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        _remove_if_unlocked(leftover)
    made = temporary = _name_beside(path.with_name(f".{path.name}"))
    try:
        make_directory(temporary)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.stat(temporary)  # raises if another call took it for abandoned before this one had the lock
            yield temporary
            sync(temporary)
            rename(temporary, path)
            made = path
            sync(path.parent)
        finally:
            os.close(descriptor)
    except BaseException:
        remove_tree(made)
        raise


def discard_directory(path: Path) -> None:
    """Remove a directory at once: after a kill it is there whole or not at all.

    What is left of it after a kill, under another name, is removed by discard_leftovers.
    """
    gone = _name_beside(path).with_suffix(DISCARDED)
    rename(path, gone)
    sync(path.parent)
    remove_tree(gone)


def discard_leftovers(path: Path) -> None:
    """Remove what killed calls of discard_directory for ``path`` left behind."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*{DISCARDED}"):
        remove_tree(leftover)


def discard_temporaries(directory: Path, *patterns: str) -> None:
    """Remove what killed writes of the files that match left behind; nobody else may be writing them."""
    for pattern in patterns:
        for leftover in directory.glob(pattern + TEMPORARY):
            remove(leftover)


def discard_abandoned(directory: Path, *patterns: str) -> None:
    """Remove what killed writes of the files that match (of any, without a pattern) left behind; others may be writing.

    A temporary file of a process of this machine is removed if the process is gone, one of another machine if it was not
    written to for ``ABANDONED_SECONDS``, by the clock of the file system.
    """
    now: float | None = None
    for pattern in patterns or ("*",):
        for leftover in directory.glob(pattern + TEMPORARY):
            made = _MADE_BESIDE.search(leftover.name)
            if made is None or is_directory(leftover):
                continue
            if made[1] == machine():
                abandoned = not _is_being_written(leftover.name, int(made[2]))
            else:
                now = _clock_of(directory) if now is None else now
                written = status_of(leftover)
                abandoned = written is not None and now - written.st_mtime > ABANDONED_SECONDS
            if abandoned:
                remove(leftover)


# -- temporary names ---------------------------------------------------------------------------------------------------


def _name_beside(path: Path) -> Path:
    """A name for what will be ``path``, which no two writers choose, on whatever machine."""
    return path.with_name(f"{path.name}.{machine()}-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a name for what will be ``path``; after an exception the file that has it is removed."""
    temporary = _name_beside(path)
    _being_written.add(temporary.name)
    try:
        yield temporary
    except BaseException:
        _discard(temporary)
        raise
    finally:
        _being_written.discard(temporary.name)


def is_temporary(name: str) -> bool:
    """Whether a name is one that is given here to a file that is not whole yet.

    >>> is_temporary("scores.csv.0c4f1a2b-4711-5eed0a1b.tmp"), is_temporary("notes.tmp")
    (True, False)
    """
    return _MADE_BESIDE.search(name) is not None


def _is_being_written(name: str, pid: int) -> bool:
    """Whether a process of this machine still uses a temporary name; an earlier one may have had this one's number."""
    return name in _being_written if pid == os.getpid() else runs(pid)


def _clock_of(directory: Path) -> float:
    """The time by the clock of a directory's file system, which may be another machine's."""
    with beside(directory / "clock") as file:
        write(file)
        now = file.stat().st_mtime
        _discard(file)
    return now


def _remove_if_unlocked(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError, BlockingIOError):  # another call removed it, or its maker lives
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(directory)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _written_beside(path: Path, parts: tuple[Any, ...]) -> Iterator[Path]:
    """Yield the name of a durable file beside ``path`` that holds the parts."""
    with beside(path) as temporary:
        write(temporary, *parts)
        _take_mode(temporary, path)
        sync(temporary)
        yield temporary


def _take_mode(temporary: Path, path: Path) -> None:
    """Give a file the mode of the regular file that it will replace; where there is none, its own mode stays."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode) and mode != temporary.stat().st_mode:  # some file systems refuse every change of a mode
        os.chmod(temporary, stat.S_IMODE(mode))


def _discard(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # nothing depends on it, and the error that led here matters more
        remove(temporary)
