"""Labels, and choices of items, from tables: CSV or Parquet with a column ``id`` or ``key``, and ``label``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolError
from .pool import Pool
from .schema import UNLABELED

_SHOWN = 5  # conflicts that an error names


def label_from(pool: Pool, table: str | os.PathLike[str], *, overwrite: bool = False) -> int:
    r"""Set the labels that a table gives, all or none; returns how many changed.

    Args:
        pool: the pool.
        table: a CSV or Parquet file with a column ``id`` or ``key``, and ``label``: the pool's class names, or numbers (-1
            takes a label away). Rows without a label are left out.
        overwrite: replace labels that items have already.

    Raises:
        PoolError: no such table or columns; a label that is neither a class name nor a number of one; and as conflicts,
            naming them: ids or keys that the pool does not have, items that are given two labels, and, unless
            ``overwrite``, items that have another label.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> pool = Pool.create(folder / "p", np.zeros((3, 2), np.uint8), classes=["cat", "dog"])
    >>> _ = (folder / "labels.csv").write_text("id,label\n0,dog\n2,cat\n")
    >>> label_from(pool, folder / "labels.csv"), pool.labels.tolist()
    (2, [1, -1, 0])
    """
    columns = read_table(Path(table))
    if "label" not in columns:
        raise PoolError(f"{table} has no column 'label'; it has {', '.join(columns)}")
    rows = [i for i, text in enumerate(columns["label"]) if text]
    columns = {name: [values[i] for i in rows] for name, values in columns.items()}
    labels = np.array([_number(text, pool, table) for text in columns["label"]], np.int64)
    ids, conflicts = find_items(pool, columns, table)
    known = ids >= 0
    ids, labels = ids[known], labels[known]
    order = np.argsort(ids, kind="stable")
    ids, labels = ids[order], labels[order]
    again = np.flatnonzero((ids[1:] == ids[:-1]) & (labels[1:] != labels[:-1]))
    conflicts += [f"item {ids[i]} is given both {labels[i]} and {labels[i + 1]}" for i in again]
    ids, first = np.unique(ids, return_index=True)
    labels = labels[first]
    had = pool.labels[ids]
    changed = had != labels
    if not overwrite:
        other = np.flatnonzero(changed & (had != UNLABELED))
        conflicts += [
            f"item {ids[i]} is labeled {had[i]} and would become {labels[i]} (--overwrite replaces)" for i in other
        ]
    _refuse(conflicts, table)
    pool.set_labels(ids[changed], labels[changed])
    return int(changed.sum())


def items_from(pool: Pool, text: str) -> np.ndarray:
    """Return the ids that are listed ("3,17,20-29"), or that a file names.

    Args:
        pool: the pool.
        text: ids and ranges; or a path: CSV or Parquet with a column ``id`` or ``key``, else a file with one id or key a
            line.

    Raises:
        PoolError: ``text`` is neither; ids or keys that the pool does not have.

    >>> import tempfile
    >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.zeros((9, 2), np.uint8))
    >>> items_from(pool, "7,2-4").tolist()
    [2, 3, 4, 7]
    """
    path = Path(text)
    if path.is_file():
        if path.suffix in (".csv", ".parquet"):
            columns = read_table(path)
        else:
            lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
            columns = {"id" if all(line.isdigit() for line in lines) else "key": lines}
        ids, conflicts = find_items(pool, columns, path)
        _refuse(conflicts, path)
        return np.unique(ids)
    ids_list: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise PoolError(f"{text!r} is neither a file nor a list of ids such as 3,17,20-29")
        ids_list.extend(range(int(first), int(last or first) + 1))
    return np.unique(np.array(ids_list, np.int64))


def read_table(path: Path) -> dict[str, list[str]]:
    """Read the columns of a table as text, "" where a row has no value.

    Raises:
        PoolError: it cannot be read; it is neither .csv nor .parquet.
    """
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        elif path.suffix == ".csv":
            names = pyarrow.csv.open_csv(path).schema.names
            # Everything as text: a key 007 is not the number 7.
            as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))
            table = pyarrow.csv.read_csv(path, convert_options=as_text)
        else:
            raise PoolError(f"{path} is neither a .csv nor a .parquet file")
    except (OSError, pyarrow.ArrowException) as error:
        raise PoolError(f"{path} cannot be read: {error}") from error
    return {
        name: ["" if value is None else str(value).strip() for value in table.column(name).to_pylist()]
        for name in table.column_names
    }


def find_items(pool: Pool, columns: dict[str, list[str]], table: Any) -> tuple[np.ndarray, list[str]]:
    """Return (ids, -1 where there is none; conflicts) of the rows of a table. An id and a key must name the same item.

    Raises:
        PoolError: there is neither column; or only keys, and the pool has none.
    """
    keys = pool.keys if "key" in columns else None
    if "id" not in columns and "key" not in columns:
        raise PoolError(f"{table} has neither a column 'id' nor 'key'; it has {', '.join(columns)}")
    if "id" not in columns and keys is None:
        raise PoolError(f"{table} names items by key, and {pool.path} has no keys: name them by id")
    wrong: list[str] = []
    if "id" in columns:
        ids = np.array([int(text) if text.isdigit() and len(text) < 19 else -1 for text in columns["id"]], np.int64)
        ids[ids >= pool.n] = -1
        wrong += [f"{columns['id'][i] or 'an empty id'} is not an id of this pool" for i in np.flatnonzero(ids < 0)]
        if keys is not None:
            other = [i for i in np.flatnonzero(ids >= 0) if columns["key"][i] != keys[ids[i]]]
            wrong += [f"item {ids[i]} has the key {str(keys[ids[i]])!r}, not {columns['key'][i]!r}" for i in other]
        return ids, wrong
    assert keys is not None
    item_of: dict[str, int] = {}
    twice = set()
    for i in np.flatnonzero(np.isin(keys, np.array(columns["key"] or [""]))).tolist():
        twice.update([keys[i]] if keys[i] in item_of else [])
        item_of[keys[i]] = i
    ids = np.array([-1 if key in twice else item_of.get(key, -1) for key in columns["key"]], np.int64)
    for i in np.flatnonzero(ids < 0).tolist():
        key = columns["key"][i]
        wrong.append(f"key {key!r} names several items: use ids" if key in twice else f"key {key!r} is unknown")
    return ids, wrong


def _number(text: str, pool: Pool, table: Any) -> int:
    if pool.classes and text in pool.classes:
        return pool.classes.index(text)
    if text.removeprefix("-").isdigit() and UNLABELED <= int(text) < (len(pool.classes) if pool.classes else 2**31):
        return int(text)
    choices = f"a class ({', '.join(pool.classes)}) or its number" if pool.classes else "a number from 0 on"
    raise PoolError(f"{table} has the label {text!r}, which is not {choices}, nor -1")


def _refuse(conflicts: list[str], table: Any) -> None:
    if conflicts:
        some = "; ".join(conflicts[:_SHOWN]) + ("; ..." if len(conflicts) > _SHOWN else "")
        raise PoolError(f"{table} has {len(conflicts)} conflicts, nothing was changed: {some}")
