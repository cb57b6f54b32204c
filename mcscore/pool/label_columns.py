"""Giving a pool another column of labels, or labels that are numbers in place of classes.

The array of a new column is written under a name that no attribute has, and published by one replacement of the pool's attributes:
after a kill the pool is the old one, and the next call for that column removes the array.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..errors import PoolError
from ..labels import has_label
from ..store.files import local
from ..store.lock import locked_in_turn
from ..store.zarr_store import AtomicStore
from .create import write_column
from .kinds import KINDS, MAIN, LabelColumn, checked_classes, column_name
from .metadata import write_attributes
from .pool import Pool


def wanted_column(pool: Pool, name: str, kind: str | None = None, classes: Sequence[str] | None = None) -> LabelColumn:
    """Return the column of labels of a pool, or the one that it is to get.

    Args:
        pool: the pool.
        name: of the column.
        kind: "class" or "number"; None: that of the column, which the pool must have.
        classes: names of its classes; None: those of the pool, or those that the column has.

    Raises:
        PoolError: there is no such column and no kind is given; the column has labels of another kind, or other classes.
    """
    if kind not in (None, *KINDS):
        raise PoolError(f"labels are of kind {' or '.join(KINDS)}, not {kind!r}")
    has = pool.label_columns.get(name)
    if has is None and kind is None:
        raise PoolError(
            f"{pool.path} has no column of labels {name!r}; it has {', '.join(pool.label_columns)}. --kind class or --kind number "
            "(kind= in Python) makes one"
        )
    names = None if classes is None else checked_classes(classes)
    if names is not None and name == MAIN:
        raise PoolError("the classes of the main column of labels are those of the pool: `mcscore pool set --classes`")
    if has is None:
        wanted = LabelColumn(column_name(name), kind or "class", names)
    else:
        wanted = replace(has, kind=kind or has.kind, classes=has.classes if names is None else names)
    if wanted.kind == "number" and (wanted.classes or (name == MAIN and pool.classes)):
        raise PoolError(f"labels {name!r} have class names, and numbers to be predicted have none")
    same = [one for one in pool.label_columns if one != name and one.casefold() == name.casefold()]
    if same:
        raise PoolError(
            f"{pool.path} has a column of labels {same[0]!r}: choose a name that differs by more than its case"
        )
    if has is not None and wanted != has and has_label(pool.labels_of(name)).any():
        what = f"labels {name!r} of {pool.path} are"
        if wanted.kind != has.kind:
            raise PoolError(
                f"{what} of kind {has.kind}, and some items have one: --name puts labels of kind {kind} beside them"
            )
        raise PoolError(
            f"{what} of the classes {', '.join(has.classes or pool.classes or ['none'])}, and some items have one"
        )
    return wanted


def with_label_column(
    pool: Pool, name: str = MAIN, *, kind: str | None = None, classes: Sequence[str] | None = None
) -> Pool:
    """Give a pool a column of labels, unless it has it, and return the pool opened anew.

    A column in which nothing is labeled, the main one too, may change its kind.

    Args:
        pool: on a local disk.
        name: of the column: letters, digits, and ``_ . -`` inside.
        kind: "class", or "number" for numbers to be predicted (regression).
        classes: names of the column's classes, where they are not those of the pool.

    Raises:
        PoolError: as for ``wanted_column``; the pool is at a URL or cannot be written.

    >>> import tempfile
    >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.zeros((3, 2), np.uint8), labels=[1, -1, 0])
    >>> pool = with_label_column(pool, "quality", kind="number")
    >>> pool.set_labels([2], [0.25], name="quality"), pool.labels_of("quality").tolist(), pool.labels.tolist()
    (1, [nan, nan, 0.25], [1, -1, 0])
    """
    wanted = wanted_column(pool, name, kind, classes)
    if pool.label_columns.get(name) == wanted:
        return pool
    where = local(pool.path, "change its labels").resolve()
    try:
        with ExitStack() as locks:
            locks.enter_context(locked_in_turn(where))  # as an append, which writes the same file
            now = Pool.open(where)
            if now.label_columns.get(name) != wanted:
                if name in now.label_columns:  # nobody labels while the column is looked at and replaced
                    locks.enter_context(locked_in_turn(where / now.label_columns[name].array))
                _change(now, where, wanted_column(now, name, kind, classes))
    except OSError as error:
        raise PoolError(f"{pool.path} could not be changed and is as it was: {error}") from error
    return Pool.open(pool.path)  # type: ignore[arg-type]  # local


def _change(pool: Pool, where: Path, wanted: LabelColumn) -> None:
    """Publish a column in place of the one of its name."""
    import zarr

    facts = pool.storage.facts()
    has = pool.label_columns.get(wanted.name)
    atomic.discard_temporaries(where, "*")  # of a killed call: this one has the lock
    hashes = dict(facts.arrays or ())
    if has is None or has.array != wanted.array:
        atomic.remove_tree(where / wanted.array)  # of a killed call
        hashes.pop(wanted.array, None)
        group: Any = zarr.open_group(AtomicStore(where), mode="r+", zarr_format=3, use_consolidated=False)
        write_column(group, wanted.array, np.full(pool.n, wanted.empty, wanted.dtype), wanted.empty, [])
    columns = {**pool.label_columns, wanted.name: wanted}
    arrays = None if facts.arrays is None else tuple(hashes.items())
    write_attributes(where, replace(facts, label_columns=tuple(columns.values()), arrays=arrays))
    if has is not None and has.array != wanted.array:
        atomic.remove_tree(where / has.array)
