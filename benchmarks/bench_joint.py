"""BatchBALD and EPIG against the ways in which they were published, in one process.

    python -m pytest benchmarks/bench_joint.py -s

The peers are written from their formulas, in PyTorch, float32, as batchbald_redux and the code of the EPIG paper compute them; there the
joint probabilities of all configurations lie in memory, of 1024 candidates at a time. batchbald_redux 2.0.5 itself, its gc.collect()
stubbed, takes what `published_batchbald` takes. Both are linear in the number of candidates, so 1,000 are measured and scaled.
"""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mcscore.kernels.joint import conditional_entropy, roofline
from mcscore.selection.joint import JointPicks, batchbald, epig
from mcscore.selection.joint.configurations import ROWS

M, SOME, T, C, K, TARGETS = 10_000, 1_000, 100, 10, 10, 100


@pytest.fixture(params=[1, 0], ids=["one thread", "all threads"])
def clock(request: pytest.FixtureRequest) -> Iterator[Callable[[], float]]:
    """Processor time of one thread, or wall time of all."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param or os.cpu_count() or 1)
    yield time.process_time if request.param else time.perf_counter
    torch.set_num_threads(before)


def probabilities(items: int, seed: int = 0) -> Tensor:
    """(items, T, C): passes that disagree, about some items more than about others."""
    made = torch.Generator().manual_seed(seed)
    mean, spread = torch.randn(items, 1, C, generator=made), torch.rand(items, 1, 1, generator=made)
    return torch.softmax(2 * mean + 2 * spread * torch.randn(items, T, C, generator=made), -1)


def published_batchbald(p_MTC: Tensor, k: int, rows: int) -> list[int]:
    """Joint entropies of batch and candidate: all configurations, then samples with importance weights."""
    noise_M = torch.special.entr(p_MTC).sum((1, 2)) / T
    joint_ST, weights_S, chosen, exact = torch.ones(1, T), torch.ones(1), list[int](), True
    for _ in range(k):
        entropy_M = torch.empty(len(p_MTC))
        for lo in range(0, len(p_MTC), 1024):
            some = p_MTC[lo : lo + 1024]
            q_mSC = torch.empty(len(some), len(joint_ST), C)
            for m in range(len(some)):
                torch.matmul(joint_ST, some[m], out=q_mSC[m])
            q_mSC /= T
            entropy_M[lo : lo + 1024] = (-torch.log(q_mSC) * q_mSC * weights_S[None, :, None]).sum((1, 2))
        gains_M = entropy_M - noise_M
        gains_M[chosen] = -torch.inf
        chosen.append(int(gains_M.argmax()))
        exact &= C ** len(chosen) <= rows
        if exact:
            joint_ST = (joint_ST[:, None] * p_MTC[chosen[-1]].T).reshape(-1, T)
            weights_S = torch.ones(len(joint_ST))
            continue
        draws_NTs = torch.stack([torch.multinomial(p_MTC[item], rows // T, replacement=True) for item in chosen])
        of_draws = [p_MTC[item].T[draws.flatten()] for item, draws in zip(chosen, draws_NTs, strict=True)]
        joint_ST = torch.stack(of_draws).log().sum(0).exp()
        weights_S = 1 / joint_ST.mean(1) / len(joint_ST)
    return chosen


def published_epig(p_MTC: Tensor, targets_JTC: Tensor) -> Tensor:
    """The mutual information of every pair, from its joint distribution, averaged over passes: (M, J, T, C, C) in blocks."""
    scores_M = torch.zeros(len(p_MTC))
    for lo in range(0, len(p_MTC), 20):
        for target_TC in targets_JTC:
            joint_mCC = (p_MTC[lo : lo + 20, :, :, None] * target_TC[:, None]).mean(1)
            apart_mCC = p_MTC[lo : lo + 20].mean(1)[:, :, None] * target_TC.mean(0)
            scores_M[lo : lo + 20] += (joint_mCC * (joint_mCC / apart_mCC).log()).sum((1, 2))
    return scores_M / len(targets_JTC)


def epig_of_products(p_MTC: Tensor, targets_JTC: Tensor) -> Tensor:
    """The same, its joint distributions from one matrix product per block: what a careful user would write."""
    target_TJ = targets_JTC.transpose(0, 1).flatten(1)
    entropy_J = torch.special.entr(targets_JTC.mean(1)).sum(1)
    entropy_M = torch.special.entr(p_MTC.mean(1)).sum(1)
    joint = [torch.special.entr(p.transpose(1, 2) @ target_TJ / T).sum((1, 2)) for p in p_MTC.split(20)]
    return entropy_M + entropy_J.mean() - torch.cat(joint) / len(targets_JTC)


def taken(clock: Callable[[], float], call: Callable[[], Any]) -> tuple[float, Any]:
    start = clock()
    result = call()
    return clock() - start, result


def quiet_batchbald(p_MTC: Tensor) -> JointPicks:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return batchbald(np.arange(len(p_MTC)), p_MTC, K)


@pytest.mark.parametrize(
    "shape", [(200, 100, 10, 10_000), (200, 100, 2, 10_000), (50, 100, 100, 10_000), (200, 20, 10, 1_000)], ids=str
)
def test_kernel(benchmark: Any, capsys: pytest.CaptureFixture[str], shape: tuple[int, int, int, int]) -> None:
    """On one thread, beside a matrix product of 1024 x 1024 x 1024."""
    items, passes, classes, rows = shape
    p_MTC = torch.softmax(2 * torch.randn(items, passes, classes), -1)
    rows_ST, weights_S = torch.rand(rows, passes) / passes, torch.full((rows,), 1 / rows)
    a, b = torch.randn(2, 1024, 1024)
    rounds = [
        (
            taken(time.process_time, lambda: conditional_entropy(p_MTC, rows_ST, weights_S))[0],
            taken(time.process_time, lambda: a @ b)[0],
        )
        for _ in range(7)
    ]
    ours, product = (statistics.median(times) for times in zip(*rounds, strict=True))
    rate, peak = roofline(rows, passes, items, classes).flops / ours, 2 * 1024**3 / product
    with capsys.disabled():
        print(
            f"\njoint entropies, M, T, C, S = {shape}: {rate / 1e9:.1f} GFLOP/s, {100 * rate / peak:.0f} % of a matrix product"
        )
    benchmark.extra_info["% of matmul"] = 100 * rate / peak
    benchmark(lambda: conditional_entropy(p_MTC, rows_ST, weights_S))


def test_batchbald(benchmark: Any, capsys: pytest.CaptureFixture[str], clock: Callable[[], float]) -> None:
    p_MTC = probabilities(M)
    before, found = taken(clock, lambda: quiet_batchbald(p_MTC))
    peer, of_peer = taken(clock, lambda: published_batchbald(p_MTC[:SOME], K, ROWS))
    after, _ = taken(clock, lambda: quiet_batchbald(p_MTC))
    ours, theirs = (before + after) / 2, peer * M / SOME
    same = quiet_batchbald(p_MTC[:SOME])
    with capsys.disabled():
        print(
            f"\nBatchBALD, {M:,} candidates, T = {T}, C = {C}, k = {K}: {ours:.2f} s, as published {theirs:.1f} s, "
            f"{theirs / ours:.0f} times. "
            f"Gains {found.gains.round(3).tolist()}, {found.exact} exact. "
            f"Of {SOME:,}: {same.positions.tolist()}, published {of_peer}"
        )
    assert same.positions[: same.exact].tolist() == of_peer[: same.exact]
    benchmark.extra_info["times"] = theirs / ours
    benchmark.pedantic(lambda: quiet_batchbald(p_MTC), rounds=1)


def test_epig(benchmark: Any, capsys: pytest.CaptureFixture[str], clock: Callable[[], float]) -> None:
    p_MTC, targets_JTC = probabilities(SOME), probabilities(TARGETS, seed=1)
    rounds: list[list[float]] = [[], [], []]
    for _ in range(3):
        ours, found = taken(clock, lambda: epig(np.arange(SOME), p_MTC, targets_JTC, SOME))
        products, other = taken(clock, lambda: epig_of_products(p_MTC, targets_JTC))
        for times, spent in zip(rounds, (ours, products, 0.0), strict=True):
            times.append(spent)
    theirs, truth = taken(clock, lambda: published_epig(p_MTC, targets_JTC))
    ours, products = (statistics.median(times) for times in rounds[:2])
    with capsys.disabled():
        print(
            f"\nEPIG, {SOME:,} candidates, {TARGETS} targets, T = {T}, C = {C}: {ours * 1e3:.0f} ms, as published {theirs:.2f} s, "
            f"{theirs / ours:.0f} times; by matrix products {products * 1e3:.0f} ms, {products / ours:.1f} times"
        )
    np.testing.assert_allclose(found.gains, truth[found.positions], atol=1e-5)
    np.testing.assert_allclose(found.gains, other[found.positions], atol=1e-5)
    benchmark.extra_info["times"] = theirs / ours
    benchmark.pedantic(lambda: epig(np.arange(SOME), p_MTC, targets_JTC, SOME), rounds=1)
