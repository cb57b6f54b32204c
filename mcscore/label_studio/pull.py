"""Labels from Label Studio onto the items of a pool: all of them, or none and the conflicts by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import RunError
from ..label_app.labels import Log, SeveralLabels
from ..pool.class_names import ClassReader
from ..pool.table import Table
from ..pool.tables import find_items, set_labels_of
from ..pool.text_columns import text_array, text_column
from ..run.export.label_studio import pool_mark
from ..run.identity.match import find_pool
from .exports import Annotation, Export

if TYPE_CHECKING:
    from ..pool import Pool
    from ..run import Run


@dataclass(frozen=True)
class Pulled:
    """What ``take_in`` did.

    Attributes:
        changed: how many items have another label, or other labels, than before.
        labeled: how many annotations gave a label.
        unlabeled: how many were made without a choice.
        skipped: how many annotations were left out because their task was skipped.
        foreign: how many were left out because their task is not of this pool.
        table: where the labels are, if the pool has no place for them: those of items that may have several.
    """

    changed: int
    labeled: int
    unlabeled: int
    skipped: int
    foreign: int
    table: Path | None


class _Tasks(Table):
    """A table whose rows are annotations of tasks."""

    def place(self, row: int, column: str) -> str:
        """Which task a value stands in, for a message."""
        return f"task {self.lines[row]}, field {'item' if column == 'id' else column}"


def take_in(run: Run, export: Export, pool: Pool | None = None, *, several: bool, overwrite: bool = False) -> Pulled:
    """Set the labels that an export gives.

    Args:
        run: the run that the tasks were made from, or another one of the same pool.
        export: what Label Studio has.
        pool: the pool, if it is not at its recorded place.
        several: whether an item may have several labels; they are kept in the run, as those of the labeling page.
        overwrite: replace labels that items have already.

    Raises:
        RunError: all tasks are of other pools; a label is no class; several labels of one item differ.
        PoolError: conflicts, naming them: items or keys that the pool does not have, items that are given two labels, and, unless
            ``overwrite``, items that have another label; a label is no class. Nothing was changed.
    """
    pool = find_pool(run, pool)
    marks = _marks(pool)
    own = [each for each in export.annotations if each.item is not None and each.pool in marks]
    foreign = len(export.annotations) - len(own)
    if foreign and not own:
        raise RunError(
            f"{export.where} has {foreign:,} annotations, and none is of an item of {pool.path}: take the run of its pool"
        )
    given = own if several else [each for each in own if each.labels]
    table = _table(given, export.where, with_keys=pool.has_keys)
    if several:
        changed, file = _set_several(run, pool, table, given, export.where, overwrite)
    else:
        _refuse_several(given, export.where)
        changed, file = set_labels_of(pool, table, overwrite=overwrite, reading=_reading(pool)).changed, None
    without = sum(not each.labels for each in own)
    return Pulled(changed, len(own) - without, without, export.skipped, foreign, file)


def _marks(pool: Pool) -> set[str]:
    """What tasks of this pool say of it, whenever they were made: it may have had fewer items then."""
    prints = [pool.fingerprint_at(n) for n in (pool.n, *pool.storage.states())]
    return {pool_mark(print) for print in prints if print is not None}


def _reading(pool: Pool) -> str | None:
    return None if pool.classes is None else "names"


def _table(given: list[Annotation], where: str, with_keys: bool) -> Table:
    columns = {"id": [each.item or "" for each in given], "label": [(*each.labels, "")[0] for each in given]}
    if with_keys:
        columns["key"] = [each.key or "" for each in given]
    return _Tasks(
        Path(where),
        list(columns),
        {name: text_column([text_array(texts)]) for name, texts in columns.items()},
        np.array([each.task for each in given], np.int64),
    )


def _refuse_several(given: list[Annotation], where: str) -> None:
    for each in given:
        if len(each.labels) > 1:
            raise RunError(
                f"{where}, task {each.task}: {', '.join(each.labels)} are several labels of one item, and the pool has one for each: "
                "pull them with several=True (--multi-label)"
            )


def _set_several(
    run: Run, pool: Pool, table: Table, given: list[Annotation], where: str, overwrite: bool
) -> tuple[int, Path | None]:
    """Log the labels in the run."""
    if not isinstance(run.path, Path):
        raise RunError(f"{run.path} is not on this machine: labels are logged in the run, so copy it here first")
    ids, conflicts = find_items(pool, table)
    conflicts.refuse(where)
    reader = ClassReader(pool.classes, _reading(pool))
    wanted = dict[int, list[int]]()
    for id, each in zip(ids.tolist(), given, strict=True):
        numbers = [_number(reader, text, each, where) for text in each.labels]
        if sorted(wanted.setdefault(id, numbers)) != sorted(numbers):
            raise RunError(
                f"{where}: item {id} (task {each.task}) is given both {wanted[id]} and {numbers}; nothing was changed"
            )
    labels = SeveralLabels(Log(run.path, pool), pool.classes, ids)
    return labels.give_all(wanted, overwrite, where), labels.write_table(pool)


def _number(reader: ClassReader, text: str, each: Annotation, where: str) -> int:
    number = reader.number(text)
    if number is None or number < 0:
        raise RunError(f"{where}, task {each.task}: {text!r} is not a class of the pool; nothing was changed")
    return number
