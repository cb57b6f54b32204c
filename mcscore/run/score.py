"""Scoring a pool in this process: span by span, each committed before the next."""

from __future__ import annotations

import contextlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from .. import atomic as disk
from ..errors import RunError, Stopped
from ..store.lock import locked
from .journal import Journal, Record, Values
from .normalize import own_scorer
from .prefetch import OnBadChunk, Skipped, Uploads, feed, readable
from .run import Run
from .schema import new_meta, pool_facts, refuse_difference, warn_of_other_bits
from .signals import StopRequest, stop_request
from .spans import BLOCK_BYTES, default_block, default_span
from .span_buffer import Results, Task, open_tasks, runs_of

if TYPE_CHECKING:
    from ..pool import Pool
    from ..scorer.scorer import Scorer

Progress = Callable[[int, int], None]
T = TypeVar("T")

_FIRST_BLOCK = 4096  # items shown to the scorer to plan with
_NAMED = 5  # ids without a score, or ranges of them, that are named at the end; all are in the records
_UNFINISHED = {"lock", "commits", "scores.zarr"}  # what a run that was killed while being made may have left


def score_pool(
    pool: Pool,
    scorer: Scorer,
    out: str | Path,
    *,
    span: int | None = None,
    labeled: bool = False,
    on_bad_chunk: OnBadChunk = "raise",
    progress: Progress | None = None,
) -> Run:
    """Score every item of ``pool`` that is neither labeled nor excluded, into the run directory ``out``.

    If ``out`` is a run, it goes on where it stopped, as if it had never stopped: the scores are the same to the last bit
    on the same machine, provided the pool's labels are. What is damaged in it is scored again. If the pool has been appended
    to, only the items that were added are scored.

    on_bad_chunk: what becomes of items that cannot be read from the pool. "raise": an error names them, and what an earlier
        attempt skipped is tried again. "skip": they get NaN, are listed (``Run.unreadable``) and never selected.
    labeled: score and select labeled items too, as one who looks for wrong labels wants.
    scorer: is only looked at: the run uses a copy of it, so that several threads may score pools with the same one. It gets the
        plan of the run if it has none yet.
    span: items committed as one, which is what a kill can cost; default: about 1/50 of the pool or a few
        seconds of one core's work, 256 to 65,536.
    progress: called as progress(items done, items in the pool) before the first block and after every one.

    Raises:
        RunError: ``out`` is something else, or a run of another pool, model, seed, ... (the field is named); it is being
            written by another process; the model failed on a block (named); a chunk of the pool cannot be read (chunk, file
            and items are named); the disk is full. What was committed stays.
        ChunkError: a file of the pool is missing. Nothing is written then.
        Stopped: SIGINT or SIGTERM came; what was committed stays.
        What ``Scorer.prepare`` raises for a model that cannot be scored. Nothing is on disk then.
    """
    path = Path(out)
    if span is not None and span < 1:
        raise RunError(f"span must be at least 1 item, got {span}")
    if on_bad_chunk not in get_args(OnBadChunk):
        raise RunError(f"on_bad_chunk must be one of {', '.join(get_args(OnBadChunk))}, not {on_bad_chunk!r}")
    if on_bad_chunk == "raise":
        pool.check_files()  # rather now than when the job comes to it, in days
    own = own_scorer(scorer, pool)
    with stop_request() as stop:
        begin = _continued if _is_run(path) else _begun
        with begin(path, pool, own, span, labeled, on_bad_chunk) as job:
            records = _score(job, pool, own, stop, progress or (lambda _done, _total: None))
            if stop.made:
                raise Stopped(path, sum(record.span.n for record in records), pool.n)
    scorer.adopt(own)
    run = Run(job.journal, records, pool=pool, scorer=scorer)
    _tell_unscored(run)
    return run


@dataclass(frozen=True)
class _Job:
    """What there is to do: ``tasks`` without the items in ``skipped``; ``records`` is what is committed."""

    journal: Journal
    records: list[Record]
    tasks: list[Task]
    skipped: Skipped
    on_bad_chunk: OnBadChunk

    @staticmethod
    def of(journal: Journal, records: list[Record], skipped: Skipped, on_bad_chunk: OnBadChunk) -> _Job:
        tasks = open_tasks(journal, records, retry=on_bad_chunk == "raise")
        return _Job(journal, records, tasks, skipped, on_bad_chunk)


# -- where to begin ----------------------------------------------------------------------------------------------------


def _is_run(path: Path) -> bool:
    """Whether there is a run at ``path``; RunError if there is anything else."""
    if (path / "run.json").exists():
        return True
    if path.is_symlink() and not path.exists():
        raise RunError(f"{path} is a link to nothing; choose another directory")
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} exists and is a file; a run is a directory: choose another")
    if path.exists():
        _require_unfinished(path)
    return False


def _require_unfinished(path: Path) -> None:
    """An existing directory without run.json must be empty, or a run that was killed while being made."""
    names = {child.name for child in path.iterdir() if not child.name.startswith("run.json.")}
    commits = path / "commits"
    if names - _UNFINISHED or (commits.is_dir() and any(commits.glob("*.json"))):
        raise RunError(f"{path} exists and is not a run (it has no run.json); choose another directory")


@contextlib.contextmanager
def _begun(
    path: Path, pool: Pool, scorer: Scorer, span: int | None, labeled: bool, on_bad_chunk: OnBadChunk
) -> Iterator[_Job]:
    """A new run, locked. The model is tried before anything is written."""
    skipped = Skipped(pool, labeled)
    if skipped.first_kept() is None:
        raise RunError(
            f"there is nothing to score: of the {pool.n:,} items in {pool.path} all are labeled or excluded; "
            "labeled=True (--labeled) scores the labeled ones too"
        )
    _prepare(pool, scorer, skipped, on_bad_chunk)
    described = scorer.describe()
    plan, item_bytes = described["plan"], _item_bytes(pool)
    step, flops = plan["items"], plan["prefix_flops"] + described["passes"] * plan["tail_flops"]
    size = min(span, pool.n) if span is not None else default_span(pool.n, step, flops, item_bytes)
    meta = new_meta(pool, described, size, default_block(size, step, item_bytes), labeled)
    made = not path.exists()
    with _writing(f"{path} could not be made a run"):
        disk.create_directory(path)
    with _locked(path):
        try:
            with _writing(f"{path} could not be made a run"):
                journal = Journal.create(path, meta)
        except RunError:
            if made and not (path / "run.json").exists():  # nobody else's either: we hold the lock
                shutil.rmtree(path, ignore_errors=True)
            raise
        yield _Job.of(journal, [], skipped, on_bad_chunk)


@contextlib.contextmanager
def _continued(
    path: Path, pool: Pool, scorer: Scorer, span: int | None, labeled: bool, on_bad_chunk: OnBadChunk
) -> Iterator[_Job]:
    """An existing run, locked and checked, with the records that hold; the scorer has adopted its plan if it is needed."""
    with _locked(path):
        journal = Journal.open(path)
        refuse_difference(path, journal.meta, pool, scorer.describe(), span, labeled, prepared=False)
        with _writing(f"{path} cannot be gone on with"):
            if pool.n > journal.meta["pool"]["n"]:
                journal = journal.grow(pool_facts(pool))
            records = journal.repair()
        job = _Job.of(journal, records, Skipped(pool, labeled), on_bad_chunk)
        if not all(job.skipped.of(task).all() for task in job.tasks):
            _prepare(pool, scorer, job.skipped, on_bad_chunk, plan=journal.meta["plan"])
            described = scorer.describe()  # once: it reads the whole model for its fingerprint
            refuse_difference(path, journal.meta, pool, described, span, labeled, prepared=True)
            warn_of_other_bits(path, journal.meta, described)
        yield job


def _prepare(
    pool: Pool, scorer: Scorer, skipped: Skipped, on_bad_chunk: OnBadChunk, plan: Mapping[str, Any] | None = None
) -> None:
    """Show the scorer the first items that are to be scored."""
    step = max(3, min(_FIRST_BLOCK, BLOCK_BYTES // _item_bytes(pool)))
    for start in range(skipped.first_kept() or 0, pool.n, step):
        wanted = ~skipped[start : start + step]
        if not wanted.any():
            continue
        batch = _next(pool.blocks([(start, start + len(wanted))], 0, on_bad_chunk), "What is committed stays")
        assert batch is not None
        keep = readable(batch, wanted)
        if keep.any():
            scorer.prepare(batch.items[keep], batch.ids[keep], plan=plan)
            return
    raise RunError(f"there is nothing to score: no item of {pool.path} that is to be scored can be read")


def _item_bytes(pool: Pool) -> int:
    return max(1, int(np.prod(pool.item_shape)) * np.dtype(pool.dtype).itemsize)


# -- scoring -----------------------------------------------------------------------------------------------------------


def _score(job: _Job, pool: Pool, scorer: Scorer, stop: StopRequest, progress: Progress) -> list[Record]:
    """Score and commit the tasks, until all are or a stop is asked for. Returns all records."""
    journal, results = job.journal, None
    committed = {record.span.index: record for record in job.records}
    done = sum(record.span.n for record in job.records)
    progress(done, pool.n)
    uploads = Uploads(scorer.device) if scorer.device.startswith("cuda") else None
    blocks = feed(pool, job.tasks, job.skipped, journal.meta["block_items"], job.on_bad_chunk, uploads)
    with contextlib.closing(blocks):
        while not stop.made:
            so_far = f"{done:,} of {pool.n:,} items are done; score into the same directory to go on"
            if results is None:
                begin = time.perf_counter()
            if (block := _next(blocks, so_far)) is None:
                break
            task, span, ids = block.task, block.task.span, block.ids
            if results is None:
                results = Results(journal, task, retry=job.on_bad_chunk == "raise")
            results.unreadable(block.unreadable)
            if len(ids):
                try:
                    results.scored(ids, _score_block(scorer, block.items, ids, results.values))
                except Exception as error:
                    raise RunError(
                        f"items {ids[0]}..{ids[-1]} in {span} of {journal.path} could not be scored: "
                        f"{type(error).__name__}: {error}. {so_far}"
                    ) from error
            if not block.last:
                progress(done + max(0, block.stop - span.start - task.held_n), pool.n)
                continue
            with _writing(f"{span} of {journal.path} could not be written. {so_far}"):
                committed[span.index] = journal.commit(
                    span, results.values, device=scorer.device, **results.facts(time.perf_counter() - begin)
                )
            results = None
            done += span.n - task.held_n
            progress(done, pool.n)
    return _by_span(committed)


def _next(blocks: Iterator[T], so_far: str) -> T | None:
    """The next of what is read from a pool, None at the end; RunError if a chunk cannot be read."""
    from ..errors import ChunkError

    try:
        return next(blocks, None)
    except ChunkError as error:
        raise RunError(
            f"{error}; or leave them out: on_bad_chunk='skip' (--on-bad-chunk skip) goes on without them. {so_far}"
        ) from error


def _score_block(
    scorer: Scorer, items: npt.NDArray[Any], ids: npt.NDArray[np.int64], like: Mapping[str, Values]
) -> dict[str, Values]:
    """The scorer's results as arrays (len(ids),) in memory of the host, of the names and dtypes of ``like``."""
    scores = scorer(items, ids)
    columns = {}
    for name, expected in like.items():
        column = columns[name] = scores[name].detach().cpu().numpy()
        if column.shape != ids.shape or column.dtype != expected.dtype:
            raise ValueError(
                f"the scorer gave {name} as {column.dtype} {column.shape}, not {expected.dtype} {ids.shape}"
            )
    return columns


def _by_span(committed: Mapping[int, Record]) -> list[Record]:
    return [committed[index] for index in sorted(committed)]


def _tell_unscored(run: Run) -> None:
    if len(ids := run.nonfinite_ids):
        named = ", ".join(map(str, ids[:_NAMED].tolist())) + (", ..." if len(ids) > _NAMED else "")
        warnings.warn(
            f"{len(ids):,} of {run.n:,} items have no finite score (ids {named}): NaN or infinity came out of the model. "
            "They will not be selected",
            stacklevel=3,
        )
    if len(ids := run.unreadable_ids):
        ranges = [f"{start}..{stop - 1}" for start, stop in runs_of(ids)]
        named = ", ".join(ranges[:_NAMED]) + (", ..." if len(ranges) > _NAMED else "")
        warnings.warn(
            f"{len(ids):,} of {run.n:,} items could not be read from the pool (ids {named}) and have no score. "
            "They will not be selected. When the pool is whole again, on_bad_chunk='raise' scores them",
            stacklevel=3,
        )


# -- errors of the disk ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _writing(failed: str) -> Iterator[None]:
    """Turn what the disk raises into a RunError that begins with ``failed``."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{failed}: {error}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with _writing(f"{path} cannot be locked"):
            stack.enter_context(locked(path))
        yield
