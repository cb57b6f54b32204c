"""What lies below a URL of an object store as a place: every write is one request, and has a condition.

A store has neither rename nor lock, but writes an object whole, and does so only if there is none (``create``), or only if
it is still what it was when it was looked at (``replace``, ``change``). So no writer, however late its request arrives,
undoes what another has done. A request whose answer was lost may have been carried out: then the condition of the next
attempt fails, and the bytes that are there tell that they are ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, TypeVar

from zarr.core.sync import sync
from zarr.storage import ObjectStore

from ...errors import PoolError, RunError
from ..files import RemotePath
from ..parallel import errors_kept, in_order
from ..remote import Patience, PatientStore, open_store

T = TypeVar("T")
Version = dict[str, str]

_SCHEMES = ("s3", "gs", "az", "memory")
_PROBE = ".mcscore-probe-"  # begins the name of what ``begin`` writes
_IN_FLIGHT = 32  # requests for small objects at a time: each waits for the network
_ATTEMPTS = 20  # at a write whose condition fails because others write the same object
_LONGEST_PAUSE = 0.5  # seconds between two of them, at most
_PAGE = 10_000  # objects that are listed in the time that one request may take
_AT_ONCE = 1000  # objects that one request removes

# -- requests, so that a test can fail any one of them, before or after it is carried out ---------------------------------


async def put(store: Any, key: str, data: bytes, mode: Any) -> None:
    """Write an object if ``mode`` allows it; obstore's errors."""
    import obstore

    await obstore.put_async(store, key, data, mode=mode)


async def delete(store: Any, keys: list[str]) -> None:
    """Remove objects; nothing happens if there are none."""
    import obstore

    await obstore.delete_async(store, keys)


# -- paths -------------------------------------------------------------------------------------------------------------


def path_of_objects(url: str) -> RemotePath:
    """The path that a URL names, in a store that can be written to.

    Raises:
        PoolError: obstore is not installed, or the URL is none.
        RunError: nothing can be written to a URL of this kind.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        raise RunError(
            f"{url}: nothing can be written to {scheme}://; choose a local directory, or a URL that begins with s3://, gs:// or az://"
        )
    bucket, _, key = rest.partition("/")
    root = f"{scheme}://{bucket}"
    path = RemotePath(root, _memory(root) if scheme == "memory" else open_store(root), key.strip("/"))
    _objects_of(path)
    return path


@cache
def _memory(root: str) -> PatientStore:
    """A store in the memory of this process."""
    from obstore.store import MemoryStore

    return PatientStore(ObjectStore(MemoryStore(), read_only=True), root, Patience.from_environment())


def _objects_of(path: RemotePath) -> Any:
    """Obstore's store of a path."""
    store = path.store._store
    if not isinstance(store, ObjectStore):
        raise PoolError(
            f"{path} cannot be written: `pip install 'mcscore[remote]'` installs obstore, which writes to URLs"
        )
    return store.store


# -- the place ---------------------------------------------------------------------------------------------------------


class ObjectPlace:
    """Objects below a URL, see ``Place``. Any number of processes may write at any time."""

    one_writer = False
    threads = 8  # a shard is up to 30 MB

    def __init__(self, path: RemotePath) -> None:
        self.path = path
        self._objects = _objects_of(path)

    def read(self, name: str) -> bytes:
        """The content of an object."""
        return self._get(name)[0]

    def read_each(self, names: Sequence[str]) -> Iterator[bytes | OSError]:
        """The content of each object, in order, or why it cannot be read; many requests are in flight."""
        return in_order(errors_kept(self.read), names, _IN_FLIGHT)

    def part(self, name: str, start: int, stop: int) -> tuple[bytes, int]:
        """The bytes start..stop-1 of an object, as far as it has them, and how many it has in all."""
        data, facts = self._get(name, (start, stop))
        return data, facts["size"]

    def version(self, name: str) -> Version | None:
        """What differs once the object has been replaced; None if there is none."""
        facts = self._head(name)
        return None if facts is None else _version_of(facts)

    def modified(self, name: str) -> int:
        """When an object was written, in nanoseconds by the clock of the store; many count whole seconds."""
        facts = self._head(name)
        if facts is None:
            raise self._missing(name)
        return round(facts["last_modified"].timestamp() * 1e6) * 1000

    def names(self, folder: str = "") -> list[str]:
        """The names directly in a folder, sorted. Of a folder all objects are listed, of the place itself only the first level."""
        if folder:
            return sorted(
                name for each in self._below(folder) if "/" not in (name := each["path"][len(self._key(folder)) + 1 :])
            )

        async def request() -> Any:
            import obstore

            return await obstore.list_with_delimiter_async(self._objects, self.path.key or None)

        found = self._do("", request) or {"objects": [], "common_prefixes": []}
        paths = [*(each["path"] for each in found["objects"]), *found["common_prefixes"]]
        return sorted({path.rpartition("/")[2] for path in paths})

    def size(self) -> int:
        """Bytes of all objects."""
        return sum(each["size"] for each in self._below(""))

    def begin(self) -> bool:
        """Raise RunError unless the store keeps the conditions that every write depends on."""
        name = f"{_PROBE}{uuid.uuid4().hex}"
        try:
            self.create(name, b"first")
            first = self.version(name)
            ignored = self._put(name, b"second", "create")
            self.replace(name, b"third")
            if ignored or self._put(name, b"fourth", first):
                raise RunError(
                    f"{self.path}: this store ignores the conditions of writes (If-None-Match, If-Match), so that two processes "
                    "could replace each other's scores: score into a store that keeps them (S3, Google Cloud Storage, Azure, "
                    "MinIO), or into a local directory"
                )
        finally:
            self.discard([name])
        return False

    def lay_out(self, *folders: str, alone: bool = True) -> None:
        """Do nothing: a store has no folders, and no object is ever there in part."""

    def create(self, name: str, data: bytes) -> None:
        """Make an object. FileExistsError if there is one with other content; one with the same is what was asked for."""
        for _ in _attempts():
            if self._put(name, data, "create"):
                return
            try:
                there = self.read(name)
            except FileNotFoundError:  # removed meanwhile, or the store is about to write it (409 of S3)
                continue
            if there == data:
                return
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path / name))
        raise self._busy(name)

    def replace(self, name: str, data: bytes) -> None:
        """Make an object hold ``data``, whether there was one or not; of several processes the last one wins."""
        for _ in _attempts():
            version = self.version(name)
            if self._put(name, data, version or "create"):
                return
        raise self._busy(name)

    def change(self, name: str, how: Callable[[bytes], bytes]) -> None:
        """Replace an object by what ``how`` makes of it, unless it was changed meanwhile: then once more."""
        sent: bytes | None = None
        for _ in _attempts():
            before, facts = self._get(name)
            if before == sent or (after := how(before)) == before:
                return
            sent = after
            if self._put(name, after, _version_of(facts)):
                return
        raise self._busy(name)

    def remove(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        self._delete([name])

    def discard(self, names: Sequence[str]) -> None:
        """Remove objects as far as that is possible."""
        for at in range(0, len(names), _AT_ONCE):
            try:
                self._delete(names[at : at + _AT_ONCE])
            except OSError:
                return

    def sync(self, name: str) -> None:
        """Do nothing: what a store has answered is durable."""

    def foreign(self) -> str | None:
        """Why no run can be made here: something that is here, or a run or pool that this would be in; None if it can."""
        there = [name for name in self.names() if not name.startswith(_PROBE)]
        if there:
            return f"{self.path} holds {there[0]} and is not a run (it has no run.json); choose another place"
        above = self.path.key.split("/")[:-1]
        for depth in range(len(above), -1, -1):
            place = ObjectPlace(RemotePath(self.path.url, self.path.store, "/".join(above[:depth])))
            for name, kind in (("run.json", "run"), ("zarr.json", "pool")):
                with contextlib.suppress(OSError):  # who may write here need not be allowed to look above
                    if place.version(name) is not None:
                        return f"{self.path} would be in the {kind} {place.path}, among its files; choose another place"
        return None

    # -- requests --

    def _key(self, name: str) -> str:
        return (self.path / name).key.rstrip("/")

    def _do(self, name: str, request: Callable[[], Awaitable[T]], doing: str = "read") -> T | None:
        """What a request gives, patiently; None if there is no such object. OSError if it fails."""
        try:
            return sync(self.path.store.patiently(self._key(name), request, doing))
        except PoolError as error:
            raise OSError(str(error)) from error

    def _get(self, name: str, part: tuple[int, int] | None = None) -> tuple[bytes, Any]:
        """An object, or a part of it, and what the store says of it. FileNotFoundError if there is none."""
        import obstore

        async def request() -> tuple[bytes, Any]:
            try:
                found = await obstore.get_async(
                    self._objects, self._key(name), options={"range": part} if part else None
                )
            except (
                obstore.exceptions.GenericError
            ):  # a range that begins behind the end is an error of its own kind in each store
                if (
                    part is None
                    or (facts := await obstore.head_async(self._objects, self._key(name)))["size"] > part[0]
                ):
                    raise
                return b"", facts
            return bytes(await found.bytes_async()), found.meta

        if (found := self._do(name, request)) is None:
            raise self._missing(name)
        return found

    def _head(self, name: str) -> Any:
        import obstore

        return self._do(name, partial(obstore.head_async, self._objects, self._key(name)))

    def _put(self, name: str, data: bytes, mode: Any) -> bool:
        """Whether an object was written; if not, the condition of ``mode`` failed."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        async def request() -> bool:
            try:
                await put(self._objects, self._key(name), data, mode)
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

        if (done := self._do(name, request, "written")) is None:
            raise OSError(f"{self.path / name} cannot be written: there is no {self.path.url}")
        return done

    def _delete(self, names: Sequence[str]) -> None:
        self._do("", partial(delete, self._objects, [self._key(name) for name in names]), "written")

    def _below(self, folder: str) -> Iterator[Any]:
        """What the store says of each object below a folder."""
        import obstore

        after: str | None = None

        async def page() -> list[Any]:
            found: list[Any] = []
            stream = obstore.list(self._objects, self._key(folder) or None, offset=after, chunk_size=_AT_ONCE)
            async for batch in stream:
                found += batch
                if len(found) >= _PAGE:
                    break
            return found

        while found := self._do(folder, page):
            yield from found
            if len(found) < _PAGE:
                return
            after = max(each["path"] for each in found)

    def _missing(self, name: str) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / name))

    def _busy(self, name: str) -> OSError:
        return OSError(f"{self.path / name} cannot be written: other processes replaced it {_ATTEMPTS} times meanwhile")


def _version_of(facts: Any) -> Version:
    """What makes a write depend on the object being this one: stores use one of the two, or both."""
    return {name: facts[name] for name in ("e_tag", "version") if facts[name] is not None}


def _attempts() -> Iterator[None]:
    """So many attempts at a write that others may get in the way of, with pauses of growing random length between them."""
    for attempt in range(_ATTEMPTS):
        yield
        time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.01 * 2**attempt)))
