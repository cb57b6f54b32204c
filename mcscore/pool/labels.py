"""One value per item: labels of classes, labels that are numbers, and exclusion flags; checked and changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import discard_temporaries, replace_file
from ..errors import PoolError
from ..labels import UNLABELED
from ..store.chunks import ChunkReader
from ..store.files import local
from ..store.layout import ChunkLayout
from ..store.lock import locked_in_turn
from ..store.writer import file_parts
from .kinds import LabelColumn


def checked_labels(labels: Any, n: int | None, classes: Iterable[str] | None) -> np.ndarray:
    """Return labels as int32 (n,); n None: any number.

    Raises:
        PoolError: another length or rank; not integers; below -1 (unlabeled); beyond the class names, if there are any.

    >>> checked_labels([1, -1], n=2, classes=["cat", "dog"])
    array([ 1, -1], dtype=int32)
    """
    given = np.asarray(labels)
    if given.ndim != 1 or (n is not None and len(given) != n):
        raise PoolError(f"labels have shape {given.shape} for {n} items; one integer per item is needed, ({n},)")
    if given.dtype.kind not in "iu" and len(given):
        raise PoolError(
            f"labels are {given.dtype}; they must be integers (-1: unlabeled), unless they are numbers to be predicted: "
            "label_kind='number' (--label-kind number)"
        )
    highest = len(list(classes)) - 1 if classes is not None else np.iinfo(np.int32).max
    wrong = np.flatnonzero((given < UNLABELED) | (given > highest))
    if len(wrong):
        at = wrong[0]
        raise PoolError(f"label {given[at]} at position {at} is outside [-1, {highest}] ({len(wrong)} such labels)")
    return given.astype(np.int32)


def checked_numbers(labels: Any, n: int | None) -> np.ndarray:
    """Return labels that are numbers as float32 (n,); n None: any number of them.

    Raises:
        PoolError: another length or rank; not numbers; infinite, also in float32.

    >>> checked_numbers([1.5, float("nan"), 2], n=3)
    array([1.5, nan, 2. ], dtype=float32)
    """
    given = np.asarray(labels)
    if given.ndim != 1 or (n is not None and len(given) != n):
        raise PoolError(f"labels have shape {given.shape} for {n} items; one number per item is needed, ({n},)")
    if given.dtype.kind not in "iuf" and len(given):
        raise PoolError(f"labels are {given.dtype}; they must be numbers (NaN: unlabeled)")
    with np.errstate(over="ignore"):
        numbers = given.astype(np.float32)
    wrong = np.flatnonzero(np.isinf(numbers))
    if len(wrong):
        at = wrong[0]
        raise PoolError(f"label {given[at]} at position {at} is not finite in float32 ({len(wrong)} such labels)")
    return numbers


def checked_column(column: LabelColumn, labels: Any, n: int | None, classes: Iterable[str] | None) -> np.ndarray:
    """Return labels for a column, whose pool has ``classes``; None: no labels.

    Raises:
        PoolError: as for ``checked_labels`` and ``checked_numbers``.
    """
    if labels is None:
        return np.full(n or 0, column.empty, column.dtype)
    if column.kind == "number":
        return checked_numbers(labels, n)
    return checked_labels(labels, n, column.classes or classes)


def set_values(
    layout: ChunkLayout,
    ids: np.ndarray,
    values: np.ndarray,
    check: Callable[[np.ndarray], None] | None = None,
) -> int:
    """Change a column at some items; durable when it returns, each chunk replaced at once. Returns how many changed.

    Args:
        layout: of the column.
        ids: the items.
        values: their new values.
        check: is called with the values that the items have, before anything is written and under the lock that every
            writer takes, so that none can come between; what it raises leaves the column as it is.

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
    try:
        return _set_sorted(
            layout, folder, ids, values, check and (lambda had: check(had[np.argsort(order, kind="stable")]))
        )
    except OSError as error:
        raise PoolError(f"{name} could not be changed: {error}. Repeat the call") from error


def _set_sorted(
    layout: ChunkLayout,
    folder: Path,
    ids: np.ndarray,
    values: np.ndarray,
    check: Callable[[np.ndarray], None] | None,
) -> int:
    chunk = np.empty(layout.chunk, layout.dtype)
    changed = 0
    with locked_in_turn(folder), ChunkReader(layout) as reader:
        discard_temporaries(folder, "*")  # of a killed call: this one has the lock
        if check is not None:
            had = np.empty(len(ids), layout.dtype)
            reader.gather(ids, had)
            check(had)
        for number in np.unique(ids // layout.chunk):
            start = int(number) * layout.chunk
            low, high = np.searchsorted(ids, [start, start + layout.chunk])
            reader.decode(int(number), chunk)
            inside = ids[low:high] - start
            differ = int((_bits(chunk[inside]) != _bits(values[low:high])).sum())
            if not differ:
                continue
            chunk[inside] = values[low:high]
            file = folder / layout.name.format(int(number))
            try:
                replace_file(file, *file_parts(layout, chunk, len(chunk)))
            except OSError as error:
                raise PoolError(f"{folder.name} could not be written, {file} is as it was: {error}") from error
            changed += differ
    return changed


def _bits(values: np.ndarray) -> np.ndarray:
    """Return values so that NaN equals itself."""
    return np.ascontiguousarray(values).view(np.uint32) if values.dtype == np.float32 else values
