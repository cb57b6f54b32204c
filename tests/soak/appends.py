"""A thousand appends of 20 items: the last 50 cost at most twice what the first 50 cost, and all items are right."""

from __future__ import annotations

import random
import time
from pathlib import Path
from statistics import median

import numpy as np

from .child import Child, give
from .project import ADDED, ITEMS, Project

CASES = 1
_APPENDS, _WINDOW, _BOUND = 1000, 50, 2.0


def attack(project: Project, rng: random.Random) -> tuple[str, str]:
    """Append until there are a thousand, or the time is over."""
    folder = project.copy()
    until = time.monotonic() + getattr(rng, "seconds", 600.0)
    child = Child(folder, lambda: _append(folder, rng.randrange(10**6), until))
    child.limit = getattr(rng, "seconds", 600.0) + 120
    found = child.wait()
    if not isinstance(found, tuple):
        return "broken", f"{found}, exit {child.code}"
    seconds, finding = found
    first, last = median(seconds[:_WINDOW]), median(seconds[-_WINDOW:])
    told = f"{len(seconds)} appends, {first * 1e3:.0f} ms -> {last * 1e3:.0f} ms of processor time, ratio {last / first:.2f}"
    if not finding and last > _BOUND * first and len(seconds) >= 2 * _WINDOW:
        finding = f"the bound is {_BOUND:g}"
    return told, f"{told}: {finding}" if finding else ""


def _append(folder: Path, seed: int, until: float) -> tuple[list[float], str]:
    rng, seconds = np.random.default_rng(seed), []
    blocks = [np.load(folder / "items.npy")]
    for _ in range(_APPENDS):
        blocks.append(rng.integers(0, 256, (ADDED, 1, 4, 4), dtype=np.uint8))
        np.save(folder / "next.npy", blocks[-1])
        begin = time.process_time()
        answer = give("pool", "append", "pool", "next.npy", "--layout", "chw", "--json")
        seconds.append(time.process_time() - begin)
        if answer.code:
            return seconds, f"append {len(blocks) - 1}: {answer.err}"
        if time.monotonic() > until:
            break
    from mcscore.pool import Pool

    pool = Pool.open(folder / "pool")
    n = ITEMS + ADDED * (len(blocks) - 1)
    if pool.n != n or not np.array_equal(pool.read(0, pool.n), np.concatenate(blocks)):
        return seconds, f"{pool.n} items of {n}, or other ones than were appended"
    return seconds, ""
