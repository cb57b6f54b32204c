"""TopK, against a lower bound: one NumPy pass that counts the scores above a threshold.

    python -m pytest benchmarks/bench_topk.py -s

50 million float32 scores on one thread. Both take turns, and the best processor time of each counts, which other load affects little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mcscore.bench import baselines
from mcscore.selection import TopK

N = 50_000_000
ROUNDS = 5


def seconds(call: Callable[[], Any]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.arange(N)


@pytest.fixture(scope="module")
def uniform() -> np.ndarray:
    return np.random.default_rng(0).random(N, dtype=np.float32)


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "random": lambda scores: scores,
    "rounded to 256 values": lambda scores: np.round(scores * np.float32(256)),
    "all equal": np.zeros_like,
    "ascending (worst)": np.sort,
}


@pytest.mark.parametrize("k", [1_000, 10_000, 100_000])
@pytest.mark.parametrize("kind", KINDS)
def test_topk(benchmark: Any, ids: np.ndarray, uniform: np.ndarray, kind: str, k: int) -> None:
    scores = KINDS[kind](uniform)
    threshold = np.partition(scores, N - k)[N - k]

    def count() -> None:
        baselines.count_above(scores, threshold)

    def best() -> None:
        TopK(k).update(ids, scores).result()

    times = [(seconds(count), seconds(best)) for _ in range(ROUNDS)]
    one_pass, taken = (min(column) for column in zip(*times, strict=True))
    benchmark.extra_info.update({"passes": taken / one_pass, "G scores/s": N / taken / 1e9})
    print(
        f"\n{kind:22} k = {k:7}: {N / taken / 1e9:5.2f} G scores/s, {taken / one_pass:5.2f} times the pass "
        f"({N / one_pass / 1e9:.1f} G/s)"
    )
    benchmark.pedantic(best, rounds=1)
