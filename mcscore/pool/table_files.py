"""Files that hold tables: CSV with any separator, Parquet and JSON, read as text with the place of every row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolError
from .table import COLUMNS, Columns, Parts, Table, positions
from .table_json import JSON_SUFFIXES, read_json
from .text_columns import PART, as_text, text_array, text_column, unguarded_texts

SUFFIXES = (".csv", ".tsv", ".parquet", *JSON_SUFFIXES)
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "|"}


def read_table(path: Path, chosen: Columns = Columns(), *, labeled: bool = False) -> Table:  # noqa: B008 (frozen)
    """Read the columns id, key and label of a table, or those chosen in their place, as text.

    JSON is a list of objects, an object a line, or an object of labels by id or key. In a CSV file, an apostrophe before a
    character that would begin a formula is no part of the value (see mcscore.cells).

    Args:
        path: the file.
        chosen: the columns.
        labeled: leave out rows without a label, where there is a column of labels.

    Raises:
        PoolError: the file cannot be read, or is of another kind; a column is there twice; a row has more or fewer cells than
            the header; several separators fit.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PoolError(
            f"{path} is neither CSV (.csv, .tsv) nor Parquet (.parquet) nor JSON (.json, .jsonl): name it by what it is"
        )
    read = _read_parquet if suffix == ".parquet" else read_json if suffix in JSON_SUFFIXES else _read_csv
    if chosen.separator is not None and read is not _read_csv:
        raise PoolError(f"{path} has no separator: leave it out")
    try:
        return read(path, chosen, labeled)
    except OSError as error:
        raise PoolError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_csv(path: Path, chosen: Columns, labeled: bool) -> Table:
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            names = _header(header, delimiter := _delimiter(header, chosen, path), path)
            at = positions(names, path, "line 1", chosen)
            parts = Parts(at, labeled)
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


def _move(lines: list[int], cells_of: dict[str, list[str]], parts: Parts) -> None:
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


def _delimiter(header: str, chosen: Columns, path: Path) -> str:
    """Return what separates the cells: as said, or that by which most of the columns that are looked for are there.

    Raises:
        PoolError: several do equally.
    """
    if chosen.separator is not None:
        return chosen.separator
    wanted = {*COLUMNS, "item", chosen.id, chosen.key, chosen.label}
    found: dict[str, tuple[int, int]] = {}
    for separator in SEPARATORS:
        names = next(csv.reader([header], delimiter=separator), [])
        if len(names) > 1:
            found[separator] = sum(name.strip() in wanted for name in names), len(names)
    best = max((known for known, _ in found.values()), default=0)
    fit = [separator for separator, (known, _) in found.items() if known == best]
    if len(fit) > 1 and best:
        raise PoolError(
            f"{path}, line 1: the header can be read with {' or '.join(SEPARATORS[each] for each in fit)} between the columns: say "
            "which with --separator (columns=Columns(separator=...) in Python)"
        )
    return max(fit, key=lambda each: found[each][1], default=",")


def _header(header: str, delimiter: str, path: Path) -> list[str]:
    names = next(csv.reader([header], delimiter=delimiter, strict=True), None)
    if not names:
        raise PoolError(f"{path} has no header: its first line must name the columns, {', '.join(COLUMNS)}")
    return [name.strip() for name in names]


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
            at = positions(names, path, "the schema", chosen)
            parts, first = Parts(at, labeled), 1
            for rows in file.iter_batches(PART, columns=sorted({names[i] for i in at.values()})):
                texts = {role: as_text(rows.column(names[i])) for role, i in at.items()}
                parts.add(np.arange(first, first + len(rows)), texts)
                first += len(rows)
    except pyarrow.ArrowException as error:
        raise PoolError(f"{path} cannot be read as Parquet: {error}") from error
    return parts.table(path, names)
