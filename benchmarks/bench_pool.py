"""Reading a pool, against a copy of the same bytes from a memory-mapped file, the most that a reader can reach.

    python -m pytest benchmarks/bench_pool.py -s

Both read from a warm page cache, in the same blocks, into a reused buffer. They take turns, and the best time of each
counts. Reading a pool also checks the crc32c of its chunks, which takes as long as a copy in cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore.pool import Pool

BYTES = 192 << 20
ROUNDS = 7


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def pictures(side: int) -> np.ndarray:
    """Make blocks of color, with a little noise except in the left third, which lz4 compresses by a factor of 1.4."""
    n, rng = BYTES // (3 * side * side), np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 3, side // 8, side // 8), dtype=np.uint8)
    noise = rng.integers(0, 4, (n, 3, side, side), dtype=np.uint8)
    noise[..., : side // 3] = 0
    return coarse.repeat(8, 2).repeat(8, 3) ^ noise


@pytest.mark.parametrize("sharded", [False, True], ids=["chunks", "shards"])
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("side", [64, 224])
def test_read(benchmark: Any, tmp_path: Path, side: int, compression: str, sharded: bool) -> None:
    items = pictures(side)
    chunk = 1 << ((4 << 20) // items[0].nbytes).bit_length() - 1
    pool = Pool.create(
        tmp_path / "pool",
        items,
        compression=compression,
        chunk_items=chunk,
        shard_items=16 * chunk if sharded else None,
    )
    np.save(tmp_path / "items.npy", items)
    mapped = np.load(tmp_path / "items.npy", mmap_mode="r")
    step = pool.block_items
    out = np.empty((step, *pool.item_shape), np.uint8)
    steps = [(at, min(at + step, len(items))) for at in range(0, len(items), step)]

    def read() -> None:
        for start, stop in steps:
            pool.read(start, stop, out=out[: stop - start])

    def walk() -> None:
        for _ in pool.blocks(steps):
            pass

    def copy() -> None:
        for start, stop in steps:
            np.copyto(out[: stop - start], mapped[start:stop])

    times: dict[str, list[float]] = {"copy": [], "read": [], "blocks": []}
    for _ in range(ROUNDS):
        for name, call in (("copy", copy), ("read", read), ("blocks", walk)):
            times[name].append(seconds(call))
    best = {name: min(taken) for name, taken in times.items()}
    rates = {name: items.nbytes / best[name] / 1e9 for name in best}
    ratios = {name: best["copy"] / best[name] for name in ("read", "blocks")}
    benchmark.extra_info.update({**{f"GB/s {name}": rate for name, rate in rates.items()}, **ratios})
    print(
        f"\n{side:4} px {compression:5} {'shards' if sharded else 'chunks'}: copy {rates['copy']:5.1f} GB/s, "
        f"read {rates['read']:5.1f} ({ratios['read']:.2f} of it), blocks {rates['blocks']:5.1f} ({ratios['blocks']:.2f})"
    )
    benchmark.pedantic(read, rounds=1)


def test_reading_ahead_hides_behind_a_consumer_that_waits(benchmark: Any, tmp_path: Path) -> None:
    """Reads with a consumer that sleeps as long as a block takes to read, as one that waits for an accelerator does.

    There are 70 blocks of a chunk, as the reading of the first block cannot be hidden.
    """
    pool = Pool.create(tmp_path / "pool", pictures(224), compression="lz4")
    step = pool.storage.rows.chunk
    steps = [(at, min(at + step, pool.n)) for at in range(0, pool.n, step)]
    read = min(seconds(lambda: [None for _ in pool.blocks(steps, prefetch=0)]) for _ in range(5))

    def consume(depth: int) -> None:
        for _ in pool.blocks(steps, prefetch=depth):
            time.sleep(read / len(steps))

    waits = min(seconds(lambda: [time.sleep(read / len(steps)) for _ in steps]) for _ in range(5))
    alone = min(seconds(lambda: consume(0)) for _ in range(5))
    ahead = min(seconds(lambda: consume(2)) for _ in range(5))
    ratio = ahead / max(read, waits)
    benchmark.extra_info.update({"wall / max(read, wait)": ratio})
    print(
        f"\nread alone {read:.3f} s, waits alone {waits:.3f} s; in turns {alone:.3f} s; read ahead {ahead:.3f} s ({ratio:.2f})"
    )
    benchmark.pedantic(lambda: consume(2), rounds=1)


def test_take(benchmark: Any, tmp_path: Path) -> None:
    """Takes 1000 random candidates of 16 384, for which each chunk is decoded once."""
    pool = Pool.create(tmp_path / "pool", pictures(64), compression="lz4")
    ids = np.random.default_rng(1).permutation(pool.n)[:1000]
    taken = min(seconds(lambda: pool.take(ids)) for _ in range(ROUNDS))
    print(f"\ntake: {len(ids) / taken:,.0f} items/s")
    benchmark.pedantic(lambda: pool.take(ids), rounds=1)
