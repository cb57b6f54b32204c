"""Where scoring begins: a new run, or an existing one that is checked and resumed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import atomic
from ..errors import ChunkError, RunError, RunInUseError
from ..events import event
from ..fields import parse
from ..outputs import owner_of
from ..paths import exists, files_below, is_directory, names_in
from ..store.files import AnyPath, is_there
from ..store.lock import locked
from ..store.place import place_at
from .findings import Check, told
from .identity.code import code_of, edit_of, warn_of_unseen
from .identity.hardware import class_of, conditions
from .identity.match import new_header, refuse_difference, state_of, versions, warn_of_other_versions
from .journal import Journal, Record
from .presence import clear_workers
from .schema import Hardware, RunHeader, Settings, as_json
from .scoring.task import Admission, Engine, First, OnBadChunk, Reading, SpanScores
from .screening.options import Screen, expected_share
from .skipped import Skipped, Skips
from .snapshot import Snapshot, is_part
from .spans import BLOCK_BYTES, default_cut, speed_of
from .tasks import Task, open_tasks

if TYPE_CHECKING:
    from ..pool import Pool

FIRST_BLOCK = 4096  # items shown to the scorer to plan with
_UNFINISHED = (
    "lock",
    "commits",
    "scores.zarr",
    "skipped",
)  # what a run that was killed while it was made may have left


@dataclass(frozen=True)
class ScoreOptions:
    """The arguments of ``score_pool``, as it documents them."""

    span: int | None = None
    labeled: bool = False
    on_bad_chunk: OnBadChunk = "raise"
    mixed_hardware: bool = False
    accept_edited_code: bool = False
    screen: Screen | None = None
    new_cut: bool = False
    shards: int = 1  # processes that score the run beside each other, each on its own
    check: Check = "warn"
    take_over: bool = False  # the lock of a process on another machine
    command: Mapping[str, Any] = field(default_factory=dict)  # how the run is made, for run.json
    skips: Skips | None = None  # of a first stage: those of its run; None: by the labels and flags of now

    def skipped(self, pool: Pool) -> Skips:
        """The items that are not scored, for a run that has not fixed them yet."""
        return Skipped(pool, self.labeled) if self.skips is None else self.skips

    @property
    def retry(self) -> bool:
        """Whether items that could not be read are tried again."""
        return self.on_bad_chunk == "raise"


@dataclass(frozen=True)
class Job:
    """What there is to do.

    Attributes:
        journal: the run, locked.
        committed: records of what is done.
        tasks: what is left.
        skipped: items that are not scored.
        options: the arguments of ``score_pool``.
        hardware: the class that scores now; None if nothing is left to score.
        settings: of the prepared scorer; None if nothing is left to score.
        code: which code scores now, see ``code_of``.
        cut: which cut says what is scored, an index into run.json's list.
        require_lock: raises RunInUseError if another process has taken the run over; before each commit.
    """

    journal: Journal
    committed: list[Record]
    tasks: list[Task]
    skipped: Skips
    options: ScoreOptions
    hardware: Hardware | None = None
    settings: Settings | None = None
    code: int = 0
    cut: int = 0
    require_lock: Callable[[], None] = lambda: None

    @property
    def reading(self) -> Reading:
        """How items are read and stored."""
        rows = {name: self.journal.empty(name, 0).dtype for name in self.journal.rows}
        header = self.journal.header
        return Reading(rows, header.block_items, self.options.on_bad_chunk, fill=header.screened)

    @property
    def admission(self) -> Admission:
        """What a worker must have in common with the run."""
        assert self.settings is not None
        return Admission(self.settings, tuple(self.journal.header.hardware), self.options.mixed_hardware)

    def conditions_of(self, given: SpanScores) -> dict[str, Any]:
        """What ``Journal.commit`` must know of how a span was scored, beside the values."""
        hardware = given.hardware or self.hardware
        assert hardware is not None
        assert self.settings is not None
        plan = as_json(given.plan)
        return {
            "conditions": conditions(hardware, versions(), self.settings.threads, plan, self.code),
            "code": self.code,
            "cut": self.cut,
            "hardware": list(self.journal.header.hardware).index(hardware),
            "plan": None if plan == self.settings.plan else plan,
        }


def is_run(path: AnyPath) -> bool:
    """Whether there is a run at ``path``; RunError if there is anything else."""
    with writing(f"{path} cannot be looked at"):
        if is_there(path / "run.json"):
            return True
        why = _why_no_run(path)
        if is_there(path / "run.json"):  # another process has made it meanwhile, and what was found is its
            return True
        if why:
            raise RunError(why)
        return False


def _why_no_run(path: AnyPath) -> str | None:
    """Why no run can be made at ``path``, where there is none; None if it can."""
    if not isinstance(path, Path):
        from ..store.place.objects import ObjectPlace  # imports zarr

        return ObjectPlace(path).foreign()
    if path.is_symlink() and not exists(path):
        return f"{path} is a link to nothing; choose another directory"
    if exists(path) and not is_directory(path):
        return f"{path} exists and is a file; a run is a directory: choose another"
    if exists(path) and (foreign := _foreign_in(path)):
        return f"{path} holds {foreign[0]} and is not a run (it has no run.json); choose another directory"
    if owner := owner_of(path):
        return f"{path} would be in the {owner[0]} {owner[1]}, among its files; choose another directory"
    return None


def _foreign_in(path: Path) -> list[Path]:
    """What a directory without run.json holds, unless it is of a run that was killed while it was made."""
    foreign = [Path(name) for name in names_in(path) if name not in _UNFINISHED and not atomic.is_temporary(name)]
    foreign += [file.relative_to(path) for file in files_below(path) if not _is_of_a_run(file, file.relative_to(path))]
    return foreign


def _is_of_a_run(file: Path, inside: Path) -> bool:
    """Whether a file is one that is there before run.json is, and not another's of the same name."""
    if atomic.is_temporary(file.name):
        return True
    known = inside.parent == Path("skipped") or str(inside) in ("lock", "scores.zarr/zarr.json")
    try:
        data = file.read_bytes() if known else b""
    except FileNotFoundError:  # whoever made it has removed it meanwhile
        return True
    if str(inside) == "lock":
        return data[:7] in (b"", b'{"pid":')
    if inside.parent == Path("skipped"):
        return is_part(data)
    try:
        found = parse(data)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("dimension_names") == ["score", "item"]


@contextlib.contextmanager
def new_run(path: AnyPath, pool: Pool, engine: Engine, options: ScoreOptions) -> Iterator[Job]:
    """Make a run, locked. The model is tried before anything is written."""
    draft = draft_run(pool, engine, options)
    with writing(f"{path} could not be made a run"):
        made = place_at(path).begin()
    with _locked(path, options) as require_lock:
        try:
            job = make_run(path, draft)
        except RunError:
            # nobody else's either: we hold the lock
            if made and isinstance(path, Path) and not exists(path / "run.json"):
                shutil.rmtree(path, ignore_errors=True)
            raise
        yield replace(job, require_lock=require_lock)


@contextlib.contextmanager
def resumed_run(path: AnyPath, pool: Pool, engine: Engine, options: ScoreOptions) -> Iterator[Job]:
    """Lock and check an existing run; the engine has adopted its plan if anything is left to score."""
    with _locked(path, options) as require_lock:
        yield replace(resume_run(path, pool, engine, options), require_lock=require_lock)


@dataclass(frozen=True)
class Draft:
    """A run that is not on disk yet: ``header`` is its run.json, the rest as in ``Job``."""

    header: RunHeader
    skipped: Skips
    options: ScoreOptions
    hardware: Hardware
    settings: Settings


def draft_run(pool: Pool, engine: Engine, options: ScoreOptions) -> Draft:
    """Try the model on the first items, and lay down what the run will be."""
    skipped = options.skipped(pool)
    if skipped.first_kept() is None:
        raise RunError(
            f"there is nothing to score: of the {pool.n:,} items in {pool.path} all are labeled or excluded; "
            "labeled=True (--labeled) scores the labeled ones too"
        )
    prepare_on(pool, engine, skipped, options.on_bad_chunk, check=options.check != "off")
    findings = told(engine.findings, options.check)
    settings, hardware = engine.describe(), engine.hardware()
    screen = options.screen and options.screen.of(tuple(settings.scores), settings.passes)
    plan, item_bytes = settings.plan, _item_bytes(pool)
    why = screen.why_not(plan, pool.n) if screen else ""
    share = expected_share(screen.top, pool.n) if screen and not why else 1.0
    step, flops = plan["items"], plan["prefix_flops"] + settings.passes * plan["tail_flops"]
    speed = speed_of(engine.device)
    workers, driver = (engine.size, True) if options.shards == 1 else (options.shards, False)
    span, block = default_cut(pool.n, step, flops, item_bytes, share, speed, workers, driver)
    if options.span is not None:
        span = min(options.span, pool.n)
    block = min(span, block)
    header = new_header(pool, settings, span, block, options.labeled, hardware)
    return Draft(
        replace(header, screen=screen, not_screened=why, findings=findings, command=options.command),
        skipped,
        options,
        hardware,
        settings,
    )


def make_run(path: AnyPath, draft: Draft) -> Job:
    """Make a run in a directory that this process has alone."""
    draft.header.refuse_impossible(f"{path} cannot be made a run")
    with writing(f"{path} could not be made a run"):
        fix = partial(Snapshot.take, path, draft.header.id, draft.header.pool.n, draft.skipped)
        if place_at(path).one_writer:
            skipped = fix()  # first: what has a run.json is a run, and has fixed what it skips
            journal = Journal.create(path, draft.header)
        else:
            journal = Journal.create(path, draft.header)  # first: only who has made run.json may write the rest
            skipped = fix()
    warn_of_unseen(path, draft.settings.model)
    tasks = open_tasks(journal, [], draft.options.retry)
    event(__name__, "run made", **journal.tally([]))
    event(__name__, "plan chosen", **journal.named, **draft.settings.facts())
    return Job(journal, [], tasks, skipped, draft.options, draft.hardware, draft.settings)


def resume_run(path: AnyPath, pool: Pool, engine: Engine, options: ScoreOptions) -> Job:
    """Check and repair a run that this process has alone; the engine has adopted its plan if anything is left to score."""
    journal = Journal.open(path)
    refuse_other(journal, pool, engine.describe(), options, prepared=False)
    with writing(f"{path} cannot be resumed"):
        if pool.n > journal.header.pool.n:
            journal = journal.grow(state_of(pool))
        committed = journal.repair()
        known = max((record.span.stop for record in committed), default=0)
        skipped = Snapshot.take(path, journal.header.id, pool.n, options.skipped(pool), known)
    clear_workers(path)
    tasks = open_tasks(journal, committed, options.retry)
    event(__name__, "run resumed", **journal.tally(committed))
    job = Job(journal, committed, tasks, skipped, options)
    if not options.new_cut and not tasks:
        return job
    return _admitted(job, pool, engine)


def join_run(path: AnyPath, pool: Pool, engine: Engine, options: ScoreOptions) -> Job:
    """Check a run that other processes score, too; the engine has adopted its plan. What is committed is not looked at."""
    journal = Journal.open(path)
    refuse_other(journal, pool, engine.describe(), options, prepared=False, alone=False)
    known = journal.header.id, journal.header.pool.n
    # Where there is no lock, who has made the run may be about to fix what it skips.
    skipped = (
        Snapshot.open(path, *known) if journal.place.one_writer else Snapshot.take(path, *known, options.skipped(pool))
    )
    return _admitted(Job(journal, [], [], skipped, options), pool, engine, alone=False)


def _admitted(job: Job, pool: Pool, engine: Engine, alone: bool = True) -> Job:
    """The job with the engine prepared by the plan of the run, if it may score into it."""
    journal, options = job.journal, job.options
    path = journal.path
    hardware = engine.hardware(() if options.mixed_hardware else journal.header.hardware)
    known = class_of(path, journal.header.hardware, hardware, options.mixed_hardware)
    prepare_on(pool, engine, job.skipped, options.on_bad_chunk, plan=journal.header.settings.plan)
    settings = engine.describe()  # once: it reads the whole model for its fingerprint
    code = refuse_other(journal, pool, settings, options, prepared=True, alone=alone)
    event(__name__, "plan adopted", **journal.named, **settings.facts())
    warn_of_other_versions(path, journal.header)
    if code > len(journal.header.edited) and not alone:
        raise RunError(
            f"{path} is being scored by other processes with the code as it was: start with edited code when they have ended"
        )
    with writing(f"{path} cannot be resumed"):
        if known is None:
            journal = journal.add_hardware(hardware)
        if code > len(journal.header.edited):
            journal = journal.add_edit(edit_of(journal.header, settings.model))
    return replace(job, journal=journal, hardware=hardware, settings=settings, code=code)


def refuse_other(
    journal: Journal, pool: Pool, settings: Settings, options: ScoreOptions, *, prepared: bool, alone: bool = True
) -> int:
    """Refuse another pool, other settings or other code than those of a run. Returns which code it is, see ``code_of``.

    alone: also ask for the pool's files, for its fingerprint; a process that joins others knows it by its metadata, as these have asked.
    """
    screen = options.screen and options.screen.of(tuple(settings.scores), settings.passes)
    asked: dict[str, Any] = {"span": options.span, "labeled": options.labeled, "screen": screen}
    refuse_difference(journal.path, journal.header, pool, settings, prepared=prepared, checked=not alone, **asked)
    return code_of(journal.path, journal.header, settings.model, options.accept_edited_code)


def prepare_on(
    pool: Pool,
    engine: Engine,
    skipped: Skips,
    on_bad_chunk: OnBadChunk,
    plan: Mapping[str, Any] | None = None,
    check: bool = False,
) -> None:
    """Show the engine the first items that are to be scored, and let it check whether model and input look right."""
    step = max(3, min(FIRST_BLOCK, BLOCK_BYTES // _item_bytes(pool)))
    for start in range(skipped.first_kept() or 0, pool.n, step):
        wanted = ~skipped[start : start + step]
        with not_readable("What is committed stays"):
            if wanted.any() and engine.prepare(First(start, wanted, on_bad_chunk, plan, check)):
                return
    raise RunError(f"there is nothing to score: no item of {pool.path} that is to be scored can be read")


def _item_bytes(pool: Pool) -> int:
    return max(1, int(np.prod(pool.item_shape)) * np.dtype(pool.dtype).itemsize)


# Errors of the pool and of the disk.


@contextlib.contextmanager
def not_readable(so_far: str) -> Iterator[None]:
    """Turn a chunk that cannot be read into a RunError that ends in ``so_far``."""
    try:
        yield
    except ChunkError as error:
        raise RunError(
            f"{error}; or leave them out: on_bad_chunk='skip' (--on-bad-chunk skip) goes on without them. {so_far}"
        ) from error


@contextlib.contextmanager
def writing(failed: str) -> Iterator[None]:
    """Turn what the disk raises into a RunError that begins with ``failed``."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{failed}: {error}") from error


@contextlib.contextmanager
def _locked(path: AnyPath, options: ScoreOptions) -> Iterator[Callable[[], None]]:
    """Hold the lock of a run on a local disk. At a URL there is none: what is committed there, nobody replaces.

    Yields what raises RunInUseError once another process has taken the lock over.
    """
    if not isinstance(path, Path):
        yield lambda: None
        return
    with contextlib.ExitStack() as stack:
        with writing(f"{path} cannot be locked"):
            held = stack.enter_context(locked(path, RunError, in_use=RunInUseError, take_over=options.take_over))
        yield held.require
