"""The items of a run, block by block: read ahead, without those that are not wanted, on the scorer's device.

One thread reads, drops what is not wanted and starts the copy to the device, while others are scored. Memory is that of four
blocks, whatever the pool.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..spans import blocks_of
from .task import Flags, LiveTasks, OnBadChunk, SpanTask
from .transfer import Transfer

if TYPE_CHECKING:
    from ...pool import Batch, Pool
    from ...store.buffers import Buffers


@dataclass(frozen=True)
class Block:
    """The next items of a span; none of them where there is nothing to score.

    Attributes:
        task: the span; None: of a block that only says that the next one may be long in coming.
        stop: the items of the span up to here are in this block, in one before, or skipped.
        ids: (n,) int64.
        items: (n, *item_shape), on the host; kept while they are copied from there.
        unreadable: ids of items that could not be read.
        inputs: items and ids as the scorer takes them.
    """

    task: SpanTask | None
    stop: int
    ids: npt.NDArray[np.int64]
    items: npt.NDArray[Any]
    unreadable: npt.NDArray[np.int64]
    inputs: Any = None

    @property
    def last(self) -> bool:
        """Whether the span ends with this block."""
        return self.task is not None and self.stop == self.task.span.stop


def prefetch_blocks(
    pool: Pool,
    tasks: Iterable[SpanTask | None] | LiveTasks,
    block_items: int,
    on_bad_chunk: OnBadChunk,
    transfer: Transfer,
    fill: bool = False,
) -> Generator[Block, None, None]:
    """Yield the blocks of the tasks in order, at least one per task, and one of no task for a None.

    fill: put together what is kept of several blocks, up to block_items; for tasks of which most items are skipped.

    Raises:
        PoolError: a chunk cannot be read; raised at its place in the order.
    """
    from ...store.read_ahead import read_ahead

    blocks: Iterator[Block] = _read(pool, tasks, block_items, on_bad_chunk, transfer)
    if fill:
        blocks = _filled(blocks, block_items, transfer)
    uploaded = (replace(block, inputs=transfer.upload(block.items, block.ids)) for block in blocks)
    with contextlib.closing(read_ahead(uploaded, transfer.ahead)) as ahead:
        for block in ahead:
            yield replace(block, inputs=transfer.arrived(block.inputs))


def _read(
    pool: Pool,
    tasks: Iterable[SpanTask | None] | LiveTasks,
    block_items: int,
    on_bad_chunk: OnBadChunk,
    transfer: Transfer,
) -> Generator[Block, None, None]:
    planned: deque[tuple[SpanTask | None, int, Flags]] = deque()  # with the flags of what is wanted of the range

    def ranges() -> Iterator[tuple[int, int]]:
        # A range of no items brings a task with nothing to read, or a None, through at once: the next task may be long in coming.
        for task in tasks:
            if task is None:
                planned.append((None, 0, np.empty(0, bool)))
                yield 0, 0
                continue
            span = task.span
            blocks = blocks_of(span, block_items, ~task.wanted) or [(span.stop, span.stop)]
            for start, stop in blocks:
                last = (start, stop) == blocks[-1]
                planned.append((task, span.stop if last else stop, task.wanted[start - span.start : stop - span.start]))
                yield start, stop

    with contextlib.closing(pool.blocks(ranges(), 0, on_bad_chunk, transfer.allocate)) as batches:
        for batch in batches:
            task, stop, wanted = planned.popleft()
            keep = readable(batch, wanted)
            yield Block(task, stop, batch.ids[keep], _kept(batch.items, keep), batch.ids[wanted & ~keep])


def _filled(blocks: Iterator[Block], block_items: int, transfer: Transfer) -> Iterator[Block]:
    """The same items in blocks of up to ``block_items``: every block but the last of a task is as full as it can be."""
    from ...store.buffers import Buffers

    buffers = Buffers(transfer.allocate)
    waiting: list[Block] = []
    for block in blocks:
        if waiting and sum(len(each.ids) for each in waiting) + len(block.ids) > block_items:
            yield _joined(waiting, buffers)
            waiting = []
        if block.task is None:
            yield block
            continue
        # A copy: a block's items are a part of the memory of all that were read with them.
        waiting.append(replace(block, items=block.items.copy()))
        if block.last:
            yield _joined(waiting, buffers)
            waiting = []


def _joined(blocks: list[Block], buffers: Buffers) -> Block:
    ids, unreadable = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("ids", "unreadable"))
    parts = [block.items for block in blocks]
    items = buffers.lend((len(ids), *parts[0].shape[1:]), parts[0].dtype)
    return replace(blocks[-1], ids=ids, items=np.concatenate(parts, out=items), unreadable=unreadable)


def readable(batch: Batch, wanted: Flags) -> Flags:
    """``wanted`` without the items of the batch that could not be read."""
    keep = wanted.copy()
    for error in batch.bad:
        keep[error.start - batch.ids[0] : error.stop - batch.ids[0]] = False
    return keep


def _kept(items: npt.NDArray[Any], keep: Flags) -> npt.NDArray[Any]:
    """items[keep], moved together in place: the memory may be page-locked."""
    if keep.all():
        return items
    count = int(keep.sum())
    items[:count] = items[keep]
    return items[:count]
