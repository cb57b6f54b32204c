"""Runs with selections, and a real Label Studio server where one is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcscore import Pool, Run, Scorer, score_pool

# What JSON in a cell, XML, CSV and web addresses could each stumble over.
CLASSES = ["cat", 'dog "big", <old> & grey', "7", "é ü", "[a]"]
N = 43
KEYS = [f"in/{i}, the #{i % 7} + ü 100%.png" for i in range(N)]
SECONDS_TO_START = 900.0
ACCOUNT, PASSWORD = "a@b.example", "secret12345"
LEGACY = "0123456789abcdef0123456789abcdef01234567"


def make_run(folder: Path, *, likelihood: str = "categorical", classes: list[str] | None = CLASSES, k: int = 31) -> Run:
    """A pool at folder/pool of N pictures, and a run of it with a selection of k items."""
    items = np.random.default_rng(5).integers(0, 256, (N, 3, 9, 13), np.uint8)
    pool = Pool.create(folder / "pool", items, classes=classes, keys=KEYS)
    outputs = 1 if likelihood == "gaussian" else len(classes or CLASSES)
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(items[0].size, 9), torch.nn.Dropout(), torch.nn.Linear(9, outputs)
    )
    by = "variance" if likelihood == "gaussian" else "bald"
    run = score_pool(pool, Scorer(model, passes=5, scores=(by,), likelihood=likelihood), folder / "run")
    run.select(k, by, "none")
    return run


@dataclass(frozen=True)
class RealServer:
    """Where it is, and a token of each kind."""

    url: str
    token: str
    legacy: str
    client: Any  # httpx.Client with the token


@pytest.fixture(scope="session")
def label_studio() -> Iterator[RealServer]:
    """A server with an account. MCSCORE_LABEL_STUDIO names its program, or the URL of one that runs with this account."""
    pytest.importorskip("label_studio_sdk", reason="label-studio-sdk is not installed: make test-label-studio")
    program = os.environ.get("MCSCORE_LABEL_STUDIO") or shutil.which("label-studio")
    if program is None:
        pytest.skip("label-studio is not installed: make test-label-studio")
    if program.startswith("http"):
        yield _account(program)
        return
    # Its database is made in thousands of commits: minutes on a disk, and far less in memory.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        log = Path(folder) / "log"
        with log.open("wb") as out:
            account = ["--username", ACCOUNT, "--password", PASSWORD, "--user-token", LEGACY]
            place = ["--data-dir", folder, "--port", str(port), "--internal-host", "127.0.0.1"]
            server = subprocess.Popen(
                [program, "start", "--no-browser", *place, *account],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=os.environ
                | {"LABEL_STUDIO_BASE_DATA_DIR": folder, "COLLECT_ANALYTICS": "False", "LATEST_VERSION_CHECK": "False"},
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, server, log)
            yield _account(url)
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(1)
    pytest.fail(f"Label Studio did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _account(url: str) -> RealServer:
    """Sign in, allow tokens of both kinds, and make a personal access token."""
    import httpx

    with httpx.Client(base_url=url, timeout=60) as page:
        page.get("/user/login/")
        form = {"csrfmiddlewaretoken": page.cookies["csrftoken"], "email": ACCOUNT, "password": PASSWORD}
        assert page.post("/user/login/", data=form, headers={"Referer": url}).status_code == 302
        headers = {"X-CSRFToken": page.cookies["csrftoken"], "Referer": url}
        both = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        assert page.post("/api/jwt/settings", json=both, headers=headers).status_code == 200
        # An account has one token, which is shown once.
        token = os.environ.get("LABEL_STUDIO_API_KEY") or page.post("/api/token/", headers=headers).json()["token"]
    client = httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Token {LEGACY}"})
    return RealServer(url, token, LEGACY, client)
