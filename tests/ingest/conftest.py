"""Imports decode in the test's own process where a test asks for it."""

from __future__ import annotations

import pytest

from .helpers import decoders_here


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode in this process."""
    monkeypatch.setattr("mcscore.ingest.pipeline.decoders", decoders_here)
