"""Scores of logits, at once and streamed; the kernels read each logit once, plain PyTorch about ten times."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mcscore import score_logits
from mcscore.bench.clock import CpuClock, in_turns
from mcscore.bench.shapes import default_specs

EXTRA = 1 << 20  # bytes that a call may allocate besides logits and results


@pytest.mark.parametrize("spec", default_specs("cpu", ("score_logits", "moments")), ids=str)
def test_scores(measured, spec):
    row = measured(spec)
    results = 2 * 12 * row.items  # two scores and a prediction, copied once
    assert row.extra_bytes is None or row.extra_bytes < EXTRA + results


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
