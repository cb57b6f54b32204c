"""Hostile models come out as their users want: driven with PyTorch's statistics, or refused by name with advice that works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .hostile.check_all import CASES
from .hostile.harness import check

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _one_thread():
    """Models of a few dozen values: a second thread costs more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.process])
def test_a_hostile_model_is_driven_right_or_refused_by_name(name):
    check(name)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.process])
def test_a_hostile_model_does_not_kill_the_process(name):
    run = subprocess.run(
        [sys.executable, "-m", "tests.montecarlo.hostile", name],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, f"exit {run.returncode}: {run.stderr[-1500:]}"
