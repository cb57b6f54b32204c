"""The loop of scoring: block by block, each span committed before the next.

On a device that works beside the host a block is launched before the scores of the one before are taken: the device scores
on while the host waits for those, commits their span and reads. An error keeps its place in the order of blocks.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RunError
from .identity.pool_watch import PoolWatch
from .journal import Record, Values
from .prefetch import Block, prefetch_blocks
from .signals import StopRequest
from .span_buffer import SpanBuffer
from .start import Job, next_read, writing
from .transfer import CudaTransfer, Scores, Transfer

if TYPE_CHECKING:
    from ..pool import Pool
    from ..scorer.scorer import Scorer

Progress = Callable[[int, int], None]
Dtypes = Mapping[str, np.dtype[Any]]


def score_tasks(job: Job, pool: Pool, scorer: Scorer, stop: StopRequest, progress: Progress) -> list[Record]:
    """Score and commit the tasks, until all are or a stop is asked for. Returns all records, by span."""
    journal, retry = job.journal, job.options.retry
    committed = {record.span.index: record for record in job.committed}
    done = sum(record.span.n for record in job.committed)
    progress(done, pool.n)
    transfer = CudaTransfer(scorer.device) if scorer.device.startswith("cuda") else Transfer()
    blocks = prefetch_blocks(
        pool,
        job.tasks,
        job.skipped,
        journal.header.block_items,
        job.options.on_bad_chunk,
        transfer,
        fill=journal.header.screened,
    )
    dtypes = {name: journal.empty(name, 0).dtype for name in journal.rows}
    buffer: SpanBuffer | None = None
    watch, scored = PoolWatch(pool, journal.header.pool), False
    begin = time.perf_counter()
    with contextlib.closing(blocks):
        in_flight = late(_launched(blocks, scorer, dtypes, transfer, stop), transfer.behind)
        while True:
            so_far = f"{done:,} of {pool.n:,} items are done; score into the same directory to resume"
            if (flying := next_read(in_flight, so_far)) is None:
                break
            block = flying[0].block
            task, span = block.task, block.task.span
            buffer = buffer or SpanBuffer(journal, task, retry)
            buffer.add_unreadable(block.unreadable)
            if len(block.ids):
                buffer.add_scores(block.ids, _scores_of(flying, journal.path, so_far))
            reached = done + max(0, block.stop - span.start - task.held_n)
            if block.last:
                watch.require_same(f"{span} is not committed. {so_far}")
                end = time.perf_counter()
                facts = buffer.facts(end - begin) | job.conditions_of(flying[0].plan)
                with writing(f"{span} of {journal.path} could not be written. {so_far}"):
                    committed[span.index] = journal.commit(span, buffer.values, held=task.held, **facts)
                # A commit counts to the next span, which a device scores meanwhile.
                buffer, begin, done, scored = None, end, reached, True
            progress(reached, pool.n)
            del flying, block  # the memory of the block is used again
    if scored:
        watch.require_same(
            f"what this attempt committed to {journal.path} may be of either: score into another directory", wholly=True
        )
    return [committed[index] for index in sorted(committed)]


@dataclass(frozen=True)
class Launched:
    """A block that was given to the scorer.

    Attributes:
        block: the block.
        scores: on their way; of none of the items if ``failure`` is set.
        plan: of the scorer when the last block of a span was launched: the next one may halve it.
        failure: what the scorer raised.
    """

    block: Block
    scores: Scores
    plan: Mapping[str, Any] = field(default_factory=dict)
    failure: Exception | None = None


def _launched(
    blocks: Iterator[Block], scorer: Scorer, dtypes: Dtypes, transfer: Transfer, stop: StopRequest
) -> Iterator[Launched]:
    """Launch block by block, until a stop is asked for or one fails."""
    while not stop.made and (block := next(blocks, None)) is not None:
        scores = Scores({}, lambda: None)
        try:
            if len(block.ids):
                scores = _launch(scorer, block, dtypes, transfer)
        except Exception as error:
            yield Launched(block, scores, failure=error)
            return
        yield Launched(block, scores, scorer.recorded_plan if block.last else {})


def _launch(scorer: Scorer, block: Block, dtypes: Dtypes, transfer: Transfer) -> Scores:
    """Give a block to the scorer. ValueError if what it returns has another shape or dtype."""
    items, ids = block.inputs
    given = scorer(items, ids)
    scores = transfer.download({name: given[name] for name in dtypes})
    for name, column in scores.columns.items():
        if column.shape != block.ids.shape or column.dtype != dtypes[name]:
            raise ValueError(
                f"the scorer gave {name} as {column.dtype} {column.shape}, not {dtypes[name]} {block.ids.shape}"
            )
    return scores


def late(launched: Iterator[Launched], behind: int) -> Iterator[tuple[Launched, ...]]:
    """Yield each element once ``behind`` more are launched, together with those; then those that are left.

    An exception comes at its place in the order: after the elements before it.
    """
    waiting: deque[Launched] = deque()
    try:
        for each in launched:
            waiting.append(each)
            if len(waiting) > behind:
                yield (waiting.popleft(), *waiting)
    except Exception:
        yield from _rest(waiting)
        raise
    yield from _rest(waiting)


def _rest(waiting: deque[Launched]) -> Iterator[tuple[Launched, ...]]:
    while waiting:
        yield (waiting.popleft(), *waiting)


def _scores_of(flying: tuple[Launched, ...], run: Path, so_far: str) -> dict[str, Values]:
    """Wait for the scores of the first block in flight. RunError if it, or one launched since, could not be scored."""
    first, last = flying[0].block, [each.block for each in flying if len(each.block.ids)][-1]
    try:
        if flying[0].failure is not None:
            raise flying[0].failure
        flying[0].scores.wait()
        return flying[0].scores.columns
    except Exception as error:
        # A device reports an error late, and then for all that is queued: any block in flight may be the one.
        spans = dict.fromkeys(str(block.task.span) for block in (first, last))
        raise RunError(
            f"items {first.ids[0]}..{last.ids[-1]} in {' or '.join(spans)} of {run} could not be scored: "
            f"{type(error).__name__}: {error}. {so_far}"
        ) from error
