"""Benchmark of reading a pool, compared with a copy from a memory-mapped file, the most that a reader can reach.

Both read the same bytes from the page cache, in the same blocks, into a reused buffer, in turns. A second measurement is how
far reading ahead hides the reading from a consumer that waits, as one does whose model runs on a GPU.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..pool import Pool
from .clock import CpuClock, in_turns
from .table import quantity

SAMPLE = 256 << 20  # bytes of items that are read in each turn; the memory-mapped file takes as much disk


@dataclass(frozen=True)
class Reading:
    """Times of reading a sample of a pool in several ways."""

    items: int  # number of items in the sample
    bytes: int
    first_seconds: float  # first reading: from disk, unless the page cache had the pool already
    copy_seconds: float  # copy from a memory-mapped file
    read_seconds: float  # Pool.read into a reused buffer
    blocks_seconds: float  # Pool.blocks, two blocks ahead
    wait_seconds: float  # total wait of the consumer in each of the next two
    waited_seconds: float  # Pool.blocks and a wait as long as reading takes, without reading ahead
    ahead_seconds: float  # Pool.blocks two blocks ahead, and the same wait

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, and the rates computed from them, for JSON."""
        figures = {
            "items_per_s": self.items / self.read_seconds,
            "copy_GB_per_s": self.bytes / self.copy_seconds / 1e9,
            "read_GB_per_s": self.bytes / self.read_seconds / 1e9,
            "blocks_GB_per_s": self.bytes / self.blocks_seconds / 1e9,
            "first_GB_per_s": self.bytes / self.first_seconds / 1e9,
            "percent_of_copy": 100 * self.copy_seconds / self.read_seconds,
            "blocks_percent_of_copy": 100 * self.copy_seconds / self.blocks_seconds,
            "times_longer_of_both": self.ahead_seconds / max(self.wait_seconds, self.read_seconds),
        }
        return {**dataclasses.asdict(self), **figures}

    def lines(self) -> list[str]:
        """Format the figures for a terminal."""
        rows = (
            ("first reading", self.first_seconds, "from disk, unless the page cache had it"),
            ("memory-mapped copy", self.copy_seconds, "the most that a reader can reach"),
            ("read into a buffer", self.read_seconds, f"{self.copy_seconds / self.read_seconds:.0%} of the copy"),
            ("blocks, two ahead", self.blocks_seconds, f"{self.copy_seconds / self.blocks_seconds:.0%} of the copy"),
        )
        longer = max(self.wait_seconds, self.read_seconds)
        return [
            *(
                f"{name:20} {self.bytes / taken / 1e9:6.2f} GB/s {quantity(self.items / taken):>8} items/s   {more}"
                for name, taken, more in rows
            ),
            f"\nwith a consumer that waits as long as reading takes, {self.wait_seconds:.3g} s in all: {self.waited_seconds:.3g} s;",
            f"with two blocks read ahead: {self.ahead_seconds:.3g} s, {self.ahead_seconds / longer:.2f} times the longer of the two",
        ]


def read(pool: Pool, seconds: float, say: Callable[[str], None]) -> Reading:
    """Measure on the pool's first SAMPLE bytes of items, at least one block. ValueError if the pool is empty."""
    if pool.n == 0:
        raise ValueError(f"{pool.path} has no items to read")
    item_bytes = pool.dtype.itemsize * int(np.prod(pool.item_shape))
    step = pool.block_items
    count = min(pool.n, max(step, SAMPLE // item_bytes))
    spans = [(at, min(at + step, count)) for at in range(0, count, step)]
    out = np.empty((min(step, count), *pool.item_shape), pool.dtype)

    def straight() -> None:
        for start, stop in spans:
            pool.read(start, stop, out=out[: stop - start])

    def walk(depth: int = 2, wait: float = 0.0) -> None:
        for _ in pool.blocks(spans, prefetch=depth):
            if wait:
                time.sleep(wait)

    say(f"reading {count:,} items for the first time")
    begin = time.perf_counter()
    straight()
    first = time.perf_counter() - begin
    with tempfile.TemporaryDirectory(prefix="mcscore-bench-") as folder:
        file = Path(folder) / "items.npy"
        say("writing them to a file that can be mapped")
        mapped: Any = np.lib.format.open_memmap(file, "w+", pool.dtype, (count, *pool.item_shape))
        for start, stop in spans:
            mapped[start:stop] = pool.read(start, stop)
        mapped.flush()

        def copy() -> None:
            for start, stop in spans:
                np.copyto(out[: stop - start], mapped[start:stop])

        say("reading and copying in turns")
        copied, straight_through, walked = in_turns([copy, straight, walk], CpuClock(wall=True), seconds)
    say("reading ahead of a consumer that waits")
    wait = straight_through / len(spans)
    waited, ahead = in_turns([lambda: walk(0, wait), lambda: walk(2, wait)], CpuClock(wall=True), seconds)
    return Reading(
        count,
        count * item_bytes,
        first,
        copied,
        straight_through,
        walked,
        wait * len(spans),
        waited,
        ahead,
    )
