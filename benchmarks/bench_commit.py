"""What durability costs: committing spans, checking them on resume, rebuilding the top-k from them.

    python benchmarks/bench_commit.py [--items 16777216] [--dir DIR]

A commit is a few fsyncs, so the disk under --dir decides; the bare fsyncs are measured beside it as the floor. Two
scores and a prediction per item, that is 12 bytes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mcscore.run import disk
from mcscore.run.journal import Journal, Record
from mcscore.run.results import Run
from mcscore.selection import TopK

ARRAYS = 3


def meta(n: int, span: int) -> dict[str, Any]:
    pool = {"path": "pool", "fingerprint": "sha256:none", "n": n}
    scores = ["bald", "entropy"]
    return {
        "format": "mcscore-run",
        "version": 1,
        "id": "bench",
        "pool": pool,
        "grown": [],
        "labelled": False,
        "model": {"fingerprint": "sha256:none"},
        "span": span,
        "scores": scores,
        "link": "softmax",
    }


def fill(path: Path, n: int, span: int, seed: int = 0) -> tuple[Journal, np.ndarray]:
    """A complete run of random scores, and the seconds of each commit."""
    path.mkdir()
    journal = Journal.create(path, meta(n, span))
    rng = np.random.default_rng(seed)
    seconds = []
    for part in journal.spans:
        values = {name: rng.random(part.n, np.float32) for name in ("bald", "entropy")}
        values["prediction"] = np.zeros(part.n, np.int32)
        begin = time.perf_counter()
        journal.commit(part, values, scored=part.n, nonfinite_ids=(), unreadable=(), seconds=1.0, device="cpu")
        seconds.append(time.perf_counter() - begin)
    return journal, np.array(seconds)


def floor(path: Path, span: int) -> float:
    """Seconds to write the same bytes into as many files with one fsync of each, and nothing else."""
    path.mkdir()
    data, seconds = bytes(span * 4), []
    for turn in range(20):
        begin = time.perf_counter()
        for file in [path / f"{turn}-{array}" for array in range(ARRAYS)]:
            disk.write(file, data)
            disk.sync(file)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--items", type=int, default=1 << 24)
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
        journal, _ = fill(where / "large", given.items, 1 << 16)
        begin = time.perf_counter()
        records: list[Record] = journal.repair()
        checked = time.perf_counter() - begin
        best = TopK(10_000)
        begin = time.perf_counter()
        for ids, values in Run(journal, records).spans("bald"):
            best.update(ids, values)
        best.result()
        rebuilt = time.perf_counter() - begin
        print(
            f"\n{given.items:,} items: resume checks {given.items * ARRAYS:,} scores in {checked:.2f} s "
            f"({given.items * ARRAYS * 4 / checked / 1e9:.2f} GB/s); the best 10,000 are rebuilt in {rebuilt:.2f} s "
            f"({given.items / rebuilt / 1e6:.0f} M scores/s)"
        )
    finally:
        shutil.rmtree(where)


if __name__ == "__main__":
    main()
