"""Importing encoded images: the pool is built in a staging directory, and renamed when it is complete.

``.<name>.import`` holds the settings of the call, the log, and the files of the pool in their final size and form. After
a kill at any moment, the same call resumes and makes the same pool.
"""

from __future__ import annotations

import csv
import glob
import io
import math
import os
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..cells import guarded
from ..errors import PoolError
from ..paths import local_path
from ..pool.class_names import TwoReadingsError
from ..pool.create import finish_pool, planned_layout
from ..pool.pictures.decode import require_decoder
from ..pool.pictures.deep import DIM
from ..pool.pictures.pixel_format import WHITE, ValueRange, checked_format
from ..pool.pool import Pool
from ..pool.schema import Grid, checked_attributes, plan_grid
from ..progress import Shown
from ..store.layout import ChunkLayout
from ..store.writer import ArrayWriter
from ..text import count
from .counts import Counts, Report, reasons_of
from .pipeline import ingest_entries
from .sources import Source, open_source
from .staging import check_same, stage_of, staged
from .staging_log import StagingLog
from .worker import ImageFormat


def import_images(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    size: int | tuple[int, int],
    fit: str = "crop",
    channels: int = 3,
    background: str = WHITE,
    value_range: ValueRange = "type",
    depth: int = 8,
    keep_encoded: bool = False,
    labels: bool = False,
    column: str | None = None,
    max_bad: int | None = None,
    workers: int | None = None,
    mean: Any = None,
    std: Any = None,
    classes: Any = None,
    reading: str | None = None,
    compression: str = "none",
    progress: Shown = None,
    report: Report | None = None,
) -> Pool:
    """Make a pool of (channels, height, width) uint8 or uint16 from images; repeat the call after a kill to resume.

    An image is turned upright as its EXIF says, laid on the background where it is transparent, converted to RGB or gray,
    brought to the size by bilinear interpolation with antialiasing, and stored with the depth. Each kind of change is counted.

    The key of an item is its identity in the source: the path in the folder, ``shard.tar/name.png``, or
    ``file.parquet:row`` with the path that the row names, if any.

    Args:
        src: a folder of images (or of tars or Parquet files only), WebDataset tars (a glob, or {000..127}), or Parquet files
            (the same).
        dst: the pool to make; must not exist.
        size: (height, width) of the items in pixels, or both as one number.
        fit: what is done to an image of another shape. "crop": resize to cover, keep the middle; "pad": resize to fit
            inside, the rest is black; "squash": resize height and width each by its own factor.
        channels: 3, or 1 for gray.
        background: the color that transparent pixels are laid on: a name, or "#rrggbb"; "none": transparency is dropped, and
            the colors below it show, as after PIL's ``convert("RGB")``, which torchvision's ImageFolder calls.
        value_range: the values that become black and white, in gray images of more than 8 bits. "type": 0 and 65535, for
            16 bits; "image": the least and the greatest of each image; or (black, white), such as (0, 4095) for values of
            12 bits in files of 16. Signed values, those of 32 bits and floats need one of the last two.
        depth: bits of a stored value: 8 (uint8), or 16 (uint16), which keeps 16-bit gray images whole.
        keep_encoded: store the encoded images (each is decoded once as a check) and decode while reading.
        labels: take labels from class folders, ``.cls`` members, or the column "label".
        column: the Parquet column of images; default: the one that has structs of {bytes, path}. In tars the extension of
            the images to take, where a sample has several.
        max_bad: stop when more entries than this cannot be used; None: never. All are listed in ``<dst>.bad.csv``.
        workers: decoding processes; default: one per core.
        mean: mean per channel, as for Pool.create.
        std: standard deviation per channel, as for Pool.create.
        classes: names of the classes in order, by which labels get their numbers; default: those of the source.
        reading: whether labels of digits are "names" or "numbers" of classes; needed only where the two differ.
        compression: "none", "lz4" or "zstd", as for Pool.create.
        progress: called as progress(entries done, entries in all); the second is the first where the source cannot tell. None: a bar on a
            terminal and in a notebook; False: nothing.
        report: called with the closing count: what was stored, refused, passed over, converted. Without it, a warning
            names what did not come in.

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
    image_format = ImageFormat(checked_format(size, channels, fit, background, value_range, depth), keep_encoded)
    pixels = image_format.pixels
    names = None if classes is None else tuple(str(name) for name in classes)
    path, source = local_path(dst, "a pool", PoolError), open_source(src, labels, column, names, reading)
    named = classes if classes is not None else source.classes
    facts = checked_attributes(pixels.item_shape, mean, std, named, Path(os.fspath(src)).name, fit, pixels.dtype)
    facts = replace(facts, background=pixels.background, value_range=pixels.value_range, depth=depth)
    stage = stage_of(path, "import")
    atomic.discard_leftovers(stage)
    settings = {
        "source": source.identity,
        "labels": labels,
        "column": column,
        "classes": None if named is None else list(named),
        "reading": reading,
        "compression": compression,
        **asdict(pixels),
        "keep_encoded": keep_encoded,
    }
    if path.exists() and stage.exists():  # killed between the last two steps
        check_same(stage, settings)
        log = StagingLog(stage / "log")
        atomic.discard_directory(stage)
        tell(path, source, log, report)
        return Pool.open(path)
    try:
        refuse_existing(path)
        with staged(stage, settings):
            refuse_existing(path)
            atomic.create_directory(stage / "pool")
            log = StagingLog(stage / "log")
            try:
                layout = _ingest_all(source, image_format, stage / "pool", log, compression, max_bad, workers, progress)
            except TwoReadingsError:
                if not log.checkpoints:  # nothing is lost, and the call that says which has other settings
                    atomic.discard_directory(stage)
                raise
            ingested = log.ingested
            write_bad(path, ingested.bad, anew=True)
            if not ingested.keys:
                atomic.discard_directory(stage)  # once the entries are repaired, the source has another identity
                raise PoolError(
                    f"none of the {len(ingested.bad)} entries of {src} can be used: {'; '.join(counted(path, source, log).lines())}"
                )
            facts = replace(facts, encoded=image_format.keep_encoded, content=log.content)
            offsets = np.array([*ingested.starts, layout.n], np.int64) if image_format.keep_encoded else None
            labels_N = np.array(ingested.labels, np.int32)
            finish_pool(stage / "pool", facts, layout, compression, labels_N, ingested.keys, offsets)
            atomic.sync(stage / "pool")
            atomic.move(stage / "pool", path)
            atomic.discard_directory(stage)
            tell(path, source, log, report)
            return Pool.open(path)
    except OSError as error:
        raise PoolError(f"{path} could not be imported: {error}. Repeat the call to resume") from error


def counted(path: Path, source: Source, log: StagingLog) -> Counts:
    """Return the closing count of an import or an append to the pool at ``path``."""
    passed = Counter(dict(source.passed))
    passed.update(log.passed)
    return Counts(
        stored=len(log.ingested.keys),
        refused=reasons_of(log.ingested.bad),
        passed_over=dict(sorted(passed.items())),
        converted=dict(sorted(log.converted.items())),
        remarks=(*source.remarks, *_dark_remark(log.converted)),
        bad_list=str(bad_list_of(path)) if log.ingested.bad else None,
    )


def _dark_remark(converted: Mapping[str, int]) -> list[str]:
    """Say what to do where 16-bit images hold values of fewer bits."""
    found = {bits: converted[kind] for bits, kind in DIM.items() if converted.get(kind)}
    if not found:
        return []
    bits, top = max(found), (1 << max(found)) - 1
    return [
        f"{count(sum(found.values()), 'image')} of 16 bits without a value above {top:,}: dark in the pool. If values have {bits} bits, "
        f"import again with --range 0,{top} (value_range=), or with --range image"
    ]


def tell(path: Path, source: Source, log: StagingLog, report: Report | None) -> None:
    """Hand over the closing count; where nobody takes it, warn of what was not stored as it is."""
    counts = counted(path, source, log)
    if report is not None:
        report(counts)
    elif counts.refused or counts.passed_over or counts.remarks:
        warnings.warn(f"{path}: {'; '.join(counts.lines())}", stacklevel=3)


def refuse_existing(path: Path) -> None:
    """Refuse a destination that exists.

    Raises:
        PoolError: the path exists, or is a symbolic link.
    """
    if path.exists() or path.is_symlink():
        raise PoolError(
            f"{path} exists already, and pools are never overwritten: choose another path, or remove it first"
        )


def bad_list_of(path: Path) -> Path:
    """Return the file beside a pool that lists the entries which cannot be used."""
    return path.with_name(f"{path.name}.bad.csv")


def write_bad(path: Path, bad: list[list[str]], anew: bool = False) -> None:
    """List the entries that cannot be used in ``<path>.bad.csv``.

    Args:
        path: the pool.
        bad: key and reason of each.
        anew: the pool is new; without bad entries, the list of an earlier pool of the same name is removed.
    """
    file = bad_list_of(path)
    atomic.discard_temporaries(path.parent, f"{glob.escape(file.name)}.*")  # of a killed call
    text = io.StringIO()
    csv.writer(text).writerows([_HEAD, *([guarded(cell) for cell in row] for row in bad)])
    if bad:
        atomic.replace_file(file, text.getvalue().encode("utf-8", "backslashreplace"))
    elif anew and file.is_file() and not file.is_symlink() and _is_bad_list(file):
        atomic.remove(file)


_HEAD = ["path", "reason"]


def _is_bad_list(file: Path) -> bool:
    with file.open(newline="", encoding="utf-8", errors="replace") as lines:
        return lines.readline().rstrip("\r\n") == ",".join(_HEAD)


def _ingest_all(
    source: Source,
    image_format: ImageFormat,
    where: Path,
    log: StagingLog,
    compression: str,
    max_bad: int | None,
    workers: int | None,
    progress: Shown,
) -> ChunkLayout:
    """Write the whole source as files in ``where``; return their layout."""
    item_shape = () if image_format.keep_encoded else image_format.pixels.item_shape
    dtype = np.dtype(np.uint8) if image_format.keep_encoded else image_format.pixels.dtype
    item_bytes = dtype.itemsize * math.prod(item_shape)
    folder = where / ("blob" if image_format.keep_encoded else "items")
    atomic.create_directory(folder)
    atomic.discard_temporaries(folder, "*")  # of a killed call: this one has the lock of the stage

    def layout_for(grid: Grid) -> ChunkLayout:
        return planned_layout(grid, item_shape, dtype, compression)

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
