"""Runs with a selection, and a client of the labeling page's server."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcscore import Pool, Scorer, score_pool
from mcscore.label_app.server import NEEDED, Server
from mcscore.label_app.session import Session
from mcscore.run import Run

CLASSES = ["cat", "dog", "emu"]


def make_run(
    folder: Path,
    items: np.ndarray,
    *,
    classes: list[str] | None = CLASSES,
    k: int = 7,
    likelihood: str = "categorical",
    keys: bool = True,
    outputs: int = 3,
) -> Run:
    """A pool at folder/pool of the items, and a run of it with a selection of the k best by bald."""
    n, features = len(items), int(np.prod(items.shape[1:]))
    pool = Pool.create(
        folder / "pool", items, classes=classes, keys=[f"in/{i:03}.png" for i in range(n)] if keys else None
    )
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(features, 9), torch.nn.Dropout(), torch.nn.Linear(9, outputs)
    )
    run = score_pool(pool, Scorer(model, passes=6, scores=("bald", "entropy"), likelihood=likelihood), folder / "run")
    run.select(k, "bald", "none")
    return run


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (23, 3, 9, 13), np.uint8)


@pytest.fixture
def run(tmp_path: Path, images: np.ndarray) -> Run:
    return make_run(tmp_path, images)


class Client:
    """One browser window, as far as the server can tell."""

    def __init__(self, port: int, token: str | None, window: str = "w") -> None:
        self.port, self.token, self.window = port, token, window

    def send(self, path: str, data: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        headers = ({"X-Token": self.token} if self.token is not None else {}) | headers
        body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def ask(self, path: str) -> Any:
        status, _, body = self.send(path)
        assert status == 200, body
        return json.loads(body)

    def give(self, id: Any, had: Any, value: Any, field: str = "label") -> tuple[int, Any]:
        change = {"id": id, "field": field, "had": had, "value": value, "window": self.window}
        status, _, body = self.send("/api/give", change)
        return status, json.loads(body)


Serve = Callable[..., Client]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(run, **options of Session) -> a client of a server of its own."""
    for module in NEEDED:
        pytest.importorskip(module, reason=f"the labeling page needs {module}: pip install 'mcscore[label]'")
    servers: list[Server] = []

    def work(server: Server) -> None:
        with contextlib.suppress(OSError):  # its socket is closed below, while it waits
            server.run()

    def start(run: Run, **options: Any) -> Client:
        server = Server(Session(run, **options), token="secret")
        threading.Thread(target=work, args=(server,), daemon=True).start()
        servers.append(server)
        return Client(server.port, "secret", window=f"w{len(servers)}")

    yield start
    for server in servers:
        server.close()
