"""The files that an export can be, one writer each: tables are written block by block, nothing is kept.

A table has the columns id (int64), rank (only of a selection), key (only if the pool has keys), one per score and error that
the run has (float32) and prediction; null where an item has no score. Numbers are written with the fewest digits that read
back as the same float32.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from ...acquisition import SCORES
from ...cells import FORMULA

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Source:
    """Where the rows come from.

    Attributes:
        by: the score that orders them.
        model: a name of the model.
        classes: names of the classes.
        prefix: put before a key to make a path or an address of it.
        facts: run, pool, and how a selection was chosen.
    """

    by: str
    model: str
    classes: tuple[str, ...] | None
    prefix: str
    facts: dict[str, Any]

    def class_name(self, prediction: Any) -> str:
        """The name or number of a predicted class, the number of a regression."""
        if isinstance(prediction, int) and self.classes is not None and prediction < len(self.classes):
            return self.classes[prediction]
        return f"{prediction:.6g}" if isinstance(prediction, float) else str(prediction)


Tables = Iterable["pyarrow.Table"]


@dataclass(frozen=True)
class ExportFormat:
    """How one kind of file is written; with ``needs_keys`` items without a score are left out."""

    suffix: str
    write: Callable[[BinaryIO, Tables, Source], None]
    needs_keys: bool = False


def _parquet(file: BinaryIO, tables: Tables, source: Source) -> None:
    """Write a row group per block; where the rows come from is in the metadata under "mcscore"."""
    import pyarrow.parquet

    with contextlib.ExitStack() as open_writer:
        writer = None
        for table in tables:
            if writer is None:
                schema = table.schema.with_metadata({"mcscore": json.dumps(source.facts)})
                writer = open_writer.enter_context(
                    pyarrow.parquet.ParquetWriter(file, schema, write_page_checksum=True)
                )
            writer.write_table(table.replace_schema_metadata(writer.schema.metadata))


def _csv(file: BinaryIO, tables: Tables, _source: Source) -> None:
    """Write the rows; no spreadsheet runs a key as a formula, and ``mcscore pool label`` reads the same keys back."""
    import pyarrow.csv

    with contextlib.ExitStack() as open_writer:
        writer = None
        for table in tables:
            if writer is None:
                writer = open_writer.enter_context(pyarrow.csv.CSVWriter(file, table.schema))
            writer.write(_guarded(table))


def _jsonl(file: BinaryIO, tables: Tables, _source: Source) -> None:
    for table in tables:
        line = "{" + ", ".join(f'"{name}": %s' for name in table.column_names) + "}\n"
        file.write("".join(line % row for row in _rows(table, table.column_names)).encode())


def _label_studio(file: BinaryIO, tables: Tables, source: Source) -> None:
    """Write tasks with the address of the image, scores and errors as columns, and one prediction whose score is a confidence.

    Label Studio's uncertainty sampling (and sorting by prediction score) takes the LOWEST prediction score first. So it gets
    1 / (1 + score): in (0, 1], falling as the score rises, whatever the range of the score (below 1e-15 all are 1).
    ``result`` is empty, for what could stand there must fit the labeling configuration of the project.
    """
    names, before = None, "[\n"
    for table in tables:
        names = names or [name for name in table.column_names if name not in ("key", "prediction")]
        # Label Studio exports its own task id as "id": the id of the item has a second name, which comes back as it is.
        columns = ", ".join(f'"{name}": %s' for name in [*names, *(["item"] if "id" in names else [])])
        task = (
            f'{{"data": {{"image": %s, {columns}, "prediction": %s}}, '
            f'"predictions": [{{"model_version": {_escaped(source.model)}, "score": %r, "result": []}}]}}'
        )
        images = [json.dumps(_address(source.prefix, key)) for key in table["key"].to_pylist()]
        columns_read = [*names, *(["id"] if "id" in names else [])]
        predictions = [json.dumps(source.class_name(value)) for value in table["prediction"].to_pylist()]
        confidences = [1 / (1 + score) for score in table[source.by].to_pylist()]
        rows = zip(images, *zip(*_rows(table, columns_read), strict=True), predictions, confidences, strict=True)
        for tasks in [",\n".join(task % row for row in rows)] if len(table) else []:
            file.write((before + tasks).encode())
            before = ",\n"
    file.write(b"[]\n" if before == "[\n" else b"\n]\n")


def _address(prefix: str, key: str) -> str:
    """Return the URL of an item; a key that is a URL itself stays as it is.

    In addresses of the web (http, https, or relative ones) the key is percent-encoded, as the browser and Label Studio's server
    decode it. Of s3:// and its like Label Studio takes the rest as the name of the object, literally.

    >>> _address("/data/local-files/?d=img/", "cat+dog #1.png")
    '/data/local-files/?d=img/cat%2Bdog%20%231.png'
    >>> _address("s3://bucket/", "cat+dog #1.png")
    's3://bucket/cat+dog #1.png'
    """
    if not prefix and "://" in key:
        return key
    scheme = prefix.partition("://")[0].lower() if "://" in prefix else ""
    return prefix + (quote(key, safe="/") if scheme in ("", "http", "https") else key)


def _fiftyone(file: BinaryIO, tables: Tables, source: Source) -> None:
    """Write labels.json of a FiftyOneImageClassificationDataset: absolute path -> predicted label, its attributes item and columns.

    fiftyone.Dataset.from_dir(data_path=IMAGES, labels_path=FILE, dataset_type=fiftyone.types.FiftyOneImageClassificationDataset)
    """
    file.write(b'{"labels": {')
    before = "\n"
    for table in tables:
        names = [name for name in table.column_names if name not in ("key", "prediction")]
        # An attribute "id" would take the place of the label's own.
        columns = ", ".join(f'"{"item" if name == "id" else name}": %s' for name in names)
        entry = f'%s: {{"label": %s, "attributes": {{{columns}}}}}'
        paths = [json.dumps(os.path.abspath(source.prefix + key)) for key in table["key"].to_pylist()]
        labels = [json.dumps(source.class_name(value)) for value in table["prediction"].to_pylist()]
        rows = zip(paths, labels, *zip(*_rows(table, names), strict=True), strict=True)
        for entries in [",\n".join(entry % row for row in rows)] if len(table) else []:
            file.write((before + entries).encode())
            before = ",\n"
    file.write(b"\n}}\n")


FORMATS = {
    "parquet": ExportFormat(".parquet", _parquet),
    "csv": ExportFormat(".csv", _csv),
    "jsonl": ExportFormat(".jsonl", _jsonl),
    "label-studio": ExportFormat(".label-studio.json", _label_studio, needs_keys=True),
    "fiftyone": ExportFormat(".fiftyone.json", _fiftyone, needs_keys=True),
}


def is_export(file: BinaryIO) -> bool:
    """Whether an open file is an export that mcscore wrote, in any format: by its first row, and by no name."""
    start = file.read(_MAGIC_BYTES)
    file.seek(0)
    if start == b"PAR1":
        return _is_parquet_export(file)
    first, second = (file.readline(_LINE_MAX) for _ in range(2))
    if first.startswith(b'"id",'):
        return _is_row(next(csv.reader([first.decode("utf-8", "replace")])))
    if first.startswith(b'{"id": '):
        with contextlib.suppress(ValueError):
            return _is_row(list(json.loads(first)))
        return False
    if first == b"[\n":
        return second.startswith(b'{"data": {"image": ') and b'"model_version": "mcscore ' in second
    if first == b'{"labels": {\n':
        return second == b"}}\n" or b'"attributes": {"item": ' in second
    return (first, second) == (b"[]\n", b"")


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


def _rows(table: pyarrow.Table, names: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the rows with each value as JSON. Arrow writes the shortest digits that read back as the same float32."""
    import pyarrow
    import pyarrow.compute as pc

    columns = []
    for name in names:
        column = table[name]
        if pyarrow.types.is_string(column.type):
            columns.append([json.dumps(text) for text in column.to_pylist()])
        else:
            text = pc.fill_null(pc.cast(column, pyarrow.string()), "null")
            # Readers of JSON take -0 for the integer 0.
            columns.append(pc.replace_substring_regex(text, "^-0$", "-0.0").to_pylist())
    return zip(*columns, strict=True)


def _guarded(table: pyarrow.Table) -> pyarrow.Table:
    """The table with every text as mcscore.cells.guarded has it; numbers stay numbers."""
    import pyarrow
    import pyarrow.compute as pc

    for at, field in enumerate(table.schema):
        if pyarrow.types.is_string(field.type):
            table = table.set_column(at, field, pc.replace_substring_regex(table[at], f"^({FORMULA})", "'\\1"))
    return table


def _escaped(text: str) -> str:
    """Text as JSON inside a template for %."""
    return json.dumps(text).replace("%", "%%")
