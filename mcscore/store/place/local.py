"""A local directory as a place: each operation is one of ``mcscore.atomic``."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ... import atomic
from ...paths import exists, files_below, names_in
from ..lock import file_locked_in_turn
from ..mount import mount_of
from ..parallel import errors_kept, in_order

T = TypeVar("T")

_THREADS, _PART = 8, 128


class LocalPlace:
    """Files below a local directory, see ``Place``. One process at a time may write, but for ``create`` and ``change``."""

    one_writer = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.threads = min(8, os.cpu_count() or 1)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return (self.path / name).read_bytes()

    def read_each(self, names: Sequence[str]) -> Iterator[bytes | OSError]:
        """The content of each file, in order, or why it cannot be read."""
        return _at_once(errors_kept(self.read), names)

    def part(self, name: str, start: int, stop: int) -> tuple[bytes, int]:
        """The bytes start..stop-1 of a file, as far as it has them, and how many it has in all."""
        with (self.path / name).open("rb") as file:
            file.seek(start)
            return file.read(stop - start), os.fstat(file.fileno()).st_size

    def version(self, name: str) -> tuple[int, int, int] | None:
        """What differs once the file has been replaced; None if there is none."""
        try:
            state = os.stat(self.path / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return state.st_ino, state.st_size, state.st_mtime_ns

    def modified(self, name: str) -> int:
        """When a file was written, in nanoseconds."""
        return (self.path / name).stat().st_mtime_ns

    def names(self, folder: str = "") -> list[str]:
        """The names directly in a folder, sorted; none if there is no folder."""
        return names_in(self.path / folder)

    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(_size, files_below(self.path)))

    def begin(self) -> bool:
        """Make the directory, durable. Returns whether it was missing."""
        missing = not exists(self.path)
        atomic.create_directory(self.path)
        return missing

    def lay_out(self, *folders: str, alone: bool = True) -> None:
        """Make the folders, durable, and remove what killed writes left in them and of the files of JSON beside them.

        Who has the directory alone by a lock that is certain to hold on all machines knows that nobody else writes into the folders.
        """
        within = [f"{folder}/*" for folder in folders]
        atomic.discard_abandoned(self.path)  # of selections, exports and reports, too, which take no lock
        if not alone or mount_of(self.path).why_locks_stay:
            atomic.discard_abandoned(self.path, *within)
        else:
            atomic.discard_temporaries(self.path, *within)
        for folder in folders:
            atomic.create_directory(self.path / folder)

    def create(self, name: str, data: bytes) -> None:
        """Make a file, durable on return; FileExistsError if there is one of this name."""
        atomic.create_file(self.path / name, data)

    def replace(self, name: str, data: bytes) -> None:
        """Make a file hold ``data``, durable on return."""
        atomic.replace_file(self.path / name, data)

    def change(self, name: str, how: Callable[[bytes], bytes]) -> None:
        """Replace a file by what ``how`` makes of it, in turn with other processes; durable on return."""
        with file_locked_in_turn(self.path / name):
            before = self.read(name)
            if (after := how(before)) != before:
                self.replace(name, after)

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        atomic.remove(self.path / name)

    def discard(self, names: Sequence[str]) -> None:
        """Remove files as far as that is possible."""

        def remove(name: str) -> None:
            with contextlib.suppress(OSError):
                atomic.remove(self.path / name)

        deque(_at_once(remove, names), maxlen=0)

    def sync(self, name: str) -> None:
        """Make it durable that there is a file of this name, or none."""
        atomic.sync((self.path / name).parent)


def _at_once(act: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
    """What ``act`` gives for each name, in order; of many names several parts at a time.

    A disk that discards blocks took 3 ms to remove one file after another, and 0.15 ms with eight threads; a network file system takes
    about as long to open one. For files in the page cache threads gain nothing, and a part of names costs little more than they.
    """
    parts = (names[at : at + _PART] for at in range(0, len(names), _PART))
    threads = _THREADS if len(names) > _PART else 1
    for part in in_order(lambda part: list(map(act, part)), parts, threads):
        yield from part


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # a temporary file that has just been renamed
        return 0
