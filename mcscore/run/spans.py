"""How a pool is cut: into spans, which are committed as one, and spans into blocks, which are read and scored as one.

Both are fixed for the life of a run and recorded in it, because what is scored together decides the last bits of a
matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# A kill loses one span at most. 50 of them bound that loss to 2 % of a run; below 256 items the commit (7 ms) would
# show beside a fast model; above 64 Ki there is nothing more to gain.
_SPANS, _SPAN_MIN, _SPAN_MAX = 50, 256, 1 << 16
# Fresh buffers over 32 MiB are 5-8 times slower on glibc (a page fault per 4 KiB).
BLOCK_BYTES = 16 << 20
# Ctrl-C is heeded between blocks: a block is at most this many steps of the model.
_BLOCK_STEPS = 16


@dataclass(frozen=True)
class Span:
    """Items start..stop-1, scored and committed as one unit: chunk ``index`` of every stored score."""

    index: int
    start: int
    stop: int

    @property
    def n(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"span {self.index} (items {self.start}..{self.stop - 1})"


def cut(n: int, size: int) -> list[Span]:
    """The spans of a pool of n items."""
    return [Span(index, start, min(start + size, n)) for index, start in enumerate(range(0, n, size))]


def default_span(n: int, step: int) -> int:
    """Items per span for a pool of n when the model takes ``step`` items at a time: whole steps, at most n."""
    wanted = min(max(n // _SPANS, _SPAN_MIN), _SPAN_MAX)
    return min(n, max(step, wanted // step * step))


def default_block(span: int, step: int, item_bytes: int) -> int:
    """Items per block: whole steps, at most a span."""
    wanted = min(BLOCK_BYTES // item_bytes, _BLOCK_STEPS * step)
    return min(span, max(step, wanted // step * step))


def blocks_of(span: Span, block: int, skip_B: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The (start, stop) of the span's blocks, without those in which every item is skipped; skip_B (span.n,)."""
    edges = [(start, min(start + block, span.stop)) for start in range(span.start, span.stop, block)]
    return [(start, stop) for start, stop in edges if not skip_B[start - span.start : stop - span.start].all()]
