"""The stages of a screened run: few passes of all items, a cut, all passes of the survivors.

    RUN/screen/    the first stage, a run like any other: passes of the screen, scores with their errors
    RUN/run.json   the screen, the cuts (selection/screening/screen.py has what a cut is), the certificate
    RUN/           the second stage, a run like any other, which skips the items that the cut drops

The first stage ends before the cut is fixed, and the cut is a function of its committed scores alone. So a worker that was
killed and its successor fix the same cut, and the run goes on as if it had never stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import Stopped
from ...events import event
from ...progress import Progress
from ...store.files import is_there
from ..journal import Record
from ..loop import score_tasks
from ..schema import RunHeader, Settings, as_json
from ..scoring.task import Engine
from ..signals import StopRequest
from ..skipped import Skips
from ..spans import ranges_of
from ..start import Job, ScoreOptions, new_run, prepare_on, resumed_run, writing
from ..stored import StoredScores
from ..tasks import Task
from .cut import FixedCut, Wanted, fixed_cut
from .dropped import Dropped
from .options import DIRECTORY

if TYPE_CHECKING:
    from ...pool import Pool


def first_stage(job: Job, pool: Pool, engine: Engine, stop: StopRequest, progress: Progress) -> StoredScores:
    """Score what is left of the first stage. Raises Stopped if a stop is asked for, and what scoring raises."""
    own = first_engine(job.journal.header, engine)
    with first_run(job, pool, own) as stage:
        return complete_first(stage, pool, own, stop, progress)


def first_engine(header: RunHeader, engine: Engine) -> Engine:
    """The engine of the first stage of a run."""
    assert header.screen is not None
    return engine.copy(passes=header.screen.passes, errors=True)


def resuming_engine(header: RunHeader, engine: Engine, options: ScoreOptions) -> Engine:
    """The engine for a run that is there: with its number of passes, if that was to be chosen by the run."""
    chosen = options.screen is not None and options.screen.budget is not None
    return engine.copy(passes=header.settings.passes) if chosen else engine


@contextlib.contextmanager
def first_run(job: Job, pool: Pool, engine: Engine) -> Iterator[Job]:
    """Make or resume the first stage of a run, with its own engine, locked."""
    path = job.journal.path / DIRECTORY
    begin = resumed_run if is_there(path / "run.json") else new_run
    with begin(path, pool, engine, first_options(job.options, job.skipped)) as stage:
        yield stage


def first_options(options: ScoreOptions, skips: Skips | None = None) -> ScoreOptions:
    """The options of the first stage; a new one skips what the run does."""
    return replace(options, screen=None, new_cut=False, check="off", skips=skips, command={})


def complete_first(stage: Job, pool: Pool, engine: Engine, stop: StopRequest, progress: Progress) -> StoredScores:
    """Score what is left of a first stage that this process has alone, and close it. Raises what ``first_stage`` does."""
    path, passes = stage.journal.path, stage.journal.header.settings.passes
    stage = score_tasks(stage, pool, engine, stop, progress)
    first = StoredScores(stage.journal, stage.committed)
    if stop.made:
        raise Stopped(path.parent, first.done, pool.n, f"screened with {passes} passes")
    stage.require_lock()
    with writing(f"the records of {path} could not be packed into one file, but all are there"):
        stage.journal.pack(stage.committed)
    return first


def second_stage(job: Job, first: StoredScores, pool: Pool, engine: Engine) -> tuple[Job, Engine]:
    """Fix the cut, unless it is, and return what is left to do, with the engine that does it.

    The number of passes is fixed with the first cut, if it is to be chosen.
    """
    journal, screen = job.journal, job.journal.header.screen
    assert screen is not None
    recorded, now = journal.header.settings, job.settings
    if not journal.header.cuts or job.options.new_cut:
        choose = screen.budget is not None and not journal.header.cuts
        fixed = fixed_cut(first, screen, recorded.passes, _prefix(recorded), choose)
        if choose:
            engine = engine.copy(passes=fixed.passes)
            prepare_on(pool, engine, job.skipped, job.options.on_bad_chunk)
            now = engine.describe()
            recorded = replace(recorded, passes=now.passes, plan=now.plan)
        if (cut := as_json(dataclasses.asdict(fixed))) not in journal.header.cuts[-1:]:
            with writing(f"the cut of {journal.path} could not be written"):
                journal = journal.add_cut(cut, recorded)
    event(__name__, "second stage", **journal.named)
    wanted = [Wanted(first, screen.by, FixedCut.from_json(cut)) for cut in journal.header.cuts]
    tasks = _reopened(job.tasks, job.committed, wanted)
    skipped = Dropped(job.skipped, wanted[-1])
    return replace(job, journal=journal, tasks=tasks, skipped=skipped, settings=now, cut=len(wanted) - 1), engine


def _prefix(settings: Settings) -> float:
    """What runs once per item, in passes, by the FLOPs of the plan."""
    prefix, tail = settings.plan["prefix_flops"], settings.plan["tail_flops"]
    return float(prefix / tail) if tail else 0.0


def _reopened(tasks: Sequence[Task], committed: Iterable[Record], wanted: Sequence[Wanted]) -> list[Task]:
    """The tasks, and those of the spans in which the last cut lets through what the one that they were scored by did not."""
    by_span = {task.span.index: task for task in tasks}
    for record in committed:
        if record.cut == len(wanted) - 1:
            continue
        part = slice(record.span.start, record.span.stop)
        newly = part.start + (wanted[-1][part] & ~wanted[record.cut][part]).nonzero()[0]
        if len(newly):
            task = by_span.get(record.span.index, Task(record.span, record))
            by_span[record.span.index] = replace(task, again=(*task.again, *ranges_of(newly)))
    return [by_span[index] for index in sorted(by_span)]
