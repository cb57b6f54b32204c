"""A table that people bring, as it was read: which of its columns name items and labels, as text, with the place of every row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolError
from .text_columns import compact, empty, text_column, trimmed

COLUMNS = ("id", "key", "label")
NAME = "name"  # in place of id and key: what is either, as the keys of a JSON object are
_LINES = (".csv", ".tsv")  # files whose rows are known by their line

# Columns that labeling tools (Label Studio, CVAT, Labelbox, Prodigy) write beside an id of their own.
OF_TOOLS = frozenset(
    {
        "annotation_id",
        "annotations",
        "annotator",
        "completed_by",
        "data_row_id",
        "external_id",
        "job_id",
        "lead_time",
        "task",
        "task_id",
        "_task_hash",
        "updated_at",
    }
)


@dataclass(frozen=True)
class Columns:
    """Which columns of a table name items and labels, where the user chooses them.

    Attributes:
        id: the column of ids; default: "item", as mcscore names it for labeling tools, which have an id of their own, else
            "id".
        key: the column of keys; default: "key". If one of id and key is chosen, the other has no default.
        label: the column of labels; default: "label".
        separator: what stands between the cells of a CSV file; default: the one of comma, semicolon, tab and | that fits.
    """

    id: str | None = None
    key: str | None = None
    label: str | None = None
    separator: str | None = None

    def found(self, names: list[str], path: Path) -> dict[str, str]:
        """Return the name in the file of each of COLUMNS that it has.

        Raises:
            PoolError: a chosen column is missing; the column "id" may hold the ids of a labeling tool.
        """
        for name in (self.id, self.key, self.label):
            if name is not None and name not in names:
                raise PoolError(f"{path} has no column {name!r}; it has {', '.join(names)}")
        wanted = {"id": self.id, "key": self.key, "label": self.label or "label"}
        if self.id is None and self.key is None:
            wanted |= {"id": "item" if "item" in names else "id", "key": "key"}
            others = [name for name in names if name.lower().replace(" ", "_") in OF_TOOLS]
            if wanted["id"] == "id" and "id" in names and others:
                raise PoolError(
                    f"{path} has a column 'id' beside {', '.join(others)}: it may hold the ids of a labeling tool's tasks, "
                    "which are not those of items. Say which column names the items: --id-column or --key-column "
                    "(columns= in Python)"
                )
        return {role: name for role, name in wanted.items() if name is not None and name in names}


@dataclass(frozen=True)
class Table:
    """The columns of a file that name items and labels.

    Attributes:
        path: the file.
        names: all columns that the file has.
        columns: of COLUMNS (or NAME and "label") those that it has, each a pyarrow.ChunkedArray of text; "" where a row has
            no value.
        lines: where each row stands in the file: a line of a CSV file, a row of another, counted from 1.
        unlabeled: how many rows were left out as they have no label.
    """

    path: Path
    names: list[str]
    columns: dict[str, Any]
    lines: np.ndarray
    unlabeled: int = 0

    def place(self, row: int, column: str) -> str:
        """Where a value stands, for a message."""
        return f"{'line' if self.path.suffix.lower() in _LINES else 'row'} {self.lines[row]}, column {column}"

    def text(self, row: int, column: str) -> str:
        """A value as it is, for a message."""
        return self.columns[column][row].as_py()


class Parts:
    """The parts of a table as they are read."""

    def __init__(self, roles: Iterable[str], labeled: bool) -> None:
        self._labeled = labeled
        self._columns: dict[str, list[Any]] = {role: [] for role in roles}
        self._lines = [np.empty(0, np.int64)]
        self._unlabeled = 0

    def add(self, lines: np.ndarray, texts: dict[str, Any]) -> None:
        """Keep some rows: where they stand, and the text of each column; without those that lack a label, if asked to."""
        if self._labeled and "label" in texts:
            without = empty(trimmed(texts["label"]))
            if without.any():
                self._unlabeled += int(without.sum())
                lines, texts = (
                    lines[~without],
                    {role: compact(column.filter(~without)) for role, column in texts.items()},
                )
        self._lines.append(lines)
        for role, column in texts.items():
            self._columns[role].append(column)

    def table(self, path: Path, names: list[str]) -> Table:
        """Return what was added."""
        columns = {role: text_column(parts) for role, parts in self._columns.items()}
        return Table(path, names, columns, np.concatenate(self._lines), self._unlabeled)


def positions(names: list[str], path: Path, where: str, chosen: Columns) -> dict[str, int]:
    """Where each of COLUMNS stands that the header has, under its own name or the chosen one."""
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(name, []).append(i)
    found = chosen.found(names, path)
    for name in found.values():
        if len(twice := places.get(name, [])) > 1:
            raise PoolError(
                f"{path}, {where}: {len(twice)} columns are named {name!r} (columns "
                f"{', '.join(str(i + 1) for i in twice)}); keep one of them"
            )
    return {role: places[name][0] for role, name in found.items()}
