"""An S3 server of this process, and a proxy before it that fails as servers and networks do."""

from __future__ import annotations

import http.client
import itertools
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

LATE = 0.3  # seconds
Fault = Callable[[str, str], str]  # (method, path): "" to pass a request on, else how it fails


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    moto = pytest.importorskip("moto.moto_server.werkzeug_app")
    serving = pytest.importorskip("werkzeug.serving")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app, one = moto.DomainDispatcherApplication(moto.create_backend_app), threading.Lock()

    def in_turn(environ: Any, start_response: Any) -> Any:
        with one:  # moto looks at a condition and writes in two steps: of 16 writers of one object two were told that they made it
            return app(environ, start_response)

    server = serving.make_server("127.0.0.1", 0, in_turn, threaded=True, request_handler=moto.MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket."""
    pytest.importorskip("obstore")
    use(s3_server, monkeypatch)
    return new_bucket(s3_server)


def use(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let s3:// mean this server."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)


def new_bucket(endpoint: str) -> str:
    """Make a bucket and return its URL."""
    boto3 = pytest.importorskip("boto3")
    name = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on, or fails: an answer such as "503"; "dropped" before it or "lost" after it is passed on; "late": it is passed
    on only after an answer of 503, as a request is that hung in the network while its sender tried again."""

    upstream, fault = "", staticmethod(lambda _method, _path: "")
    protocol_version = "HTTP/1.1"

    def answer(self, code: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(code)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(name, value)
        length = headers.get("Content-Length", headers.get("content-length")) if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        how = self.fault(self.command, self.path)
        pass_on = partial(self.passed_on, self.command, self.path, body, dict(self.headers))
        if how == "dropped":
            self.close_connection = True
        elif how == "late":
            self.answer(503, {}, b"")
            threading.Timer(LATE, pass_on).start()
        elif how == "lost":
            pass_on()
            self.close_connection = True
        elif how:
            self.answer(int(how), {}, b"")
        else:
            self.answer(*pass_on())

    def passed_on(self, *request: Any) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.upstream).netloc)
        connection.request(*request)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def faulty(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Callable[[Fault], None]]]:
    """(URL of a new bucket behind a proxy, what sets how requests fail)."""
    from mcscore.store import remote

    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(remote, "_LONGEST_PAUSE", 0.05)
    use(s3_server, monkeypatch)
    url = new_bucket(s3_server)
    handler: Any = type("Handler", (Proxy,), {"upstream": s3_server})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        use(f"http://127.0.0.1:{running.server_port}", monkeypatch)
        yield url, lambda fault: setattr(handler, "fault", staticmethod(fault))
        running.shutdown()


def every(step: int, *kinds: str) -> Fault:
    """Let every so many-th request fail, in one way after the other."""
    count, kind = itertools.count(1), itertools.cycle(kinds)
    lock = threading.Lock()

    def fault(_method: str, _path: str) -> str:
        with lock:
            return next(kind) if next(count) % step == 0 else ""

    return fault
