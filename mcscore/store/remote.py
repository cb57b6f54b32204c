"""A store at a URL that is patient: what a server does wrong is told, tried again, and in the end an error.

Only the answer "not found" means that an object is missing. Time limits and retries are set in one place, by two
environment variables: MCSCORE_REMOTE_TIMEOUT, the seconds that one request may take (default 30), and
MCSCORE_REMOTE_RETRIES, how often a request that failed is sent again (default 6, which takes half a minute where the
server answers at once; a server that does not answer is given up after four time limits). The store's own retries are
off: they say nothing while they last, and they do not cover a body that stops midway.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, ObjectStore, WrapperStore

from ..errors import PoolError, first_line
from ..events import event

T = TypeVar("T")

# obstore fetches ranges with a fraction of fsspec's overhead; fsspec knows more kinds of URLs.
_BY_OBSTORE = ("s3", "gs", "az", "http", "https")
_CONNECT_SECONDS = 5.0
_QUIET_SECONDS = 10.0  # a request that has no answer after so long is told
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # between a failure and the next attempt: doubled each time
_TIMEOUTS = 4  # that an object may take in all
_TRY_AGAIN = (408, 425, 429)  # of the answers 4xx; every 5xx is tried again
_NO_USE = {"PermissionDeniedError", "UnauthenticatedError", "NotSupportedError", "InvalidPathError"}  # obstore's
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_KINDS = {"Connect": "no connection", "Interrupted": "the connection broke off"}  # of obstore's HttpError


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        timeout: seconds that one request may take, its body included.
        retries: how often a request that failed is sent again.
    """

    timeout: float = 30.0
    retries: int = 6

    @staticmethod
    def from_environment() -> Patience:
        """Read MCSCORE_REMOTE_TIMEOUT and MCSCORE_REMOTE_RETRIES.

        Raises:
            PoolError: one of them is not a number that it can be.
        """
        timeout = os.environ.get("MCSCORE_REMOTE_TIMEOUT", "30")
        retries = os.environ.get("MCSCORE_REMOTE_RETRIES", "6")
        if not re.fullmatch(r"\d{1,6}(\.\d+)?", timeout) or float(timeout) == 0:
            raise PoolError(f"MCSCORE_REMOTE_TIMEOUT={timeout!r} is not a number of seconds above 0")
        if not re.fullmatch(r"\d{1,6}", retries, re.ASCII):
            raise PoolError(f"MCSCORE_REMOTE_RETRIES={retries!r} is not a whole number from 0 on")
        return Patience(float(timeout), int(retries))


class _WrongLength(Exception):
    """A server sent another number of bytes than it was asked for."""


class PatientStore(WrapperStore[Any]):
    """Reads of another store, each tried again if it fails for a reason that may pass. All run in zarr's one thread.

    Attributes:
        retried: requests that were sent again so far.
    """

    def __init__(self, store: Store, url: str, patience: Patience) -> None:
        super().__init__(store)
        self.url, self.patience, self.retried = url, patience, 0
        self._told: set[str] = set()

    def _with_store(self, store: Store) -> PatientStore:
        return type(self)(store, self.url, self.patience)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object, or a part of it; None if it is missing.

        Raises:
            PoolError: it could not be read; names the URL and the reason.
        """

        async def request() -> Buffer | None:
            found: Buffer | None = await self._store.get(key, prototype, byte_range)
            if found is not None and isinstance(byte_range, RangeByteRequest):
                asked = byte_range.end - byte_range.start
                if len(found) != asked:  # a server that ignores ranges, or cuts them short
                    raise _WrongLength(f"{len(found)} bytes came, {asked} were asked for")
            return found

        return await self.patiently(key, request)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of objects, each as :meth:`get` does."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for request in requests:
            yield request[0], await self.get(*request)

    async def getsize(self, key: str) -> int:
        """Return the bytes in an object; FileNotFoundError if it is missing."""
        found = await self.patiently(key, lambda: self._store.getsize(key))
        if found is None:
            raise FileNotFoundError(f"{self.url}/{key}")
        return int(found)

    async def exists(self, key: str) -> bool:
        """Whether there is an object; fsspec's own answer is no, too, when the server fails."""
        return await self.patiently(key, lambda: self._store.getsize(key)) is not None

    async def patiently(self, key: str, request: Callable[[], Awaitable[T]], doing: str = "read") -> T | None:
        """Return what a request gives; None if the server says that there is no such object.

        Raises:
            PoolError: it failed each time; names the URL, and the reason why it cannot be read, or ``doing``.
        """
        url, pause = f"{self.url}/{key}".rstrip("/"), _FIRST_PAUSE
        until = time.monotonic() + _TIMEOUTS * self.patience.timeout
        for left in range(self.patience.retries, -1, -1):
            try:
                return await self._in_time(request())
            except Exception as error:  # each kind of store raises types of its own
                if _says_absent(error):
                    return None
                reason = self._reason(error)
                if not _may_pass(error):
                    raise PoolError(f"{url} cannot be {doing}: {reason}") from error
                if not left or time.monotonic() >= until:
                    tried = self.patience.retries + 1 - left
                    raise PoolError(
                        f"{url} cannot be reached: {reason}, the last of {tried} attempts. Try again when the server "
                        "answers; MCSCORE_REMOTE_RETRIES and MCSCORE_REMOTE_TIMEOUT set how long is waited"
                    ) from error
                self._tell(reason, f"{url}: {reason}. Trying again, attempts left: {left}")
            self.retried += 1
            event(__name__, "request sent again", logging.WARNING, url=url, why=reason, attempts_left=left)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("the last attempt returns or raises")

    async def _in_time(self, request: Awaitable[T]) -> T:
        task = asyncio.ensure_future(request)
        limit = self.patience.timeout
        done, _ = await asyncio.wait({task}, timeout=min(_QUIET_SECONDS, limit))
        if not done and limit > _QUIET_SECONDS:
            self._tell("slow", f"{self.url}: no answer for {_QUIET_SECONDS:g} s; waiting for up to {limit:g} s")
            done, _ = await asyncio.wait({task}, timeout=limit - _QUIET_SECONDS)
        if not done:
            task.cancel()
            raise TimeoutError
        return await task

    def _tell(self, reason: str, message: str) -> None:
        """Warn once per reason: a server that is overloaded fails every request."""
        if reason not in self._told:
            self._told.add(reason)
            warnings.warn(f"{message} (told once)", stacklevel=2)

    def _reason(self, error: Exception) -> str:
        """Return why a request failed, in words that are the same for each failure of a kind."""
        text = str(error)
        if found := re.search(r"status code: (\d{3}[^:|\n]*)", text):
            return f"the server answers {found[1].strip()}"
        if (status := _status(error)) is not None:
            return f"the server answers {status}"
        kind = found[1] if (found := re.search(r"kind: (\w+)", text)) else ""
        if isinstance(error, TimeoutError) or kind == "Timeout":
            return f"no answer within {self.patience.timeout:g} s"
        if found := re.search(r'message: "([^"]+)"', text):
            return found[1]
        cause = error.__cause__ if isinstance(error, _ABSENT) and error.__cause__ else error
        return _KINDS.get(kind) or (text if isinstance(error, _WrongLength) else first_line(cause))


def open_store(url: str) -> PatientStore:
    """Return the store that reads what lies below a URL.

    Raises:
        PoolError: a package that the URL needs is not installed, or the URL is none.
    """
    patience = Patience.from_environment()
    try:
        urlsplit(url)
        return PatientStore(_store(url, patience), url, patience)
    except (ImportError, ValueError) as error:
        raise PoolError(
            f"{url} cannot be opened: {error}. `pip install 'mcscore[remote]'` reads pools at URLs"
        ) from error


def _store(url: str, patience: Patience) -> Store:
    scheme = url.partition("://")[0]
    if scheme in _BY_OBSTORE:
        try:
            from obstore.store import from_url
        except ImportError:
            return FsspecStore.from_url(url, read_only=True)
        # http, not https, is for servers of this machine or network; AWS_ENDPOINT_URL names one that speaks s3.
        insecure = scheme == "http" or os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        client: Any = {
            "allow_http": insecure,
            "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, patience.timeout)),
            "timeout": timedelta(seconds=patience.timeout),
        }
        return ObjectStore(from_url(url, client_options=client, retry_config={"max_retries": 0}), read_only=True)
    return FsspecStore.from_url(url, read_only=True)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of some library carries, if any."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for found in (response, getattr(response, "status_code", None)):
        if isinstance(found, int):
            return found
    for name in ("status", "status_code", "code"):  # aiohttp, azure, gcsfs
        if isinstance(found := getattr(error, name, None), int) and 100 <= found < 600:
            return found
    if found := re.search(r"status code: (\d{3})", str(error)):  # obstore
        return int(found[1])
    # fsspec's "no such file" hides what it was; a body that stopped has a cause of status 400, which no server answered
    return _status(error.__cause__) if isinstance(error, _ABSENT) and error.__cause__ is not None else None


def _says_absent(error: Exception) -> bool:
    """Whether a server has said that there is no such object.

    fsspec raises FileNotFoundError for every failure to learn the size of a file at a URL; the cause tells.
    """
    if not isinstance(error, _ABSENT):
        return False
    status, cause = _status(error), error.__cause__
    return status == 404 if status is not None else cause is None or isinstance(cause, (KeyError, *_ABSENT))


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _TRY_AGAIN
    if type(error).__name__ in _NO_USE:
        return False
    return not isinstance(error, (PermissionError, NotImplementedError, ImportError, ValueError, TypeError, KeyError))
