"""A case, measured: checked against float64 first, then timed beside plain PyTorch, torch.compile and the roof."""

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
    """What was measured of one case. Rates are mcscore's; None: there is no such figure."""

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
    times_compile: float | None  # the same of torch.compile
    times_floor: float | None  # mcscore's time over that of the floor (cases.Kernel.floor)
    extra_bytes: int | None  # memory at the peak of a call beyond its inputs, results included
    eager_extra_bytes: int | None
    error: float  # the greatest, against float64, in the unit of the kernel
    tolerance: float

    @property
    def right(self) -> bool:
        """Whether the error is within the tolerance; an error of NaN is not."""
        return self.error <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON, which has no NaN: an error that is not finite is None."""
        return {
            **dataclasses.asdict(self),
            "right": self.right,
            "error": self.error if math.isfinite(self.error) else None,
        }


@dataclass(frozen=True)
class Bench:
    """Where and how cases are measured. note(text) receives messages to show once, such as why nothing compiles."""

    device: torch.device
    clock: Clock
    ceilings: Mapping[torch.dtype, Ceilings]
    compile: bool = True
    seconds: float = 0.3  # per candidate and case

    @staticmethod
    def open(device: torch.device, compile: bool = True, seconds: float = 0.3) -> Bench:
        """Measure the ceilings and try torch.compile if it is wanted; where it cannot work, note why and leave it out."""
        clock = clock_for(device)
        ceilings = measure_ceilings(device, clock)
        if compile and (why := why_not_compile(device)):
            backends.warn_once(f"torch.compile does not work here, so there are no ratios to it: {why}")
            compile = False
        return Bench(device, clock, ceilings, compile, seconds)

    def measure(self, spec: Spec) -> Row:
        """NoKernel where mcscore has none for it. Whether the results are right is in the row: look at ``right``."""
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
        # Every case compiles anew: one function called with more shapes than the compiler keeps would run uncompiled without a word.
        torch._dynamo.reset()
        call = rotating(torch.compile(case.eager, fullgraph=True, dynamic=False), case.inputs)
        try:
            call()
        except (RuntimeError, NotImplementedError) as error:
            backends.warn_once(f"torch.compile fails for {case.spec}: {first_line(error)}")
            return None
        return call


def why_not_compile(device: torch.device) -> str:
    """Why torch.compile does not work on ``device``, in one line; "" if it does. Takes some seconds."""
    try:
        torch.compile(lambda x: x + 1, fullgraph=True)(torch.zeros(2, device=device))
    except (RuntimeError, NotImplementedError, ImportError, OSError) as error:
        return first_line(error)
    return ""


def measure_ceilings(device: torch.device, clock: Clock) -> dict[torch.dtype, Ceilings]:
    """What a copy and a matrix product of random data reach, as many threads working as torch uses. By dtype of the product.

    On a CPU mcscore computes all products in float32, so that is the ceiling of every dtype.
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
