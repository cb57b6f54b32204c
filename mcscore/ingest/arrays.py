"""Importing arrays: the items of an array file become a pool."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolError
from ..paths import local_path
from ..pool.kinds import main_column
from ..pool.labels import checked_column
from ..pool.pool import Pool
from ..progress import Progress, Shown, shown
from .array_formats import ArrayFile, open_array

LAYOUTS = ("hw", "chw", "hwc")


def import_array(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    labels: Any = None,
    *,
    key: str | None = None,
    labels_key: str | None = None,
    layout: str | None = None,
    mean: Any = None,
    std: Any = None,
    classes: Any = None,
    compression: str = "none",
    label_kind: str = "class",
    progress: Shown = None,
) -> Pool:
    """Make a pool of the array in a file.

    Args:
        src: an .npy, .npz, idx or idx.gz file, or a Zarr array, of (N, ...) uint8 or floats.
        dst: the pool to make; must not exist.
        labels: (N,) integers, -1 where unlabeled, or a file of one of these formats that holds them; numbers, NaN where
            unlabeled, if ``label_kind`` is "number".
        key: which array of an .npz, or of a Zarr group, holds the items; needed when it holds several.
        labels_key: the same for the file of labels.
        layout: the axes after N: "hw" (stored as (N, 1, H, W)), "chw" (stored as is), "hwc" (stored channels first).
            Default: "hw" for idx images; other formats are stored as they are.
        mean: mean per channel, as for Pool.create.
        std: standard deviation per channel, as for Pool.create.
        classes: names of the classes, as for Pool.create.
        compression: "none", "lz4" or "zstd", as for Pool.create.
        label_kind: "class", or "number" for numbers to be predicted, as for Pool.create.
        progress: called as progress(items done, items); None: a bar on a terminal and in a notebook; False: nothing.

    Raises:
        PoolError: a file is missing, damaged or of unknown format; lengths differ; the layout does not fit the shape.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.save(folder / "digits.npy", np.zeros((5, 28, 28), np.uint8))
        >>> pool = import_array(folder / "digits.npy", folder / "pool.zarr", labels=[3, 1, -1, -1, -1], layout="hw")
        >>> pool.n, pool.item_shape, pool.labels.tolist()
        (5, (1, 28, 28), [3, 1, -1, -1, -1])
    """
    array, arrange, labels, _ = _opened(src, labels, key, labels_key, layout)
    if labels is not None:
        checked_column(
            main_column(label_kind, classes), labels, array.shape[0], classes
        )  # before hours of copying, not after
    if compression == "none":
        _check_room(local_path(dst, "a pool", PoolError), src, array)
    with shown(progress) as tell:
        return Pool.create(
            dst,
            (arrange(block) for block in _counted(array, tell)),
            n=array.shape[0],
            labels=labels,
            mean=mean,
            std=std,
            classes=classes,
            source=Path(src).name,
            compression=compression,
            label_kind=label_kind,
        )


def _counted(array: ArrayFile, tell: Progress) -> Iterator[np.ndarray]:
    """Yield the blocks of an array, and tell how many items the pool has."""
    done = 0
    tell(done, array.shape[0])
    for block in array.blocks():
        yield block
        done += len(block)
        tell(done, array.shape[0])


def read_source(
    src: str | os.PathLike[str], labels: Any, *, key: str | None, labels_key: str | None, layout: str | None
) -> tuple[Iterator[np.ndarray], int, Any, str]:
    """Open the files that import_array was given: (blocks of items, their number, labels or None, identity of the files)."""
    array, arrange, labels, identity = _opened(src, labels, key, labels_key, layout)
    return (arrange(block) for block in array.blocks()), array.shape[0], labels, identity


def _opened(
    src: str | os.PathLike[str], labels: Any, key: str | None, labels_key: str | None, layout: str | None
) -> tuple[ArrayFile, Callable[[np.ndarray], np.ndarray], Any, str]:
    """Open the files that import_array was given: (array, what arranges its blocks, labels or None, identity of the files)."""
    array_format, array = open_array(src, key)
    if len(array.shape) < 2:
        raise PoolError(f"{src} has shape {array.shape}; a pool needs (N, ...) with at least one axis per item")
    if layout is None and array_format.layout == "hw" and len(array.shape) == 3:
        layout = "hw"
    arrange = _arrangement(layout, array.shape, src)
    files = [src]
    if isinstance(labels, (str, os.PathLike)):
        files.append(labels)
        found = open_array(labels, labels_key)[1]
        if found.shape != array.shape[:1]:  # its size is not known to be small before this
            raise PoolError(
                f"{labels} has shape {found.shape}; labels of the {array.shape[0]} items of {src} are ({array.shape[0]},)"
            )
        labels = found.read()
    if labels is not None and len(labels) != array.shape[0]:
        raise PoolError(f"{len(labels)} labels for the {array.shape[0]} items of {src}")
    stamps = [_stamp(os.fspath(file)) for file in files]
    return array, arrange, labels, repr((stamps, key, labels_key, layout))


def _check_room(dst: Path, src: str | os.PathLike[str], array: ArrayFile) -> None:
    """Check that the disk has room for the items: a compressed file of some MB can hold terabytes of zeros."""
    needed = math.prod(array.shape) * array.dtype.itemsize
    folder = next(place for place in dst.absolute().parents if place.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise PoolError(f"{src} holds {needed:,} bytes of items, and the disk of {dst} has {free:,} left")


def _stamp(file: str) -> tuple[str, int, int]:
    """Return (path, size, time of change) of a file; for a Zarr array, the latest change of any of its folders."""
    folder = file.partition("::")[0]
    if not os.path.isdir(folder):
        return file, os.stat(file).st_size, os.stat(file).st_mtime_ns
    return file, 0, max(os.stat(inside).st_mtime_ns for inside, _, _ in os.walk(folder))


def _arrangement(layout: str | None, shape: tuple[int, ...], src: Any) -> Callable[[np.ndarray], np.ndarray]:
    ranks = {"hw": 3, "chw": 4, "hwc": 4}
    if layout is None:
        return lambda block: block
    if layout not in LAYOUTS:
        raise PoolError(f"layout {layout!r} is unknown; choose from {', '.join(LAYOUTS)}")
    if len(shape) != ranks[layout]:
        raise PoolError(f"{src} has shape {shape}, layout {layout!r} needs {ranks[layout]} axes (N and {layout})")
    if layout == "hw":
        return lambda block: block[:, None]
    if layout == "hwc":
        return lambda block: np.moveaxis(block, -1, 1)
    return lambda block: block
