"""What a plan says of a step's memory, against what the step takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from .memory_program import SHAPES

# MiB beside the plan, for what does not grow with the step: blocks of scores (16 MiB, several at a time) and packed weights.
BESIDE = 64


@pytest.fixture(scope="module")
def figures():
    environment = {"MALLOC_MMAP_THRESHOLD_": "1048576", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.montecarlo.memory_program"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return {found["name"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("name", SHAPES)
def test_a_step_takes_the_memory_of_its_plan(name, figures):
    found = figures[name]
    assert found["took"] <= 1.5 * found["plan"] + BESIDE, found
    assert found["plan"] <= 66, found  # the working set, whatever the model
