"""Cost of durability: commits of spans, and on resume the check of all spans and the top-k of their scores.

    python benchmarks/bench_commit.py [--items 100000000] [--dir DIR]

A commit is a few fsyncs, so its time depends on the disk under --dir; the floor is one fsync of the same bytes. An item
has two scores and a prediction, 12 bytes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from mcscore import atomic
from mcscore.run.journal import Journal, Record
from mcscore.run.run import Run
from mcscore.run.schema import Model, PoolState, RunHeader, Settings
from mcscore.selection import TopK

ARRAYS = 3


def header(n: int, span: int) -> RunHeader:
    return RunHeader(
        id="0" * 32,
        pool=PoolState(path="pool", fingerprint="sha256:none", n=n),
        settings=Settings(model=Model(fingerprint="sha256:none"), passes=100, scores=("bald", "entropy")),
        span=span,
        block_items=span,
    )


def fill(path: Path, n: int, span: int, seed: int = 0) -> tuple[Journal, np.ndarray]:
    """Write a complete run of random scores with packed records; also return the seconds of each commit."""
    path.mkdir()
    journal = Journal.create(path, header(n, span))
    rng = np.random.default_rng(seed)
    seconds = []
    for part in journal.spans:
        values = {name: rng.random(part.n, np.float32) for name in ("bald", "entropy")}
        values["prediction"] = np.zeros(part.n, np.int32)
        begin = time.perf_counter()
        journal.commit(part, values, held=None, conditions=0, scored=part.n, seconds=1.0)
        seconds.append(time.perf_counter() - begin)
    journal.pack(journal.survey().records)
    return journal, np.array(seconds)


def floor(path: Path, span: int) -> float:
    """Measure the seconds to write the same bytes into a file with one fsync."""
    path.mkdir()
    data, seconds = bytes(ARRAYS * span * 4), []
    for turn in range(20):
        begin = time.perf_counter()
        atomic.write(path / f"{turn}", data)
        atomic.sync(path / f"{turn}")
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def resume(path: Path) -> tuple[float, float, float]:
    """Measure the seconds to open a run, to check all its spans, and to compute its top-k."""
    moments = [time.perf_counter()]
    run = Run.open(path)
    moments.append(time.perf_counter())
    records: list[Record] = Journal.open(path).repair()
    assert len(records) == (path / "commits" / "packed.jsonl").read_bytes().count(b"\n")
    moments.append(time.perf_counter())
    best = TopK(10_000)
    for ids, values in run.spans("bald"):
        best.update(ids, values)
    best.result()
    moments.append(time.perf_counter())
    return tuple(np.diff(moments).tolist())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--items", type=int, default=100_000_000)
    options.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    given = options.parse_args()
    where = Path(tempfile.mkdtemp(prefix="bench-commit-", dir=given.dir))
    try:
        print(
            f"{'span':>9} {'commit ms':>10} {'p99 ms':>8} {'floor ms':>9} {'Mscores/s':>10} {'1 % of a model at':>20}"
        )
        for span in (256, 1024, 1 << 16, 1 << 20):
            _, seconds = fill(where / f"{span}", min(given.items, span * 64), span)
            median, p99 = np.median(seconds), np.percentile(seconds, 99)
            bare = floor(where / f"floor-{span}", span)
            print(
                f"{span:>9,} {median * 1e3:>10.2f} {p99 * 1e3:>8.2f} {bare * 1e3:>9.2f} "
                f"{span * ARRAYS / median / 1e6:>10.2f} {span / (99 * median):>12,.0f} items/s"
            )
        print(f"\nresume of a run of {given.items:,} items, {ARRAYS} arrays, seconds, best of 3:")
        print(f"{'span':>9} {'open':>7} {'check':>7} {'GB/s':>6} {'top 10,000':>11} {'in all':>7}")
        for span in (1 << 16, 1 << 20):
            fill(where / f"large-{span}", given.items, span)
            opened, checked, rebuilt = min((resume(where / f"large-{span}") for _ in range(3)), key=sum)
            rate = given.items * ARRAYS * 4 / checked / 1e9
            print(
                f"{span:>9,} {opened:>7.2f} {checked:>7.2f} {rate:>6.2f} {rebuilt:>11.2f} {opened + checked + rebuilt:>7.2f}"
            )
            shutil.rmtree(where / f"large-{span}")
    finally:
        shutil.rmtree(where)


if __name__ == "__main__":
    main()
