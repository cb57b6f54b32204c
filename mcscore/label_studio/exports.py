"""Reads what Label Studio exports: JSON, JSON-MIN, CSV and TSV, or the tasks themselves."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..fields import parse
from ..run.export.label_studio import CONTROL
from .server import Server

_CELL_MAX = 1 << 28  # a text to label may be longer than the 128 kB that the csv module allows


@dataclass(frozen=True)
class Annotation:
    """What one person said of one task.

    Attributes:
        task: Label Studio's id of the task.
        item: the id of the item, as text; None: the task is not one that mcscore made.
        key: the key of the item, if it has one.
        pool: the mark of the pool, see ``pool_mark``.
        labels: the choices, or a number as text; () if there is none.
    """

    task: int
    item: str | None
    key: str | None
    pool: str | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Export:
    """The annotations of some tasks.

    Attributes:
        where: the file or project that they come from, for messages.
        annotations: in the order of the tasks.
        skipped: how many annotations were left out because who made them had skipped the task.
    """

    where: str
    annotations: list[Annotation]
    skipped: int = 0


def read_export(path: Path) -> Export:
    """Read an exported file, whatever its form.

    Raises:
        RunError: it cannot be read, is in none of the four forms, or is of a project that labels something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if content.lstrip()[:1] == b"[":
        try:
            tasks = parse(content)
        except ValueError as error:
            raise RunError(f"{path} is no JSON: {error}") from error
        if not all(isinstance(task, dict) for task in tasks):
            raise RunError(f"{path} is no export of Label Studio: a list of tasks is needed")
        if any("annotations" in task for task in tasks):
            return of_tasks(tasks, str(path))
        return _of_rows(tasks, str(path), {name for task in tasks for name in task})
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is no UTF-8: {error}") from error
    csv.field_size_limit(min(_CELL_MAX, sys.maxsize))
    heading = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in heading else ",")
    return _of_rows(list(rows), str(path), set(rows.fieldnames or ()))


def from_project(server: Server, project: str) -> Export:
    """Read the annotations of a project, by its id or title."""
    found = server.project(project)
    return of_tasks(server.tasks(found.id, annotated=True), f"project {found.id}")


def of_tasks(tasks: Iterable[dict[str, Any]], where: str) -> Export:
    """Read tasks as Label Studio has them, with ``data`` and ``annotations``."""
    found, skipped = list[Annotation](), 0
    for task in tasks:
        for annotation in task.get("annotations") or ():
            if annotation.get("was_cancelled"):
                skipped += 1
            else:
                found.append(_annotation(task["id"], task["data"], tuple(_chosen(annotation.get("result") or ()))))
    return Export(where, found, skipped)


def _chosen(result: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The choices in the regions of an annotation."""
    for region in result:
        if region.get("from_name") == CONTROL:
            yield from _labels(region.get("value"))


def _of_rows(rows: list[dict[str, Any]], where: str, names: set[str]) -> Export:
    """Read rows that have the fields of a task beside what was chosen."""
    if rows and "annotation_id" not in names:
        raise RunError(f"{where} is no export of Label Studio: it has neither annotations nor a field 'annotation_id'")
    if rows and CONTROL not in names:
        raise RunError(
            f"{where} has no field {CONTROL!r}, the name of what is chosen; it has {', '.join(sorted(names))}"
        )
    annotated = (row for row in rows if row.get("annotation_id") not in (None, ""))
    return Export(where, [_annotation(row["id"], row, tuple(_labels(_parsed(row.get(CONTROL))))) for row in annotated])


def _annotation(task: Any, data: dict[str, Any], labels: tuple[str, ...]) -> Annotation:
    item, key, pool = (None if data.get(name) in (None, "") else str(data[name]) for name in ("item", "key", "pool"))
    return Annotation(int(task), item, key, pool, labels)


def _parsed(cell: Any) -> Any:
    """A cell of a table: text, or JSON where there are several choices."""
    if isinstance(cell, str) and cell.startswith(("{", "[")):
        try:
            return json.loads(cell)
        except ValueError:
            return cell
    return cell


def _labels(value: Any) -> Iterator[str]:
    r"""The choices in a value, in any of the forms that exports have.

    >>> list(_labels("cat")), list(_labels({"choices": ["cat", "dog"]})), list(_labels([{"choices": ["cat"]}])), list(_labels(""))
    (['cat'], ['cat', 'dog'], ['cat'], [])
    """
    if isinstance(value, dict):
        value = value.get("choices", value.get("number"))
    if isinstance(value, list):
        for each in value:
            yield from _labels(each)
    elif value is not None and value != "":
        yield str(value)
