"""A place for durable files that belong together: a local directory, or what lies below a URL of an object store.

Both keep one promise: a reader finds a file whole, as it was or as it should be, whatever is killed at whatever moment. Who
writes through a place need not know which of the two it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...errors import RunError
from ...paths import is_url, local_path
from ..files import AnyPath, RemotePath, Where
from .local import LocalPlace

__all__ = ["AnyPath", "LocalPlace", "Place", "Where", "any_path", "place_at"]


class Place(Protocol):
    """Files by name ("commits/000001.json"). What cannot be done is an OSError, FileNotFoundError where there is no file.

    Attributes:
        path: where it is.
        one_writer: whether a lock keeps all writers but one out; otherwise two may write at any time.
        threads: how many reads at a time are worth it.
    """

    path: Any
    one_writer: bool
    threads: int

    def read(self, name: str) -> bytes:
        """The content of a file."""

    def read_each(self, names: Sequence[str]) -> Iterator[bytes | OSError]:
        """The content of each file, in order, or why it cannot be read."""

    def part(self, name: str, start: int, stop: int) -> tuple[bytes, int]:
        """The bytes start..stop-1 of a file, as far as it has them, and how many it has in all."""

    def version(self, name: str) -> Any:
        """What differs once the file has been replaced; None if there is none."""

    def modified(self, name: str) -> int:
        """When a file was written, in nanoseconds by the clock of the place."""

    def names(self, folder: str = "") -> list[str]:
        """The names directly in a folder, sorted; none if there is no folder."""

    def size(self) -> int:
        """Bytes of all files."""

    def begin(self) -> bool:
        """Get ready to hold files. Returns whether there was nothing here; RunError where what is promised cannot be kept."""

    def lay_out(self, *folders: str, alone: bool = True) -> None:
        """Make what ``create`` and ``replace`` need, and remove what killed writes left behind; alone: nobody else is writing there."""

    def create(self, name: str, data: bytes) -> None:
        """Make a file, durable on return. FileExistsError if there is one of this name; a store does not mind the same content."""

    def replace(self, name: str, data: bytes) -> None:
        """Make a file hold ``data``, whether there was one or not, durable on return."""

    def change(self, name: str, how: Callable[[bytes], bytes]) -> None:
        """Replace a file by what ``how`` makes of it, as no other process does so at the same time; durable on return."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""

    def discard(self, names: Sequence[str]) -> None:
        """Remove files as far as that is possible: nothing depends on it."""

    def sync(self, name: str) -> None:
        """Make it durable that there is a file of this name, or none, whoever made or removed it."""


def any_path(where: Where) -> AnyPath:
    """Return a local path, or the path of a URL that can be written to: s3://, gs://, az:// or memory://.

    >>> any_path("runs/first")
    PosixPath('runs/first')

    Raises:
        PoolError: obstore, which writes to URLs, is not installed.
        RunError: nothing can be written to a URL of this kind.
    """
    if isinstance(where, RemotePath):
        return where
    if not is_url(where) or os.fspath(where).startswith("file://"):
        return local_path(where, "a run", RunError)
    from .objects import path_of_objects  # imports zarr

    return path_of_objects(os.fspath(where))


def place_at(path: AnyPath) -> Place:
    """The place at a path that ``any_path`` gave."""
    if isinstance(path, Path):
        return LocalPlace(path)
    from .objects import ObjectPlace

    return ObjectPlace(path)
