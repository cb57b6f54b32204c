"""How the classes of a row are spread over the threads of a program.

A thread holds 32 values of a row and 32 of p̄, 80-128 registers and no spill; with mean_std, variation_ratio or
likelihood bernoulli, where more is alive at once, 16. So an item takes C / 32 threads: several items share a warp up to
C = 512, one warp per item at 1024 (10 instructions per bfloat16 logit and pass on sm_90), 16 warps at 16384 (11.5).
Beyond 16 warps a row no longer fits: ``score_wide`` reads the logits twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton

from .tile import NEEDS_STD, NEEDS_VOTES

MOST_VALUES = 32  # of a row, that a thread holds beside as many sums
_MAX_WARPS = 16  # 512 threads may hold 128 registers each; 1024 only 64, and then 32 values and their sums spill


@dataclass(frozen=True)
class Tiling:
    """How rows of C classes are spread over threads: see ``tile``."""

    items: int  # per program
    chunk: int  # neighboring classes of one piece
    chunks: int  # pieces
    threads: int  # per item
    warps: int

    @property
    def meta(self) -> dict[str, int]:
        """The compile-time arguments of a kernel that reads rows."""
        return {"ITEMS": self.items, **self.pieces}

    @property
    def pieces(self) -> dict[str, int]:
        """Those of a kernel with one item per program."""
        return {"CHUNK": self.chunk, "CHUNKS": self.chunks, "SHARES": self.threads}


def values_per_thread(want: int, softmax: bool) -> int:
    """Values of a row that a thread can hold, with all the C-wide sums that go with them, and not spill."""
    return MOST_VALUES if softmax and not want & (NEEDS_STD.value | NEEDS_VOTES.value) else 16


def tiling(C: int, vector: int, values: int) -> Tiling | None:
    """The tiling for rows of C classes, loads of ``vector`` values, ``values`` held per thread; None if C is too large."""
    block = triton.next_power_of_2(C)
    vector = min(vector, block)
    threads = max(1, min(block // values, block // vector))  # per item
    if threads > 32 * _MAX_WARPS:
        return None
    chunk = vector * threads
    return Tiling(max(1, 32 // threads), chunk, block // chunk, threads, warps=max(1, threads // 32))
