"""Tile sizes of the Triton kernels: those of the tables beside them, or on request the fastest of a few, by trial.

MCSCORE_AUTOTUNE=1 lets the first call of every shape on a GPU time the candidates on its own operands, take the fastest
from then on, and print it on stderr beside the table's choice. Nothing is timed otherwise, and nothing when modules are imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

import torch
from triton.runtime.errors import OutOfResources

from .launch import Launch

Choice = TypeVar("Choice", bound=Hashable)

_CALLS = 20  # timed together, after as many that warm up
_found: dict[Hashable, Hashable] = {}


def tuned(
    kernel: str,
    shape: tuple[Hashable, ...],
    table: Choice,
    others: Iterable[Choice],
    launch: Callable[[Choice], Launch],
    device: torch.device,
) -> Choice:
    """The table's choice; if a search was asked for, the fastest of it and the others for this shape on this device."""
    if os.environ.get("MCSCORE_AUTOTUNE") != "1" or device.type != "cuda":
        return table
    key = kernel, shape, device.index
    if key not in _found:
        times = {choice: seconds(launch(choice)) for choice in dict.fromkeys((table, *others))}
        best = min(times, key=times.__getitem__)
        print(
            f"mcscore: {kernel} {shape}: {best} takes {times[best] * 1e6:.1f} us, the table's {table} {times[table] * 1e6:.1f} us",
            file=sys.stderr,
            flush=True,
        )
        _found[key] = best
    return _found[key]  # type: ignore[return-value]


def seconds(launch: Launch) -> float:
    """Per call, of many queued ones; infinite if the kernel asks for more than the GPU has."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    try:
        for event in (start, stop):
            for _ in range(_CALLS):
                launch.run()
            event.record()
    except OutOfResources:
        return float("inf")
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3 / _CALLS
