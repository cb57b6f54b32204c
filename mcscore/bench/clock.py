"""Time and memory of calls, measured so that other load, heat and caches hit all candidates alike.

Candidates take turns in one process. A turn repeats the call until it lasts long enough for the clock. On a CPU the best
turn counts: other load only ever adds. On a GPU the median counts: a clock that was boosted for one turn is no result.
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
        """The seconds that a turn must last."""

    def warm(self) -> None:
        """Bring the device to the speed at which it works."""

    def seconds(self, call: Call, repeats: int) -> float:
        """Time one call, out of ``repeats`` in a row."""

    def verdict(self, turns: Sequence[float]) -> float:
        """Return the figure that stands for these turns."""


@dataclass(frozen=True)
class CpuClock:
    """Processor time of this thread, which other load disturbs little; or wall time, where others do part of the work."""

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
    """Time between two events on the device; calls are queued back to back, so that launches hide behind work."""

    least: float = 0.005

    def warm(self) -> None:
        """Multiply matrices for 0.2 s: a GPU that has been idle, during a compilation for example, clocks down."""
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
    """Seconds per call of each: about ``seconds`` of measuring per candidate, at least MIN_TURNS turns whatever they take."""
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
    """A call that takes the next of the inputs each time: when it comes round, their first is in no cache any more."""
    following = itertools.cycle(inputs)
    return lambda: function(*next(following))


# ---- memory -------------------------------------------------------------------------------------------------------


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """Memory that ``call`` needs at its peak beyond what is held already. None where the system does not report it.

    CUDA: of the allocator. Linux: resident pages, to within some 100 KiB. Call it once before: first calls load code.
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
        trim(0)  # memory that was freed and kept would be taken again without growing
    try:
        with open("/proc/self/clear_refs", "w") as reset:
            reset.write("5")  # the peak starts anew (man 5 proc)
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
