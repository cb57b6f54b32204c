"""Scoring a pool in this process: span by span, each committed before the next."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..errors import RunError, Stopped
from ..events import event
from ..progress import Progress, Shown, shown, stage_of
from ..recipe import Recipe
from ..store.files import AnyPath, Where
from ..store.place import any_path
from .findings import Check, require_check
from .loop import score_tasks
from .presence import Presence
from .run import Run
from .schema import read_header
from .scoring.here import Here
from .scoring.normalize import require_scorer
from .scoring.task import Engine, OnBadChunk
from .scoring.workers import Staff, engine_of, staff_of
from .screening import Screen
from .signals import StopRequest, stop_request
from .spans import ranges_of
from .start import Job, ScoreOptions, is_run, new_run, resumed_run, writing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..pool import Pool
    from ..scorer.scorer import Scorer

OnStage = Callable[[str, int], None]

_NAMED = 5  # ids without a score, or ranges of them, that are named at the end; all are in the records


def score_pool(
    pool: Pool,
    scorer: Scorer | Recipe,
    out: Where,
    *,
    workers: int | Staff | None = None,
    device: str | None = None,
    span: int | None = None,
    labeled: bool = False,
    on_bad_chunk: OnBadChunk = "raise",
    mixed_hardware: bool = False,
    accept_edited_code: bool = False,
    screen: Screen | None = None,
    new_cut: bool = False,
    check: Check = "warn",
    take_over: bool = False,
    command: Mapping[str, Any] | None = None,
    progress: Shown = None,
    on_stage: OnStage | None = None,
) -> Run:
    """Score every item of ``pool`` that is neither labeled nor excluded, into the run directory ``out``.

    If ``out`` is a run, it is resumed, as if it had never stopped: on the same hardware the scores are the same to the last
    bit, provided the pool's labels are. What is damaged in it is scored again. If the pool has been appended to, only the
    items that were added are scored.

    Args:
        pool: the items.
        scorer: only looked at: the run uses a copy of it, so that several threads may score pools with the same one. It
            gets the plan of the run if it has none yet. Or a recipe of a scorer.
        out: the run directory, made if it is missing; or a URL of an object store (s3://, gs://, az://).
        workers: score with processes beside this one, so many or as ``Workers`` says, instead of in this one. They get a copy of the
            scorer, or make it by its recipe, which is never made here then. Each has two spans at a time. A worker that ends is
            replaced, and its spans are scored again.
        device: where a recipe, or a worker, makes the scorer: "cpu", "cuda" (any GPU), "cuda:1"; default: a GPU if there is one.
        span: items committed as one unit, which is what a kill can cost; default: about 1/50 of the pool or a few seconds
            of work, 256 to 65,536 (1,048,576 on a GPU).
        labeled: score and select labeled items too, to look for wrong labels.
        on_bad_chunk: what becomes of items that cannot be read from the pool. "raise": an error names them, and what an
            earlier attempt skipped is tried again. "skip": they get NaN, are listed (``Run.unreadable_ids``) and are never
            selected.
        mixed_hardware: resume a run on hardware, or with an instruction set or numeric modes, that it was not scored with
            so far. The last bits of scores then differ between spans; every record says which hardware it is from.
        accept_edited_code: resume a run though the model's or the transform's code, or a value it refers to, was edited since.
            Spans that are done keep the scores of the former code; every record says which code it is from.
        screen: score every item with few passes first, and only the survivors, those that may be among the best, with all
            passes of the scorer, see ``Screen``. Scores of survivors are those of a run that is not screened, to the last
            bit; the other items have NaN, and their scores of few passes are in ``Run.screen``.
        new_cut: fix anew, from all items, which survive. Otherwise the cut is fixed once, and items that are appended
            to the pool later survive or not by the same cut. Scores that are there are kept.
        check: before a new run, look at a sample of the pool and the model's answer: is the input normalized as the model was trained,
            do predictions differ and agree with labels, do class names fit? "warn": what does not look right is a warning, and stands
            in run.json and the report. "strict": it is an error, and nothing is written. "off": do not look.
        take_over: take the lock of a process on another machine, which is said. Should that run all the same, it ends before its next
            commit, and the scores are the same.
        command: what a new run's run.json is to say of how it was made, as the command line does; compared with nothing.
        progress: called as progress(items done, items in the pool) before the first block of a stage and after every one. None: a bar on a
            terminal and in a notebook; False: nothing.
        on_stage: called as on_stage(what it does, passes) before a stage begins.

    Returns:
        The run; it remembers pool and scorer for ``select``.

    Raises:
        RunError: ``out`` is something else, or a run of another pool, model, seed, ... (the field is named) or hardware; the
            model failed on a block (named); a chunk of the pool cannot be read (chunk, file and items are named); the disk
            is full. What was committed stays.
        RunInUseError: another process scores into ``out``: it is named.
        ChunkError: a file of the pool is missing. Nothing is written then.
        CheckError: something does not look right, and ``check`` is "strict".
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
    require_scorer(scorer)
    path = any_path(out).absolute()  # the model, or another thread, may change the working directory
    if span is not None and span < 1:
        raise RunError(f"span must be at least 1 item, got {span}")
    if on_bad_chunk not in get_args(OnBadChunk):
        raise RunError(f"on_bad_chunk must be one of {', '.join(get_args(OnBadChunk))}, not {on_bad_chunk!r}")
    if on_bad_chunk == "raise":
        pool.check_files()  # a missing file is found now, and not when the job comes to it in days
    require_check(check)
    if new_cut and screen is None:
        raise RunError("new_cut belongs to a screened run: give screen=, too")
    options = ScoreOptions(
        span,
        labeled,
        on_bad_chunk,
        mixed_hardware,
        accept_edited_code,
        screen,
        new_cut,
        check=check,
        take_over=take_over,
        command=command or {},
    )
    staff = staff_of(workers)
    with stop_request() as stop, contextlib.ExitStack() as stack:
        tell = stack.enter_context(shown(progress))
        told = on_stage or stage_of(tell)
        begin = resumed_run if is_run(path) else new_run
        header = read_header(path) if begin is resumed_run else None
        threads = None if header is None else header.settings.threads
        engine = stack.enter_context(engine_of(pool, scorer, staff, device, threads))
        if screen is not None:
            engine = engine.copy(errors=True)  # for the certificate
        if header is not None and screen is not None:
            from .screening.stages import resuming_engine

            engine = resuming_engine(header, engine, options)
        with begin(path, pool, engine, options) as job, _shown(path, engine, tell) as tell:
            job, engine = complete_run(job, pool, engine, stop, tell, told)
    own: Scorer | None = engine.scorer if isinstance(engine, Here) else None
    if not isinstance(scorer, Recipe):
        if own is not None:
            scorer.adopt(own)
        own = scorer
    run = Run(job.journal, job.committed, pool=pool, scorer=own)
    warn_of_unscored(run)
    return run


@contextlib.contextmanager
def _shown(path: AnyPath, engine: Engine, progress: Progress) -> Iterator[Progress]:
    """Let those who watch the run see this process: a ``progress`` that does so, too."""
    if not isinstance(path, Path):
        yield progress
        return
    before: int | None = None
    with Presence(
        path, f"driver of {engine.size} workers" if engine.staff() or engine.size > 1 else "one process"
    ) as presence:

        def tell(done: int, total: int) -> None:
            nonlocal before
            before = done if before is None else min(before, done)  # a second stage counts from its own start
            presence.update(done - before, state="scoring", workers=engine.staff())
            progress(done, total)

        yield tell


def complete_run(
    job: Job, pool: Pool, engine: Engine, stop: StopRequest, progress: Progress, on_stage: OnStage
) -> tuple[Job, Engine]:
    """Score what is left of a run that this process has alone, in two stages if it is screened, and close it.

    Returns:
        The job, with all that is committed, and the engine that scored last.

    Raises:
        Stopped: a stop is asked for.
    """
    path, header = job.journal.path, job.journal.header
    if header.screen is not None and header.screened:
        from .screening.certificate import certify
        from .screening.stages import first_stage, second_stage
        from .screening.told import told_second

        on_stage(f"stage 1 of 2, {pool.n:,} items", header.screen.passes)
        first = first_stage(job, pool, engine, stop, progress)
        job, engine = second_stage(job, first, pool, engine)
        header = job.journal.header
        left = sum(task.span.n - task.held_n for task in job.tasks)
        on_stage(told_second(header, first, left), header.settings.passes)
    job = score_tasks(job, pool, engine, stop, progress)
    if stop.made:
        event(__name__, "run stopped", **job.journal.tally(job.committed))
        raise Stopped(path, sum(record.span.n for record in job.committed), pool.n)
    job.require_lock()
    with writing(f"the records of {path} could not be packed into one file, but all are there"):
        job.journal.pack(job.committed)
        if job.journal.header.screened:
            job = replace(job, journal=job.journal.certify(certify(job.journal, job.committed, first)))
    event(__name__, "run complete", **job.journal.tally(job.committed))
    return job, engine


def warn_of_unscored(run: Run) -> None:
    """Tell which items of a complete run have no score."""
    warn_of_nonfinite(run.nonfinite_ids, run.n)
    if len(ids := run.unreadable_ids):
        ranges = [f"{start}..{stop - 1}" for start, stop in ranges_of(ids)]
        named = ", ".join(ranges[:_NAMED]) + (", ..." if len(ranges) > _NAMED else "")
        warnings.warn(
            f"{len(ids):,} of {run.n:,} items could not be read from the pool (ids {named}) and have no score. "
            "They will not be selected. When the pool is whole again, on_bad_chunk='raise' scores them",
            stacklevel=3,
        )


def warn_of_nonfinite(ids: npt.NDArray[np.int64], n: int) -> None:
    """Tell which of n items the model gave no finite score."""
    if len(ids):
        named = ", ".join(map(str, ids[:_NAMED].tolist())) + (", ..." if len(ids) > _NAMED else "")
        warnings.warn(
            f"{len(ids):,} of {n:,} items have no finite score (ids {named}): the model gave NaN or infinity. "
            "They will not be selected",
            stacklevel=4,
        )
