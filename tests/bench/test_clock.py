"""Candidates take turns, each turn lasts long enough, inputs rotate, and memory is what a call really took."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from mcscore.bench.clock import MIN_TURNS, Call, CpuClock, CudaClock, in_turns, peak_bytes, rotating


class FakeClock:
    """Every call takes as long as it says; notes who was called how often in each turn."""

    least = 1.0

    def __init__(self) -> None:
        self.turns: list[tuple[str, int]] = []
        self.warmed = 0

    def warm(self) -> None:
        self.warmed += 1

    def seconds(self, call: Call, repeats: int) -> float:
        name, seconds = call()  # type: ignore[misc]
        self.turns.append((name, repeats))
        return seconds

    def verdict(self, turns: Sequence[float]) -> float:
        return min(turns)


def test_candidates_take_turns_of_at_least_the_least_time() -> None:
    clock = FakeClock()
    quick, slow = (lambda: ("quick", 0.3)), (lambda: ("slow", 20.0))
    assert in_turns([quick, slow], clock, 1e-9) == [0.3, 20.0]
    assert clock.warmed == 1
    first, measured = clock.turns[: -2 * MIN_TURNS], clock.turns[-2 * MIN_TURNS :]
    assert first == [("quick", 1), ("quick", 1), ("slow", 1)]  # what is slow anyway is not called twice to find out
    assert measured == [("quick", 4), ("slow", 1)] * MIN_TURNS  # 4 x 0.3 s last a second


def test_on_a_cpu_the_best_turn_counts_and_on_a_gpu_the_median() -> None:
    assert CpuClock().verdict([3.0, 1.0, 2.0, 9.0, 9.0]) == 1.0
    assert CudaClock().verdict([3.0, 1.0, 2.0, 9.0, 9.0]) == 3.0


def test_processor_time_leaves_out_what_only_waits() -> None:
    import time

    assert CpuClock().seconds(lambda: time.sleep(0.05), 2) < 0.02
    assert CpuClock(wall=True).seconds(lambda: time.sleep(0.05), 2) >= 0.05


def test_calls_rotate_through_all_inputs() -> None:
    seen: list[int] = []
    call = rotating(seen.append, [(1,), (2,), (3,)])
    for _ in range(5):
        call()
    assert seen == [1, 2, 3, 1, 2]


def test_peak_memory_is_what_a_call_touches_even_if_it_gives_it_back() -> None:
    cpu = torch.device("cpu")
    peak = peak_bytes(lambda: torch.ones(16 << 20), cpu)
    if peak is None:
        pytest.skip("this system does not tell a process its peak memory")
    assert peak == pytest.approx(64 << 20, rel=0.05)
    assert peak_bytes(lambda: None, cpu) < 1 << 20
    torch.ones(9).sum()  # the first call of anything loads its code
    again = peak_bytes(lambda: [torch.ones(8 << 20).sum() for _ in range(3)], cpu)
    assert again == pytest.approx(32 << 20, rel=0.05)  # one after the other
