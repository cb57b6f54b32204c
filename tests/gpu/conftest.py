"""Tests that need a CUDA device; ``python -m benchmarks.gpu tests`` runs them. Each module is marked gpu."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
