"""A column of a table of the user's, as one value for each item of a pool: the groups and costs of a selection, texts to show.

Memory is that of the items which the table names: a few thousand patients among 10^9 items do not take 8 GB.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import PoolError

if TYPE_CHECKING:
    from ...pool import Pool
    from ...selection import Limits


class ItemColumn:
    """(n,) values, nearly all of them missing; read as an array is, by a slice or at ids.

    >>> column = ItemColumn(6, np.array([1, 4]), np.array([2.5, 0.5]), missing=np.nan)
    >>> column[1:5], column[np.array([4, 0])]
    (array([2.5, nan, nan, 0.5]), array([0.5, nan]))
    """

    def __init__(self, n: int, ids: npt.NDArray[np.int64], values: npt.NDArray[Any], missing: float) -> None:
        """Ids ascend, each once."""
        self._ids, self._values, self._missing = ids, values, missing
        self.shape, self.dtype = (n,), values.dtype

    @property
    def named(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """The ids that have a value, ascending, and their values."""
        return self._ids, self._values

    def __getitem__(self, part: slice | npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        if not isinstance(part, slice):
            out = np.full(len(part), self._missing, self.dtype)
            at = np.minimum(np.searchsorted(self._ids, part), len(self._ids) - 1)
            named = self._ids[at] == part if len(self._ids) else np.zeros(len(part), bool)
            out[named] = self._values[at[named]]
            return out
        start, stop, _ = part.indices(self.shape[0])
        out = np.full(max(0, stop - start), self._missing, self.dtype)
        first, last = np.searchsorted(self._ids, [start, stop])
        out[self._ids[first:last] - start] = self._values[first:last]
        return out


def by_span(limits: Limits) -> Limits:
    """The same limits, with groups that are integers, and groups and costs that can be read span by span."""

    def column(given: Any) -> Any:
        return given if given is None or isinstance(given, ItemColumn) else np.asarray(given)

    groups, costs = column(limits.groups), column(limits.costs)
    if groups is not None and groups.dtype.kind not in "iu":
        groups = np.unique(groups, return_inverse=True)[1]
    return dataclasses.replace(limits, groups=groups, costs=costs)


def groups_from(pool: Pool, text: str, n: int | None = None) -> ItemColumn:
    """The group of each item, numbered in the order of their names; -1 for an item that the table gives none.

    Args:
        pool: has the items.
        text: "FILE:COLUMN": a CSV or Parquet file with a column ``id`` or ``key``, and the one named.
        n: of the first n items; default: of all.

    Raises:
        PoolError: no such file or column; ids or keys that the pool does not have; an item that has two groups.
    """
    ids, values = _column(pool, text)
    numbers = np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)[1]
    return _of_items(pool, text, ids, numbers.astype(np.int64), -1, n)


def costs_from(pool: Pool, text: str, n: int | None = None) -> ItemColumn:
    """The cost of each item; NaN for an item that the table gives none. Arguments and errors as of ``groups_from``.

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
    return _of_items(pool, text, ids, costs, np.nan, n)


def texts_from(pool: Pool, text: str) -> dict[int, str]:
    """The text of each item that the table names, by id.

    Raises:
        PoolError: no such file or column; ids or keys that the pool does not have.
    """
    ids, values = _column(pool, text)
    return dict(zip(ids.tolist(), map(str, values), strict=True))


def _column(pool: Pool, text: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The items that a table names, and their values."""
    from ...pool.table import Columns
    from ...pool.table_files import read_table
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


def _of_items(
    pool: Pool, text: str, ids: npt.NDArray[np.int64], values: npt.NDArray[Any], missing: float, n: int | None
) -> ItemColumn:
    """The values of the first n items; PoolError if an item has two."""
    order = np.argsort(ids, kind="stable")
    ids, values = ids[order], values[order]
    again = ids[1:] == ids[:-1]
    if (other := again & (values[1:] != values[:-1])).any():
        raise PoolError(f"{text} has two different values of item {ids[1:][other][0]}: keep one")
    n = pool.n if n is None else n
    kept = np.append(~again, True)[: len(ids)] & (ids < n)
    return ItemColumn(n, ids[kept], values[kept], missing)
