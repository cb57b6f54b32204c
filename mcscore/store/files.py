"""Files of a pool, wherever it lies: on a local disk by descriptors, at a URL through what zarr opens it with.

A pool at a URL is read only. Nothing here knows what is in a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ..errors import PoolError

# obstore fetches ranges with a fraction of the overhead; fsspec knows more kinds of places.
_BY_OBSTORE = ("s3", "gs", "az", "http", "https")


class File(Protocol):
    """An open file; safe for several threads at a time."""

    @property
    def size(self) -> int: ...

    def read(self, buffers: list[Any], offset: int) -> int:
        """Fill ``buffers`` one after another from ``offset`` on; fewer bytes than they hold only at the end."""

    def close(self) -> None: ...


class LocalFile:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, buffers: list[Any], offset: int) -> int:
        return os.preadv(self._descriptor, buffers, offset)

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True)
class RemotePath:
    """A place below a URL, in the manner of a Path. Any failure but absence is a PoolError: nothing is known of the file."""

    url: str
    store: Any  # zarr.abc.store.Store
    key: str = ""

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.url, self.store, f"{self.key}/{name}".lstrip("/"))

    def __str__(self) -> str:
        return f"{self.url}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        return str(self).rpartition("/")[2]

    def read_bytes(self) -> bytes:
        found = self._ask(lambda get, prototype: get(self.key, prototype))
        if found is None:
            raise FileNotFoundError(str(self))
        return found.to_bytes()

    def size(self) -> int:
        return int(self._ask(lambda *_: self.store.getsize(self.key)))

    def exists(self) -> bool:
        try:
            self.size()
        except FileNotFoundError:
            return False
        return True

    def range(self, start: int, stop: int) -> bytes:
        from zarr.abc.store import RangeByteRequest

        found = self._ask(lambda get, prototype: get(self.key, prototype, RangeByteRequest(start, stop)))
        if found is None:
            raise FileNotFoundError(str(self))
        return found.to_bytes()

    def _ask(self, request: Callable[..., Any]) -> Any:
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        try:
            return sync(request(self.store.get, default_buffer_prototype()))
        except FileNotFoundError:
            raise
        except Exception as error:  # each kind of store has its own
            raise PoolError(f"{self} cannot be reached: {type(error).__name__}: {error}") from error


class RemoteFile:
    def __init__(self, path: RemotePath) -> None:
        self._path = path
        _ = self.size  # raises if it is missing

    @cached_property
    def size(self) -> int:
        return self._path.size()

    def read(self, buffers: list[Any], offset: int) -> int:
        wanted = sum(len(memoryview(buffer).cast("B")) for buffer in buffers)
        wanted = min(wanted, max(0, self.size - offset))
        data = memoryview(self._path.range(offset, offset + wanted)) if wanted else memoryview(b"")
        got = len(data)
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            part, data = data[: len(view)], data[len(view) :]
            view[: len(part)] = part
        return min(got, wanted) if got <= wanted else 0  # a server that sends more than the range has not understood it

    def close(self) -> None:
        pass


Place = Path | RemotePath


def place_of(where: str | os.PathLike[str]) -> Place:
    """A local path, or what a URL (s3://, gs://, https://, memory://, and all that fsspec knows) names.

    Raises:
        PoolError: what the URL needs is not installed.
    """
    text = os.fspath(where)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(where)
    if scheme == "file":
        return Path(rest)
    return RemotePath(text.rstrip("/"), _store(scheme, text.rstrip("/")))


def local(place: Place, what: str) -> Path:
    """Raises:
    PoolError: it is at a URL, where ``what`` is not done.
    """
    if isinstance(place, Path):
        return place
    raise PoolError(f"{place} is read only: {what} in a pool on a local disk")


def location(place: Place) -> str:
    """The absolute path, or the URL."""
    return str(place) if isinstance(place, RemotePath) else os.path.abspath(place)


def open_file(place: Place) -> File:
    """Raises:
    FileNotFoundError: it is missing.
    """
    return LocalFile(place) if isinstance(place, Path) else RemoteFile(place)


def size_of(place: Place) -> int:
    """Raises:
    FileNotFoundError: it is missing.
    """
    return os.stat(place).st_size if isinstance(place, Path) else place.size()


def _store(scheme: str, url: str) -> Any:
    from zarr.storage import FsspecStore, ObjectStore

    try:
        if scheme in _BY_OBSTORE:
            try:
                from obstore.store import from_url
            except ImportError:
                return FsspecStore.from_url(url, read_only=True)
            # http, not https, is for servers on this machine or in this network; AWS_ENDPOINT_URL names such a one for s3.
            insecure = scheme == "http" or os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
            return ObjectStore(from_url(url, client_options={"allow_http": insecure}), read_only=True)
        return FsspecStore.from_url(url, read_only=True)
    except (ImportError, ValueError) as error:
        raise PoolError(
            f"{url} cannot be opened: {error}. `pip install 'mcscore[remote]'` reads pools at URLs"
        ) from error
