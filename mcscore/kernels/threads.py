"""The one place that makes threads: ranges of items for the native kernels, in as many threads as torch uses.

A kernel call is single-threaded and holds no GIL, so a pool of Python threads is all it takes. An OpenMP runtime of our
own beside torch's would cost up to 8x, since each spins on the cores of the other.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_SMALL = 1 << 16  # values; below some 50 µs of work, handing over to another thread (15 µs each) gains nothing
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
    """call(begin, end) over [0, n), in as many threads as torch uses; ``cost`` is the number of values per item."""
    threads = min(torch.get_num_threads(), -(-n // _STEP), max(1, n * cost // _SMALL))
    if n == 0:
        return
    if threads == 1:
        call(0, n)
        return
    steps = -(-n // _STEP)
    bounds = [min(n, steps * i // threads * _STEP) for i in range(threads + 1)]
    pool = _executor(torch.get_num_threads())
    futures = [pool.submit(call, lo, hi) for lo, hi in itertools.pairwise(bounds[1:])]
    call(bounds[0], bounds[1])  # the calling thread takes a share
    for future in futures:
        future.result()
