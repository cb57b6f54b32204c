"""How a pool is cut: into spans, which are committed as one, and spans into blocks, which are read and scored as one.

Both are fixed for the life of a run and recorded in it, because what is scored together decides the last bits of a
matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# A kill loses one span at most: 50 spans bound that loss to 2 % of a run; beyond 64 Ki items nothing is gained. But a span
# must be some seconds of work, or its commit (7 to 30 ms) shows: 50 commits were half the time of a cheap model on 20,000
# small images.
_SPANS, _SPAN_MIN, _SPAN_MAX, _SPAN_SECONDS = 50, 256, 1 << 16, 2.0
# What one core does in a second, roughly: a span must not depend on what else the machine did while it was measured.
_FLOPS, _BYTES = 5e10, 1e9
# Fresh buffers over 32 MiB are 5-8 times slower on glibc (a page fault per 4 KiB).
BLOCK_BYTES = 16 << 20
# Ctrl-C is seen between blocks: a block is at most this many steps of the model.
_BLOCK_STEPS = 16
# The last step of a span is half full on average: where few items are seen, a span holds this many steps of them.
_FULL_STEPS = 4


@dataclass(frozen=True)
class Span:
    """Items start..stop-1, scored and committed as one unit: shard ``index`` of the stored scores."""

    index: int
    start: int
    stop: int

    @property
    def n(self) -> int:
        """How many items."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"span {self.index} (items {self.start}..{self.stop - 1})"


def cut(n: int, size: int) -> list[Span]:
    """The spans of a pool of n items."""
    return [Span(index, start, min(start + size, n)) for index, start in enumerate(range(0, n, size))]


def default_span(n: int, step: int, flops: float, item_bytes: int, share: float = 1.0) -> int:
    """Items per span: whole steps of the model, at most n.

    Args:
        n: items in the pool.
        step: items that the model takes at a time.
        flops: of all passes of one item.
        item_bytes: of one item in the pool.
        share: of the items, that the model is expected to see.
    """
    worth = int(_SPAN_SECONDS / (share * flops / _FLOPS + item_bytes / _BYTES))
    full = int(_FULL_STEPS * step / share) if share < 1 else 0
    wanted = min(max(n // _SPANS, _SPAN_MIN, worth, full), _SPAN_MAX)
    return min(n, max(step, wanted // step * step))


def default_block(span: int, step: int, item_bytes: int) -> int:
    """Items per block: whole steps, at most a span."""
    wanted = min(BLOCK_BYTES // item_bytes, _BLOCK_STEPS * step)
    return min(span, max(step, wanted // step * step))


def blocks_of(span: Span, block: int, skip_B: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The (start, stop) of the span's blocks, without those in which every item is skipped; skip_B (span.n,)."""
    edges = [(start, min(start + block, span.stop)) for start in range(span.start, span.stop, block)]
    return [(start, stop) for start, stop in edges if not skip_B[start - span.start : stop - span.start].all()]
