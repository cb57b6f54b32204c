"""What is said of the items of a pool: labels, exclusion flags and keys, read from disk and changed durably."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import PoolError
from ..labels import has_label
from ..store.columns import Column
from ..store.files import AnyPath
from .keys import find_keys, read_keys
from .kinds import MAIN, LabelColumn
from .labels import checked_column, set_values
from .storage import Storage


class LabeledItems:
    """The part of a Pool that says what its items are called and labeled.

    ``labels`` and ``excluded`` are read from disk on each access, so changes by other processes are seen.
    """

    storage: Storage
    path: AnyPath
    n: int
    classes: list[str] | None

    @property
    def labels(self) -> np.ndarray:
        """Labels of the main column, (N,); a copy. Classes are int32, -1 = unlabeled; numbers are float32, NaN = unlabeled."""
        return self.column("labels")[:]

    @property
    def labeled(self) -> np.ndarray:
        """Which items have a label in the main column, (N,) bool: those are neither scored nor selected."""
        return has_label(self.labels)

    @property
    def label_columns(self) -> dict[str, LabelColumn]:
        """The columns of labels by name, the main one, "label", first."""
        return {one.name: one for one in self.storage.attributes.columns_of_labels}

    def labels_of(self, name: str) -> np.ndarray:
        """Return the labels of a column, (N,), as :attr:`labels` are of the main one; a copy.

        Raises:
            PoolError: there is no such column.
        """
        return Column(self.storage.labels[self._label_column(name).name])[:]

    @property
    def excluded(self) -> np.ndarray:
        """Flags, (N,) bool, True: never to be scored or selected; a copy."""
        return self.column("excluded")[:]

    @property
    def keys(self) -> np.ndarray | None:
        """The user's names of the items, (N,) str ("" where an item has none), or None; 4 bytes of memory per character.

        Of a large pool ask for the keys of some items (keys_of), or for the items of some keys (find_keys).
        """
        return read_keys(self.storage.keys, self.n) if self.storage.keys else None

    def keys_of(self, ids: Any) -> np.ndarray | None:
        """Return the keys of some items, (n,) str in the order of ``ids``, or None; reads only the chunks concerned.

        Raises:
            PoolError: ids outside the pool, naming them.
        """
        if not self.storage.keys:
            return None
        return read_keys(self.storage.keys, self.n, self.checked_ids(ids))

    @property
    def has_keys(self) -> bool:
        """Whether any item may have a key; reads nothing."""
        return bool(self.storage.keys)

    def find_keys(self, keys: Any) -> np.ndarray:
        """Return which item has each key, (n,) int64: its id, -1 where no item has it, -2 where several have.

        Args:
            keys: strings: a list, an array of NumPy, or one of pyarrow.

        >>> import tempfile
        >>> from mcscore.pool import Pool
        >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.zeros((3, 2), np.uint8), keys=["a", "b", "b"])
        >>> pool.find_keys(["a", "b", "c"]).tolist()
        [0, -2, -1]
        """
        return find_keys(self.storage.keys, keys)

    def column(self, name: str) -> Column:
        """Return "labels" or "excluded" to be read range by range, in memory that does not grow with N."""
        return Column(self.storage.columns[name])

    def set_labels(
        self, ids: Any, labels: Any, *, name: str = MAIN, check: Callable[[np.ndarray], None] | None = None
    ) -> int:
        """Give items labels (-1 takes one away, or NaN a number); durable when it returns. Returns how many changed.

        The labels of 2**20 consecutive items are replaced at once: a crash leaves old or new ones of each such chunk, and
        repeating the call completes it.

        Args:
            ids: the items.
            labels: one integer for each, or one number where the column is of numbers.
            name: the column of labels.
            check: is called with the labels that the items have, in the order of ``ids``, while no other process can
                change them; what it raises leaves all labels as they are.

        Raises:
            PoolError: ids outside the pool or repeated; labels that are not integers, below -1 or beyond the classes; there
                is no such column.
        """
        ids_B = self.checked_ids(ids)
        column = self._label_column(name)
        values = checked_column(column, labels, len(ids_B), self.classes)
        return set_values(self.storage.labels[column.name], ids_B, values, check)

    def _label_column(self, name: str) -> LabelColumn:
        if name not in self.label_columns:
            raise PoolError(f"{self.path} has no column of labels {name!r}; it has {', '.join(self.label_columns)}")
        return self.label_columns[name]

    def set_excluded(self, ids: Any, flag: Any = True, *, check: Callable[[np.ndarray], None] | None = None) -> None:
        """Exclude items from scoring and selection, or (False) readmit them; durable when it returns.

        Args:
            ids: the items.
            flag: one for all, or one for each.
            check: as for ``set_labels``, with the flags that the items have.

        >>> import tempfile
        >>> from mcscore.pool import Pool
        >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.zeros((3, 2), np.uint8))
        >>> pool.set_excluded([0, 2])
        >>> Pool.open(pool.path).excluded
        array([ True, False,  True])

        Raises:
            PoolError: ids outside the pool or repeated.
        """
        ids_B = self.checked_ids(ids)
        flags = np.broadcast_to(np.asarray(flag, dtype=bool), ids_B.shape)
        set_values(self.storage.columns["excluded"], ids_B, flags, check)

    def checked_ids(self, ids: Any) -> np.ndarray:
        """Return ids as int64; PoolError if they are no integers, or outside the pool, naming them."""
        given = np.asarray(ids)
        if given.ndim != 1 or (given.dtype.kind not in "iu" and len(given)):
            raise PoolError(f"ids must be a one-dimensional array of integers, not {given.dtype} {given.shape}")
        outside = given[(given < 0) | (given >= self.n)]
        if len(outside):
            some = ", ".join(str(v) for v in outside[:5])
            raise PoolError(f"{len(outside)} ids are outside the pool {self.path} of {self.n} items: {some}")
        return given.astype(np.int64)
