"""The loop of a run that one process commits: spans come from an engine, in any order, and each is committed at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import RunError
from ..progress import Progress
from ..store.files import AnyPath
from .identity.pool_watch import PoolWatch
from .scoring.task import Engine, SpanError, SpanScores, SpanTask
from .signals import StopRequest
from .spans import Span
from .start import Job, not_readable, writing
from .tasks import with_held

if TYPE_CHECKING:
    from ..pool import Pool


def score_tasks(job: Job, pool: Pool, engine: Engine, stop: StopRequest, progress: Progress) -> Job:
    """Score and commit the tasks of a job, until all are or a stop is asked for. Returns the job with what is committed, by span."""
    journal, retry = job.journal, job.options.retry
    committed = {record.span.index: record for record in job.committed}
    tasks = {task.span.index: task for task in job.tasks}
    done, moving = sum(record.span.n for record in job.committed), dict[int, int]()
    progress(done, pool.n)
    if not tasks:
        return job

    def moved(span: Span, stop: int) -> None:
        moving[span.index] = max(0, stop - span.start - tasks[span.index].held_n)
        progress(done + sum(moving.values()), pool.n)

    watch, scored = PoolWatch(pool, journal.header.pool), False
    wanted = (
        SpanTask(task.span, ~(task.settled | job.skipped[task.span.start : task.span.stop])) for task in job.tasks
    )
    results = engine.score(wanted, job.reading, job.admission, lambda: stop.made, moved)
    with contextlib.closing(results):  # type: ignore[type-var]  # all engines' are generators
        while True:
            so_far = f"{done:,} of {pool.n:,} items are done; score into the same directory to resume"
            if (given := next_scores(results, journal.path, so_far)) is None:
                break
            span, task = given.span, tasks[given.span.index]
            watch.require_same(f"{span} is not committed. {so_far}")
            job.require_lock()
            with writing(f"{span} of {journal.path} could not be written. {so_far}"):
                if given.hardware is not None and given.hardware not in journal.header.hardware:
                    journal = journal.add_hardware(given.hardware)
                    job = replace(job, journal=journal)
                values, facts = with_held(journal, task, given, retry)
                facts |= job.conditions_of(given)
                record = journal.commit(span, values, held=task.held, **facts)
            assert record is not None  # nobody else commits
            committed[span.index] = record
            moving.pop(span.index, None)
            done += span.n - task.held_n
            scored = True
            progress(done + sum(moving.values()), pool.n)
    if scored:
        watch.require_same(
            f"what this attempt committed to {journal.path} may be of either: score into another directory", wholly=True
        )
    return replace(job, committed=[committed[index] for index in sorted(committed)], tasks=[])


def next_scores(results: Iterator[SpanScores], run: AnyPath, so_far: str) -> SpanScores | None:
    """The next span that is scored, None at the end; RunError, ending in ``so_far``, if one cannot be."""
    try:
        with not_readable(so_far):
            return next(results, None)
    except SpanError as error:
        raise RunError(f"{error.where} of {run} could not be scored: {error.why}. {so_far}") from (
            error.__cause__ or error
        )
