"""Importing encoded images: the pool is built in a staging directory, and renamed when it is complete.

``.<name>.import`` holds the settings of the call, the log, and the files of the pool in their final size and form. After
a kill at any moment, the same call resumes and makes the same pool.
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..cells import guarded
from ..errors import PoolError
from ..pool.create import finish_pool, planned_layout
from ..pool.decode import require_decoder
from ..pool.pool import Pool
from ..pool.schema import Grid, checked_attributes, plan_grid
from ..store.layout import ChunkLayout
from ..store.writer import ArrayWriter
from .pipeline import ImageFormat, Progress, ingest_entries
from .sources import Source, open_source
from .staging import check_same, stage_of, staged
from .staging_log import StagingLog


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
    """Make a pool of (channels, size, size) uint8 from images; repeat the call after a kill to resume.

    Args:
        src: a folder of images, WebDataset tars (a glob, or {000..127}), or Parquet files (the same).
        dst: the pool to make; must not exist.
        size: pixels per side; the shorter side of an image is resized to it, the middle is kept.
        channels: 3, or 1 for gray.
        keep_encoded: store the encoded images (each is decoded once as a check) and decode while reading.
        labels: take labels from class folders, ``.cls`` members, or the column "label".
        column: the Parquet column of images; default: the one that has structs of {bytes, path}.
        max_bad: stop when more entries than this cannot be used; None: never. All are listed in ``<dst>.bad.csv``.
        workers: decoding processes; default: one per core.
        mean: mean per channel, as for Pool.create.
        std: standard deviation per channel, as for Pool.create.
        classes: names of the classes; default: those of the source.
        compression: "none", "lz4" or "zstd", as for Pool.create.
        progress: called as progress(entries done, entries in all); the second is the first where the source cannot tell.

    Raises:
        PoolError: no source; dst exists; no entry, or too few, can be used; source or settings differ from those of the
            import to resume; disk full. Decoded images are kept for the next call.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "cats").mkdir()
        >>> Image.new("RGB", (40, 30)).save(folder / "cats" / "tom.png")
        >>> pool = import_images(folder, folder / "pool.zarr", size=32, labels=True, workers=1)
        >>> pool.n, pool.item_shape, pool.classes, pool.keys.tolist()
        (1, (3, 32, 32), ['cats'], ['cats/tom.png'])
    """
    require_decoder()
    if size < 1 or channels not in (1, 3):
        raise PoolError(f"size must be at least 1 and channels 1 or 3, not {size} and {channels}")
    path, source = Path(dst), open_source(src, labels, column)
    image_format = ImageFormat(size, channels, keep_encoded)
    facts = checked_attributes((channels, size, size), mean, std, classes or source.classes, Path(os.fspath(src)).name)
    stage = stage_of(path, "import")
    settings = {
        "source": source.identity,
        "labels": labels,
        "column": column,
        "compression": compression,
        **asdict(image_format),
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
            log = StagingLog(stage / "log")
            layout = _ingest_all(source, image_format, stage / "pool", log, compression, max_bad, workers, progress)
            ingested = log.ingested
            write_bad(path, ingested.bad)
            if not ingested.keys:
                atomic.discard_directory(stage)  # once the entries are repaired, the source has another identity
                raise PoolError(
                    f"none of the {len(ingested.bad)} entries of {src} can be used; {path.name}.bad.csv says why"
                )
            facts = replace(facts, encoded=image_format.keep_encoded, content=log.content)
            offsets = np.array([*ingested.starts, layout.n], np.int64) if image_format.keep_encoded else None
            labels_N = np.array(ingested.labels, np.int32)
            finish_pool(stage / "pool", facts, layout, compression, labels_N, ingested.keys, offsets)
            atomic.sync(stage / "pool")
            atomic.move(stage / "pool", path)
            atomic.discard_directory(stage)
            return Pool.open(path)
    except OSError as error:
        raise PoolError(f"{path} could not be imported: {error}. Repeat the call to resume") from error


def refuse_existing(path: Path) -> None:
    """Refuse a destination that exists.

    Raises:
        PoolError: the path exists, or is a symbolic link.
    """
    if path.exists() or path.is_symlink():
        raise PoolError(
            f"{path} exists already, and pools are never overwritten: choose another path, or remove it first"
        )


def write_bad(path: Path, bad: list[list[str]]) -> None:
    """List the entries that cannot be used in ``<path>.bad.csv``, if there are any."""
    if bad:
        text = io.StringIO()
        csv.writer(text).writerows([["path", "reason"], *([guarded(cell) for cell in row] for row in bad)])
        atomic.replace_file(path.with_name(f"{path.name}.bad.csv"), text.getvalue().encode("utf-8", "surrogateescape"))


def _ingest_all(
    source: Source,
    image_format: ImageFormat,
    where: Path,
    log: StagingLog,
    compression: str,
    max_bad: int | None,
    workers: int | None,
    progress: Progress | None,
) -> ChunkLayout:
    """Write the whole source as files in ``where``; return their layout."""
    item_shape = () if image_format.keep_encoded else (image_format.channels, image_format.size, image_format.size)
    item_bytes = int(np.prod(item_shape))
    folder = where / ("blob" if image_format.keep_encoded else "items")
    atomic.create_directory(folder)

    def layout_for(grid: Grid) -> ChunkLayout:
        return planned_layout(grid, item_shape, np.dtype(np.uint8), compression)

    grid = log.grid or plan_grid(None if image_format.keep_encoded else source.count, item_bytes)
    if not log.ended:
        writer = ArrayWriter(
            layout_for(grid),
            folder,
            start=log.n,
            content=log.content,
            on_file=lambda n, content: log.commit(n, content, grid),
        )
        ingest_entries(source, image_format, writer, log, (), max_bad=max_bad, workers=workers, progress=progress)
        ended_grid = grid
        if not log.checkpoints and len(writer.held) and (image_format.keep_encoded or source.count is None):
            # Everything fits into one file: its size is known now, so the chunks can be planned.
            ended_grid, rows = plan_grid(len(writer.held), item_bytes), writer.held
            writer = ArrayWriter(layout_for(ended_grid), folder)
            writer.add(rows)
        writer.finish()
        log.commit(writer.n, writer.content, ended_grid, ended=True)
    assert log.grid is not None
    return replace(layout_for(log.grid), n=log.n)
