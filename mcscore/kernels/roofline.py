"""How fast a kernel could be: the bytes and FLOPs its task needs at least, and what one core of this machine can do.

A kernel's share of the roof is the time its bytes take at copy bandwidth or its FLOPs at the rate of a matrix product,
whichever is longer, over the time it took. Ceilings are measured, not looked up: on one thread, once per process.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Roofline:
    """The least work of one call: ``bytes`` from and to main memory (each value once), ``flops`` of arithmetic."""

    bytes: int
    flops: int

    def seconds(self, ceilings: Ceilings) -> float:
        """The least time on a machine with these ceilings."""
        return max(self.bytes / ceilings.copy, self.flops / ceilings.matmul)


@dataclass(frozen=True)
class Ceilings:
    copy: float  # bytes per second, those read and those written added up, of a copy far larger than the caches
    matmul: float  # FLOPs per second of a float32 matrix product


def dropout(t: int, B: int, E: int, I: int, dtype: torch.dtype, copies: int = 1) -> Roofline:
    """Dropout of x (copies, B, E, I) in t passes: x read once, y written once; one multiply-add per value of y."""
    return Roofline(bytes=(copies + t) * B * E * I * dtype.itemsize, flops=2 * t * B * E * I)


def dropout_linear(t: int, B: int, D: int, C: int, copies: int = 1) -> Roofline:
    """Dropout and Linear D -> C in t passes, float32: features, weights and outputs once each; t matrix products."""
    return Roofline(bytes=4 * (copies * B * D + C * D + t * B * C), flops=2 * t * B * D * C)


def dropout_head(t: int, B: int, D: int, C: int, results: int = 3) -> Roofline:
    """``dropout_linear`` whose outputs are reduced to ``results`` 4-byte values per item and never written."""
    return Roofline(bytes=4 * (B * D + C * D + B * results), flops=2 * t * B * D * C)


def percent_of_roof(work: Roofline, seconds: float, ceilings: Ceilings | None = None) -> float:
    """100 = as fast as the ceilings allow. On one thread; data that stays in cache can exceed 100."""
    return 100.0 * work.seconds(ceilings or measured()) / seconds


@functools.cache
def measured() -> Ceilings:
    """The ceilings of one core of this machine: best of several runs, about half a second in all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        source = torch.ones(1 << 24)  # 64 MB each: beyond most caches
        target = torch.empty_like(source)
        left, right = torch.randn(512, 512), torch.randn(512, 512)
        return Ceilings(
            copy=2 * source.nbytes / _fastest(lambda: target.copy_(source), 7),
            matmul=2 * 512**3 / _fastest(lambda: left @ right, 30),
        )
    finally:
        torch.set_num_threads(threads)


def _fastest(call: Callable[[], object], runs: int) -> float:
    call()
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
