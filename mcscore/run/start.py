"""Where scoring begins: a new run, or an existing one that is checked and resumed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import atomic
from ..errors import ChunkError, RunError
from ..fields import parse
from ..outputs import owner_of
from ..paths import exists, files_below, is_directory, names_in
from ..store.lock import locked
from .identity.code import code_of, edit_of, warn_of_unseen
from .identity.hardware import class_of, conditions
from .identity.match import new_header, refuse_difference, state_of, versions, warn_of_other_versions
from .journal import Journal, Record
from .schema import Hardware, Settings, as_json
from .scoring.task import Admission, Engine, First, OnBadChunk, SpanScores
from .screening.options import Screen, expected_share
from .skipped import Skipped
from .spans import BLOCK_BYTES, default_block, default_span, speed_of
from .tasks import Task, open_tasks

if TYPE_CHECKING:
    from ..pool import Pool

_FIRST_BLOCK = 4096  # items shown to the scorer to plan with
_UNFINISHED = ("lock", "commits", "scores.zarr")  # what a run that was killed while it was made may have left


@dataclass(frozen=True)
class ScoreOptions:
    """The arguments of ``score_pool``, as it documents them."""

    span: int | None
    labeled: bool
    on_bad_chunk: OnBadChunk
    mixed_hardware: bool
    accept_edited_code: bool = False
    screen: Screen | None = None
    new_cut: bool = False

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
    """

    journal: Journal
    committed: list[Record]
    tasks: list[Task]
    skipped: Skipped
    options: ScoreOptions
    hardware: Hardware | None = None
    settings: Settings | None = None
    code: int = 0
    cut: int = 0

    def nothing_in(self, task: Task) -> bool:
        """Whether nothing of a task is to be scored, because all is committed or skipped."""
        return bool((task.settled | self.skipped[task.span.start : task.span.stop]).all())

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


def is_run(path: Path) -> bool:
    """Whether there is a run at ``path``; RunError if there is anything else."""
    with writing(f"{path} cannot be looked at"):
        if exists(path / "run.json"):
            return True
        if path.is_symlink() and not exists(path):
            raise RunError(f"{path} is a link to nothing; choose another directory")
        if exists(path) and not is_directory(path):
            raise RunError(f"{path} exists and is a file; a run is a directory: choose another")
        if exists(path):
            _require_unfinished(path)
        if owner := owner_of(path):
            raise RunError(f"{path} would be in the {owner[0]} {owner[1]}, among its files; choose another directory")
        return False


def _require_unfinished(path: Path) -> None:
    """An existing directory without run.json must be empty, or a run that was killed while it was made."""
    foreign = [Path(name) for name in names_in(path) if name not in _UNFINISHED and not atomic.is_temporary(name)]
    foreign += [file.relative_to(path) for file in files_below(path) if not _is_of_a_run(file, file.relative_to(path))]
    if foreign:
        raise RunError(f"{path} holds {foreign[0]} and is not a run (it has no run.json); choose another directory")


def _is_of_a_run(file: Path, inside: Path) -> bool:
    """Whether a file is one that is there before run.json is, and not another's of the same name."""
    if atomic.is_temporary(file.name):
        return True
    if str(inside) == "lock":
        return file.read_bytes()[:7] in (b"", b'{"pid":')
    if str(inside) != "scores.zarr/zarr.json":
        return False
    try:
        found = parse(file.read_bytes())
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("dimension_names") == ["score", "item"]


@contextlib.contextmanager
def new_run(path: Path, pool: Pool, engine: Engine, options: ScoreOptions) -> Iterator[Job]:
    """Make a run, locked. The model is tried before anything is written."""
    skipped = Skipped(pool, options.labeled)
    if skipped.first_kept() is None:
        raise RunError(
            f"there is nothing to score: of the {pool.n:,} items in {pool.path} all are labeled or excluded; "
            "labeled=True (--labeled) scores the labeled ones too"
        )
    prepare_on(pool, engine, skipped, options.on_bad_chunk)
    settings, hardware = engine.describe(), engine.hardware()
    screen = options.screen and options.screen.of(tuple(settings.scores), settings.passes)
    plan, item_bytes = settings.plan, _item_bytes(pool)
    why = screen.why_not(plan, pool.n) if screen else ""
    share = expected_share(screen.top, pool.n) if screen and not why else 1.0
    step, flops = plan["items"], plan["prefix_flops"] + settings.passes * plan["tail_flops"]
    speed = speed_of(engine.device)
    span = min(options.span or default_span(pool.n, step, flops, item_bytes, share, speed), pool.n)
    block = default_block(span, step, flops, item_bytes, speed)
    header = new_header(pool, settings, span, block, options.labeled, hardware)
    header = replace(header, screen=screen, not_screened=why)
    made = not exists(path)
    with writing(f"{path} could not be made a run"):
        atomic.create_directory(path)
    with _locked(path):
        try:
            with writing(f"{path} could not be made a run"):
                journal = Journal.create(path, header)
        except RunError:
            if made and not exists(path / "run.json"):  # nobody else's either: we hold the lock
                shutil.rmtree(path, ignore_errors=True)
            raise
        warn_of_unseen(path, settings.model)
        yield Job(journal, [], open_tasks(journal, [], options.retry), skipped, options, hardware, settings)


@contextlib.contextmanager
def resumed_run(path: Path, pool: Pool, engine: Engine, options: ScoreOptions) -> Iterator[Job]:
    """Lock and check an existing run; the engine has adopted its plan if anything is left to score."""
    with _locked(path):
        journal = Journal.open(path)
        settings = engine.describe()
        screen = options.screen and options.screen.of(tuple(settings.scores), settings.passes)
        refuse = partial(refuse_difference, path, pool=pool, span=options.span, labeled=options.labeled, screen=screen)
        refuse(journal.header, settings=settings, prepared=False)
        code_of(path, journal.header, settings.model, options.accept_edited_code)
        with writing(f"{path} cannot be resumed"):
            if pool.n > journal.header.pool.n:
                journal = journal.grow(state_of(pool))
            committed = journal.repair()
        tasks = open_tasks(journal, committed, options.retry)
        job = Job(journal, committed, tasks, Skipped(pool, options.labeled), options)
        if not options.new_cut and all(job.nothing_in(task) for task in job.tasks):
            yield job
            return
        hardware = engine.hardware(() if options.mixed_hardware else journal.header.hardware)
        known = class_of(path, journal.header.hardware, hardware, options.mixed_hardware)
        prepare_on(pool, engine, job.skipped, options.on_bad_chunk, plan=journal.header.settings.plan)
        settings = engine.describe()  # once: it reads the whole model for its fingerprint
        refuse(journal.header, settings=settings, prepared=True)
        warn_of_other_versions(path, journal.header)
        code = code_of(path, journal.header, settings.model, options.accept_edited_code)
        with writing(f"{path} cannot be resumed"):
            if known is None:
                journal = journal.add_hardware(hardware)
            if code > len(journal.header.edited):
                journal = journal.add_edit(edit_of(journal.header, settings.model))
        yield replace(job, journal=journal, hardware=hardware, settings=settings, code=code)


def prepare_on(
    pool: Pool, engine: Engine, skipped: Skipped, on_bad_chunk: OnBadChunk, plan: Mapping[str, Any] | None = None
) -> None:
    """Show the engine the first items that are to be scored."""
    step = max(3, min(_FIRST_BLOCK, BLOCK_BYTES // _item_bytes(pool)))
    for start in range(skipped.first_kept() or 0, pool.n, step):
        wanted = ~skipped[start : start + step]
        with not_readable("What is committed stays"):
            if wanted.any() and engine.prepare(First(start, wanted, on_bad_chunk, plan)):
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
def _locked(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with writing(f"{path} cannot be locked"):
            stack.enter_context(locked(path, RunError))
        yield
