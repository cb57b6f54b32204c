"""Fixtures every area shares: real data where it is present, a fixed seed per test, one hypothesis profile."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

try:
    from hypothesis import settings
except (
    ModuleNotFoundError
):  # benchmarks.gpu runs the tests on a GPU where there may be only torch, triton, numpy and pytest
    pass
else:
    # No deadline: a shared 2-core machine makes single examples slow by chance. On CI the same examples run every time.
    settings.register_profile("mcscore", deadline=None, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("mcscore")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """A shell starts background jobs with SIGINT ignored, and children inherit that: Ctrl-C would then be nothing to test."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets: $MCSCORE_DATA, else ../shared/data beside the repository; skips when absent."""
    path = Path(os.environ.get("MCSCORE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set MCSCORE_DATA to run this test")
    return path
