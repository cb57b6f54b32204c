"""A column of a table of the user's, as one value for each item of a pool: the groups and costs of a selection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import PoolError

if TYPE_CHECKING:
    from ...pool import Pool


def groups_from(pool: Pool, text: str) -> npt.NDArray[np.int64]:
    """The group of each item, (N,), numbered in the order of their names; -1 for an item that the table gives none.

    Args:
        pool: has the items.
        text: "FILE:COLUMN": a CSV or Parquet file with a column ``id`` or ``key``, and the one named.

    Raises:
        PoolError: no such file or column; ids or keys that the pool does not have; an item that has two groups.
    """
    ids, values = _column(pool, text)
    numbers = np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)[1]
    return _of_items(pool, text, ids, numbers.astype(np.int64), -1)


def costs_from(pool: Pool, text: str) -> npt.NDArray[np.float64]:
    """The cost of each item, (N,); NaN for an item that the table gives none. Arguments and errors as of ``groups_from``.

    Raises:
        PoolError: beside those, a cost that is no number >= 0.
    """
    ids, values = _column(pool, text)
    try:
        costs = np.array([float(value) for value in values])
    except ValueError as error:
        raise PoolError(f"{text}: a cost must be a number: {error}") from error
    if len(wrong := np.flatnonzero(~((costs >= 0) & (costs < np.inf)))):
        raise PoolError(f"{text}: a cost must be finite and >= 0, item {ids[wrong[0]]} has {costs[wrong[0]]}")
    return _of_items(pool, text, ids, costs, np.nan)


def _column(pool: Pool, text: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The items that a table names, and their values."""
    from ...pool.table_files import Columns, read_table
    from ...pool.tables import find_items

    file, _, column = text.rpartition(":")
    if not file or not column:
        raise PoolError(f"{text!r} is not FILE:COLUMN, such as items.csv:patient")
    table = read_table(Path(file), Columns(label=column), labeled=True)
    if "label" not in table.columns:
        raise PoolError(f"{file} has no column {column!r}; it has {', '.join(table.names)}")
    ids, conflicts = find_items(pool, table)
    conflicts.refuse(file)
    return ids, table.columns["label"].to_pylist()


def _of_items(pool: Pool, text: str, ids: npt.NDArray[np.int64], values: Any, missing: Any) -> Any:
    """(N,) the values of the items, and ``missing`` of those that are not named; PoolError if an item has two."""
    of_items = np.full(pool.n, missing, values.dtype)
    of_items[ids] = values
    if len(other := np.flatnonzero(of_items[ids] != values)):
        raise PoolError(f"{text} has two different values of item {ids[other[0]]}: keep one")
    return of_items
