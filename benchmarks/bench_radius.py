"""The radius filter, against k-center greedy, the usual diversity filter, in plain NumPy.

    python -m pytest benchmarks/bench_radius.py -s

Candidates form groups of unequal sizes (Zipf), and few groups have the best scores. k-center needs one matrix-vector
product over all candidates per pick; it is measured on 50 picks and scaled to k.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mcscore.selection import select

K = 1000


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def candidates(m: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make scores (m,), embeddings (m, width) and the group of each candidate."""
    rng = np.random.default_rng(0)
    groups = np.minimum(rng.zipf(1.2, m), 20 * K) - 1
    centers = rng.normal(size=(20 * K, width)).astype(np.float32)
    points = centers[groups]
    points += rng.normal(size=points.shape).astype(np.float32) * np.float32(0.3)
    scores = rng.random(m, np.float32) + np.float32(0.5) * rng.random(20 * K, np.float32)[groups]
    return scores, points, groups


def k_center(points: np.ndarray, picks: int) -> list[int]:
    """Pick k points, each the farthest from those picked before."""
    norms = np.einsum("md,md->m", points, points)
    picked, nearest = [0], np.full(len(points), np.inf, np.float32)
    for _ in range(picks - 1):
        last = picked[-1]
        np.minimum(nearest, norms + norms[last] - 2 * (points @ points[last]), out=nearest)
        picked.append(int(np.argmax(nearest)))
    return picked


@pytest.mark.parametrize("width", [128, 512])
@pytest.mark.parametrize("m", [10_000, 100_000])
def test_radius(benchmark: Any, m: int, width: int) -> None:
    scores, points, groups = candidates(m, width)
    ids = np.arange(m)
    start = time.perf_counter()
    searched = select(ids, scores, K, embeddings=points)
    search = time.perf_counter() - start
    given = min(seconds(lambda: select(ids, scores, K, embeddings=points, radius=searched.radius)) for _ in range(3))
    naive = min(seconds(lambda: k_center(points, 50)) for _ in range(2)) * K / 50
    found = len(np.unique(groups[searched.ids]))
    plain = len(np.unique(groups[np.argsort(-scores)[:K]]))
    benchmark.extra_info.update({"k-center / radius": naive / given, "k-center / search": naive / search})
    print(
        f"\nM = {m:6}, D = {width}: r given {given:.2f} s, searched {search:.2f} s, k-center {naive:.2f} s "
        f"(ratios {naive / given:.1f}, {naive / search:.2f}); groups among {K}: {found}, by score alone {plain}"
    )
    benchmark.pedantic(lambda: select(ids, scores, K, embeddings=points, radius=searched.radius), rounds=1)
