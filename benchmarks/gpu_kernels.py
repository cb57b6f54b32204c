"""Part 3 of ``benchmarks.gpu``: each kernel on the device alone, by call, and its host time, against copy and matrix product.

device: a call's share of a replay of a CUDA graph, so without any host time. call: ordinary calls in a row. host: Python's time
per call, the device's work excluded. Each row is checked once against float64 on some of its items.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping

import torch

from mcscore.bench import cases, table
from mcscore.bench.clock import Clock, clock_for, in_turns, rotating
from mcscore.bench.measure import measure_ceilings
from mcscore.bench.shapes import Spec, specs
from mcscore.kernels.roofline import Ceilings

from .gpu_shared import Budget, Case, Log, Row, Skipped, aligned, ends, measure

# Kernel, dtypes, B ("full": as many items as fill several caches), shapes. In order of importance: the last may get no time.
CASES = """
dropout_head    bfloat16 27,256,4096  T100xD512xC10 T100xD2048xC10 T100xD2048xC100 T100xD768xC128
dropout_head    bfloat16 27,640,16384 T100xD2048xC1000xshared
score_logits    bfloat16 full         T20xC10 T20xC256 T20xC1000 T20xC10000 T20xC50000
score_logits    bfloat16 27,256       T100xC10 T100xC256 T100xC1000
dropout_linear  bfloat16 2048         T100xD3872xC128xP0.25
dropout_linear  bfloat16 32           T20xL197xD3072xC768xP0.1xown
dropout_head    bfloat16 27,256,4096  T100xD2048xC1000 T100xD768xC1000
moments         bfloat16 27,full      T10xC10 T10xC1000
moments         float32  262144       T1xC21
dropout         bfloat16 27,256,full  T20xE3872xP0.5 T20xE3872xP0.1
dropout         bfloat16 32           T20xE151296xP0.1
dropout_head    float32  27,256,4096  T100xD2048xC10 T100xD2048xC100
dropout_head    float32  27,640,4096  T100xD2048xC1000xshared
dropout_linear  bfloat16 27,256       T100xD3872xC128xP0.25 T100xD2048xC128xP0.5xown
score_logits    float32  full         T20xC10 T20xC256 T20xC1000 T20xC50000
score_logits    bfloat16 8192         T20xC1000xerrors
score_logits    bfloat16 100000       T100xC10xerrors
dropout_head    bfloat16 65536        T20xD512xC10 T20xD512xC10xerrors
dropout_head    bfloat16 16384        T100xD2048xC100 T100xD2048xC100xerrors
dropout_linear  float32  256          T100xD3872xC128xP0.25
score_logits    bfloat16 full         T20xC100 T20xC4096
"""
LONGEST = 25.0  # seconds, of a case whose kernels are compiled
_TOGETHER = 8  # calls in one graph, on different inputs


def run(
    device: torch.device, log: Log, budget: Budget, only: str = "", listed: str = CASES, seconds: float = 0.1
) -> list[str]:
    """Measure the cases whose names match the regular expression ``only``; returns the lines of the summary."""
    clock = clock_for(device)
    ceilings = measure_ceilings(device, clock)
    log.add(ceilings=table.ceilings_facts(ceilings))

    def case(spec: Spec) -> Case:
        return Case(str(spec), LONGEST, lambda: one(spec, device, clock, ceilings, seconds))

    measure([case(spec) for spec in listed_specs(listed) if re.search(only, str(spec))], log, budget)
    return [table.roof_line(ceilings), *summary(log.cases)]


def listed_specs(listed: str) -> Iterator[Spec]:
    """Parse the lines of a table such as CASES."""
    for line in listed.strip().splitlines():
        kernel, dtypes, items, *shapes = line.split()
        for shape in shapes:
            letter, rest = shape.split("x", 1)
            for B in items.split(","):
                yield from specs(shape if B == "full" else f"{letter}xB{B}x{rest}", dtypes.split(","), (kernel,))


def one(
    spec: Spec, device: torch.device, clock: Clock, ceilings: Mapping[torch.dtype, Ceilings], seconds: float
) -> Row:
    """Check a case, and time it in the three ways."""
    try:
        case = cases.build(spec, device)
    except cases.NoKernel as error:
        raise Skipped(str(error)) from error
    error = case.error()
    call = rotating(case.ours, case.inputs)
    (by_call,) = in_turns([call], clock, seconds)
    row: Row = {"items": case.items, "error": error, "right": error <= case.tolerance, "call_s": by_call}
    row["host_s"] = _host_seconds(call, by_call)
    if device.type == "cuda":
        row["device_s"] = _device_seconds(case, clock, seconds)
    ceiling = ceilings[getattr(torch, spec.dtype)]
    for way in ("device", "call"):
        if taken := row.get(f"{way}_s"):
            row[f"{way}_copy"] = case.work.bytes / taken / ceiling.copy
            row[f"{way}_matmul"] = case.work.flops / taken / ceiling.matmul
    return row


def _host_seconds(call: Callable[..., object], by_call: float) -> float:
    """Time calls without waiting for the device; so few that its queue of launches, of some 1000, does not fill."""
    repeats = max(1, min(10, int(0.1 / by_call)))
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    taken = (time.perf_counter() - begin) / repeats
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return taken


def _device_seconds(case: cases.Case, clock: Clock, seconds: float) -> float:
    """Time the replay of a graph of some calls. The kernels are compiled already; the stream on the side is torch's advice."""
    inputs = case.inputs[:_TOGETHER]
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        case.ours(*inputs[0])
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for operands in inputs:
            case.ours(*operands)
    (taken,) = in_turns([graph.replay], clock, seconds)
    return taken / len(inputs)


def _us(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row[name] * 1e6:.1f}" if row.get(name) else "-"


def _percent(name: str) -> Callable[[Row], str]:
    return lambda row: f"{100 * row[name]:.0f}" if row.get(name) else "-"


def summary(rows: list[Row]) -> list[str]:
    """Format the table, and what failed."""
    columns = {
        "case": lambda row: row["case"].replace("bfloat16", "bf16").replace("float32", "fp32"),
        "device us": _us("device_s"),
        "call us": _us("call_s"),
        "host us": _us("host_s"),
        "% copy": _percent("device_copy"),
        "% matmul": _percent("device_matmul"),
        "by call": _percent("call_matmul"),
        "error": lambda row: f"{row['error']:.0e}",
    }
    return [*aligned(rows, columns), *ends(rows)]
