"""Labels that are given one at a time, each durable, none replaced unseen: every change says what it takes the item to have.

RUN/labels/log.jsonl has a line for each change: at, id, key, field (label or excluded), had, value, window. Where an item has
one label, it stands in the pool, and the log only tells who gave it. Where it may have several, the pool has no place for them:
the log is what counts, and RUN/labels/labels.csv, made from it, has a row for each labeled item and a column for each class.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .. import atomic
from ..cells import guarded
from ..errors import RunError
from ..fields import parse
from ..labels import UNLABELED
from ..paths import is_file
from ..store.lock import locked_in_turn
from ..text import count
from .watched import Watched

if TYPE_CHECKING:
    from ..pool import Pool

Field = Literal["label", "excluded"]
Label = int | list[int] | None  # None: unlabeled; []: labeled, and none of the classes holds
Ids = npt.NDArray[np.int64]

FOLDER, LOG, TABLE = "labels", "log.jsonl", "labels.csv"
_SHOWN = 5  # conflicts that an error names


class Changed(Exception):
    """An item has another value than the caller takes it to have: another window or process gave it."""

    def __init__(self, now: Label | bool) -> None:
        super().__init__(f"the item has {now!r} by now")
        self.now = now


class Log:
    """The log of a run's labels; its file is replaced as a whole, so that a kill leaves the old or the new one."""

    def __init__(self, run: Path, pool: Pool) -> None:
        """Make the directory if there is none. RunError if that fails or the log cannot be read."""
        self.folder, self._pool = run / FOLDER, pool
        self._file = self.folder / LOG
        try:
            atomic.create_directory(self.folder)
            self.entries()
        except OSError as error:
            raise RunError(f"labels cannot be logged in {self.folder}: {error}") from error

    def entries(self) -> list[dict[str, Any]]:
        """All changes so far, the oldest first."""
        if not is_file(self._file):
            return []
        try:
            return [parse(line) for line in self._file.read_bytes().splitlines()]
        except ValueError as error:
            raise RunError(f"{self._file} is damaged: {error}. Move it away to go on without it") from error

    def add(self, id: int, field: Field, had: Label | bool, value: Label | bool, window: str) -> None:
        """Append a line, durable on return; the caller holds the lock of the directory."""
        self._append([(id, had, value)], field, window)

    def add_all(self, changes: Sequence[tuple[int, Label, Label]], window: str) -> None:
        """Append a line for each change of labels (id, had, value), all or none; else as ``add``."""
        self._append(changes, "label", window)

    def _append(self, changes: Sequence[tuple[int, Any, Any]], field: Field, window: str) -> None:
        keys = self._pool.keys_of([id for id, _, _ in changes])
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = [
            {
                "at": at,
                "id": id,
                "key": None if keys is None else str(keys[row]),
                "field": field,
                "had": had,
                "value": value,
                "window": window,
            }
            for row, (id, had, value) in enumerate(changes)
        ]
        before = self._file.read_bytes() if is_file(self._file) else b""
        atomic.discard_temporaries(self.folder, "*")  # of a killed call: this one has the lock
        atomic.replace_file(self._file, before, "".join(json.dumps(line) + "\n" for line in lines).encode())


class OneLabel:
    """Labels of which an item has one, which the pool keeps; ids: of the items that are labeled."""

    several = False

    def __init__(self, pool: Pool, log: Log, ids: Ids) -> None:
        self._pool, self._log = pool, log
        self._watched = Watched(pool.storage.columns["labels"], ids)

    def now(self) -> list[Label]:
        """The label of each item, as it is now."""
        return [None if label < 0 else label for label in self._watched.now().tolist()]

    def give(self, id: int, had: Label, value: Label, window: str) -> None:
        """Change the label of an item, durable on return; Changed, and nothing is done, if it is neither ``had`` nor ``value``."""
        wanted = UNLABELED if value is None else _class(value)

        def agree(has: np.ndarray) -> None:
            _refuse_other(None if has[0] < 0 else int(has[0]), had, value)

        with locked_in_turn(self._log.folder):
            if self._pool.set_labels([id], [wanted], check=agree):
                self._log.add(id, "label", had, value, window)


class SeveralLabels:
    """Labels of which an item may have any number, which the log keeps; ids: of the items that are labeled."""

    several = True

    def __init__(self, log: Log, classes: Sequence[str] | None, ids: Ids) -> None:
        self._log, self._classes, self._ids = log, classes, ids

    def now(self) -> list[Label]:
        """The labels of each item, as they are now."""
        now = self._all()
        return [now.get(id) for id in self._ids.tolist()]

    def give(self, id: int, had: Label, value: Label, window: str) -> None:
        """Change the labels of an item, durable on return; Changed, and nothing is done, if they are neither ``had`` nor ``value``."""
        wanted = None if value is None else sorted({self._checked(each) for each in _list(value)})
        with locked_in_turn(self._log.folder):
            has = self._all().get(id)
            _refuse_other(has, had, wanted)
            if has != wanted:
                self._log.add(id, "label", had, wanted, window)

    def give_all(self, wanted: dict[int, list[int]], overwrite: bool, source: str) -> int:
        """Give many items their labels, durable on return, all or none; returns how many changed.

        Raises:
            RunError: an item has other labels already, and they are not to be overwritten; names the first.
        """
        with locked_in_turn(self._log.folder):
            now = self._all()
            changed = {id: sorted(set(labels)) for id, labels in wanted.items() if now.get(id) != sorted(set(labels))}
            other = [id for id in changed if now.get(id) is not None]
            if other and not overwrite:
                named = "; ".join(f"item {id} has {now[id]} and would get {changed[id]}" for id in other[:_SHOWN])
                raise RunError(
                    f"{count(len(other), 'conflict')}, nothing was changed: {named}{'; ...' * (len(other) > _SHOWN)} "
                    "(--overwrite replaces)"
                )
            self._log.add_all([(id, now.get(id), labels) for id, labels in changed.items()], source)
        return len(changed)

    def write_table(self, pool: Pool) -> Path | None:
        """Write labels.csv: id, key, and 1 or 0 for each class; None if nothing is labeled."""
        now = {id: label for id, label in sorted(self._all().items()) if label is not None}
        if not now:
            return None
        top = 1 + max((each for label in now.values() for each in _list(label)), default=-1)
        names = list(self._classes) if self._classes is not None else [str(number) for number in range(top)]
        keys = pool.keys_of(list(now))
        out = io.StringIO()
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["id", *([] if keys is None else ["key"]), *map(guarded, names)])
        for at, (id, label) in enumerate(now.items()):
            own = [] if keys is None else [guarded(str(keys[at]))]
            rows.writerow([id, *own, *(int(number in _list(label)) for number in range(len(names)))])
        file = self._log.folder / TABLE
        with locked_in_turn(self._log.folder):
            atomic.replace_file(file, out.getvalue().encode())
        return file

    def _all(self) -> dict[int, Label]:
        return {entry["id"]: entry["value"] for entry in self._log.entries() if entry["field"] == "label"}

    def _checked(self, number: Any) -> int:
        if self._classes is not None and not 0 <= _class(number) < len(self._classes):
            raise RunError(f"there is no class {number}: the pool has {len(self._classes)}")
        return _class(number)


def exclude(pool: Pool, log: Log, id: int, had: bool, value: bool, window: str) -> None:
    """Exclude an item, or readmit it, durable on return; Changed, and nothing is done, if it is neither ``had`` nor ``value``."""

    def agree(has: np.ndarray) -> None:
        _refuse_other(bool(has[0]), had, value)

    with locked_in_turn(log.folder):
        pool.set_excluded([id], value, check=agree)
        if had != value:
            log.add(id, "excluded", had, value, window)


def _refuse_other(has: Label | bool, had: Label | bool, value: Label | bool) -> None:
    if has not in (had, value):
        raise Changed(has)


def _class(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise RunError(f"a label is the number of a class, not {value!r}")
    return value


def _list(value: Any) -> list[int]:
    if not isinstance(value, list):
        raise RunError(f"labels are a list of numbers of classes, not {value!r}")
    return value
