"""How a pool is cut: into spans, which are committed as one, and spans into blocks, which are read and scored as one.

Both are fixed for the life of a run and recorded in it, because what is scored together decides the last bits of a
matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..simulate import COMMIT_SECONDS, SPANS_OF_A_WORKER, seconds_between_commits

# A kill loses one span at most: 50 spans bound that loss to 2 % of a run. But a span must be some seconds of work, or its
# commit (7 to 30 ms) shows: 50 commits were half the time of a cheap model on 20,000 small images.
_SPANS, _SPAN_MIN, _SPAN_SECONDS = 50, 256, 2.0
_BLOCKS, _BLOCK_MIN = 64, 16  # blocks of a pool at least, which workers can share, at 1 to 2 ms each; items of one
# Fresh buffers over 32 MiB are 5-8 times slower on glibc (a page fault per 4 KiB).
BLOCK_BYTES = 16 << 20
# The last step of a span is half full on average: where few items are seen, a span holds this many steps of them.
_FULL_STEPS = 4


@dataclass(frozen=True)
class Speed:
    """What a kind of device does in a second, roughly: a cut must not depend on what else the machine did meanwhile.

    Attributes:
        flops, bytes: computed and read in a second.
        span_max: items of a span beyond which nothing is gained.
        block_bytes, block_steps, block_seconds: bytes of items, steps of the model and time of work in a block at most, where
            it holds several steps. Ctrl-C is seen between blocks.
    """

    flops: float
    bytes: float
    span_max: int
    block_bytes: int
    block_steps: int
    block_seconds: float

    def items_in(self, seconds: float, flops: float, item_bytes: int) -> float:
        """How many items are scored in that time, if all passes of one take ``flops``."""
        return seconds / (flops / self.flops + item_bytes / self.bytes)


CPU = Speed(flops=5e10, bytes=1e9, span_max=1 << 16, block_bytes=BLOCK_BYTES, block_steps=16, block_seconds=math.inf)
# An H100 in bf16, at its best: convolutions and small models reach a third to a tenth of that, so a block of 20 ms is 60 to
# 200 ms of work, beside 1 to 3 ms of the host's. Four blocks lie in page-locked memory: 256 MiB, or four steps if those are
# larger (891 photos of 224 x 224, a step of ResNet-50's head on such a card, are 128 MiB).
CUDA = Speed(flops=4e14, bytes=5e9, span_max=1 << 20, block_bytes=64 << 20, block_steps=64, block_seconds=0.02)


def speed_of(device: str) -> Speed:
    """The speed of a device of PyTorch ("cpu", "cuda:0")."""
    return CUDA if device.startswith("cuda") else CPU


@dataclass(frozen=True, slots=True)  # a run may have millions
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


def default_span(
    n: int,
    step: int,
    flops: float,
    item_bytes: int,
    share: float = 1.0,
    speed: Speed = CPU,
    workers: int = 1,
    driver: bool = True,
) -> int:
    """Items per span: whole steps of the model, at most n.

    Args:
        n: items in the pool.
        step: items that the model takes at a time.
        flops: of all passes of one item.
        item_bytes: of one item in the pool.
        share: of the items, that the model is expected to see.
        speed: of the device.
        workers: that score at the same time.
        driver: whether one process commits the spans of all workers; else each commits its own.
    """
    if workers == 1:
        spans, seconds = _SPANS, _SPAN_SECONDS
    else:
        spans, seconds = SPANS_OF_A_WORKER * workers, seconds_between_commits(workers, COMMIT_SECONDS, driver)
    worth = int(speed.items_in(seconds, share * flops, item_bytes))
    full = int(_FULL_STEPS * step / share) if share < 1 else 0
    most = speed.span_max if workers == 1 else max(speed.span_max, worth)
    wanted = min(max(n // spans, _SPAN_MIN, worth, full), most)
    return min(n, max(step, wanted // step * step))


def default_block(span: int, step: int, flops: float, item_bytes: int, speed: Speed = CPU) -> int:
    """Items per block: whole steps, at most a span. The arguments are those of ``default_span``."""
    wanted = min(
        speed.block_bytes // item_bytes,
        speed.block_steps * step,
        speed.items_in(speed.block_seconds, flops, item_bytes),
    )
    return min(span, max(step, int(wanted) // step * step))


def default_cut(
    n: int,
    step: int,
    flops: float,
    item_bytes: int,
    share: float = 1.0,
    speed: Speed = CPU,
    workers: int = 1,
    driver: bool = True,
) -> tuple[int, int]:
    """Items per span and per block. The arguments are those of ``default_span``.

    The block does not depend on the number of workers, and a span is whole blocks. So the same items are scored together by any number
    of workers, and their scores are the same to the last bit.
    """
    block = default_block(max(step, n // _BLOCKS, _BLOCK_MIN), step, flops, item_bytes, speed)
    span = default_span(n, step, flops, item_bytes, share, speed, workers, driver)
    return min(n, max(block, span // block * block)), block


def blocks_of(span: Span, block: int, skip_B: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The (start, stop) of the span's blocks, without those in which every item is skipped; skip_B (span.n,)."""
    edges = [(start, min(start + block, span.stop)) for start in range(span.start, span.stop, block)]
    return [(start, stop) for start, stop in edges if not skip_B[start - span.start : stop - span.start].all()]


def ranges_of(ids: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ascending ids as (start, stop) of those that follow each other."""
    if not len(ids):
        return []
    cuts = np.flatnonzero(np.diff(ids) > 1) + 1
    firsts, lasts = ids[np.r_[0, cuts]], ids[np.r_[cuts - 1, -1]]
    return list(zip(firsts.tolist(), (lasts + 1).tolist(), strict=True))
