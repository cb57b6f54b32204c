"""Scores of logits, at once and streamed; the kernels read each logit once, plain PyTorch about ten times."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mcscore import score_logits
from mcscore.bench.clock import CpuClock, in_turns
from mcscore.bench.shapes import default_specs
from mcscore.kernels import roofline

EXTRA = 1 << 20  # bytes that a call may allocate besides logits and results


@pytest.mark.parametrize("spec", default_specs("cpu", ("score_logits", "moments")), ids=str)
def test_scores(measured, spec):
    row = measured(spec)
    results = 2 * 12 * row.items  # two scores and a prediction, copied once
    assert row.extra_bytes is None or row.extra_bytes < EXTRA + results


@pytest.mark.parametrize(("T", "B", "C"), [(16, 20_000, 10), (100, 4_000, 10), (100, 400, 100), (100, 48, 1000)])
def test_errors_against_scores_alone(
    benchmark: Any, capsys: pytest.CaptureFixture[str], T: int, B: int, C: int
) -> None:
    logits = 3 * torch.randn(T, B, C)
    torch.set_num_threads(1)
    alone, both = in_turns([lambda: score_logits(logits), lambda: score_logits(logits, errors=True)], CpuClock(), 2.0)
    benchmark.extra_info["times_without_errors"] = both / alone
    work = [
        roofline.score_logits(T, B, C, torch.float32),
        roofline.score_logits(T, B, C, torch.float32, 7, errors=True),
    ]
    with capsys.disabled():
        print(
            f"\nscore_logits T{T}xB{B}xC{C}: errors take {both / alone:.2f} of the time of the scores alone, "
            f"{work[1].flops / work[0].flops:.2f} of their operations"
        )
    benchmark(lambda: score_logits(logits, errors=True))


def test_two_threads_against_one(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Measures wall time, so it needs an idle machine with two cores."""
    logits = torch.randn(20, 832, 1000)

    def with_threads(n: int) -> None:
        torch.set_num_threads(n)
        score_logits(logits)

    one, two = in_turns([lambda: with_threads(1), lambda: with_threads(2)], CpuClock(wall=True), 2.0)
    benchmark.extra_info["times_one_thread"] = one / two
    with capsys.disabled():
        print(f"\nscore_logits T20xB832xC1000: two threads are {one / two:.2f} times as fast as one")
    benchmark(lambda: with_threads(2))
