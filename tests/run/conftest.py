from __future__ import annotations

import os
from pathlib import Path

import pytest

from .fakes import begin, content
from .sharing import SCREEN, locally


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a power cut tells whether fsync was called, and that is simulated (test_power_loss)."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the standard run of the fakes gives when nothing happens to it."""
    return content(begin(tmp_path_factory.mktemp("undisturbed") / "run"))


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the pool of the shards by one process."""
    return locally(tmp_path_factory.mktemp("local") / "run").path  # type: ignore[return-value]


@pytest.fixture(scope="session")
def local_screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return locally(tmp_path_factory.mktemp("local") / "run", screen=SCREEN).path  # type: ignore[return-value]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"
