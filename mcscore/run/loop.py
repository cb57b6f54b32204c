"""The loop of scoring: block by block, each span committed before the next."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import RunError
from .identity.pool_watch import PoolWatch
from .journal import Record, Values
from .prefetch import Block, CudaPrefetcher, prefetch_blocks
from .signals import StopRequest
from .span_buffer import SpanBuffer
from .start import Job, next_read, writing

if TYPE_CHECKING:
    from ..pool import Pool
    from ..scorer.scorer import Scorer

Progress = Callable[[int, int], None]


def score_tasks(job: Job, pool: Pool, scorer: Scorer, stop: StopRequest, progress: Progress) -> list[Record]:
    """Score and commit the tasks, until all are or a stop is asked for. Returns all records, by span."""
    journal, retry = job.journal, job.options.retry
    committed = {record.span.index: record for record in job.committed}
    done = sum(record.span.n for record in job.committed)
    progress(done, pool.n)
    copier = CudaPrefetcher(scorer.device) if scorer.device.startswith("cuda") else None
    blocks = prefetch_blocks(
        pool,
        job.tasks,
        job.skipped,
        journal.header.block_items,
        job.options.on_bad_chunk,
        copier,
        fill=journal.header.screened,
    )
    buffer: SpanBuffer | None = None
    watch, scored = PoolWatch(pool, journal.header.pool), False
    begin = time.perf_counter()
    with contextlib.closing(blocks):
        while not stop.made:
            so_far = f"{done:,} of {pool.n:,} items are done; score into the same directory to resume"
            if (block := next_read(blocks, so_far)) is None:
                break
            task, span = block.task, block.task.span
            buffer = buffer or SpanBuffer(journal, task, retry)
            buffer.add_unreadable(block.unreadable)
            if len(block.ids):
                buffer.add_scores(block.ids, _scores_of(scorer, block, buffer.values, journal.path, so_far))
            if not block.last:
                progress(done + max(0, block.stop - span.start - task.held_n), pool.n)
                continue
            watch.require_same(f"{span} is not committed. {so_far}")
            facts = buffer.facts(time.perf_counter() - begin) | job.conditions_of(scorer.recorded_plan)
            with writing(f"{span} of {journal.path} could not be written. {so_far}"):
                committed[span.index] = journal.commit(span, buffer.values, held=task.held, **facts)
            buffer, begin, scored = None, time.perf_counter(), True
            done += span.n - task.held_n
            progress(done, pool.n)
    if scored:
        watch.require_same(
            f"what this attempt committed to {journal.path} may be of either: score into another directory", wholly=True
        )
    return [committed[index] for index in sorted(committed)]


def _scores_of(scorer: Scorer, block: Block, like: Mapping[str, Values], run: Path, so_far: str) -> dict[str, Values]:
    """The scores of a block, as arrays of the names and dtypes of ``like``; RunError if the scorer fails."""
    ids = block.ids
    try:
        return _score_block(scorer, block.items, ids, like)
    except Exception as error:
        raise RunError(
            f"items {ids[0]}..{ids[-1]} in {block.task.span} of {run} could not be scored: "
            f"{type(error).__name__}: {error}. {so_far}"
        ) from error


def _score_block(
    scorer: Scorer, items: npt.NDArray[Any], ids: npt.NDArray[np.int64], like: Mapping[str, Values]
) -> dict[str, Values]:
    scores = scorer(items, ids)
    columns = {}
    for name, expected in like.items():
        column = columns[name] = scores[name].detach().cpu().numpy()
        if column.shape != ids.shape or column.dtype != expected.dtype:
            raise ValueError(
                f"the scorer gave {name} as {column.dtype} {column.shape}, not {expected.dtype} {ids.shape}"
            )
    return columns
