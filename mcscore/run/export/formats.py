"""The files that an export can be, a row each."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Literal

from ...acquisition import SCORES
from .coco import write_coco
from .cvat import write_annotations, write_manifest
from .fiftyone import write_fiftyone
from .label_studio import MARK, write_tasks
from .rows import write_csv, write_jsonl, write_parquet
from .source import Source, Tables


@dataclass(frozen=True)
class ExportFormat:
    """How one kind of file is written.

    Attributes:
        suffix: of the name of the file.
        write: writes the tables, which arrive block by block; may return the content of a second file.
        names: how it names the picture of an item: not at all, by its address, or as a file on this machine. With pictures, items without
            a score are left out.
        beside: the suffix of the second file.
    """

    suffix: str
    write: Callable[[BinaryIO, Tables, Source], bytes | None]
    names: Literal["nothing", "address", "file"] = "nothing"
    beside: str | None = None


FORMATS = {
    "parquet": ExportFormat(".parquet", write_parquet),
    "csv": ExportFormat(".csv", write_csv),
    "jsonl": ExportFormat(".jsonl", write_jsonl),
    "label-studio": ExportFormat(".label-studio.json", write_tasks, "address", beside=".xml"),
    "fiftyone": ExportFormat(".fiftyone.json", write_fiftyone, "file"),
    "coco": ExportFormat(".coco.json", write_coco, "file"),
    "cvat": ExportFormat(".cvat.xml", write_annotations, "file"),
    "cvat-manifest": ExportFormat(".manifest.jsonl", write_manifest, "file"),
}


def is_export(file: BinaryIO) -> bool:
    """Whether an open file is an export that mcscore wrote, in any format: by its first lines, and by no name."""
    start = file.read(_MAGIC_BYTES)
    file.seek(0)
    if start == b"PAR1":
        return _is_parquet_export(file)
    first, second, third = (file.readline(_LINE_MAX) for _ in range(3))
    if first.startswith(b'"id",'):
        return _is_row(next(csv.reader([first.decode("utf-8", "replace")])))
    if first.startswith(b'{"id": '):
        with contextlib.suppress(ValueError):
            return _is_row(list(json.loads(first)))
        return False
    if first == b"[\n":
        return second.startswith(b'{"data": {"') and b'"model_version": "mcscore ' in second
    if first == b'{"labels": {\n':
        return second == b"}}\n" or b'"attributes": {"item": ' in second
    if first == b"<View>\n":
        return second.strip() == MARK.encode()
    if first.startswith(b"<?xml"):
        return (second, third) == (b"<annotations>\n", f"  {MARK}\n".encode())
    if first == b'{"version": "1.1"}\n':
        return third == b"" or b'"meta": {"mcscore": ' in third
    return (first, second) == (b"[]\n", b"") or first.startswith(b'{"info": {"description": "mcscore ')


_MAGIC_BYTES = 4
_LINE_MAX = 1 << 20


def _is_row(names: list[str]) -> bool:
    return names[:1] == ["id"] and names[-1:] == ["prediction"] and not SCORES.keys().isdisjoint(names)


def _is_parquet_export(file: BinaryIO) -> bool:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(file)
    except (pyarrow.ArrowException, OSError, ValueError):
        return False
    # A selection has a column "score", too.
    return b"mcscore" in (schema.metadata or {}) and "score" not in schema.names and _is_row(schema.names)
