"""Methods of selection against their definitions in plain NumPy, in one process, by turns; medians of three.

    python -m pytest benchmarks/bench_select.py -s

The definitions compare all candidates with each choice (k-center, k-means++, BADGE on the outer products), or draw noise for all items of
an array at once (power). Of BADGE, 20 picks are measured and scaled to k: its gradients are C x D wide.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mcscore.selection import Best, select
from mcscore.selection.stochastic import power

SHAPES = [(10_000, 128, 1000), (10_000, 512, 500), (100_000, 128, 200), (100_000, 512, 200)]


def ratio(naive: Callable[[], Any], ours: Callable[[], Any], rounds: int = 3) -> tuple[float, float]:
    """The median of naive / ours, and of the seconds of ours."""
    found = []
    for _ in range(rounds):
        seconds = []
        for call in (naive, ours):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        found.append((seconds[0] / seconds[1], seconds[1]))
    return statistics.median(r for r, _ in found), statistics.median(s for _, s in found)


def candidates(M: int, D: int, each: int) -> np.ndarray:
    """Groups of ``each`` near-repeats, (M, D)."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(M // each, D)).astype(np.float32).repeat(each, 0)
    points += rng.normal(size=points.shape).astype(np.float32) * np.float32(0.3)
    return points


def k_center(points: np.ndarray, k: int) -> list[int]:
    picked, nearest = [0], ((points - points[0]) ** 2).sum(1)
    while len(picked) < k:
        picked.append(int(nearest.argmax()))
        np.minimum(nearest, ((points - points[picked[-1]]) ** 2).sum(1), out=nearest)
    return picked


def k_means_pp(points: np.ndarray, k: int, rng: np.random.Generator) -> list[int]:
    picked, nearest = [0], ((points - points[0]) ** 2).sum(1)
    while len(picked) < k:
        picked.append(int(rng.choice(len(points), p=nearest / nearest.sum())))
        np.minimum(nearest, ((points - points[picked[-1]]) ** 2).sum(1), out=nearest)
        nearest[picked] = 0
    return picked


@pytest.mark.parametrize(("M", "D", "k"), SHAPES)
@pytest.mark.parametrize("method", ["k-center", "k-means++"])
def test_spread(method: str, M: int, D: int, k: int) -> None:
    points, scores, ids = candidates(M, D, 20), -np.arange(M, dtype=np.float32), np.arange(M)
    naive = {
        "k-center": lambda: k_center(points, k),
        "k-means++": lambda: k_means_pp(points.astype(float), k, np.random.default_rng(0)),
    }
    times, seconds = ratio(
        naive[method], lambda: select(ids, scores, k, diversity=method, embeddings=points), 1 if M > 10_000 else 3
    )
    print(f"\n{method}, M = {M:,}, D = {D}, k = {k}: {seconds:.2f} s, {times:.1f}x NumPy")


def test_badge() -> None:
    M, C, D, k = 4_000, 10, 128, 500
    points = candidates(M, D, 20)
    p = np.random.default_rng(1).dirichlet(np.full(C, 0.2), M).astype(np.float32)

    def naive() -> None:
        residual = p.copy()
        residual[np.arange(M), p.argmax(1)] -= 1
        k_means_pp((residual[:, :, None] * points[:, None]).reshape(M, -1), 20, np.random.default_rng(0))

    def ours() -> None:
        select(np.arange(M), -np.arange(M, dtype=np.float32), k, diversity="badge", embeddings=points, probabilities=p)

    times, seconds = ratio(naive, ours)
    print(f"\nbadge, M = {M:,}, C = {C}, D = {D}, k = {k}: {seconds:.2f} s, {times * k / 20:.0f}x NumPy on C x D")


def test_power() -> None:
    N, k, block = 8_000_000, 100_000, 1 << 18
    scores = np.random.default_rng(0).random(N, np.float32)

    def naive() -> np.ndarray:
        values = 4 * np.log(scores.astype(float)) + np.random.default_rng(0).gumbel(size=N)
        return np.argsort(-values)[:k]

    def ours() -> np.ndarray:
        best = Best(k)
        for at in range(0, N, block):
            part = scores[at : at + block]
            ids = np.arange(at, at + len(part))
            best.update(ids, power(part, ids), part)
        return best.ids

    times, seconds = ratio(naive, ours)
    print(
        f"\npower, N = {N:,}, k = {k:,}: {seconds:.2f} s in blocks, memory O(k); {times:.2f}x NumPy with all N in memory"
    )
