"""Labels, and choices of items, from tables: CSV, Parquet or JSON with a column ``id`` or ``key``, and ``label``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolError
from ..labels import UNLABELED, has_label
from ..text import count
from .class_names import ClassReader, whole_number
from .keys import SEVERAL, keys_at
from .kinds import MAIN, LabelColumn
from .label_columns import wanted_column, with_label_column
from .pool import Pool
from .table import NAME, Columns, Table
from .table_files import SUFFIXES, read_lines, read_table
from .text_columns import distinct, mask, real_numbers, trimmed, whole_numbers, without_blanks

GAPS = frozenset({"nan", "null", "na", "<na>"})  # what tables have, beside nothing, where there is no value
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
    name: str = MAIN,
    kind: str | None = None,
    classes: Sequence[str] | None = None,
) -> Labeled:
    r"""Set the labels that a table gives, all or none; returns how many changed, and how many rows have no label.

    Args:
        pool: the pool.
        table: a CSV (any separator), Parquet or JSON file with a column ``id`` or ``key``, and ``label``: the pool's class names,
            or their numbers (-1 takes a label away); or numbers to be predicted, where the labels of the pool are of that
            kind. JSON is a list of objects, an object a line, or an object of labels by id or key. Rows without a label (empty,
            null, NaN, NA) are left out. In CSV, an apostrophe that keeps a spreadsheet from running a text (``'=x``) is no part of
            the text.
        overwrite: replace labels that items have already.
        columns: which columns name the items and the labels, and what separates them.
        reading: whether labels of digits are "names" or "numbers" of classes; needed only where the two differ.
        name: the column of labels in the pool that gets them.
        kind: "class", or "number" for numbers to be predicted. A column that the pool does not have is made of this kind; one
            in which nothing is labeled becomes of this kind. Open the pool anew to see it. None: the kind of the column.
        classes: names of the classes of a column that is made; default: those of the pool.

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
    >>> _ = (folder / "ages.json").write_text('{"0": 41.5, "2": 7}')
    >>> label_from(pool, folder / "ages.json", name="age", kind="number").changed, Pool.open(pool.path).labels_of("age").tolist()
    (2, [41.5, nan, 7.0])
    """
    given = read_table(Path(table), columns, labeled=True)
    return set_labels_of(
        pool, given, overwrite=overwrite, reading=reading, column=wanted_column(pool, name, kind, classes)
    )


def set_labels_of(
    pool: Pool,
    table: Table,
    *,
    overwrite: bool = False,
    reading: str | None = None,
    column: LabelColumn | None = None,
) -> Labeled:
    """Set the labels of a table that is read, as ``label_from`` does.

    Args:
        pool: the pool.
        table: as ``read_table`` or ``table_of`` returns it.
        overwrite: as for ``label_from``.
        reading: as for ``label_from``.
        column: the column of the pool that gets them, made if the pool does not have it; default: the main one.

    Raises:
        PoolError: as ``label_from``.
    """
    if "label" not in table.columns:
        raise PoolError(
            f"{table.path} has no column 'label' (--label-column names another); it has {', '.join(table.names)}"
        )
    column = column or pool.label_columns[MAIN]
    labels, has = _values(pool, table, column, reading)
    ids, conflicts = find_items(pool, table)
    unlabeled = table.unlabeled + int((~has).sum())
    rows, path = len(table.lines) + table.unlabeled, table.path
    del table  # its texts, before the labels are set
    known = has & (ids >= 0)
    ids, labels = ids[known], labels[known]
    order = np.argsort(ids, kind="stable")
    ids, labels = ids[order], labels[order]
    again = np.flatnonzero((ids[1:] == ids[:-1]) & (labels[1:] != labels[:-1]))
    conflicts.add(again, lambda i: f"item {ids[i]} is given both {labels[i]} and {labels[i + 1]}")
    items, first = np.unique(ids, return_index=True)
    wanted = labels[first]

    def agree(had: np.ndarray) -> None:
        """Refuse all, while no other call can change the labels that the items have."""
        other = np.flatnonzero((had != wanted) & has_label(had) & (not overwrite))
        conflicts.add(
            other,
            lambda i: f"item {items[i]} is labeled {had[i]} and would become {wanted[i]} (--overwrite replaces)",
        )
        conflicts.refuse(path)

    if pool.label_columns.get(column.name) != column:
        conflicts.refuse(path)
        pool = with_label_column(pool, column.name, kind=column.kind, classes=column.classes)
    changed = pool.set_labels(items, wanted, name=column.name, check=agree)
    return Labeled(changed, rows, unlabeled)


def items_from(pool: Pool, text: str) -> np.ndarray:
    """Return the ids that are listed ("3,17,20-29"), or that a file names.

    Args:
        pool: the pool.
        text: ids and ranges; or a path: CSV, Parquet or JSON with a column ``id`` or ``key``, else a file with one id or key a
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
        known = path.suffix.lower() in SUFFIXES
        ids, conflicts = find_items(pool, read_table(path) if known else _lines(pool, path))
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
    return _as_ids_or_keys(pool, Table(path, [], {NAME: texts}, lines))


def _as_ids_or_keys(pool: Pool, table: Table) -> Table:
    """Return a table whose items are named by one column of ids or keys with that column known as the one or the other."""
    others = dict(table.columns)
    texts = others.pop(NAME)
    digits = bool(whole_numbers(texts)[1].all())
    if digits and pool.has_keys and (pool.find_keys(texts) != -1).any():
        raise PoolError(
            f"{table.path} has numbers that may be ids, and some of them are keys of {pool.path} as well: "
            "name the items in a .csv file, in a column 'id' or 'key'"
        )
    return replace(table, columns={"id" if digits else "key": texts, **others})


def find_items(pool: Pool, table: Table) -> tuple[np.ndarray, _Conflicts]:
    """Return (ids, -1 where there is none; conflicts) of the rows of a table. An id and a key must name the same item.

    Raises:
        PoolError: there is neither column; or only keys, and the pool has none.
    """
    if NAME in table.columns:
        table = _as_ids_or_keys(pool, table)
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


def _values(pool: Pool, table: Table, column: LabelColumn, reading: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the label of every row, and which rows have one."""
    if column.kind == "number":
        return _numbers(table, reading)
    return _classes(table, list(column.classes or pool.classes or []) or None, reading)


def _numbers(table: Table, reading: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of all rows, float32."""
    if reading is not None:
        raise PoolError(
            f"labels are numbers to be predicted, and no {reading} of classes: leave out --labels-are (reading=)"
        )
    texts = table.columns["label"]
    numbers, are = real_numbers(texts)
    with np.errstate(over="ignore"):
        values = numbers.astype(np.float32)
    missing = np.zeros(len(are), bool)
    for row in np.flatnonzero(~are | np.isinf(values)):
        text = table.text(int(row), "label").strip()
        missing[row] = text.casefold() in GAPS
        if not missing[row]:
            hint = ": write a decimal point" if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", text) else ""
            raise PoolError(f"{table.path}, {table.place(int(row), 'label')}: {text!r} is no finite number{hint}")
    return values, ~missing


def _classes(table: Table, classes: list[str] | None, reading: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the class numbers of all rows, int32."""
    texts, which = distinct(table.columns["label"])
    known = set(classes or ())
    labels = [text if text in known else text.strip() for text in texts]
    gaps = np.array([text.casefold() in GAPS and not (reading == "names" and text in known) for text in labels], bool)
    for text in known.intersection(text for text, gap in zip(labels, gaps, strict=True) if gap):
        raise PoolError(
            f"{table.path}: label {text!r} has two readings: it is the name of a class, and what tables say of a gap. Say which with "
            "--labels-are names (reading= in Python), or leave the cells of the gaps empty"
        )
    try:
        numbers = ClassReader(classes, reading).numbers(t for t, gap in zip(labels, gaps, strict=True) if not gap)
    except PoolError as error:
        raise PoolError(f"{table.path}: {error}") from error
    found = np.full(len(labels), UNLABELED, np.int64)
    if None in numbers:
        row = int(np.flatnonzero(which == np.flatnonzero(~gaps)[numbers.index(None)])[0])
        raise _no_class(table, row, classes)
    found[~gaps] = np.array(numbers, np.int64)
    return found.astype(np.int32)[which], ~gaps[which]


def _no_class(table: Table, row: int, classes: list[str] | None) -> PoolError:
    text = table.text(row, "label").strip()
    some = ", ".join((classes or [])[:_SHOWN]) + (", ..." if len(classes or []) > _SHOWN else "")
    choices = f"neither a class ({some}) nor the number of one" if classes else "not a number from 0 on"
    hint = ""
    if re.fullmatch(r"[+-]?[0-9]*\.[0-9]*[1-9][0-9]*", text):
        hint = ". Numbers to be predicted (regression): --kind number (kind= in Python)"
    elif not classes and not re.fullmatch(r"[+-]?[0-9.]+", text):
        hint = ". Names need classes of the pool: mcscore pool set POOL --classes NAME,NAME,... gives it some"
    return PoolError(f"{table.path}, {table.place(row, 'label')}: {text!r} is {choices}, nor -1{hint}")
