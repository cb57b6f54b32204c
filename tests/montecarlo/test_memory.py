"""Memory grows with neither T nor the batch."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mcscore import Scorer

# glibc keeps freed blocks of up to 32 MB and may hold two to three times what is in use; with a fixed threshold it gives them
# back, so that the peak is that of the tensors alive.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "1048576", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
PROGRAM = """
import sys
import numpy as np, torch
from torch import nn
from mcscore import Scorer

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

T, items = map(int, sys.argv[1:])
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 10),
).eval()
x, ids = torch.rand(items, 3, 24, 24), np.arange(items)
Scorer(model, 3)(x[:4], ids[:4])
before = peak()
scorer = Scorer(model, T)
scorer(x, ids)
print(peak() - before)
"""


STEPS = """
import numpy as np, torch
from torch import nn
from mcscore import Scorer
def resident():
    import os
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(64, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 256), nn.ReLU(), nn.Dropout(0.5),
    nn.Linear(256, 75), nn.ReLU(), nn.Dropout(0.3), nn.Linear(75, 10),
).eval()
scorer = Scorer(model, 100)
items = scorer.prepare(torch.rand(4, 64), np.arange(4))["items"]
steps = 40
x, ids = torch.rand(items * steps, 64), np.arange(items * steps)
scorer(x[:items], ids[:items])
before = resident()
scorer(x, ids)
print((resident() - before) / 2**20)
"""


def mebibytes(T, items):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(T), str(items)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_peak_memory_is_equal_whatever_T():
    few, many = mebibytes(20, 150), mebibytes(1200, 8)  # steps of 29 x 20 = 580 rows and of 1 x 600
    assert 30 < few < 150  # of a plan of 64
    assert many == pytest.approx(few, rel=0.2)  # measured 61 and 65 to 71 MiB: 3 % of it are the 20 rows


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_peak_memory_does_not_grow_with_the_batch():
    assert mebibytes(20, 150) == pytest.approx(mebibytes(20, 60), rel=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc")
def test_memory_does_not_grow_from_step_to_step():
    """With glibc as it comes: a small result left behind by every step must not keep the memory of the step from the next."""
    environment = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 220  # measured 70 to 120, and 830 after 60 steps when every step kept its own results


@pytest.mark.parametrize("path", ["head", "vmap", "fork", "repeat", "loop"])
def test_a_step_leaves_no_tensor_to_the_garbage_collector(path):
    """What only the collector can free may fill the memory first: it looks at numbers of objects, not at their size."""
    torch.manual_seed(0)
    drop = [] if path == "head" else [nn.Dropout(0.2)]
    model = nn.Sequential(*drop, nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)).eval()
    scorer, x, ids = Scorer(model, 6), torch.rand(30, 8), np.arange(30)
    plan = scorer.prepare(x, ids)
    scorer.prepare(x, ids, plan={**plan, "path": path, "passes": 1 if path == "loop" else 3})
    scorer(x, ids)
    while gc.collect():  # of other tests: finalizers make more of it
        pass
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        scorer(x, ids)
        gc.collect()
        left = [tuple(found.shape) for found in gc.garbage if isinstance(found, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []
