"""Tables in JSON: a list of objects, an object a line, or one object of labels by id or key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolError
from .table import NAME, Columns, Parts, Table, positions
from .text_columns import PART, text_array

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")


def read_json(path: Path, chosen: Columns, labeled: bool) -> Table:
    """Read a table, as ``read_table`` does.

    Raises:
        PoolError: the file is no JSON, or of another form; an object has a name twice; a value that is needed is a list or an object.
        OSError: it cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PoolError(f"{path}: the text is not UTF-8; save the table as UTF-8") from error
    content = _lines(path, text) if path.suffix.lower() != ".json" else _whole(path, text)
    if isinstance(content, Mapping):
        return _of_object(path, content, chosen, labeled)
    if not isinstance(content, list):
        raise PoolError(f"{path} holds a single {_kind(content)}; a list of objects, or an object of labels, is needed")
    return table_of(path, content, chosen, labeled=labeled)


def table_of(path: Path, rows: Iterable[Any], chosen: Columns = Columns(), *, labeled: bool = False) -> Table:  # noqa: B008 (frozen)
    """Return rows, each a dict by the names of the columns, as a table.

    A value is text, a number, True or False; None, NaN and one that is missing are none.

    Args:
        path: the file that the rows are of, for messages.
        rows: all of them.
        chosen: the columns, as for ``read_table``.
        labeled: leave out rows without a label, as there.

    Raises:
        PoolError: a row is no dict; a value of a column that is needed is none of these.

    >>> table_of(Path("t.json"), [{"id": 3, "label": "cat"}, {"id": 4}], labeled=True).columns["label"].to_pylist()
    ['cat']
    """
    given = list(rows)
    for number, row in enumerate(given, 1):
        if not isinstance(row, Mapping):
            raise PoolError(
                f"{path}, row {number} is a {_kind(row)}; an object with the names of the columns is needed"
            )
    names = list(dict.fromkeys(name for row in given for name in row))
    at = positions(names, path, "the objects", chosen)
    parts = Parts(at, labeled)
    for start in range(0, len(given), PART):
        some = given[start : start + PART]
        numbers = np.arange(start + 1, start + 1 + len(some))
        texts = {role: [row.get(names[i]) for row in some] for role, i in at.items()}
        parts.add(numbers, {role: _texts(path, numbers, names[at[role]], texts[role]) for role in at})
    return parts.table(path, names)


def _of_object(path: Path, content: Mapping[str, Any], chosen: Columns, labeled: bool) -> Table:
    """Read an object of labels by id or key."""
    nested = [name for name, value in content.items() if isinstance(value, (list, dict))]
    if nested:
        raise PoolError(
            f"{path} is an object in which {nested[0]!r} is a {_kind(content[nested[0]])}; a list of objects, an object a line, or an "
            "object of labels by id or key is needed (pandas: orient='records')"
        )
    named = [chosen.id, chosen.key, chosen.label]
    columns = [name for name in ("id", "key", "item", "label", *filter(None, named)) if name in content]
    if len(columns) > 1 or any(named):
        raise PoolError(
            f"{path} is one object with {', '.join(map(repr, columns or content))}, which may be a row or labels by id or key: "
            "write the rows as a list of objects"
        )
    numbers = np.arange(1, len(content) + 1)
    parts = Parts((NAME, "label"), labeled)
    if content:
        names = text_array([_text(path, number, NAME, name) for number, name in enumerate(content, 1)])
        parts.add(numbers, {NAME: names, "label": _texts(path, numbers, "label", list(content.values()))})
    return parts.table(path, [NAME, "label"])


def _whole(path: Path, text: str) -> Any:
    try:
        return _parsed(path, text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _lines(path, text)
        raise PoolError(f"{path}, line {error.lineno}: the file cannot be read as JSON: {error.msg}") from error


def _lines(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(_parsed(path, line))
            except json.JSONDecodeError as error:
                raise PoolError(f"{path}, line {number} cannot be read as JSON: {error.msg}") from error
    return rows


def _parsed(path: Path, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise PoolError(f"{path} has an object with {twice!r} twice: keep one of them")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise PoolError(f"{path} cannot be read as JSON: it is nested too deeply") from None


def _texts(path: Path, numbers: np.ndarray, column: str, values: list[Any]) -> Any:
    return text_array([_text(path, number, column, value) for number, value in zip(numbers, values, strict=True)])


def _text(path: Path, number: int, column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if not isinstance(value, (str, int, float)):
        raise PoolError(
            f"{path}, row {number}, column {column}: a {_kind(value)} is no value; text or a number is needed"
        )
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PoolError(f"{path}, row {number}, column {column}: {text!a} is half of a character") from None
    return text


def _kind(value: Any) -> str:
    return {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}.get(
        type(value), "number"
    )
