"""Cost of streaming: a whole score_pool, against the same scorer on batches in memory.

    python -m benchmarks.bench_overhead [--dir DIR] [--rounds 5] [--threads 1]

The model uses a few points of an image, so most of its work is the conversion of bytes to floats, and the time for reading
and committing is visible. Both are timed in turns in one process, with a warm page cache. A round scores the whole pool,
commits included. The time before the first item (finding the sites, planning, creating the run) does not grow with the
pool, and is printed by itself.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mcscore import Execution, Pool, Scorer, score_pool

POOL_BYTES = 1 << 30
PASSES = 20
# Bytes per step of the model. With the default of 64 MiB its buffers exceed 32 MiB, up to which glibc keeps pages, and page
# faults take four times as long as the rest of this cheap model.
STEP = 16 << 20


def pictures(side: int, blocks: int = 16) -> Iterator[np.ndarray]:
    """Yield blocks of POOL_BYTES of noise; scores do not matter here."""
    rng = np.random.default_rng(0)
    n = POOL_BYTES // (3 * side * side)
    for at in range(blocks):
        count = n * (at + 1) // blocks - n * at // blocks
        yield rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)


class Grid(nn.Module):
    """Takes the colors at 8 x 8 points as features."""

    def forward(self, images: Tensor) -> Tensor:
        step = images.shape[-1] // 8
        return images[:, :, ::step, ::step].flatten(1)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Grid(), nn.Dropout(0.5), nn.Linear(3 * 64, 10)).eval()


def scorer() -> Scorer:
    return Scorer(model(), passes=PASSES, execution=Execution(memory=STEP))


def streamed(pool: Pool, out: Path) -> tuple[float, float, int]:
    """Measure the seconds from the first item on, the seconds before it, and the items per block."""
    begun: list[float] = []
    start = time.perf_counter()
    run = score_pool(
        pool,
        scorer(),
        out,
        progress=lambda _done, _total: begun or begun.append(time.perf_counter()),
    )
    end = time.perf_counter()
    block = int(run.meta["block_items"])
    shutil.rmtree(out)
    return end - begun[0], begun[0] - start, block


def in_memory(scored_by: Scorer, items: np.ndarray, block: int, n: int) -> float:
    """Measure the seconds for n items in blocks in memory, taken from ``items`` repeatedly."""
    start, done, at = time.perf_counter(), 0, 0
    while done < n:
        at = at if at + block <= len(items) else 0
        count = min(block, n - done)
        scores = scored_by(items[at : at + count], np.arange(done, done + count))
        for column in scores.values():
            column.cpu().numpy()
        at, done = at + count, done + count
    return time.perf_counter() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=1, help="of torch")
    options.add_argument("--compression", default="none")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    where = Path(tempfile.mkdtemp(prefix="bench-overhead-", dir=given.dir))
    try:
        for side in (64, 224):
            pool = Pool.create(where / f"pool-{side}", pictures(side), compression=given.compression)
            items = pool.read(0, min(pool.n, (256 << 20) // (3 * side * side)))
            alone_scorer = scorer()
            _, _, block = streamed(pool, where / "run")
            in_memory(alone_scorer, items, block, len(items))
            rounds = []
            for _ in range(given.rounds):
                alone = in_memory(alone_scorer, items, block, pool.n)
                whole, before, _ = streamed(pool, where / "run")
                rounds.append((alone / whole, pool.n / alone, pool.n / whole, before))
            ratio, alone, whole, before = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(
                f"3 x {side} x {side}, blocks of {block}: scorer alone {alone:,.0f} items/s, score_pool {whole:,.0f} "
                f"({100 * ratio:.0f} %; {100 * min(r[0] for r in rounds):.0f} to {100 * max(r[0] for r in rounds):.0f}), "
                f"{before:.2f} s before the first item"
            )
    finally:
        shutil.rmtree(where)


if __name__ == "__main__":
    main()
