"""A shard from start to end: it makes the run or joins it, scores beside the others, and closes the run if it is the last.

Whoever comes while no other is there has the run alone: it makes it, or repairs it and lets it grow, and then shares it. A shard
shares the run while it scores. When nothing is left it tries to have the run alone again, which succeeds for the last one: that
one settles what only one may (spans of which a part is held, what is damaged, the cut of a screened run), packs and certifies.
So no shard waits for another, except in a screened run for the end of the first stage.

At a URL there is no lock. There each shard does what the last one would, and what another has done meanwhile stands.
"""

from __future__ import annotations

import contextlib
import fnmatch
import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import atomic
from ...errors import RunError, RunMadeError, Stopped
from ...progress import Progress, Shown, shown, stage_of
from ...recipe import Recipe
from ...store.files import AnyPath, Where, is_there
from ...store.lock import Joined, Unlocked, joined
from ...store.place import any_path, place_at
from ...text import count
from ..journal import Journal, Record
from ..presence import Presence, clear_workers
from ..run import Run
from ..schema import read_header
from ..score import OnStage, complete_run, warn_of_unscored
from ..scoring.task import Engine
from ..scoring.workers import engine_of
from ..screening.options import DIRECTORY
from ..screening.stages import complete_first, first_engine, first_options, first_run, resuming_engine, second_stage
from ..signals import StopRequest, stop_request
from ..spans import Span
from ..start import Job, ScoreOptions, draft_run, is_run, join_run, make_run, refuse_other, resume_run, writing
from ..stored import StoredScores
from .disk import probe
from .number import Shard
from .order import Order
from .share import score_beside_others

if TYPE_CHECKING:
    from ...pool import Pool
    from ...scorer.scorer import Scorer

_LOOK_SECONDS = 10.0  # between counts of what all shards have done
_LIST_SECONDS = 300.0  # the same in a store, which is paid for each thousand names that it lists


@dataclass(frozen=True)
class ShardReport:
    """What a shard did.

    Attributes:
        path: the run directory, or URL.
        shard: which one it was.
        items, spans: that it scored.
        run: the complete run; None if others are at work on what is left, the last of whom closes the run.
    """

    path: AnyPath
    shard: Shard
    items: int
    spans: int
    run: Run | None

    def __str__(self) -> str:
        left = "the run is complete" if self.run else "others score what is left, and the last of them closes the run"
        return f"{self.shard} has scored {count(self.items, 'item')} in {count(self.spans, 'span')}; {left}"

    def facts(self) -> dict[str, Any]:
        """Return the fields for JSON, without those of the run."""
        shard = {"shard": self.shard.index, "shards": self.shard.count, "items": self.items, "spans": self.spans}
        return {"run": str(self.path), "complete": self.run is not None, **shard}


def score_shard(
    pool: Pool,
    scorer: Scorer | Recipe,
    out: Where,
    shard: Shard,
    options: ScoreOptions | None = None,
    *,
    device: str | None = None,
    progress: Shown = None,
    on_stage: OnStage | None = None,
) -> ShardReport:
    """Score a part of ``pool`` into the run directory ``out``, beside other processes that score others, on this machine or elsewhere.

    It ends when no item is left to score, and takes over spans of shards that are slow, killed or were never started. So any number
    of the shards may run at any time. The one that ends last closes the run. Scores and records are those of ``score_pool``, which
    may have begun the run, or go on with it.

    Args:
        pool: the items.
        scorer: as of ``score_pool``. It computes with as many threads as the run was started with.
        out: the run directory, on a disk that all shards share, made if it is missing; or a URL of an object store.
        shard: which of how many processes this is.
        options: other arguments of ``score_pool``; the same for all shards.
        device: where a recipe makes the scorer.
        progress: called as progress(items that all shards have done, items in the pool); None and False as of ``score_pool``.
        on_stage: called as on_stage(what it does, passes) before a stage begins.

    Raises:
        RunError: as ``score_pool``; or the file system does not keep what shards rely on. What was committed stays.
        Stopped: SIGINT, SIGTERM or SIGHUP came; what was committed stays.

    Example:
        >>> import tempfile, numpy, torch
        >>> from mcscore import Pool, ScoreOptions, Scorer, Shard, score_shard
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pool = Pool.create(f"{folder}/pool", numpy.random.default_rng(0).random((20, 4), numpy.float32))
        ...     report = score_shard(pool, Scorer(model, passes=10), f"{folder}/run", Shard(1, 2), ScoreOptions(span=6))
        ...     report.items, report.run.complete
        (20, True)
    """
    path = any_path(out).absolute()
    options = replace(options or ScoreOptions(), shards=shard.count)
    if options.new_cut:
        raise RunError("a new cut is fixed by one process alone: do it without a shard, and start the shards then")
    with stop_request() as stop, contextlib.ExitStack() as stack:
        engine = stack.enter_context(engine_of(pool, scorer, None, device, None))
        stack.enter_context(_threads_kept())
        is_run(path)  # raises if there is something else
        lock: Joined | Unlocked = Unlocked()
        if isinstance(path, Path):
            with writing(f"{path} could not be made a run"):
                atomic.create_directory(path)
            lock = stack.enter_context(joined(path, RunError, lambda: stop.made))
        presence = stack.enter_context(Presence(path, str(shard)))
        worker = _Worker(path, pool, engine, options, shard, lock, presence, stop)
        worker.progress = stack.enter_context(shown(progress))
        worker.on_stage = on_stage or stage_of(worker.progress)
        with writing(f"{path} cannot be scored into"):
            report = worker.work()
    if report.run is not None:
        warn_of_unscored(report.run)
    return report


@dataclass
class _Stage:
    """What a shard needs to score a stage: the job and the engine that is prepared for it, and what it has tried so far."""

    given: dict[int, Span] = field(default_factory=dict)
    job: Job | None = None
    engine: Engine | None = None

    def set(self, job: Job, engine: Engine) -> None:
        if job.settings is not None:  # else the engine is not prepared, as nothing is left
            self.job, self.engine = job, engine

    def fresh(self, job: Job) -> bool:
        """Whether there are spans that several may score, and that this shard has not tried."""
        return job.settings is not None and any(
            task.held is None and task.span.index not in self.given for task in job.tasks
        )


class _Worker:
    """One shard: its part in the lock, and how far it is."""

    def __init__(
        self,
        path: AnyPath,
        pool: Pool,
        engine: Engine,
        options: ScoreOptions,
        shard: Shard,
        lock: Joined | Unlocked,
        presence: Presence,
        stop: StopRequest,
    ) -> None:
        self.path, self.pool, self.options, self.shard = path, pool, options, shard
        self.lock, self.presence, self.stop = lock, presence, stop
        self.progress: Progress = lambda _done, _total: None
        self.on_stage: OnStage = lambda _what, _passes: None
        self.engine = engine if options.screen is None else engine.copy(errors=True)  # for the certificate
        self.first, self.last = _Stage(), _Stage()
        self.items = self.spans = 0

    def work(self) -> ShardReport:
        """Score until nothing is left to score, or it is others who finish."""
        self._take_part(self.lock.join)
        while True:
            if self.lock.exclusive:
                try:
                    run = self._alone()
                except RunMadeError:  # where there is no lock, by a shard that was faster
                    continue
                if run is not None:
                    return self._report(run)
                self._take_part(self.lock.share)
            elif not is_there(self.path / "run.json"):  # who would have made it is gone
                self._take_part(self.lock.join)
                continue
            closing = self._first_is_over()
            self._beside_others(closing)
            if not self.lock.try_exclusive():
                if closing:
                    return self._report(None)
                self._wait_for_the_cut()

    def _take_part(self, how: Callable[[], bool]) -> None:
        if not how():
            raise self._stopped()

    def _alone(self) -> Run | None:
        """Make or settle the run, which this shard has alone. Returns it if it is complete, None if there is work for several."""
        if is_run(self.path):
            if (run := _complete(self.path, self.pool, self.options)) is not None:
                clear_workers(self.path)
                return run
            engine = self._resuming()
            job = resume_run(self.path, self.pool, engine, self.options)
        else:
            for warning in probe(self.path) if isinstance(self.path, Path) else ():
                warnings.warn(warning, stacklevel=4)
            place_at(self.path).begin()
            if self.options.on_bad_chunk == "raise":
                self.pool.check_files()  # a missing file is found now, and not when the job comes to it in days
            engine = self.engine
            job = make_run(self.path, draft_run(self.pool, engine, self.options))
        if job.journal.header.screened:
            own = first_engine(job.journal.header, engine)
            with first_run(job, self.pool, own) as stage:
                self.first.set(stage, own)
                if self.first.fresh(stage):
                    return None
                first = complete_first(stage, self.pool, own, self.stop, self._told("finishing stage 1"))
            job, engine = second_stage(job, first, self.pool, engine)
        self.last.set(job, engine)
        if self.last.fresh(job):
            return None
        job, _ = complete_run(job, self.pool, engine, self.stop, self._told("finishing"), self.on_stage)
        return Run(job.journal, job.committed, pool=self.pool)

    def _resuming(self) -> Engine:
        """The engine for a run that is there: its threads, and its number of passes where that was chosen by the run."""
        header = read_header(self.path)
        _use_threads(header.settings.threads)
        return resuming_engine(header, self.engine, self.options)

    def _beside_others(self, closing: bool) -> None:
        """Score what has no record: of the first stage, or of the last one, which closes the run."""
        stage, state = (self.last, "scoring") if closing else (self.first, "stage 1")
        self.presence.update(self.items, state="starting")
        job, engine = self._joined(stage, closing)
        if not closing:
            self.on_stage(f"stage 1 of 2, {self.pool.n:,} items", job.journal.header.settings.passes)
        elif job.journal.header.screened:
            self.on_stage("stage 2 of 2", job.journal.header.settings.passes)
        order = Order(job.journal, self.shard.own(len(job.journal.spans)), stage.given, self.presence.name)
        tally = _Tally(job.journal, self.progress)
        tally.show()

        def moved(items: int) -> None:
            self.presence.update(self.items + items, state=state)
            tally.show(items)

        def committed(span: Span) -> None:
            self.items, self.spans = self.items + span.n, self.spans + 1
            tally.add(span)
            moved(0)

        moved(0)
        score_beside_others(job, self.pool, engine, order, lambda: self.stop.made, moved, committed)
        if self.stop.made:
            raise self._stopped()

    def _joined(self, stage: _Stage, closing: bool) -> tuple[Job, Engine]:
        """The job of a stage and the engine that is prepared for it."""
        if stage.job is not None and stage.engine is not None:
            journal = Journal.open(stage.job.journal.path)
            if journal.header.pool.n == stage.job.journal.header.pool.n:  # else another let it grow meanwhile
                return replace(stage.job, journal=journal), stage.engine
        engine = self._resuming()
        if closing:
            job = join_run(self.path, self.pool, engine, self.options)
            if job.journal.header.screened:
                first = Journal.open(self.path / DIRECTORY)
                job, engine = second_stage(job, StoredScores(first, first.survey().records), self.pool, engine)
        else:
            journal = Journal.open(self.path)
            refuse_other(journal, self.pool, engine.describe(), self.options, prepared=False)
            engine = first_engine(journal.header, engine)
            job = join_run(self.path / DIRECTORY, self.pool, engine, first_options(self.options))
        stage.set(job, engine)
        return job, engine

    def _first_is_over(self) -> bool:
        """Whether the last stage can be scored: of a screened run, whether the first one is closed and the cut fixed."""
        header = read_header(self.path)
        if not header.screened:
            return True
        return bool(header.cuts) and _is_closed(self.path / DIRECTORY, header.pool.n) is not None

    def _wait_for_the_cut(self) -> None:
        """Wait until another has closed the first stage, or have the run alone to do it."""
        pause = 0.1
        while not self.stop.made:
            self.presence.update(self.items, state="waiting for the cut")
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, 2.0)
            if self._first_is_over():
                self._take_part(self.lock.share)
                return
            if self.lock.try_exclusive():
                return
        raise self._stopped()

    def _told(self, state: str) -> Progress:
        """Progress of what is done alone, which watchers see, too."""

        def told(done: int, total: int) -> None:
            self.presence.update(self.items, state=state)
            self.progress(done, total)

        return told

    def _report(self, run: Run | None) -> ShardReport:
        return ShardReport(self.path, self.shard, self.items, self.spans, run)

    def _stopped(self) -> Stopped:
        if not is_there(self.path / "run.json"):
            return Stopped(self.path, 0, self.pool.n)
        journal = Journal.open(self.path)
        return Stopped(self.path, journal.header.pool.n - sum(span.n for span in journal.unrecorded()), self.pool.n)


class _Tally:
    """How far all shards are together: counted now and then, and in between with what this one adds."""

    def __init__(self, journal: Journal, progress: Progress) -> None:
        self._journal, self._progress = journal, progress
        self._counted, self._done = -_LIST_SECONDS, 0

    def add(self, span: Span) -> None:
        self._done = min(self._done + span.n, self._journal.header.pool.n)

    def show(self, more: int = 0) -> None:
        pause = _LOOK_SECONDS if self._journal.place.one_writer else _LIST_SECONDS
        if (now := time.monotonic()) - self._counted > pause:
            left = sum(span.n for span in self._journal.unrecorded())
            self._counted, self._done = now, self._journal.header.pool.n - left
        self._progress(min(self._done + more, self._journal.header.pool.n), self._journal.header.pool.n)


def _complete(path: AnyPath, pool: Pool, options: ScoreOptions) -> Run | None:
    """The run if nothing is left to do in it, as far as its records say; so that who comes late need not read all of it."""
    header = read_header(path)
    closed = _is_closed(path, pool.n, options.retry)
    if closed is None or not header.screened:
        return closed and Run(*closed, pool=pool)
    settled = header.certificate is not None and all(record.cut == len(header.cuts) - 1 for record in closed[1])
    return Run(*closed, pool=pool) if settled and _is_closed(path / DIRECTORY, pool.n, options.retry) else None


def _is_closed(path: AnyPath, n: int, retry: bool = False) -> tuple[Journal, list[Record]] | None:
    """A run, or a stage, of n items and its records, if all are there and packed; retry: and all items could be read."""
    journal = Journal.open(path)
    names = journal.place.names("commits")
    if journal.header.pool.n != n or "packed.jsonl" not in names or fnmatch.filter(names, "*.json"):
        return None
    found, damaged = journal.survey()
    whole = [record for record in found if record.span == journal.spans[record.span.index]]
    if damaged or len(whole) < len(journal.spans) or (retry and any(record.unreadable for record in whole)):
        return None
    return journal, whole


def _use_threads(threads: int) -> None:
    """Compute with as many threads as the run was started with: the last bits of scores may depend on it."""
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _threads_kept() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        _use_threads(before)
