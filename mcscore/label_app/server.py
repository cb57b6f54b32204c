"""The server of the labeling page: on the loopback address only, and only for who has the token.

Another page in the same browser can neither read nor change anything: it does not know the token, which each request carries, and a
request under a name that is not this machine's (DNS rebinding) is refused.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
from collections.abc import Callable
from importlib import resources, util
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import Error, RunError
from .labels import Changed
from .session import Session

HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost")
NEEDED = {"bottle": "bottle", "waitress": "waitress", "PIL": "pillow"}  # module: package
_TYPES = {".js": "text/javascript", ".css": "text/css"}  # of the parts of the page
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_KEPT = "private, max-age=3600"  # of a picture: the items of a pool never change
_MOST_BYTES = 1 << 16  # of a request


def application(session: Session, token: str) -> Any:
    """Make the WSGI application of a session.

    Args:
        session: what is labeled.
        token: what every request must carry, as ``?token=`` or in the header X-Token.
    """
    from bottle import Bottle, HTTPResponse, request

    app = Bottle()

    def answer(body: bytes | str, kind: str, status: int = 200, cache: str = "no-store") -> Any:
        content = body.encode() if isinstance(body, str) else body
        text = "" if kind == "image/png" else "; charset=utf-8"
        return HTTPResponse(content, status, {**_HEADERS, "Content-Type": kind + text, "Cache-Control": cache})

    def nothing() -> Any:
        return answer("Not found\n", "text/plain", 404)

    def as_json(facts: Any, status: int = 200) -> Any:
        return answer(json.dumps(facts, allow_nan=False), "application/json", status)

    own = resources.files(__package__).joinpath("page")
    parts = {
        file.name: file
        for room in (resources.files("mcscore.web"), own)
        for file in room.iterdir()
        if Path(file.name).suffix in _TYPES
    }

    def for_owner(handle: Callable[..., Any]) -> Callable[..., Any]:
        """Refuse whoever has not the token, and turn an error into a sentence."""

        def handled(**parts: Any) -> Any:
            if (refused := wrong_name()) is not None:
                return refused
            given = request.headers.get("X-Token") or request.query.get("token") or ""
            if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
                return answer(
                    "This page needs the token that `mcscore label` printed: open the whole address, with ?token=...\n",
                    "text/plain",
                    403,
                )
            try:
                return handle(**parts)
            except Changed as changed:
                return as_json({"changed": changed.now}, 409)
            except Error as error:
                return as_json({"error": " ".join(str(error).split())}, 400)
            except OSError as error:
                return as_json({"error": f"could not be read or written: {error}"}, 500)

        return handled

    def wrong_name() -> Any:
        host = request.headers.get("Host", "").rpartition(":")[0] or request.headers.get("Host", "")
        if host in _NAMES:
            return None
        return answer(f"This server is reached as {' or '.join(_NAMES)} only\n", "text/plain", 403)

    def part(name: str) -> Any:
        if (refused := wrong_name()) is not None:
            return refused
        return answer(parts[name].read_bytes(), _TYPES[Path(name).suffix]) if name in parts else nothing()

    def item(id: int) -> Any:
        return as_json(session.content.facts(id)) if session.has(id) else nothing()

    def picture(id: int) -> Any:
        if not session.has(id) or session.content.kind != "image":
            return nothing()
        return answer(session.content.png(id), "image/png", cache=_KEPT)

    def give() -> Any:
        if request.content_length > _MOST_BYTES:
            return as_json({"error": "the request is too long"}, 413)
        try:
            given = json.loads(request.body.read())
            change = [given[name] for name in ("id", "field", "had", "value", "window")]
        except (ValueError, KeyError, TypeError):
            return as_json({"error": "the request must be JSON with id, field, had, value and window"}, 400)
        session.give(*change)
        return as_json({"value": given["value"]})

    app.route("/", "GET", for_owner(lambda: answer(own.joinpath("index.html").read_bytes(), "text/html")))
    app.route("/<name>", "GET", part)
    app.route("/api/session", "GET", for_owner(lambda: as_json(session.facts())))
    app.route("/api/states", "GET", for_owner(lambda: as_json(session.states())))
    app.route("/api/item/<id:int>", "GET", for_owner(item))
    app.route("/api/picture/<id:int>", "GET", for_owner(picture))
    app.route("/api/give", "POST", for_owner(give))
    return app


class Server:
    """Serves a session on this machine.

    Args:
        session: what is labeled.
        port: of the loopback address; 0: a free one.
        token: default: a random one.

    Raises:
        ImportError: bottle, waitress or pillow is not installed.
        OSError: the port is taken.
        RunError: a token that no request can carry.
    """

    def __init__(self, session: Session, port: int = 0, token: str | None = None) -> None:
        missing = [package for module, package in NEEDED.items() if util.find_spec(module) is None]
        if missing:
            raise ImportError(f"the labeling page needs {', '.join(missing)}: pip install 'mcscore[label]'")
        import waitress

        # It warns of every request that waits for another, and a browser asks for six pictures at a time.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        if token is not None and not (token.isascii() and token.isprintable()):
            raise RunError("a token has printable ASCII characters only, as it stands in the head of every request")
        self.token = token or secrets.token_urlsafe(16)
        try:
            self._server = waitress.create_server(
                application(session, self.token), host=HOST, port=port, threads=4, ident=None
            )
        except OSError as error:
            raise OSError(
                f"port {port} of {HOST} cannot be served: {error.strerror or error}; give another --port"
            ) from error
        self.port = int(self._server.effective_port)

    @property
    def url(self) -> str:
        """The address of the page, with the token."""
        return f"http://{HOST}:{self.port}/?token={quote(self.token, safe='')}"

    def run(self) -> None:
        """Serve until the process is interrupted (Ctrl-C)."""
        self._server.run()

    def close(self) -> None:
        """Stop listening."""
        self._server.close()
