"""What the process that hands out spans and commits them spends on one, with processes of this machine and with Ray actors.

    python -m benchmarks.driver_overhead [--spans 500] [--items 1024] [--workers 2] [--rounds 3] [--ways here processes ray]

A model of 51 weights scores spans of so few items that nearly all of the time is overhead. Processor time of the calling thread and of all
threads of the process, processor and wall time of its commits, and spans per second, from the first span handed out to the last
committed: starting workers does not count. Ways take turns; medians of the rounds. `here` scores in this process, so that its
processor time has the scoring in it; its commits are those of the others.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from mcscore import Pool, RayWorkers, Scorer, Workers, score_pool
from mcscore.run.journal import Journal
from mcscore.run.scoring.workers import Staff


@dataclass(frozen=True)
class Costs:
    """Of one span, in milliseconds; and spans per second."""

    thread: float
    process: float
    commit: float
    commit_wall: float
    rate: float


class Meter:
    """Clocks that run from the first call of ``progress`` to the last."""

    def __init__(self) -> None:
        self.first: tuple[float, ...] | None = None
        self.last: tuple[float, ...] = ()
        self.commits = self.commits_wall = 0.0

    def progress(self, _done: int, _total: int) -> None:
        self.last = (time.thread_time(), time.process_time(), time.perf_counter())
        self.first = self.first or self.last

    def costs(self, spans: int) -> Costs:
        assert self.first is not None
        thread, process, wall = (after - before for before, after in zip(self.first, self.last, strict=True))
        return Costs(*(1e3 * each / spans for each in (thread, process, self.commits, self.commits_wall)), spans / wall)


@contextmanager
def timed_commits(meter: Meter) -> Iterator[None]:
    real: Callable[..., Any] = Journal.commit

    def commit(*args: Any, **options: Any) -> Any:
        wall, own = time.perf_counter(), time.thread_time()
        try:
            return real(*args, **options)
        finally:
            meter.commits += time.thread_time() - own
            meter.commits_wall += time.perf_counter() - wall

    Journal.commit = commit  # type: ignore[method-assign]
    try:
        yield
    finally:
        Journal.commit = real  # type: ignore[method-assign]


def measured(pool: Pool, out: Path, items: int, staff: Staff | None) -> Costs:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    meter = Meter()
    with timed_commits(meter):
        score_pool(pool, Scorer(model, passes=2, device="cpu"), out, span=items, workers=staff, progress=meter.progress)
    return meter.costs(-(-pool.n // items))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=500)
    parser.add_argument("--items", type=int, default=1024, help="of a span")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["here", "processes", "ray"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    ways: dict[str, Staff | None] = {
        "here": None,
        "processes": Workers(asked.workers, threads_each=1),
        "ray": RayWorkers("local", asked.workers, num_cpus=0, threads_each=1),
    }
    found: dict[str, list[Costs]] = {way: [] for way in asked.ways}
    with tempfile.TemporaryDirectory() as folder:
        pool = Pool.create(
            f"{folder}/pool", np.random.default_rng(0).random((asked.spans * asked.items, 8), np.float32)
        )
        for number in range(asked.rounds):
            for way in asked.ways:
                found[way].append(measured(pool, Path(folder) / f"{way}-{number}", asked.items, ways[way]))
    print(f"{asked.spans} spans of {asked.items} items, {asked.workers} workers, {os.cpu_count()} cores")
    print("| way | calling thread, ms per span | its commit | beside it | all threads | commit, wall | spans/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way, costs in found.items():
        of = {name: median(getattr(each, name) for each in costs) for name in Costs.__dataclass_fields__}
        beside = median(each.thread - each.commit for each in costs)
        print(
            f"| {way} | {of['thread']:.2f} | {of['commit']:.2f} | {beside:.2f} | {of['process']:.2f} | {of['commit_wall']:.1f} "
            f"| {of['rate']:.0f} |"
        )


if __name__ == "__main__":
    main()
