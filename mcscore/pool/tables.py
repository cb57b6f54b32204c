"""Labels, and choices of items, from tables: CSV or Parquet with a column ``id`` or ``key``, and ``label``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolError
from ..text import count
from .class_names import ClassReader, whole_number
from .keys import SEVERAL
from .pool import Pool
from .schema import UNLABELED
from .table_files import SUFFIXES, Columns, Table, read_table, read_text

_SHOWN = 5  # conflicts, or classes, that an error names
_RANGE = re.compile(r"([0-9]+)(?:\s*-\s*([0-9]+))?")


def label_from(
    pool: Pool,
    table: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    columns: Columns = Columns(),  # noqa: B008 (frozen)
    reading: str | None = None,
) -> int:
    r"""Set the labels that a table gives, all or none; returns how many changed.

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
    >>> _ = (folder / "labels.csv").write_text("id,label\n0,dog\n2,cat\n")
    >>> label_from(pool, folder / "labels.csv"), pool.labels.tolist()
    (2, [1, -1, 0])
    """
    given = read_table(Path(table), columns)
    if "label" not in given.columns:
        raise PoolError(
            f"{table} has no column 'label' (--label-column names another); it has {', '.join(given.names)}"
        )
    given = given.rows([i for i, text in enumerate(given.columns["label"]) if text.strip()])
    labels = _numbers(pool, given, reading)
    ids, conflicts = find_items(pool, given)
    known = ids >= 0
    ids, labels = ids[known], labels[known]
    order = np.argsort(ids, kind="stable")
    ids, labels = ids[order], labels[order]
    again = np.flatnonzero((ids[1:] == ids[:-1]) & (labels[1:] != labels[:-1]))
    conflicts += [f"item {ids[i]} is given both {labels[i]} and {labels[i + 1]}" for i in again]
    ids, first = np.unique(ids, return_index=True)
    labels = labels[first]

    def agree(had: np.ndarray) -> None:
        """Refuse all, while no other call can change the labels that the items have."""
        other = np.flatnonzero((had != labels) & (had != UNLABELED) & (not overwrite))
        more = [f"item {ids[i]} is labeled {had[i]} and would become {labels[i]} (--overwrite replaces)" for i in other]
        _refuse(conflicts + more, table)

    return pool.set_labels(ids, labels, check=agree)


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
        _refuse(conflicts, path)
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
    numbered = [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), 1)]
    lines, values = [n for n, text in numbered if text], [text for _, text in numbered if text]
    digits = all(whole_number(text.strip()) is not None for text in values)
    if digits and pool.has_keys and (pool.find_keys(values) != -1).any():
        raise PoolError(
            f"{path} has numbers that may be ids, and some of them are keys of {pool.path} as well: "
            "name the items in a .csv file, in a column 'id' or 'key'"
        )
    return Table(path, [], {"id" if digits else "key": values}, lines)


def find_items(pool: Pool, table: Table) -> tuple[np.ndarray, list[str]]:
    """Return (ids, -1 where there is none; conflicts) of the rows of a table. An id and a key must name the same item.

    Raises:
        PoolError: there is neither column; or only keys, and the pool has none.
    """
    columns = table.columns
    if "id" not in columns and "key" not in columns:
        raise PoolError(f"{table.path} has neither a column 'id' nor 'key'; it has {', '.join(table.names)}")
    if "id" not in columns and not pool.has_keys:
        raise PoolError(f"{table.path} names items by key, and {pool.path} has no keys: name them by id")
    wrong: list[str] = []
    if "id" in columns:
        given = [whole_number(text.strip()) for text in columns["id"]]
        ids = np.array([-1 if id is None or id >= pool.n else id for id in given], np.int64)
        wrong += [
            f"{table.place(i, 'id')}: {columns['id'][i].strip() or 'an empty id'} is not an id of this pool"
            for i in np.flatnonzero(ids < 0).tolist()
        ]
        rows = np.flatnonzero(ids >= 0)
        keys = pool.keys_of(ids[rows]) if "key" in columns else None
        for row, key in zip(rows.tolist(), [] if keys is None else keys, strict=keys is not None):
            if key not in _readings(columns["key"][row]):
                wrong.append(
                    f"{table.place(row, 'key')}: item {ids[row]} has the key {str(key)!r}, not {columns['key'][row]!r}"
                )
        return ids, wrong
    found = iter(pool.find_keys([reading for key in columns["key"] for reading in _readings(key)]).tolist())
    ids = np.full(len(columns["key"]), -1, np.int64)
    for row, text in enumerate(columns["key"]):
        items = [next(found) for _ in _readings(text)]
        ids[row] = next((item for item in items if item != -1), -1)
        if ids[row] == -1:
            wrong.append(f"{table.place(row, 'key')}: key {text.strip()!r} is unknown")
        elif ids[row] == SEVERAL:
            wrong.append(f"{table.place(row, 'key')}: key {text.strip()!r} names several items: use ids")
            ids[row] = -1
    return ids, wrong


def _readings(text: str) -> tuple[str, ...]:
    """What a cell may mean, best first: the text as it is, or without the blanks that people put after a delimiter."""
    return (text,) if text == text.strip() else (text, text.strip())


def _numbers(pool: Pool, table: Table, reading: str | None) -> np.ndarray:
    """Return the class number of every row."""
    classes, texts = pool.classes or [], table.columns["label"]
    try:
        known = set(classes)
        named = [next((form for form in _readings(text) if form in known), text.strip()) for text in texts]
        numbers = ClassReader(pool.classes, reading).numbers(named)
    except PoolError as error:
        raise PoolError(f"{table.path}: {error}") from error
    for row, number in enumerate(numbers):
        if number is None:
            some = ", ".join(classes[:_SHOWN]) + (", ..." if len(classes) > _SHOWN else "")
            choices = f"neither a class ({some}) nor the number of one" if classes else "not a number from 0 on"
            raise PoolError(f"{table.path}, {table.place(row, 'label')}: {texts[row].strip()!r} is {choices}, nor -1")
    return np.array(numbers, np.int64)


def _refuse(conflicts: list[str], table: Any) -> None:
    if conflicts:
        some = "; ".join(conflicts[:_SHOWN]) + ("; ..." if len(conflicts) > _SHOWN else "")
        raise PoolError(f"{table} has {count(len(conflicts), 'conflict')}, nothing was changed: {some}")
