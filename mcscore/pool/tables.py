"""Labels, and choices of items, from tables: CSV or Parquet with a column ``id`` or ``key``, and ``label``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolError
from ..text import count
from .class_names import ClassReader, whole_number
from .keys import SEVERAL, keys_at
from .pool import Pool
from .schema import UNLABELED
from .table_files import SUFFIXES, Columns, Table, read_lines, read_table
from .text_columns import distinct, mask, trimmed, whole_numbers, without_blanks

_SHOWN = 5  # conflicts, or classes, that an error names
_RANGE = re.compile(r"([0-9]+)(?:\s*-\s*([0-9]+))?")
_COMPARED = 1 << 16  # keys that are compared at a time


@dataclass(frozen=True)
class Labeled:
    """What ``label_from`` did.

    Attributes:
        changed: how many labels of the pool are others than before.
        rows: how many rows the table has.
        rows_without_label: how many of them change nothing, as they have no label.
    """

    changed: int
    rows: int
    rows_without_label: int


class _Conflicts:
    """How many conflicts there are, and the first of them in words."""

    def __init__(self) -> None:
        self._count = 0
        self._shown: list[str] = []

    def add(self, rows: np.ndarray, words: Callable[[int], str]) -> None:
        self._count += len(rows)
        self._shown += map(words, rows[: _SHOWN - len(self._shown)].tolist())

    def refuse(self, table: Any) -> None:
        """Raise PoolError if there are any."""
        if self._count:
            some = "; ".join(self._shown) + ("; ..." if self._count > _SHOWN else "")
            raise PoolError(f"{table} has {count(self._count, 'conflict')}, nothing was changed: {some}")


def label_from(
    pool: Pool,
    table: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    columns: Columns = Columns(),  # noqa: B008 (frozen)
    reading: str | None = None,
) -> Labeled:
    r"""Set the labels that a table gives, all or none; returns how many changed, and how many rows have no label.

    Args:
        pool: the pool.
        table: a CSV (comma, semicolon or tab) or Parquet file with a column ``id`` or ``key``, and ``label``: the pool's
            class names, or numbers (-1 takes a label away). Rows without a label are left out. In CSV, an apostrophe that
            keeps a spreadsheet from running a text (``'=x``) is no part of the text.
        overwrite: replace labels that items have already.
        columns: which columns name the items and the labels.
        reading: whether labels of digits are "names" or "numbers" of classes; needed only where the two differ.

    Raises:
        PoolError: no such table or columns; a label that is neither a class name nor a number of one, or is both, of
            different classes; ids that may be those of a labeling tool; and as conflicts,
            naming them: ids or keys that the pool does not have, items that are given two labels, and, unless
            ``overwrite``, items that have another label.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> pool = Pool.create(folder / "p", np.zeros((3, 2), np.uint8), classes=["cat", "dog"])
    >>> _ = (folder / "labels.csv").write_text("id,label\n0,dog\n1,\n2,cat\n")
    >>> label_from(pool, folder / "labels.csv"), pool.labels.tolist()
    (Labeled(changed=2, rows=3, rows_without_label=1), [1, -1, 0])
    """
    return set_labels_of(pool, read_table(Path(table), columns, labeled=True), overwrite=overwrite, reading=reading)


def set_labels_of(pool: Pool, table: Table, *, overwrite: bool = False, reading: str | None = None) -> Labeled:
    """Set the labels of a table that is read, as ``label_from`` does.

    Raises:
        PoolError: as ``label_from``.
    """
    if "label" not in table.columns:
        raise PoolError(
            f"{table.path} has no column 'label' (--label-column names another); it has {', '.join(table.names)}"
        )
    labels = _numbers(pool, table, reading)
    ids, conflicts = find_items(pool, table)
    rows, unlabeled, path = len(table.lines) + table.unlabeled, table.unlabeled, table.path
    del table  # its texts, before the labels are set
    known = ids >= 0
    ids, labels = ids[known], labels[known]
    order = np.argsort(ids, kind="stable")
    ids, labels = ids[order], labels[order]
    again = np.flatnonzero((ids[1:] == ids[:-1]) & (labels[1:] != labels[:-1]))
    conflicts.add(again, lambda i: f"item {ids[i]} is given both {labels[i]} and {labels[i + 1]}")
    items, first = np.unique(ids, return_index=True)
    wanted = labels[first]

    def agree(had: np.ndarray) -> None:
        """Refuse all, while no other call can change the labels that the items have."""
        other = np.flatnonzero((had != wanted) & (had != UNLABELED) & (not overwrite))
        conflicts.add(
            other,
            lambda i: f"item {items[i]} is labeled {had[i]} and would become {wanted[i]} (--overwrite replaces)",
        )
        conflicts.refuse(path)

    changed = pool.set_labels(items, wanted, check=agree)
    return Labeled(changed, rows, unlabeled)


def items_from(pool: Pool, text: str) -> np.ndarray:
    """Return the ids that are listed ("3,17,20-29"), or that a file names.

    Args:
        pool: the pool.
        text: ids and ranges; or a path: CSV or Parquet with a column ``id`` or ``key``, else a file with one id or key a
            line.

    Raises:
        PoolError: ``text`` is neither; a range runs backwards or beyond the pool; ids or keys that the pool does not have;
            lines that are ids and keys as well.

    >>> import tempfile
    >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.zeros((9, 2), np.uint8))
    >>> items_from(pool, "7,2-4").tolist()
    [2, 3, 4, 7]
    """
    path = Path(text)
    if os.path.isfile(path):  # unlike Path.is_file, no error for a list that is too long for a file name
        ids, conflicts = find_items(pool, read_table(path) if path.suffix in SUFFIXES else _lines(pool, path))
        conflicts.refuse(path)
        return np.unique(ids)
    chosen = np.zeros(pool.n, bool)  # no more than the pool, however long the ranges are
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise PoolError(f"{text!r} is neither a file nor a list of ids such as 3,17,20-29")
        first, last = whole_number(found[1]), whole_number(found[2] or found[1])
        if first is None or last is None or max(first, last) >= pool.n:
            raise PoolError(
                f"{part.strip()} is outside {pool.path}, which has {count(pool.n, 'item')}: ids 0..{pool.n - 1}"
            )
        if first > last:
            raise PoolError(f"the range {part.strip()} runs backwards and names no item: write {last}-{first}")
        chosen[first : last + 1] = True
    return np.flatnonzero(chosen)


def _lines(pool: Pool, path: Path) -> Table:
    """Read a file with one id or key a line."""
    texts, lines = read_lines(path)
    digits = bool(whole_numbers(texts)[1].all())
    if digits and pool.has_keys and (pool.find_keys(texts) != -1).any():
        raise PoolError(
            f"{path} has numbers that may be ids, and some of them are keys of {pool.path} as well: "
            "name the items in a .csv file, in a column 'id' or 'key'"
        )
    return Table(path, [], {"id" if digits else "key": texts}, lines)


def find_items(pool: Pool, table: Table) -> tuple[np.ndarray, _Conflicts]:
    """Return (ids, -1 where there is none; conflicts) of the rows of a table. An id and a key must name the same item.

    Raises:
        PoolError: there is neither column; or only keys, and the pool has none.
    """
    columns = table.columns
    if "id" not in columns and "key" not in columns:
        raise PoolError(f"{table.path} has neither a column 'id' nor 'key'; it has {', '.join(table.names)}")
    if "id" not in columns and not pool.has_keys:
        raise PoolError(f"{table.path} names items by key, and {pool.path} has no keys: name them by id")
    return _by_id(pool, table) if "id" in columns else _by_key(pool, table)


def _by_id(pool: Pool, table: Table) -> tuple[np.ndarray, _Conflicts]:
    conflicts = _Conflicts()
    ids, _ = whole_numbers(table.columns["id"])
    ids = np.where(ids < pool.n, ids, -1)

    def no_id(row: int) -> str:
        text = table.text(row, "id").strip()
        return f"{table.place(row, 'id')}: {text or 'an empty id'} is not an id of this pool"

    def another_key(row: int) -> str:
        key = keys_at(pool.storage.keys, ids[row : row + 1])[0].as_py().decode()
        return f"{table.place(row, 'key')}: item {ids[row]} has the key {key!r}, not {table.text(row, 'key')!r}"

    conflicts.add(np.flatnonzero(ids < 0), no_id)
    if "key" in table.columns and pool.has_keys:
        conflicts.add(_with_another_key(pool, ids, table.columns["key"]), another_key)
    return ids, conflicts


def _with_another_key(pool: Pool, ids: np.ndarray, column: Any) -> np.ndarray:
    """Return the rows whose item has another key than they say; an id of -1 is no item."""
    import pyarrow
    from pyarrow import compute

    same = ids < 0
    for at in range(0, len(ids), _COMPARED):
        part = slice(at, at + _COMPARED)
        keys = keys_at(pool.storage.keys, np.maximum(ids[part], 0)).cast(pyarrow.large_binary())
        for reading in (column[part], trimmed(column[part])):
            same[part] |= mask(compute.equal(reading.cast(pyarrow.large_binary()), keys))
    return np.flatnonzero(~same)


def _by_key(pool: Pool, table: Table) -> tuple[np.ndarray, _Conflicts]:
    """Find each key as it is, or else without the blanks that people put after a delimiter."""
    conflicts, column = _Conflicts(), table.columns["key"]
    ids = pool.find_keys(column)
    again, texts = without_blanks(column, ids == -1)
    if again.any():
        ids[again] = pool.find_keys(texts)
    several = ids == SEVERAL

    def not_one(row: int) -> str:
        what = "names several items: use ids" if several[row] else "is unknown"
        return f"{table.place(row, 'key')}: key {table.text(row, 'key').strip()!r} {what}"

    conflicts.add(np.flatnonzero(ids < 0), not_one)
    return np.where(several, -1, ids), conflicts


def _numbers(pool: Pool, table: Table, reading: str | None) -> np.ndarray:
    """Return the class number of every row."""
    classes = pool.classes or []
    texts, which = distinct(table.columns["label"])
    try:
        known = set(classes)
        numbers = ClassReader(pool.classes, reading).numbers(text if text in known else text.strip() for text in texts)
    except PoolError as error:
        raise PoolError(f"{table.path}: {error}") from error
    if None in numbers:
        row = int(np.flatnonzero(which == numbers.index(None))[0])
        some = ", ".join(classes[:_SHOWN]) + (", ..." if len(classes) > _SHOWN else "")
        choices = f"neither a class ({some}) nor the number of one" if classes else "not a number from 0 on"
        text = table.text(row, "label").strip()
        raise PoolError(f"{table.path}, {table.place(row, 'label')}: {text!r} is {choices}, nor -1")
    return np.array(numbers, np.int32)[which]
