"""What standard errors cost beside the scores alone, and whether they are right, on a GPU: part of ``benchmarks.gpu``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcscore.bench.clock import Clock, in_turns
from mcscore.jackknife import oracle_errors
from mcscore.masks import MaskSpec, rate

SCORES = ("bald", "entropy")
TOLERANCE = 2e-5  # nats
# T, B, C, D: logits if D = 0, else a head. By their instructions 4.4, 3, 1.25 and 1.2 times the scores alone.
CASES = ((20, 8192, 1000, 0), (100, 100000, 10, 0), (20, 65536, 10, 512), (100, 16384, 100, 2048))
_CHECKED = 100  # items


@dataclass(frozen=True)
class ErrorsRow:
    """The results of one case."""

    case: str
    scores_s: float  # seconds per call, scores alone
    errors_s: float  # with errors
    error: float  # greatest of the standard errors and biases of some items, against float64, in nats
    same_bits: bool  # of the scores, without and with errors

    @property
    def right(self) -> bool:
        return self.same_bits and self.error <= TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "right": self.right}


def measure(T: int, B: int, C: int, D: int, clock: Clock, device: torch.device, seconds: float = 0.3) -> ErrorsRow:
    """Time both calls in turns, on bfloat16 operands. Logits are more than the caches hold."""
    call, logits_TnC = _head(T, B, C, D, device) if D else _logits(T, B, C, device)
    plain, found = call(False), call(True)
    truth = oracle_errors(logits_TnC, SCORES)
    error = max(float((found[name][: logits_TnC.shape[1]] - expected).abs().max()) for name, expected in truth.items())
    same = all(torch.equal(values, found[name]) for name, values in plain.items())
    alone, both = in_turns([lambda: call(False), lambda: call(True)], clock, seconds)
    return ErrorsRow(f"T{T}xB{B}xC{C}" + (f"xD{D}" if D else ""), alone, both, error, same)


def _logits(T: int, B: int, C: int, device: torch.device) -> tuple[Callable[[bool], dict[str, Tensor]], Tensor]:
    from mcscore.kernels.triton import score  # here, as triton need not be installed where this module is imported

    x = (torch.randn(T, B, C, device=device) * 3).to(torch.bfloat16)
    return lambda errors: score.score(x, SCORES, "categorical", errors), x[:, :_CHECKED]


def _head(T: int, B: int, C: int, D: int, device: torch.device) -> tuple[Callable[[bool], dict[str, Tensor]], Tensor]:
    """The truth is of the logits that the kernel itself keeps: what bfloat16 makes of the product is another test's."""
    from mcscore.kernels.triton import head

    x, weight = (torch.randn(n, D, device=device).to(torch.bfloat16) for n in (B, C))
    weight /= D**0.5
    spec = MaskSpec(0, 0, torch.arange(T, device=device), torch.arange(B, device=device), rate(0.5))
    some = slice(0, min(B, _CHECKED))
    kept_TBK = torch.empty(T, some.stop, head.block_columns(C), device=device)
    head.plan_head(x[some], spec.part(items=some), weight, None, SCORES, "categorical", kept_TBK)[0][0].run()
    return (
        lambda errors: head.dropout_head(x, spec, weight, None, SCORES, "categorical", errors),
        kept_TBK[:, :, :C],
    )


def markdown(rows: list[ErrorsRow]) -> list[str]:
    """The table of the report."""
    lines = [
        "",
        "## standard errors",
        "",
        "| bfloat16 | scores, ms | with errors, ms | ratio | error, nat |  |",
        "| --- " * 6 + "|",
    ]
    for row in rows:
        verdict = "" if row.right else "WRONG" if row.same_bits else "WRONG: other scores"
        ratio = row.errors_s / row.scores_s
        lines.append(
            f"| {row.case} | {row.scores_s * 1e3:.3g} | {row.errors_s * 1e3:.3g} | {ratio:.2f} | {row.error:.1e} | {verdict} |"
        )
    return lines
