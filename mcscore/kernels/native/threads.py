"""Makes threads, as the one place that does: ranges of items for the native kernels, in as many threads as torch uses.

A kernel call is single-threaded and holds no GIL, so a pool of Python threads is all it takes. An OpenMP runtime of our
own beside torch's would cost up to 8x, since each spins on the cores of the other.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch

_SMALL = 1 << 16  # values; below some 50 µs of work, handing over to another thread (15 µs each) gains nothing
_PIECES = 8  # per thread
_STEP = 16  # items: the widest vector, so that no thread works on part of one

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _executor(threads: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    if _pool is None or _pool_size != threads:
        _pool, _pool_size = ThreadPoolExecutor(threads, thread_name_prefix="mcscore"), threads
    return _pool


def _forget_pool() -> None:
    """A forked child inherits the pool but not its threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def split(n: int, cost: int, call: Callable[[int, int], object]) -> None:
    """call(begin, end) over [0, n), in as many threads as torch uses; ``cost`` is the number of values per item.

    Threads take the next piece when they are done with one. A thread may take a millisecond to wake up (measured on a virtual
    machine whose other core was idle): the calling thread then does more pieces, and does not wait for one that never began.
    """
    threads = min(torch.get_num_threads(), -(-n // _STEP), max(1, n * cost // _SMALL))
    if n == 0:
        return
    if threads == 1:
        call(0, n)
        return
    steps = -(-n // _STEP)
    pieces = min(steps, _PIECES * threads, max(threads, n * cost // _SMALL))
    bounds = [min(n, steps * i // pieces * _STEP) for i in range(pieces + 1)]
    todo = iter(list(itertools.pairwise(bounds)))  # next() of it is atomic

    def work() -> None:
        for begin, end in todo:
            call(begin, end)

    pool = _executor(torch.get_num_threads())
    futures = [pool.submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        begun = [future for future in futures if not future.cancel()]
        wait(begun)
    for future in begun:
        future.result()


def split_passes(
    items: int, passes: int, cost: int, call: Callable[[tuple[int, int], tuple[int, int]], object]
) -> None:
    """call(items, passes) over all items and passes: items are split, unless there are fewer of them than passes.

    ``cost`` is the number of values per item and pass.
    """
    if passes == 0 or cost == 0:
        return
    if items >= passes:
        split(items, cost * passes, lambda *some: call(some, (0, passes)))
    else:
        split(passes, cost * items, lambda *some: call((0, items), some))
