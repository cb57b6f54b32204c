"""Time and memory of scoring and selecting from pools of up to 10^8 items and more.

    python -m benchmarks.bench_scale [N ...] [--dir DIR] [--threads 1]      (default 1, 10 and 100 million)

The items (8 bytes each) are generated when they are read, so the measured work is that of mcscore: reading, the passes of
a tiny model with a dropout head, commits, resume, top-k, selection. Each size runs in its own process.
Columns: scoring rate; seconds to resume a run that lacks its last span, until that span is scored; seconds of ``select``
(1,000 items by radius from 10,000); peak resident memory at the start, after scoring, and at the end.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (10**6, 10**7, 10**8)


def peak_mib() -> float:
    """Read the peak of this process; getrusage includes that of the parent before exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def drive(n: int, where: Path, threads: int) -> str:
    """Score, resume and select; returns one line of the table."""
    import torch

    from mcscore import score_pool
    from tests.run.made_up import made_up_pool, tiny_scorer

    torch.set_num_threads(threads)
    where.mkdir()
    pool = made_up_pool(where, n)
    warm = tiny_scorer()
    warm(pool.read(0, 4096), torch.arange(4096))
    before = peak_mib()

    begin = time.perf_counter()
    run = score_pool(pool, tiny_scorer(), where / "run")
    scoring = time.perf_counter() - begin
    scored = peak_mib()

    span = run.meta["span"]
    packed = where / "run" / "commits" / "packed.jsonl"
    packed.write_bytes(b"".join(packed.read_bytes().splitlines(keepends=True)[:-1]))
    begin, first = time.perf_counter(), []
    score_pool(pool, tiny_scorer(), where / "run", progress=lambda *_: first.append(time.perf_counter()))
    resumed = first[0] - begin

    begin = time.perf_counter()
    run.select(1000, by="bald", diversity="radius")
    selecting = time.perf_counter() - begin
    return (
        f"{n:>13,} {span:>7,} {scoring:>9.1f} {n / scoring:>12,.0f} {resumed:>9.2f} {selecting:>9.2f} "
        f"{before:>9.0f} {scored:>9.0f} {peak_mib():>9.0f}"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("sizes", nargs="*", type=int, default=SIZES)
    options.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    options.add_argument("--threads", type=int, default=1, help="of torch")
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        print(drive(given.sizes[0], given.dir, given.threads), flush=True)
        return
    print(
        f"{'items':>13} {'span':>7} {'score s':>9} {'items/s':>12} {'resume s':>9} {'select s':>9} "
        f"{'MiB first':>9} {'scored':>9} {'selected':>9}",
        flush=True,
    )
    where = Path(tempfile.mkdtemp(prefix="bench-scale-", dir=given.dir))
    try:
        for n in given.sizes:
            again = [sys.executable, "-m", "benchmarks.bench_scale", str(n), "--one", "--threads", str(given.threads)]
            subprocess.run([*again, "--dir", str(where / str(n))], check=True)
            shutil.rmtree(where / str(n))
    finally:
        shutil.rmtree(where)


if __name__ == "__main__":
    main()
