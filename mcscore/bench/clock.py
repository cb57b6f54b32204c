"""Time and memory of calls, measured so that other load, heat and caches affect all candidates alike.

Candidates take turns in one process. A turn repeats the call until it is long enough for the clock. On a CPU the shortest
turn is the result, as other load only adds time. On a GPU the median is, as its clock may be boosted for single turns.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Call = Callable[[], object]
MIN_TURNS, MAX_TURNS = 3, 50


class Clock(Protocol):
    """How a call is timed on a device."""

    @property
    def least(self) -> float:
        """The least number of seconds of a turn."""

    def warm(self) -> None:
        """Bring the device to its working clock rate."""

    def seconds(self, call: Call, repeats: int) -> float:
        """Time one call, out of ``repeats`` in a row."""

    def verdict(self, turns: Sequence[float]) -> float:
        """Return the result of these turns."""


@dataclass(frozen=True)
class CpuClock:
    """Processor time of this thread, which other load affects little, or wall time if several threads work."""

    wall: bool = False
    least: float = 0.02

    def warm(self) -> None:
        """Do nothing: the turns themselves warm a core up."""

    def seconds(self, call: Call, repeats: int) -> float:
        """Time one call, out of ``repeats`` in a row."""
        now = time.perf_counter if self.wall else time.thread_time
        begin = now()
        for _ in range(repeats):
            call()
        return (now() - begin) / repeats

    def verdict(self, turns: Sequence[float]) -> float:
        """Return the shortest turn."""
        return min(turns)


@dataclass(frozen=True)
class CudaClock:
    """Time between two events on the device. Calls are queued back to back, so that launches overlap with work."""

    least: float = 0.005

    def warm(self) -> None:
        """Multiply matrices for 0.2 s, as a GPU lowers its clock rate while it is idle, during a compilation for example."""
        left, right = (torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:
            left @ right
            torch.cuda.synchronize()

    def seconds(self, call: Call, repeats: int) -> float:
        """Time one call, out of ``repeats`` in a row."""
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            call()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) / 1e3 / repeats

    def verdict(self, turns: Sequence[float]) -> float:
        """Return the median turn."""
        return statistics.median(turns)


def clock_for(device: torch.device) -> Clock:
    """Choose the clock of a device."""
    return CudaClock() if device.type == "cuda" else CpuClock(wall=torch.get_num_threads() > 1)


def in_turns(calls: Sequence[Call], clock: Clock, seconds: float) -> list[float]:
    """Measure seconds per call of each candidate, for about ``seconds`` each and at least MIN_TURNS turns."""
    clock.warm()
    repeats = []
    for call in calls:
        one = clock.seconds(call, 1)  # allocates, warms clocks and caches
        if one < 10 * clock.least:
            one = clock.seconds(call, 1)
        repeats.append(max(1, math.ceil(clock.least / max(one, 1e-7))))
    turns: list[list[float]] = []
    end = time.perf_counter() + seconds * len(calls)
    while len(turns) < MIN_TURNS or (time.perf_counter() < end and len(turns) < MAX_TURNS):
        turns.append([clock.seconds(call, n) for call, n in zip(calls, repeats, strict=True)])
    return [clock.verdict(column) for column in zip(*turns, strict=True)]


def rotating(function: Callable[..., object], inputs: Sequence[tuple[Any, ...]]) -> Call:
    """Make a call that uses the inputs in turn, so that an input has left the caches when its turn comes again."""
    following = itertools.cycle(inputs)
    return lambda: function(*next(following))


# ---- memory -------------------------------------------------------------------------------------------------------


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """Measure the peak of memory that ``call`` adds to what is allocated. None if the system does not report it.

    CUDA: memory of the allocator. Linux: resident pages, to within some 100 KiB. The caller runs ``call`` once before, as a
    first call loads code.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - held
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)  # freed pages that glibc keeps would be used again and not be counted
    try:
        with open("/proc/self/clear_refs", "w") as reset:
            reset.write("5")  # resets the peak VmHWM (man 5 proc)
        held = _status("VmRSS")
        call()
        return max(0, _status("VmHWM") - held)
    except OSError:
        return None


def _status(field: str) -> int:
    with open("/proc/self/status") as lines:
        found = re.search(rf"^{field}:\s+(\d+) kB", lines.read(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024
