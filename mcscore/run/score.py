"""Scoring a pool in this process: span by span, each committed before the next."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from ..errors import RunError, Stopped
from .identity.pool_watch import PoolWatch
from .journal import Record, Values
from .normalize import own_scorer
from .prefetch import Block, CudaPrefetcher, OnBadChunk, prefetch_blocks
from .run import Run
from .signals import StopRequest, stop_request
from .span_buffer import SpanBuffer, ranges_of
from .start import Job, ScoreOptions, is_run, new_run, next_read, resumed_run, writing

if TYPE_CHECKING:
    from ..pool import Pool
    from ..scorer.scorer import Scorer

Progress = Callable[[int, int], None]

_NAMED = 5  # ids without a score, or ranges of them, that are named at the end; all are in the records


def score_pool(
    pool: Pool,
    scorer: Scorer,
    out: str | Path,
    *,
    span: int | None = None,
    labeled: bool = False,
    on_bad_chunk: OnBadChunk = "raise",
    mixed_hardware: bool = False,
    accept_edited_code: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Score every item of ``pool`` that is neither labeled nor excluded, into the run directory ``out``.

    If ``out`` is a run, it is resumed, as if it had never stopped: on the same hardware the scores are the same to the last
    bit, provided the pool's labels are. What is damaged in it is scored again. If the pool has been appended to, only the
    items that were added are scored.

    Args:
        pool: the items.
        scorer: only looked at: the run uses a copy of it, so that several threads may score pools with the same one. It
            gets the plan of the run if it has none yet.
        out: the run directory; made if it is missing.
        span: items committed as one unit, which is what a kill can cost; default: about 1/50 of the pool or a few seconds
            of one core's work, 256 to 65,536.
        labeled: score and select labeled items too, to look for wrong labels.
        on_bad_chunk: what becomes of items that cannot be read from the pool. "raise": an error names them, and what an
            earlier attempt skipped is tried again. "skip": they get NaN, are listed (``Run.unreadable_ids``) and are never
            selected.
        mixed_hardware: resume a run on hardware, or with an instruction set or numeric modes, that it was not scored with
            so far. The last bits of scores then differ between spans; every record says which hardware it is from.
        accept_edited_code: resume a run though the model's or the transform's code, or a value it refers to, was edited since.
            Spans that are done keep the scores of the former code; every record says which code it is from.
        progress: called as progress(items done, items in the pool) before the first block and after every one.

    Returns:
        The run; it remembers pool and scorer for ``select``.

    Raises:
        RunError: ``out`` is something else, or a run of another pool, model, seed, ... (the field is named) or hardware; it
            is being written by another process; the model failed on a block (named); a chunk of the pool cannot be read
            (chunk, file and items are named); the disk is full. What was committed stays.
        ChunkError: a file of the pool is missing. Nothing is written then.
        Stopped: SIGINT, SIGTERM or SIGHUP came; what was committed stays.
        Exception: what ``Scorer.prepare`` raises for a model that cannot be scored. Nothing is on disk then.

    Example:
        >>> import tempfile, numpy, torch
        >>> from mcscore import Pool, Scorer, score_pool
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pool = Pool.create(f"{folder}/pool", numpy.random.default_rng(0).random((20, 4), numpy.float32))
        ...     run = score_pool(pool, Scorer(model, passes=10), f"{folder}/run")
        ...     run.complete, run.scores("bald").shape, len(run.select(3, diversity="none"))
        (True, (20,), 3)
    """
    path = Path(out).absolute()  # the model, or another thread, may change the working directory
    if span is not None and span < 1:
        raise RunError(f"span must be at least 1 item, got {span}")
    if on_bad_chunk not in get_args(OnBadChunk):
        raise RunError(f"on_bad_chunk must be one of {', '.join(get_args(OnBadChunk))}, not {on_bad_chunk!r}")
    if on_bad_chunk == "raise":
        pool.check_files()  # a missing file is found now, and not when the job comes to it in days
    own = own_scorer(scorer, pool)
    options = ScoreOptions(span, labeled, on_bad_chunk, mixed_hardware, accept_edited_code)
    with stop_request() as stop:
        begin = resumed_run if is_run(path) else new_run
        with begin(path, pool, own, options) as job:
            committed = _score(job, pool, own, stop, progress or (lambda _done, _total: None))
            if stop.made:
                raise Stopped(path, sum(record.span.n for record in committed), pool.n)
            with writing(f"the records of {path} could not be packed into one file, but all are there"):
                job.journal.pack(committed)
    scorer.adopt(own)
    run = Run(job.journal, committed, pool=pool, scorer=scorer)
    _warn_of_unscored(run)
    return run


def _score(job: Job, pool: Pool, scorer: Scorer, stop: StopRequest, progress: Progress) -> list[Record]:
    """Score and commit the tasks, until all are or a stop is asked for. Returns all records, by span."""
    journal, retry = job.journal, job.options.retry
    committed = {record.span.index: record for record in job.committed}
    done = sum(record.span.n for record in job.committed)
    progress(done, pool.n)
    copier = CudaPrefetcher(scorer.device) if scorer.device.startswith("cuda") else None
    blocks = prefetch_blocks(pool, job.tasks, job.skipped, journal.header.block_items, job.options.on_bad_chunk, copier)
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


def _warn_of_unscored(run: Run) -> None:
    if len(ids := run.nonfinite_ids):
        named = ", ".join(map(str, ids[:_NAMED].tolist())) + (", ..." if len(ids) > _NAMED else "")
        warnings.warn(
            f"{len(ids):,} of {run.n:,} items have no finite score (ids {named}): the model gave NaN or infinity. "
            "They will not be selected",
            stacklevel=3,
        )
    if len(ids := run.unreadable_ids):
        ranges = [f"{start}..{stop - 1}" for start, stop in ranges_of(ids)]
        named = ", ".join(ranges[:_NAMED]) + (", ..." if len(ranges) > _NAMED else "")
        warnings.warn(
            f"{len(ids):,} of {run.n:,} items could not be read from the pool (ids {named}) and have no score. "
            "They will not be selected. When the pool is whole again, on_bad_chunk='raise' scores them",
            stacklevel=3,
        )
