"""The start of a process that scores: every command, worker and shard pays it.

python -m pytest benchmarks/bench_start.py -s
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Any

PARTS = ("import torch", "import mcscore", "first call", "second call")
PROGRAM = """
import time
times = [time.perf_counter()]
import torch
times.append(time.perf_counter())
import mcscore
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(16, 3))
scorer, items = mcscore.Scorer(model, 20), torch.rand(64, 8)
times.append(time.perf_counter())
for _ in range(2):
    scorer(items)
    times.append(time.perf_counter())
print(*(after - before for before, after in zip(times, times[1:])))
"""


def start() -> list[float]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def test_start(benchmark: Any) -> None:
    seconds = [statistics.median(each) for each in zip(*(start() for _ in range(5)), strict=True)]
    benchmark.extra_info.update(zip(PARTS, seconds, strict=True))
    print("\n" + ", ".join(f"{part} {each:.3f} s" for part, each in zip(PARTS, seconds, strict=True)))
    benchmark.pedantic(start, rounds=1)
