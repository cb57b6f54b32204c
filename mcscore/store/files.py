"""Reading files wherever they lie: on a local disk by descriptors, at a URL through a store that zarr opens.

What lies at a URL is read only here; place/objects.py writes there. Nothing here knows what is in a file.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from ..errors import PoolError
from ..paths import exists

_REQUESTS = 128  # to a server, which answers each after 10 to 100 ms
_READS = 8  # of files of a local disk


class File(Protocol):
    """An open file; safe for several threads at a time."""

    @property
    def size(self) -> int:
        """Bytes in the file."""

    def read(self, buffers: list[Any], offset: int) -> int:
        """Fill ``buffers`` one after another from ``offset`` on; returns fewer bytes than they hold only at the end."""

    def close(self) -> None:
        """Release the file."""


class LocalFile:
    """A file on a local disk, read by preadv."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._descriptor).st_size

    def read(self, buffers: list[Any], offset: int) -> int:
        """Fill the buffers by as few system calls as the system needs: one, except beyond 2 GiB and on some file servers."""
        wanted = sum(memoryview(buffer).nbytes for buffer in buffers)
        done = got = os.preadv(self._descriptor, buffers, offset)
        while got and done < wanted:
            got = os.preadv(self._descriptor, _rest(buffers, done), offset + done)
            done += got
        return done

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def _rest(buffers: list[Any], skip: int) -> list[memoryview]:
    """Return what is left of buffers after their first ``skip`` bytes."""
    rest = []
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        rest.append(view[skip:])
        skip = max(0, skip - len(view))
    return rest


@dataclass(frozen=True)
class RemotePath:
    """A path below a URL, in the manner of pathlib. A failure other than absence is a PoolError."""

    url: str
    store: Any  # store.remote.PatientStore
    key: str = ""

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.url, self.store, f"{self.key}/{name}".lstrip("/"))

    def __str__(self) -> str:
        return f"{self.url}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return str(self).rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without what follows its last dot."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> RemotePath:
        """The path without its last part, as far as that is below the URL."""
        return RemotePath(self.url, self.store, self.key.rpartition("/")[0])

    def absolute(self) -> RemotePath:
        """Itself: a URL depends on no working directory."""
        return self

    def read_bytes(self) -> bytes:
        """Return the whole file; FileNotFoundError if there is none."""
        return self._get(None)

    def size(self) -> int:
        """Return the bytes in the file; FileNotFoundError if there is none."""
        from zarr.core.sync import sync

        return int(sync(self.store.getsize(self.key)))

    def exists(self) -> bool:
        """Whether there is a file."""
        from zarr.core.sync import sync

        return bool(sync(self.store.exists(self.key)))

    def range(self, start: int, stop: int) -> bytes:
        """Return the bytes start..stop-1; FileNotFoundError if there is no file."""
        from zarr.abc.store import RangeByteRequest

        return self._get(RangeByteRequest(start, stop))

    def _get(self, part: Any) -> bytes:
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        found = sync(self.store.get(self.key, default_buffer_prototype(), part))
        if found is None:
            raise FileNotFoundError(str(self))
        return bytes(found.to_bytes())


class RemoteFile:
    """A file at a URL, read by range requests."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        # No cached_property: until Python 3.12 it lets one thread at a time ask, of all files.
        self._size = path.size()

    @property
    def size(self) -> int:
        """Bytes in the file, asked for once."""
        return self._size

    def read(self, buffers: list[Any], offset: int) -> int:
        """Fill the buffers by one request."""
        wanted = sum(len(memoryview(buffer).cast("B")) for buffer in buffers)
        wanted = min(wanted, max(0, self.size - offset))
        data = memoryview(self._path.range(offset, offset + wanted)) if wanted else memoryview(b"")
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            part, data = data[: len(view)], data[len(view) :]
            view[: len(part)] = part
        return wanted

    def close(self) -> None:
        """Do nothing: each request stands alone."""


AnyPath = Path | RemotePath
Where = str | os.PathLike[str] | RemotePath  # as a caller says it


def path_of(where: str | os.PathLike[str]) -> AnyPath:
    """Return an absolute local path, or the path that a URL names (s3://, gs://, https://, memory:// and what fsspec knows).

    Raises:
        PoolError: a package that the URL needs is not installed.

    >>> path_of("file:///data/digits.pool")
    PosixPath('/data/digits.pool')
    """
    text = os.fspath(where)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(where).absolute()
    if scheme == "file":
        return Path(rest)
    from .remote import open_store  # zarr takes .3 s to import

    return RemotePath(text.rstrip("/"), open_store(text.rstrip("/")))


def local(path: AnyPath, what: str) -> Path:
    """Return a path that can be written to.

    Raises:
        PoolError: it is at a URL, where ``what`` cannot be done.
    """
    if isinstance(path, Path):
        return path
    raise PoolError(f"{path} is read only: {what} in a pool on a local disk")


def location(path: AnyPath) -> str:
    """Return the absolute path, or the URL."""
    return str(path) if isinstance(path, RemotePath) else os.path.abspath(path)


def open_binary(path: AnyPath) -> BinaryIO:
    """Open a file to read, the whole of one at a URL in memory; FileNotFoundError if it is missing."""
    return open(path, "rb") if isinstance(path, Path) else io.BytesIO(path.read_bytes())


def is_there(path: AnyPath) -> bool:
    """Whether there is a file, a directory or a link that leads to one; errors other than absence are raised."""
    return exists(path) if isinstance(path, Path) else path.exists()


def open_file(path: AnyPath) -> File:
    """Open a file for reading; FileNotFoundError if it is missing."""
    return LocalFile(path) if isinstance(path, Path) else RemoteFile(path)


def size_of(path: AnyPath) -> int:
    """Return the bytes in a file; FileNotFoundError if it is missing."""
    return os.stat(path).st_size if isinstance(path, Path) else path.size()


def at_once(path: AnyPath) -> int:
    """Return how many files below a path are asked for at a time."""
    return _READS if isinstance(path, Path) else _REQUESTS


def retries_of(path: AnyPath) -> int:
    """Return how many requests were sent again, because a server failed, since the path was opened."""
    return path.store.retried if isinstance(path, RemotePath) else 0
