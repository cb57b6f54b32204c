"""A server that fails for a while is waited for, told of, and never taken for one that has no such file."""

from __future__ import annotations

import errno
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore.errors import ChunkError, PoolError
from mcscore.pool import Pool

from .helpers import images, small_pool
from .test_remote import Server

pytest.importorskip("obstore")
from mcscore.store import files, remote

Fault = Callable[["_Server", bytes], None]


class _Server(BaseHTTPRequestHandler):
    """Serves a folder; the first ``faults`` requests for each name that contains ``of`` go wrong."""

    folder: Path
    fault: Fault | None = None
    faults, of = 0, ""
    seen: dict[str, int]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        cls = type(self)
        path = cls.folder / self.path.lstrip("/")
        cls.seen[self.path] = cls.seen.get(self.path, 0) + 1
        if not path.is_file():
            self.answer(404)
        elif cls.fault and cls.of in self.path and cls.seen[self.path] <= cls.faults:
            cls.fault(self, self.part(path))
        else:
            self.answer(206 if "Range" in self.headers else 200, self.part(path))

    def part(self, path: Path) -> bytes:
        data = path.read_bytes()
        self.total, self.start = len(data), 0
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            self.start = int(first)
            data = data[self.start : int(last or self.total - 1) + 1]
        return data

    def answer(
        self, code: int, data: bytes = b"", length: int | None = None, claimed: int | None = None, **headers: str
    ) -> None:
        self.send_response(code)
        if code == 206:
            stop = self.start + (claimed or len(data))
            self.send_header("Content-Range", f"bytes {self.start}-{stop - 1}/{self.total}")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def _read(url: str) -> tuple[Pool, np.ndarray, list[int]]:
    pool = Pool.open(url)
    return pool, pool.read(0, 50), pool.labels.tolist()


def _status(code: int, **headers: str) -> Fault:
    return lambda server, data: server.answer(code, **headers)


def _cut(server: _Server, data: bytes) -> None:
    server.answer(206 if "Range" in server.headers else 200, data[: len(data) // 2], len(data), len(data))
    server.close_connection = True


def _stall(server: _Server, data: bytes) -> None:
    time.sleep(0.6)
    server.close_connection = True


def _stall_midway(server: _Server, data: bytes) -> None:
    server.answer(206 if "Range" in server.headers else 200, data[: len(data) // 2], len(data), len(data))
    time.sleep(0.6)
    server.close_connection = True


def _too_short(server: _Server, data: bytes) -> None:
    server.answer(
        206 if "Range" in server.headers else 200, data[:-3] if server.command == "GET" else data, claimed=len(data)
    )


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.01)
    monkeypatch.setenv("MCSCORE_REMOTE_TIMEOUT", "0.3")
    small_pool(tmp_path / "p", labels=np.arange(50) % 3)
    handler: Any = type("Handler", (_Server,), {"folder": tmp_path, "seen": {}})
    with Server(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{running.server_port}/p"
        running.shutdown()


_PASSING = {
    "500": (_status(500), "answers 500"),
    "429": (_status(429, Retry_After="1"), "answers 429"),
    "503": (_status(503), "answers 503"),
    "cut": (_cut, "broke off"),
    "stall": (_stall, r"no answer within 0\.3 s"),
    "stall midway": (_stall_midway, r"no answer within 0\.3 s"),
    "short": (_too_short, r"97 bytes came|\d+ bytes came, \d+ were asked for"),
}


@pytest.mark.parametrize("kind", _PASSING)
@pytest.mark.parametrize("of", ["p/zarr.json", "items/c.3", "labels/zarr.json"])
def test_what_passes_is_waited_for_and_told(server: tuple[Any, str], kind: str, of: str) -> None:
    if kind == "short" and of != "items/c.3":
        pytest.skip("only the answer to a range tells how long it should be")
    handler, url = server
    handler.fault, handler.faults, handler.of = _PASSING[kind][0], 2, of
    with pytest.warns(UserWarning, match=rf"http://.*{of}.*: .*{_PASSING[kind][1]}.*Trying again"):
        there, items, labels = _read(url)
    assert np.array_equal(items, images())
    assert labels == (np.arange(50) % 3).tolist()
    assert 1 <= files.retries_of(there.path) <= 4
    with warnings.catch_warnings():  # each reason is told once
        warnings.simplefilter("error")
        assert np.array_equal(there.read(0, 50), images())


@pytest.mark.parametrize("kind", [*_PASSING, "403"])
@pytest.mark.parametrize("of", ["p/zarr.json", "items/zarr.json", "items/c.3", "labels/c"])
def test_what_stays_is_an_error_that_names_url_and_reason(
    server: tuple[Any, str], kind: str, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "short" and of.endswith("zarr.json"):
        pytest.skip("only the answer to a range tells how long it should be")
    handler, url = server
    fault, reason = _PASSING.get(kind) or (_status(403), "answers 403")
    monkeypatch.setenv("MCSCORE_REMOTE_RETRIES", "1")
    handler.fault, handler.faults, handler.of = fault, 10**9, of
    warnings.simplefilter("ignore")  # pytest restores the filters
    with pytest.raises(PoolError, match=rf"http://.*{of}.*: .*{reason}") as raised:
        _read(url)
    assert type(raised.value) is PoolError, "no ChunkError: what cannot be read now must not be skipped as bad"
    assert "is not a pool" not in str(raised.value)
    assert "damaged" not in str(raised.value)
    asked = [n for name, n in handler.seen.items() if of in name]
    assert max(asked) <= (1 if kind == "403" else 3), "as often as is allowed"


def test_a_server_that_never_answers_is_given_up(server: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    handler, url = server
    monkeypatch.setenv("MCSCORE_REMOTE_RETRIES", "1000")
    handler.fault, handler.faults, handler.of = _stall, 10**9, "p/zarr.json"
    with (
        pytest.warns(UserWarning, match="Trying again, attempts left: 1000"),
        pytest.raises(PoolError, match=r"no answer within 0\.3 s, the last of [1-5] attempts"),
    ):
        Pool.open(url)


def test_not_found_is_asked_once(server: tuple[Any, str]) -> None:
    handler, url = server
    with pytest.raises(PoolError, match=r"q is not a pool: it has no zarr\.json"):
        Pool.open(url.replace("/p", "/q"))
    assert list(handler.seen.values()) == [1]


def test_a_wait_is_told_before_it_ends(server: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    handler, url = server
    monkeypatch.setattr(remote, "_QUIET_SECONDS", 0.1)
    monkeypatch.setenv("MCSCORE_REMOTE_TIMEOUT", "5")
    handler.fault, handler.faults, handler.of = (
        lambda server, data: (time.sleep(0.3), server.answer(200, data)),
        1,
        "p/z",
    )
    with pytest.warns(UserWarning, match=r"http://.*: no answer for 0\.1 s; waiting for up to 5 s"):
        assert Pool.open(url).n == 50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIMEOUT", "0"),
        ("TIMEOUT", "-1"),
        ("TIMEOUT", "nan"),
        ("TIMEOUT", "soon"),
        ("RETRIES", "-1"),
        ("RETRIES", "1.5"),
    ],
)
def test_a_setting_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MCSCORE_REMOTE_{name}", value)
    with pytest.raises(PoolError, match=rf"MCSCORE_REMOTE_{name}='{value}' is not a"):
        Pool.open("http://127.0.0.1:1/p")


class _Answered(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("cause", "absent"), [(None, True), (KeyError("k"), True), (_Answered(404), True), (_Answered(500), False)]
)
@pytest.mark.parametrize("broken", [TimeoutError(), ConnectionResetError()])
def test_absence_is_what_the_server_said(cause: Exception | None, absent: bool, broken: Exception) -> None:
    """fsspec says "no such file" of any URL whose size it could not learn."""
    error = FileNotFoundError("http://host/x")
    error.__cause__ = cause
    assert remote._says_absent(error) is absent
    error.__cause__ = broken
    assert not remote._says_absent(error)


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.EIO, ChunkError), (errno.EMFILE, PoolError), (errno.ESTALE, PoolError)]
)
@pytest.mark.parametrize("call", ["open", "fstat", "preadv"])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_disk_that_fails_is_no_damage_unless_bytes_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, kind: type, sharded: bool
) -> None:
    pool = small_pool(tmp_path / "p", sharded=sharded)

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, call, fail)
    try:
        with pytest.raises(PoolError, match=rf"items.*{os.strerror(code)}") as raised:
            pool.read(0, 50)
    finally:
        monkeypatch.undo()  # pytest itself uses fstat
    assert type(raised.value) is kind


def test_a_short_read_is_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = small_pool(tmp_path / "p")
    real = os.preadv

    def short(descriptor: int, buffers: list[Any], offset: int) -> int:
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        return real(descriptor, [next((view for view in views if len(view)), views[0])[:7]], offset)

    monkeypatch.setattr(files.os, "preadv", short)
    assert np.array_equal(pool.read(0, 50), images())
