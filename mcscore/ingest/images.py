"""Importing encoded images: a source is taken in beside the pool to be, which gets its name when all of it is there.

In ``.<name>.import``: what it was begun with, a journal, and the pool's files, at their final size and form. Killed at any
moment, the same call goes on to the same pool.
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..errors import PoolError
from ..pool.create import finish_pool, planned_layout
from ..pool.decode import require_decoder
from ..pool.pool import Pool
from ..pool.schema import Grid, checked_attributes, plan_grid
from ..store.layout import ChunkLayout
from ..store.writer import ArrayWriter
from .pipeline import How, Journal, Progress, take_in
from .sources import Source, open_source
from .staging import check_same, stage_of, staged


def import_images(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    size: int,
    channels: int = 3,
    keep_encoded: bool = False,
    labels: bool = False,
    column: str | None = None,
    max_bad: int | None = None,
    workers: int | None = None,
    mean: Any = None,
    std: Any = None,
    classes: Any = None,
    compression: str = "none",
    progress: Progress | None = None,
) -> Pool:
    """Make a pool of (channels, size, size) uint8 from images; started again after any kill it goes on, to the same pool.

    Args:
        src, labels, column: see sources.open_source. size, channels: see images.decode.
        keep_encoded: store the images as they are (each is decoded once to see that it can be), and decode while reading.
        max_bad: stop when more entries than this cannot be used; None: never. All are listed in ``<dst>.bad.csv``.
        workers: decoding processes; default one per core.
        progress: called as progress(entries done, entries in all; as many as are done where this is not known).

    Raises:
        PoolError: no source; dst exists; more than max_bad bad entries; source or settings changed since the import that
            is to go on; disk full. What is decoded stays and is used by the next call.
    """
    require_decoder()
    if size < 1 or channels not in (1, 3):
        raise PoolError(f"size must be at least 1 and channels 1 or 3, not {size} and {channels}")
    path, source, how = Path(dst), open_source(src, labels, column), How(size, channels, keep_encoded)
    facts = checked_attributes((channels, size, size), mean, std, classes or source.classes, Path(os.fspath(src)).name)
    stage = stage_of(path, "import")
    settings = {
        "source": source.identity,
        "labels": labels,
        "column": column,
        "compression": compression,
        **how.__dict__,
    }
    if path.exists() and stage.exists():  # killed between the last two steps
        check_same(stage, settings)
        atomic.discard_directory(stage)
        return Pool.open(path)
    try:
        refuse_existing(path)
        with staged(stage, settings):
            refuse_existing(path)
            atomic.create_directory(stage / "pool")
            journal = Journal(stage / "journal")
            layout = _take_in_all(source, how, stage / "pool", journal, compression, max_bad, workers, progress)
            taken = journal.taken
            write_bad(path, taken.bad)
            if not taken.keys:
                atomic.discard_directory(stage)  # what is found wrong may be put right, and then the source is another
                raise PoolError(
                    f"none of the {len(taken.bad)} entries of {src} can be used; {path.name}.bad.csv says why"
                )
            facts = replace(facts, encoded=how.keep, content=journal.content)
            offsets = np.array([*taken.starts, layout.n], np.int64) if how.keep else None
            labels_N = np.array(taken.labels, np.int32)
            finish_pool(stage / "pool", facts, layout, compression, labels_N, taken.keys, offsets)
            atomic.sync(stage / "pool")
            atomic.move(stage / "pool", path)
            atomic.discard_directory(stage)
            return Pool.open(path)
    except OSError as error:
        raise PoolError(f"{path} could not be imported: {error}. The same call goes on where it stopped") from error


def refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise PoolError(f"{path} exists already; pools are never overwritten: choose another path, or remove it first")


def write_bad(path: Path, bad: list[list[str]]) -> None:
    """List what cannot be used in ``<path>.bad.csv``, if there is any."""
    if bad:
        text = io.StringIO()
        csv.writer(text).writerows([["path", "reason"], *bad])
        atomic.replace_file(path.with_name(f"{path.name}.bad.csv"), text.getvalue().encode("utf-8", "surrogateescape"))


def _take_in_all(
    source: Source,
    how: How,
    where: Path,
    journal: Journal,
    compression: str,
    max_bad: int | None,
    workers: int | None,
    progress: Progress | None,
) -> ChunkLayout:
    """How the files are laid out that hold all of the source now."""
    item_shape = () if how.keep else (how.channels, how.size, how.size)
    item_bytes = int(np.prod(item_shape))
    folder = where / ("blob" if how.keep else "items")
    atomic.create_directory(folder)

    def layout_for(grid: Grid) -> ChunkLayout:
        return planned_layout(grid, item_shape, np.dtype(np.uint8), compression)

    grid = journal.grid or plan_grid(None if how.keep else source.count, item_bytes)
    if not journal.ended:
        writer = ArrayWriter(
            layout_for(grid),
            folder,
            start=journal.n,
            content=journal.content,
            on_file=lambda n, content: journal.commit(n, content, grid),
        )
        take_in(source, how, writer, journal, (), max_bad=max_bad, workers=workers, progress=progress)
        ended_grid = grid
        if not journal.records and len(writer.held) and (how.keep or source.count is None):
            # All of it fits one file: now that its size is known, the chunks can be planned.
            ended_grid, rows = plan_grid(len(writer.held), item_bytes), writer.held
            writer = ArrayWriter(layout_for(ended_grid), folder)
            writer.add(rows)
        writer.finish()
        journal.commit(writer.n, writer.content, ended_grid, ended=True)
    assert journal.grid is not None
    return replace(layout_for(journal.grid), n=journal.n)
