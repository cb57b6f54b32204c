"""Tables that people bring: CSV (comma, semicolon or tab) and Parquet, read as text with the place of every row."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolError
from .text_columns import PART, as_text, compact, empty, text_array, text_column, trimmed, unguarded_texts

COLUMNS = ("id", "key", "label")
SUFFIXES = (".csv", ".tsv", ".parquet")
_DELIMITERS = ",;\t"


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
    """

    id: str | None = None
    key: str | None = None
    label: str | None = None

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
        columns: of COLUMNS those that it has, each a pyarrow.ChunkedArray of text; "" where a row has no value.
        lines: where each row stands in the file: a line of a CSV file, a row of a Parquet file, counted from 1.
        unlabeled: how many rows were left out as they have no label.
    """

    path: Path
    names: list[str]
    columns: dict[str, Any]
    lines: np.ndarray
    unlabeled: int = 0

    def place(self, row: int, column: str) -> str:
        """Where a value stands, for a message."""
        return f"{'row' if self.path.suffix == '.parquet' else 'line'} {self.lines[row]}, column {column}"

    def text(self, row: int, column: str) -> str:
        """A value as it is, for a message."""
        return self.columns[column][row].as_py()


class _Parts:
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
        columns = {role: text_column(parts) for role, parts in self._columns.items()}
        return Table(path, names, columns, np.concatenate(self._lines), self._unlabeled)


def read_table(path: Path, chosen: Columns = Columns(), *, labeled: bool = False) -> Table:
    """Read the columns id, key and label of a table, or those chosen in their place, as text.

    In a CSV file, an apostrophe before a character that would begin a formula is no part of the value (see mcscore.cells).

    Args:
        path: the file.
        chosen: the columns.
        labeled: leave out rows without a label, where there is a column of labels.

    Raises:
        PoolError: the file cannot be read, or is neither CSV nor Parquet; a column is there twice; a row has more or fewer
            cells than the header.
    """
    if path.suffix not in SUFFIXES:
        raise PoolError(f"{path} is neither CSV (.csv, .tsv) nor Parquet (.parquet)")
    read = _read_parquet if path.suffix == ".parquet" else _read_csv
    try:
        return read(path, chosen, labeled)
    except OSError as error:
        raise PoolError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_csv(path: Path, chosen: Columns, labeled: bool) -> Table:
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            names = _header(header, delimiter := _delimiter(header, chosen), path)
            at = _positions(names, path, "line 1", chosen)
            parts = _Parts(at, labeled)
            lines: list[int] = []
            cells_of: dict[str, list[str]] = {role: [] for role in at}
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for number, cells in _numbered(reader):
                if len(cells) != len(names):
                    raise PoolError(
                        f"{path}, line {number}: {len(cells)} cells, where the header has {len(names)} "
                        f"(a cell with {delimiter!r} in it needs quotation marks)"
                    )
                lines.append(number)
                for role, i in at.items():
                    cells_of[role].append(cells[i])
                if len(lines) == PART:
                    _move(lines, cells_of, parts)
            _move(lines, cells_of, parts)
    except UnicodeDecodeError as error:
        raise PoolError(f"{path}, line {_undecodable(path)}: the text is not UTF-8; save the table as UTF-8") from error
    except csv.Error as error:
        raise PoolError(f"{path}, after line {number or 1}: the row cannot be read as CSV: {error}") from error
    return parts.table(path, names)


def _move(lines: list[int], cells_of: dict[str, list[str]], parts: _Parts) -> None:
    """Move rows that were read to the parts of the table."""
    parts.add(np.array(lines, np.int64), {r: unguarded_texts(text_array(cells)) for r, cells in cells_of.items()})
    lines.clear()
    for cells in cells_of.values():
        cells.clear()


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, each with its first line in the file; line 1 is the header."""
    first = 2
    for cells in reader:
        if cells:
            yield first, cells
        first = reader.line_num + 2


def _delimiter(header: str, chosen: Columns) -> str:
    """The delimiter that separates most of the columns that are looked for; a comma where none does."""
    wanted = {*COLUMNS, "item", chosen.id, chosen.key, chosen.label}

    def found(delimiter: str) -> int:
        return sum(name.strip().strip('"') in wanted for name in header.split(delimiter))

    return max(_DELIMITERS, key=found)  # the first of equals


def _header(header: str, delimiter: str, path: Path) -> list[str]:
    names = next(csv.reader([header], delimiter=delimiter, strict=True), None)
    if not names:
        raise PoolError(f"{path} has no header: its first line must name the columns, {', '.join(COLUMNS)}")
    return [name.strip() for name in names]


def _positions(names: list[str], path: Path, where: str, chosen: Columns) -> dict[str, int]:
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


def read_lines(path: Path) -> tuple[Any, np.ndarray]:
    """Read the lines of a text file that are not blank, without the blanks around them, and where each stands.

    Raises:
        PoolError: the file cannot be read, or is not UTF-8.
    """
    parts = [text_array([])]
    numbers: list[np.ndarray] = [np.empty(0, np.int64)]
    try:
        with path.open(encoding="utf-8-sig") as file:
            # A file is read up to "\n"; splitlines knows more ends of a line.
            lines = enumerate((line.strip() for text in file for line in text.splitlines()), 1)
            while some := list(islice(lines, PART)):
                parts.append(text_array([line for _, line in some if line]))
                numbers.append(np.array([number for number, line in some if line], np.int64))
    except UnicodeDecodeError as error:
        raise PoolError(f"{path}, line {_undecodable(path)}: the text is not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise PoolError(f"{path} cannot be read: {error.strerror or error}") from error
    return text_column(parts), np.concatenate(numbers)


def _undecodable(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return number


def _read_parquet(path: Path, chosen: Columns, labeled: bool) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names = list(file.schema_arrow.names)
            at = _positions(names, path, "the schema", chosen)
            parts, first = _Parts(at, labeled), 1
            for rows in file.iter_batches(PART, columns=sorted({names[i] for i in at.values()})):
                texts = {role: as_text(rows.column(names[i])) for role, i in at.items()}
                parts.add(np.arange(first, first + len(rows)), texts)
                first += len(rows)
    except pyarrow.ArrowException as error:
        raise PoolError(f"{path} cannot be read as Parquet: {error}") from error
    return parts.table(path, names)
