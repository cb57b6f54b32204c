"""One value per item: labels, exclusion flags and keys, checked, read and changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..atomic import discard_temporaries, replace_file
from ..errors import PoolError
from ..store.chunks import ChunkReader
from ..store.columns import Column
from ..store.files import local
from ..store.layout import ChunkLayout
from ..store.lock import locked_in_turn
from ..store.writer import file_parts
from .schema import UNLABELED


def checked_labels(labels: Any, n: int, classes: Iterable[str] | None) -> np.ndarray:
    """Return labels as int32 (n,).

    Raises:
        PoolError: another length or rank; not integers; below -1 (unlabeled); beyond the class names, if there are any.

    >>> checked_labels([1, -1], n=2, classes=["cat", "dog"])
    array([ 1, -1], dtype=int32)
    """
    given = np.asarray(labels)
    if given.shape != (n,):
        raise PoolError(f"labels have shape {given.shape} for {n} items; one integer per item is needed, ({n},)")
    if given.dtype.kind not in "iu" and n:
        raise PoolError(f"labels are {given.dtype}; they must be integers (-1: unlabeled)")
    highest = len(list(classes)) - 1 if classes is not None else np.iinfo(np.int32).max
    wrong = np.flatnonzero((given < UNLABELED) | (given > highest))
    if len(wrong):
        at = wrong[0]
        raise PoolError(f"label {given[at]} at position {at} is outside [-1, {highest}] ({len(wrong)} such labels)")
    return given.astype(np.int32)


def encoded_keys(keys: Iterable[Any], n: int) -> np.ndarray:
    """Return keys as (n, width) uint8: fixed width is the one string layout that Zarr v3 has settled.

    Raises:
        PoolError: another number of keys; a key that ends in a zero byte.

    >>> encoded_keys(["a", "bc"], n=2)
    array([[97,  0],
           [98, 99]], dtype=uint8)
    """
    encoded = [str(key).encode() for key in keys]
    if len(encoded) != n:
        raise PoolError(f"{len(encoded)} keys came for {n} items")
    width = max(1, max(map(len, encoded), default=1))
    for at, key in enumerate(encoded):
        if key.endswith(b"\0"):
            raise PoolError(f"key {at} ends in a zero byte, which pads keys on disk: {key!r}")
    return np.array(encoded, dtype=f"S{width}").view(np.uint8).reshape(n, width)


def read_keys(keys: dict[int, ChunkLayout], n: int, ids: np.ndarray | None = None) -> np.ndarray:
    """Return keys as strings, "" where an item has none.

    Args:
        keys: the arrays of keys, by the first item they name.
        n: how many items the pool has.
        ids: the items, in the order wanted; None: all. Only the chunks concerned are read.
    """
    width = max(layout.row_shape[0] for layout in keys.values())
    names = np.zeros(n if ids is None else len(ids), f"S{width}")
    for start, layout in keys.items():
        if ids is None:
            where: Any = slice(start, start + layout.n)
            raw = Column(layout)[:]
        else:
            where = np.flatnonzero((ids >= start) & (ids < start + layout.n))
            raw = Column(layout).at(ids[where] - start)
        names[where] = raw.view(f"S{raw.shape[1]}")[:, 0]
    return np.char.decode(names, "utf-8")


def set_values(layout: ChunkLayout, ids: np.ndarray, values: np.ndarray) -> None:
    """Change a column at some items; durable when it returns, each chunk replaced at once.

    Raises:
        PoolError: an id is repeated; the pool is at a URL; a chunk cannot be read or written.
    """
    name = layout.folder.name
    order = np.argsort(ids, kind="stable")
    ids, values = ids[order], values[order]
    repeated = ids[1:][ids[1:] == ids[:-1]]
    if len(repeated):
        raise PoolError(f"id {repeated[0]} is given more than once: its {name} would depend on the order")
    folder = local(layout.folder, f"change {name}")
    chunk = np.empty(layout.chunk, layout.dtype)
    with locked_in_turn(folder):
        discard_temporaries(folder, "*")  # of a killed call: this one has the lock
        for number in np.unique(ids // layout.chunk):
            start = int(number) * layout.chunk
            low, high = np.searchsorted(ids, [start, start + layout.chunk])
            with ChunkReader(layout) as reader:
                reader.decode(int(number), chunk)
            chunk[ids[low:high] - start] = values[low:high]
            file = folder / layout.name.format(int(number))
            try:
                replace_file(file, *file_parts(layout, chunk, len(chunk)))
            except OSError as error:
                raise PoolError(f"{name} could not be written, {file} is as it was: {error}") from error
