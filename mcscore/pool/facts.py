"""Changing what a pool says of its items after it was made: normalization and class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .. import atomic
from ..errors import PoolError
from ..store.columns import Column
from ..store.files import local
from ..store.lock import locked_in_turn
from .kinds import MAIN
from .metadata import write_attributes
from .pool import Pool
from .schema import checked_attributes

_STRIDE = 1 << 20  # labels read at a time
KEEP: Any = object()


def set_facts(pool: Pool, *, mean: Any = KEEP, std: Any = KEEP, classes: Sequence[str] | None = KEEP) -> Pool:
    """Change normalization or class names of a pool at once, and return it opened anew. What is not given stays.

    Items, labels and ids stay. A run that was scored with another mean or std cannot be resumed, as its scores would be mixed with
    others. Labels are numbers: they stay the numbers that they are, under the new names.

    Args:
        pool: on a local disk.
        mean: per channel, or one value, as for ``Pool.create``; None: not normalized. Together with std.
        std: as mean.
        classes: names of the labels 0, 1, ...; None: labels are bare numbers.

    Raises:
        PoolError: values as ``Pool.create`` refuses them; a label has no name; the pool is at a URL or cannot be written.

    >>> import tempfile, numpy
    >>> pool = Pool.create(tempfile.mkdtemp() + "/p", numpy.zeros((2, 1, 4, 4), numpy.uint8), labels=[1, -1])
    >>> set_facts(pool, classes=["cat", "dog"], mean=0.5, std=0.25).classes
    ['cat', 'dog']
    """
    if (mean is KEEP) != (std is KEEP):
        raise PoolError("mean and std go together: give both or neither")
    where = local(pool.path, "change its facts").resolve()
    try:
        with locked_in_turn(where):  # as an append, which writes the same file
            now = Pool.open(where)
            facts = now.storage.attributes
            main = now.label_columns[MAIN]
            wanted = checked_attributes(
                facts.item_shape,
                facts.mean if mean is KEEP else mean,
                facts.std if std is KEEP else std,
                facts.classes if classes is KEEP else classes,
                facts.source,
                facts.fit,
                now.dtype,
                main.kind,
            )
            _require_names(now, wanted.classes)
            atomic.discard_temporaries(where, "*")  # of a killed call: this one has the lock
            write_attributes(where, replace(facts, mean=wanted.mean, std=wanted.std, classes=wanted.classes))
    except OSError as error:
        raise PoolError(f"{pool.path} could not be changed and is as it was: {error}") from error
    return Pool.open(pool.path)  # type: ignore[arg-type]  # local


def _require_names(pool: Pool, classes: Sequence[str] | None) -> None:
    """Raise PoolError if an item has a label beyond the names."""
    if classes is None:
        return
    for one in pool.label_columns.values():
        if one.kind == "class" and one.classes is None:
            _require_names_of(Column(pool.storage.labels[one.name]), pool.n, classes)


def _require_names_of(labels: Column, n: int, classes: Sequence[str]) -> None:
    for start in range(0, n, _STRIDE):
        part = labels[start : min(start + _STRIDE, n)]
        if len(part) and part.max() >= len(classes):
            at = start + int(part.argmax())
            raise PoolError(
                f"item {at} has the label {part.max()}, and {len(classes)} class names give 0 to {len(classes) - 1}: give a name for "
                "every label, or change the labels first with `mcscore pool label --overwrite`"
            )
