"""Reading files wherever they lie: on a local disk by descriptors, at a URL through a store that zarr opens.

What lies at a URL is read only. Nothing here knows what is in a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ..errors import PoolError

# obstore fetches ranges with a fraction of fsspec's overhead; fsspec knows more kinds of URLs.
_BY_OBSTORE = ("s3", "gs", "az", "http", "https")


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
    """A file on a local disk, read by pread."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._descriptor).st_size

    def read(self, buffers: list[Any], offset: int) -> int:
        """Fill the buffers by one system call."""
        return os.preadv(self._descriptor, buffers, offset)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


@dataclass(frozen=True)
class RemotePath:
    """A path below a URL, in the manner of pathlib. A failure other than absence is a PoolError."""

    url: str
    store: Any  # zarr.abc.store.Store
    key: str = ""

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.url, self.store, f"{self.key}/{name}".lstrip("/"))

    def __str__(self) -> str:
        return f"{self.url}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return str(self).rpartition("/")[2]

    def read_bytes(self) -> bytes:
        """Return the whole file; FileNotFoundError if there is none."""
        found = self._ask(lambda get, prototype: get(self.key, prototype))
        if found is None:
            raise FileNotFoundError(str(self))
        return bytes(found.to_bytes())

    def size(self) -> int:
        """Return the bytes in the file; FileNotFoundError if there is none."""
        return int(self._ask(lambda *_: self.store.getsize(self.key)))

    def exists(self) -> bool:
        """Whether there is a file."""
        try:
            self.size()
        except FileNotFoundError:
            return False
        return True

    def range(self, start: int, stop: int) -> bytes:
        """Return the bytes start..stop-1; FileNotFoundError if there is no file."""
        from zarr.abc.store import RangeByteRequest

        found = self._ask(lambda get, prototype: get(self.key, prototype, RangeByteRequest(start, stop)))
        if found is None:
            raise FileNotFoundError(str(self))
        return bytes(found.to_bytes())

    def _ask(self, request: Callable[..., Any]) -> Any:
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        try:
            return sync(request(self.store.get, default_buffer_prototype()))
        except FileNotFoundError:
            raise
        except Exception as error:  # each kind of store raises types of its own
            raise PoolError(f"{self} cannot be reached: {type(error).__name__}: {error}") from error


class RemoteFile:
    """A file at a URL, read by range requests."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        _ = self.size  # raises if it is missing

    @cached_property
    def size(self) -> int:
        """Bytes in the file, asked for once."""
        return self._path.size()

    def read(self, buffers: list[Any], offset: int) -> int:
        """Fill the buffers by one request."""
        wanted = sum(len(memoryview(buffer).cast("B")) for buffer in buffers)
        wanted = min(wanted, max(0, self.size - offset))
        data = memoryview(self._path.range(offset, offset + wanted)) if wanted else memoryview(b"")
        got = len(data)
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            part, data = data[: len(view)], data[len(view) :]
            view[: len(part)] = part
        return got if got <= wanted else 0  # a server that sends more than the range has ignored it

    def close(self) -> None:
        """Do nothing: each request stands alone."""


AnyPath = Path | RemotePath


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
    return RemotePath(text.rstrip("/"), _store(scheme, text.rstrip("/")))


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


def open_file(path: AnyPath) -> File:
    """Open a file for reading; FileNotFoundError if it is missing."""
    return LocalFile(path) if isinstance(path, Path) else RemoteFile(path)


def size_of(path: AnyPath) -> int:
    """Return the bytes in a file; FileNotFoundError if it is missing."""
    return os.stat(path).st_size if isinstance(path, Path) else path.size()


def _store(scheme: str, url: str) -> Any:
    """Return the zarr store that reads a URL."""
    from zarr.storage import FsspecStore, ObjectStore

    try:
        if scheme in _BY_OBSTORE:
            try:
                from obstore.store import from_url
            except ImportError:
                return FsspecStore.from_url(url, read_only=True)
            # http, not https, is for servers of this machine or network; AWS_ENDPOINT_URL names one that speaks s3.
            insecure = scheme == "http" or os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
            return ObjectStore(from_url(url, client_options={"allow_http": insecure}), read_only=True)
        return FsspecStore.from_url(url, read_only=True)
    except (ImportError, ValueError) as error:
        raise PoolError(
            f"{url} cannot be opened: {error}. `pip install 'mcscore[remote]'` reads pools at URLs"
        ) from error
