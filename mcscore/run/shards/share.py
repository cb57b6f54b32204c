"""Scoring a run beside others: each span is committed at once, unless another process has committed it first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..identity.pool_watch import PoolWatch
from ..loop import next_scores
from ..scoring.task import Engine, SpanTask
from ..spans import Span
from ..start import Job, writing
from ..tasks import Task, with_held
from .order import Order

if TYPE_CHECKING:
    from ...pool import Pool

_LOOK_SECONDS = 1.0  # between looks whether others have committed what is in flight here


def score_beside_others(
    job: Job,
    pool: Pool,
    engine: Engine,
    order: Order,
    stop: Callable[[], bool],
    moved: Callable[[int], None],
    committed: Callable[[Span], None],
) -> None:
    """Score the spans of an order and commit them, until all have a record or ``stop`` says so.

    A span that cannot be committed, as something else is there of it, is left to the process that has the run alone.

    Args:
        job: of a run whose lock is shared.
        pool: the items.
        engine: prepared.
        order: which spans.
        stop: whether to stop.
        moved: called with the items of the current span that are scored so far.
        committed: called after a span.

    Raises:
        RunError: as ``score_pool``.
    """
    journal = job.journal
    watch, scored, looked = PoolWatch(pool, journal.header.pool), False, time.monotonic()

    def over() -> bool:
        nonlocal looked
        if stop():
            return True
        if (now := time.monotonic()) - looked < _LOOK_SECONDS:
            return False
        looked = now
        return order.settled

    tasks = (SpanTask(span, ~job.skipped[span.start : span.stop]) for span in order)
    results = engine.score(tasks, job.reading, job.admission, over, lambda span, at: moved(at - span.start))
    with contextlib.closing(results):  # type: ignore[type-var]  # all engines' are generators
        while (given := next_scores(results, journal.path, _SO_FAR)) is not None:
            span = given.span
            watch.require_same(f"{span} is not committed. {_SO_FAR}")
            values, facts = with_held(journal, Task(span, None), given, job.options.retry)
            with writing(f"{span} of {journal.path} could not be written. {_SO_FAR}"):
                journal.commit(span, values, held=None, shared=True, **facts, **job.conditions_of(given))
            order.done(span)
            committed(span)
            scored = True
    if scored:
        # A shard that joined knows the pool by its metadata: asking for all files is for the one that made or resumed the run.
        watch.require_same(
            f"what this attempt committed to {journal.path} may be of either: score into another directory",
            wholly=pool.fingerprinted is not None,
        )


_SO_FAR = "What is committed stays; the same command resumes"
