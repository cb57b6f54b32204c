"""The Triton kernels beside PyTorch on this machine's GPU: ``python -m benchmarks.gpu``.

One line per kernel and shape: time per call, items per second, GB per second of the least traffic the task needs
(``roofline``), the share of what a measured copy (scores, dropout) or matrix product (head) would allow, and how many
times as long eager PyTorch and torch.compile take.

Every working set is several times the L2 cache, so each call finds it cold. Calls are queued back to back between two
events; the three candidates take turns, and the median over the turns counts, so that clocks and heat hit all alike.
Inputs are random: constant data draws less power and runs up to 40 % faster.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mcscore.kernels import roofline
from mcscore.kernels.score import roofline as score_roofline
from mcscore.masks import rate

BYTES = 400_000_000  # of logits or of dropout's output per call: 8 times the L2 cache of an H100
TURNS = 7
QUEUED = 10  # calls between two events

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    name: str
    shape: str
    items: int
    dtype: torch.dtype
    work: roofline.Roofline
    ours: Call
    eager: Call
    compiled: Call


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    torch.manual_seed(0)
    copy = copy_bandwidth()
    ceilings = {dtype: roofline.Ceilings(copy, matmul_rate(dtype)) for dtype in (torch.bfloat16, torch.float32)}
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {copy / 1e9:.0f} GB/s")
    print("matmul " + ", ".join(f"{_short(dtype)} {c.matmul / 1e12:.0f} TFLOP/s" for dtype, c in ceilings.items()))
    print(f"{'kernel':<12}{'shape':<38}{'ms':>9}{'items/s':>11}{'GB/s':>8}{'% roof':>8}{'x eager':>9}{'x compile':>11}")
    for build in cases():
        case = build()
        ours, eager, compiled = medians(case.ours, case.eager, case.compiled)
        print(
            f"{case.name:<12}{case.shape:<38}{ours * 1e3:9.3f}{case.items / ours:11.3g}{case.work.bytes / ours / 1e9:8.0f}"
            f"{roofline.percent_of_roof(case.work, ours, ceilings[case.dtype]):8.1f}{eager / ours:9.1f}{compiled / ours:11.1f}",
            flush=True,
        )


def cases() -> list[Callable[[], Case]]:
    """Cases to be built one after the other: each holds its working set only while it is measured."""
    found: list[Callable[[], Case]] = []
    for dtype in (torch.bfloat16, torch.float32):
        for C in (10, 100, 1000, 10_000, 50_000):
            found.append(lambda C=C, dtype=dtype: score_case(20, C, dtype))
        for E, I, p in (
            (4096, 1, 0.5),
            (4096, 1, 0.25),
            (4096, 1, 0.3),
            (4000, 1, 0.25),
            (64, 576, 0.25),
            (512, 49, 0.25),
        ):
            found.append(lambda E=E, I=I, p=p, dtype=dtype: dropout_case(20, E, I, p, dtype))
        for D, C in ((512, 10), (768, 100)):
            found.append(lambda D=D, C=C, dtype=dtype: head_case(20, D, C, 0.5, dtype))
    return found


def score_case(T: int, C: int, dtype: torch.dtype) -> Case:
    from mcscore.kernels import triton_score

    B = max(1, BYTES // (T * C * dtype.itemsize))
    logits_TBC = (3 * torch.randn(T, B, C, device="cuda")).to(dtype)
    compiled = torch.compile(bald_and_entropy, dynamic=False)
    return Case(
        "score",
        f"T={T} B={B} C={C} {_short(dtype)}",
        B,
        dtype,
        score_roofline(T, B, C, dtype),
        lambda: triton_score.score(logits_TBC, ("bald", "entropy"), "softmax"),
        lambda: bald_and_entropy(logits_TBC),
        lambda: compiled(logits_TBC),
    )


def bald_and_entropy(logits_TBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What one would write: softmax in float32, its mean, two entropies, argmax."""
    p_TBC = torch.softmax(logits_TBC, -1, dtype=torch.float32)
    mean_BC = p_TBC.mean(0)
    entropy_B = torch.special.entr(mean_BC).sum(-1)
    expected_B = torch.special.entr(p_TBC).sum(-1).mean(0)
    return entropy_B - expected_B, entropy_B, mean_BC.argmax(-1)


def dropout_case(t: int, E: int, I: int, p: float, dtype: torch.dtype) -> Case:
    from mcscore.kernels import triton_dropout

    B = max(1, BYTES // (t * E * I * dtype.itemsize))
    x_sBEI = torch.randn(1, B, E, I, device="cuda").to(dtype)
    passes, ids = torch.arange(t, device="cuda"), torch.arange(B, device="cuda")
    r = rate(p)
    theirs = _torch_dropout if I == 1 else _torch_channel_dropout
    compiled = torch.compile(theirs, dynamic=False)
    return Case(
        "dropout",
        f"T={t} B={B} E={E} I={I} p={p} {_short(dtype)}",
        B,
        dtype,
        roofline.dropout(t, B, E, I, dtype),
        lambda: triton_dropout.dropout(x_sBEI, passes, ids, 0, 0, r, (1 / r.keep, 0.0, 0.0)),
        lambda: theirs(x_sBEI, t, p),
        lambda: compiled(x_sBEI, t, p),
    )


def _torch_dropout(x_sBEI: Tensor, t: int, p: float) -> Tensor:
    """The same work with PyTorch's own generator: t copies, each with masks of its own."""
    return F.dropout(x_sBEI.expand(t, *x_sBEI.shape[1:]), p, training=True)


def _torch_channel_dropout(x_sBEI: Tensor, t: int, p: float) -> Tensor:
    return F.dropout1d(x_sBEI.expand(t, *x_sBEI.shape[1:]).flatten(0, 1), p, training=True)


def head_case(T: int, D: int, C: int, p: float, dtype: torch.dtype) -> Case:
    """Dropout, the last Linear and the scores in one kernel. Eager writes the dropped features of all passes."""
    from mcscore.kernels import triton_head

    B = max(1, BYTES // (T * D * dtype.itemsize))
    x_BD = torch.randn(B, D, device="cuda").to(dtype)
    weight_CD, bias_C = (torch.randn(C, D, device="cuda") / D**0.5).to(dtype), torch.randn(C, device="cuda").to(dtype)
    passes, ids = torch.arange(T, device="cuda"), torch.arange(B, device="cuda")
    r = rate(p)

    def theirs(x_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return bald_and_entropy(F.linear(F.dropout(x_BD.expand(T, B, D), p, training=True), weight_CD, bias_C))

    compiled = torch.compile(theirs, dynamic=False)
    return Case(
        "head",
        f"T={T} B={B} D={D} C={C} {_short(dtype)}",
        B,
        dtype,
        roofline.Roofline(bytes=dtype.itemsize * (B + C) * D + 12 * B, flops=2 * T * B * D * C),
        lambda: triton_head.dropout_head(x_BD, passes, ids, 0, 0, r, weight_CD, bias_C, ("bald", "entropy"), "softmax"),
        lambda: theirs(x_BD),
        lambda: compiled(x_BD),
    )


def copy_bandwidth() -> float:
    """Bytes per second, read and written together, of a copy of 1 GiB."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / medians(lambda: target.copy_(source))[0]


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOPs per second of a square product, at the precision PyTorch is set to."""
    left, right = (torch.randn(8192, 8192, device="cuda").to(dtype) for _ in range(2))
    return 2 * 8192**3 / medians(lambda: left @ right)[0]


def medians(*calls: Call) -> list[float]:
    """Seconds per call of each, the median of TURNS turns taken in rotation."""
    for call in calls:  # compile, allocate, warm the clocks
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    turns = [[_seconds(call) for call in calls] for _ in range(TURNS)]
    return [statistics.median(times) for times in zip(*turns, strict=True)]


def _seconds(call: Call) -> float:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(QUEUED):
        call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3 / QUEUED


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
