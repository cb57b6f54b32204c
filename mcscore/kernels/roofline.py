"""How fast a kernel could be: the bytes and FLOPs that each operation needs at least, and the time they take at most.

A kernel's share of the roof is the time its bytes take at copy bandwidth or its FLOPs at the rate of a matrix product,
whichever is longer, over the time it took. Ceilings are measured (``mcscore.bench.measure``), not looked up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import jackknife


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at most: bytes and floating-point operations per second."""

    copy: float  # bytes per second, those read and those written added up, of a copy far larger than the caches
    matmul: float  # FLOPs per second of a matrix product


@dataclass(frozen=True)
class Roofline:
    """The least work of one call: ``bytes`` from and to main memory (each value once), ``flops`` of arithmetic."""

    bytes: int
    flops: int

    def seconds(self, ceilings: Ceilings) -> float:
        """The least time on a machine with these ceilings."""
        return max(self.bytes / ceilings.copy, self.flops / ceilings.matmul)

    def percent(self, seconds: float, ceilings: Ceilings) -> float:
        """100 = as fast as the ceilings allow. Data that stays in cache can exceed it."""
        return 100.0 * self.seconds(ceilings) / seconds


def score_logits(T: int, B: int, C: int, dtype: torch.dtype, results: int = 3, errors: bool = False) -> Roofline:
    """Softmax scores of (T, B, C) logits: each read once, ``results`` 4-byte values written per item.

    Per logit 8 operations: maximum, difference, exp (counted as one), Σe, Σe·z and Σp (a multiply-add each). With errors, ``results``
    counts them too, and per class and group of passes there are 16 more: x (a multiply-add), d, Σd, four multiply-adds of a polynomial
    and two for the entropy. The sums of the groups stay in cache.
    """
    groups = len(jackknife.groups(T)) if errors else 0
    return Roofline(bytes=T * B * C * dtype.itemsize + 4 * B * results, flops=(8 * T + 16 * groups) * B * C)


def moments(t: int, B: int, C: int, dtype: torch.dtype) -> Roofline:
    """T passes of (t, B, C) logits into the float64 sums of p (B, C) and h (B,), which are read and written once."""
    return Roofline(bytes=t * B * C * dtype.itemsize + 16 * B * (C + 1), flops=8 * t * B * C)


def dropout(t: int, B: int, E: int, I: int, dtype: torch.dtype, copies: int = 1) -> Roofline:
    """Dropout of x (copies, B, E, I) in t passes: x read once, y written once; one multiply-add per value of y."""
    return Roofline(bytes=(copies + t) * B * E * I * dtype.itemsize, flops=2 * t * B * E * I)


def draw(t: int, B: int, E: int, dtype: torch.dtype, law: str) -> Roofline:
    """Random numbers (t, B, E), each written once. Philox is integer arithmetic and counts none.

    Per uniform number 1 operation, the scaling. Per pair of normal ones 25: w0 + 1 and its scaling, logarithm and root (counted as
    one each), times -2, angle and its square, polynomials of sine (7) and cosine (9), and two products.
    """
    numbers = t * B * E
    return Roofline(bytes=numbers * dtype.itemsize, flops=numbers if law == "uniform" else 25 * numbers // 2)


def dropout_linear(t: int, B: int, D: int, C: int, copies: int = 1, dtype: torch.dtype = torch.float32) -> Roofline:
    """Dropout and Linear D -> C in t passes: features, weights and outputs once each; t matrix products."""
    return Roofline(bytes=dtype.itemsize * (copies * B * D + C * D + t * B * C), flops=2 * t * B * D * C)


def dropout_head(t: int, B: int, D: int, C: int, results: int = 3, dtype: torch.dtype = torch.float32) -> Roofline:
    """``dropout_linear`` whose outputs are reduced to ``results`` 4-byte values per item and never written."""
    return Roofline(bytes=dtype.itemsize * (B * D + C * D) + 4 * B * results, flops=2 * t * B * D * C)


def top_k(n: int) -> Roofline:
    """The k best of n float32 scores: each read once (ids only of the few that pass) and compared with a threshold."""
    return Roofline(bytes=4 * n, flops=n)
