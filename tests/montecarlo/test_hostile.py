"""Hostile models come out as their users want: driven with PyTorch's statistics, or refused by name with advice that works."""

from __future__ import annotations

import pytest
import torch

from ..processes import Child
from .hostile.check_all import CASES
from .hostile.harness import Wrong, check


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
    child = Child(checked, name)
    assert child.wait() == 0, child.kill()  # what it said


def checked(name, say):
    """Check a case in a process of its own."""
    torch.set_num_threads(1)
    try:
        check(name)
    except Wrong as error:
        say(str(error))
        raise
