"""Measurement of a case: checked against float64, then timed in turns with plain PyTorch and torch.compile."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import first_line
from ..kernels import backends
from ..kernels.roofline import Ceilings
from . import cases
from .clock import Call, Clock, clock_for, in_turns, peak_bytes, rotating
from .shapes import Spec


@dataclass(frozen=True)
class Row:
    """The results of one case. Rates are those of mcscore; None: there is no such figure."""

    kernel: str
    shape: str
    dtype: str
    items: int  # per call
    seconds: float  # per call
    items_per_s: float
    GB_per_s: float
    GFLOP_per_s: float
    percent_of_roof: float
    times_eager: float  # PyTorch's time over mcscore's
    times_compile: float | None  # torch.compile's time over mcscore's
    times_floor: float | None  # mcscore's time over that of the floor (cases.Kernel.floor)
    extra_bytes: int | None  # peak memory of a call beyond its inputs, results included
    eager_extra_bytes: int | None
    error: float  # greatest error against float64, in the unit of cases.Kernel.error
    tolerance: float

    @property
    def right(self) -> bool:
        """Whether the error is at most the tolerance; NaN is not."""
        return self.error <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, which has no NaN: an error that is not finite becomes None."""
        return {
            **dataclasses.asdict(self),
            "right": self.right,
            "error": self.error if math.isfinite(self.error) else None,
        }


@dataclass(frozen=True)
class Bench:
    """Device, clock and ceilings with which cases are measured."""

    device: torch.device
    clock: Clock
    ceilings: Mapping[torch.dtype, Ceilings]
    compile: bool = True
    seconds: float = 0.3  # per candidate and case

    @staticmethod
    def open(device: torch.device, compile: bool = True, seconds: float = 0.3) -> Bench:
        """Measure the ceilings, and try torch.compile if it is requested; if it fails, warn why and leave it out."""
        clock = clock_for(device)
        ceilings = measure_ceilings(device, clock)
        if compile and (why := why_not_compile(device)):
            backends.warn_once(f"torch.compile does not work here, so there are no ratios to it: {why}")
            compile = False
        return Bench(device, clock, ceilings, compile, seconds)

    def measure(self, spec: Spec) -> Row:
        """Measure one case; ``Row.right`` has whether its results are right. NoKernel if mcscore has no kernel for it."""
        case = cases.build(spec, self.device)
        error = case.error()
        calls = [rotating(case.ours, case.inputs), rotating(case.eager, case.inputs)]
        if case.floor is not None:
            calls.append(rotating(case.floor, case.inputs))
        compiled = self._compiled(case)
        if compiled is not None:
            calls.append(compiled)
        ours, eager, *rest = in_turns(calls, self.clock, self.seconds)
        floor = rest[0] if case.floor is not None else None
        ceilings = self.ceilings[getattr(torch, spec.dtype)]
        return Row(
            spec.kernel,
            str(case.spec.shape),
            spec.dtype,
            case.items,
            ours,
            case.items / ours,
            case.work.bytes / ours / 1e9,
            case.work.flops / ours / 1e9,
            case.work.percent(ours, ceilings),
            eager / ours,
            rest[-1] / ours if compiled is not None else None,
            ours / floor if floor is not None else None,
            peak_bytes(calls[0], self.device),
            peak_bytes(calls[1], self.device),
            error,
            case.tolerance,
        )

    def _compiled(self, case: cases.Case) -> Call | None:
        if not (self.compile and case.compiles):
            return None
        # Each case is compiled from a clean cache: for more shapes than its cache holds, torch.compile silently runs eager code.
        torch._dynamo.reset()
        call = rotating(torch.compile(case.eager, fullgraph=True, dynamic=False), case.inputs)
        try:
            call()
        except (RuntimeError, NotImplementedError) as error:
            backends.warn_once(f"torch.compile fails for {case.spec}: {first_line(error)}")
            return None
        return call


def why_not_compile(device: torch.device) -> str:
    """Try torch.compile on ``device``, for some seconds. Returns why it fails, in one line, or ""."""
    try:
        torch.compile(lambda x: x + 1, fullgraph=True)(torch.zeros(2, device=device))
    except (RuntimeError, NotImplementedError, ImportError, OSError) as error:
        return first_line(error)
    return ""


def measure_ceilings(device: torch.device, clock: Clock) -> dict[torch.dtype, Ceilings]:
    """Measure the rates of a copy and of a matrix product of random data, with torch's threads, by dtype of the product.

    On a CPU mcscore computes all products in float32, so float32's rate is the ceiling of every dtype.
    """
    cuda = device.type == "cuda"
    size, side = (1 << 30, 8192) if cuda else (64 << 20, 1024)
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def product(dtype: torch.dtype) -> Call:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        return lambda: left @ right

    dtypes = backends.KERNEL_DTYPES if cuda else (torch.float32,)
    copy, *products = in_turns([lambda: target.copy_(source), *map(product, dtypes)], clock, 0.5)
    rates = [2 * side**3 / seconds for seconds in products]
    return {
        dtype: Ceilings(2 * size / copy, rate)
        for dtype, rate in zip(
            backends.KERNEL_DTYPES, rates if cuda else rates * len(backends.KERNEL_DTYPES), strict=True
        )
    }
