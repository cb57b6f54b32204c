"""Benchmarks run on one thread, and print what a time means: items/s, GB/s, share of the measured roof, ratio to plain PyTorch.

pytest benchmarks --benchmark-disable-gc
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch

from mcscore.kernels import roofline


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def best_time(call: Callable[[], object], seconds: float = 0.5) -> float:
    """The shortest CPU time of a call: of several, since a shared machine makes single ones slow by chance."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.thread_time()
        call()
        best = min(best, time.thread_time() - start)
    return best


@pytest.fixture
def compare(benchmark, capsys) -> Callable[..., None]:
    """compare(ours, plain, items, work): time both in this process and print one line."""

    def run(ours: Callable[[], object], plain: Callable[[], object], items: int, work: roofline.Roofline) -> None:
        benchmark(ours)
        seconds, plainly = best_time(ours), best_time(plain)
        share = roofline.percent_of_roof(work, seconds)
        figures = {
            "items_per_s": items / seconds,
            "GB_per_s": work.bytes / seconds / 1e9,
            "GFLOP_per_s": work.flops / seconds / 1e9,
            "percent_of_roof": share,
            "times_pytorch": plainly / seconds,
        }
        benchmark.extra_info.update(figures)
        with capsys.disabled():
            print(
                f"\n{benchmark.name}: {figures['items_per_s']:.3g} items/s, {figures['GB_per_s']:.1f} GB/s, "
                f"{figures['GFLOP_per_s']:.0f} GFLOP/s, {share:.0f} % of roof, {figures['times_pytorch']:.1f}x PyTorch"
            )

    return run
