"""Scoring a pool in this process: span by span, each committed before the next."""

from __future__ import annotations

import contextlib
import shutil
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from . import disk
from .errors import RunError, Stopped
from .identity import new_meta, read_meta, refuse_difference, warn_of_other_bits
from .journal import Journal, Record, Values
from .lock import locked
from .normalise import normalised
from .results import Run
from .signals import StopRequest, stop_request
from .spans import BLOCK_BYTES, blocks_of, default_block, default_span

if TYPE_CHECKING:
    from ..pool import Batch, Pool
    from ..scorer import Scorer

Progress = Callable[[int, int], None]
Mask = npt.NDArray[np.bool_]

_FIRST_BLOCK = 4096  # items shown to the scorer to plan with
_NAMED_IDS = 5  # ids without a finite score that are named at the end; all are in the records
_UNFINISHED = {"lock", "commits", "scores.zarr"}  # what a run that was killed while being made may have left


def score_pool(
    pool: Pool,
    scorer: Scorer,
    out: str | Path,
    *,
    span: int | None = None,
    labelled: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Score every item of ``pool`` that is neither labelled nor excluded, into the run directory ``out``.

    If ``out`` is a run, it goes on where it stopped, as if it had never stopped: the scores are the same to the last bit
    on the same machine, provided the pool's labels are. What is damaged in it is scored again.

    labelled: score and select labelled items too, as one who looks for wrong labels wants.
    span: items committed as one, which is what a kill can cost; default: about 1/50 of the pool, 256 to 65,536.
    progress: called as progress(items done, items in the pool) before the first block and after every one.

    Raises:
        RunError: ``out`` is something else, or a run of another pool, model, seed, ... (the field is named); it is being
            written by another process; the model failed on a block (named); the disk is full. What was committed stays.
        Stopped: SIGINT or SIGTERM came; what was committed stays.
        What ``Scorer.prepare`` raises for a model that cannot be scored. Nothing is on disk then.
    """
    path = Path(out)
    if span is not None and span < 1:
        raise RunError(f"span must be at least 1 item, got {span}")
    with stop_request() as stop, normalised(scorer, pool):
        if _is_run(path):
            opened = _continued(path, pool, scorer, span, labelled)
        else:
            opened = _begun(path, pool, scorer, span, labelled)
        with opened as (journal, records):
            records = _score(journal, records, pool, scorer, stop, progress or (lambda _done, _total: None))
            if stop.made:
                raise Stopped(path, sum(record.span.n for record in records), pool.n)
    run = Run(journal, records, pool=pool, scorer=scorer)
    _tell_nonfinite(run)
    return run


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
    path: Path, pool: Pool, scorer: Scorer, span: int | None, labelled: bool
) -> Iterator[tuple[Journal, list[Record]]]:
    """A new run, locked. The model is tried before anything is written."""
    skip_N = _skipped(pool, labelled)
    if skip_N.all():
        raise RunError(
            f"there is nothing to score: of the {pool.n:,} items in {pool.path} all are labelled or excluded; "
            "labelled=True (--labelled) scores the labelled ones too"
        )
    _prepare(pool, scorer, skip_N)
    described = scorer.describe()
    step = described["plan"]["items"]
    size = min(span, pool.n) if span is not None else default_span(pool.n, step)
    meta = new_meta(pool, described, size, default_block(size, step, _item_bytes(pool)), labelled)
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
        yield journal, []


@contextlib.contextmanager
def _continued(
    path: Path, pool: Pool, scorer: Scorer, span: int | None, labelled: bool
) -> Iterator[tuple[Journal, list[Record]]]:
    """An existing run, locked and checked, with the records that hold; the scorer has adopted its plan if it is needed."""
    meta = read_meta(path)
    refuse_difference(path, meta, pool, scorer.describe(), span, labelled, prepared=False)
    with _locked(path):
        journal = Journal.open(path)
        with _writing(f"{path} cannot be gone on with"):
            records = journal.repair()
        skip_N = _skipped(pool, labelled)
        done = {record.span.index for record in records}
        if not all(skip_N[s.start : s.stop].all() for s in journal.spans if s.index not in done):
            _prepare(pool, scorer, skip_N, plan=meta["plan"])
            refuse_difference(path, meta, pool, scorer.describe(), span, labelled, prepared=True)
            warn_of_other_bits(path, meta, scorer.describe())
        yield journal, records


def _prepare(pool: Pool, scorer: Scorer, skip_N: Mask, plan: Mapping[str, Any] | None = None) -> None:
    """Show the scorer the first items that are to be scored."""
    start = int(skip_N.argmin())
    stop = min(pool.n, start + max(3, min(_FIRST_BLOCK, BLOCK_BYTES // _item_bytes(pool))))
    keep = ~skip_N[start:stop]
    scorer.prepare(pool.read(start, stop)[keep], np.arange(start, stop)[keep], plan=plan)


def _skipped(pool: Pool, labelled: bool) -> Mask:
    return pool.excluded if labelled else (pool.labels >= 0) | pool.excluded


def _item_bytes(pool: Pool) -> int:
    return max(1, int(np.prod(pool.item_shape)) * np.dtype(pool.dtype).itemsize)


# -- scoring -----------------------------------------------------------------------------------------------------------


def _score(
    journal: Journal, records: list[Record], pool: Pool, scorer: Scorer, stop: StopRequest, progress: Progress
) -> list[Record]:
    """Score and commit the spans that have no record, until all have one or a stop is asked for. Returns all records."""
    skip_N = _skipped(pool, journal.meta["labelled"])
    committed = {record.span.index: record for record in records}
    todo = [span for span in journal.spans if span.index not in committed]
    blocks = {span: blocks_of(span, journal.meta["block_items"], skip_N) for span in todo}
    done = sum(record.span.n for record in records)
    progress(done, pool.n)
    reader = cast("Generator[Batch, None, None]", pool.blocks([block for span in todo for block in blocks[span]]))
    with contextlib.closing(reader):
        for span in todo:
            begin = time.perf_counter()
            values = {name: journal.empty(name, span.n) for name in journal.names}
            nonfinite_ids: list[int] = []
            so_far = f"{done:,} of {pool.n:,} items are done; score into the same directory to go on"
            for start, stop_at in blocks[span]:
                if stop.made:
                    return _by_span(committed)
                batch, keep = next(reader), ~skip_N[start:stop_at]
                ids = batch.ids[keep]
                try:
                    scored = _score_block(scorer, batch.items if keep.all() else batch.items[keep], ids, values)
                except Exception as error:
                    raise RunError(
                        f"items {start}..{stop_at - 1} in {span} of {journal.path} could not be scored: "
                        f"{type(error).__name__}: {error}. {so_far}"
                    ) from error
                finite = np.all([np.isfinite(column) for column in scored.values()], axis=0)
                nonfinite_ids += ids[~finite].tolist()
                for name, column in scored.items():
                    # Where one score is not finite none is kept: "not scored" has one meaning and one bit pattern.
                    values[name][ids[finite] - span.start] = column[finite]
                if stop_at < span.stop:
                    progress(done + stop_at - span.start, pool.n)
            scored_items = int((~skip_N[span.start : span.stop]).sum())
            seconds = time.perf_counter() - begin
            with _writing(f"{span} of {journal.path} could not be written. {so_far}"):
                committed[span.index] = journal.commit(
                    span,
                    values,
                    scored=scored_items,
                    nonfinite_ids=tuple(nonfinite_ids),
                    seconds=seconds,
                    device=scorer.device,
                )
            done += span.n
            progress(done, pool.n)
    return _by_span(committed)


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


def _tell_nonfinite(run: Run) -> None:
    ids = run.nonfinite_ids
    if len(ids):
        named = ", ".join(map(str, ids[:_NAMED_IDS].tolist())) + (", ..." if len(ids) > _NAMED_IDS else "")
        warnings.warn(
            f"{len(ids):,} of {run.n:,} items have no finite score (ids {named}): NaN or infinity came out of the model. "
            "They will not be selected",
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
