"""The files that an export can be, one small writer each: tables come in block by block, nothing is kept.

A table has the columns id (int64), rank (only of a selection), key (only if the pool has keys), one per score (float32) and
prediction; null where an item has no score. Numbers are written with the fewest digits that read back as the same float32.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class About:
    """What a writer must know beside the rows. ``by``: the score that orders them; ``facts``: where they come from."""

    by: str
    model: str  # a name for it
    classes: tuple[str, ...] | None
    prefix: str  # what stands before a key to make a path or an address of it
    facts: dict[str, Any]

    def class_name(self, prediction: Any) -> str:
        """Of a class its name or number; of a regression the number."""
        if isinstance(prediction, int) and self.classes is not None and prediction < len(self.classes):
            return self.classes[prediction]
        return f"{prediction:.6g}" if isinstance(prediction, float) else str(prediction)


Tables = Iterable["pyarrow.Table"]


@dataclass(frozen=True)
class Format:
    """``needs_keys``: the other tool must know which file an item is; items without a score are then left out."""

    suffix: str
    write: Callable[[BinaryIO, Tables, About], None]
    needs_keys: bool = False


def _parquet(file: BinaryIO, tables: Tables, about: About) -> None:
    """A row group per block; where the rows come from is in the metadata under "mcscore"."""
    import pyarrow.parquet

    with contextlib.ExitStack() as open_writer:
        writer = None
        for table in tables:
            if writer is None:
                schema = table.schema.with_metadata({"mcscore": json.dumps(about.facts)})
                writer = open_writer.enter_context(pyarrow.parquet.ParquetWriter(file, schema))
            writer.write_table(table.replace_schema_metadata(writer.schema.metadata))


def _csv(file: BinaryIO, tables: Tables, _about: About) -> None:
    import pyarrow.csv

    with contextlib.ExitStack() as open_writer:
        writer = None
        for table in tables:
            if writer is None:
                writer = open_writer.enter_context(pyarrow.csv.CSVWriter(file, table.schema))
            writer.write(table)


def _jsonl(file: BinaryIO, tables: Tables, _about: About) -> None:
    for table in tables:
        line = "{" + ", ".join(f'"{name}": %s' for name in table.column_names) + "}\n"
        file.write("".join(line % row for row in _rows(table, table.column_names)).encode())


def _label_studio(file: BinaryIO, tables: Tables, about: About) -> None:
    """Tasks with the address of the image, the scores as columns, and one prediction whose score is a confidence.

    Label Studio's uncertainty sampling (and sorting by prediction score) takes the LOWEST prediction score first. So it gets
    1 / (1 + score): in (0, 1], falling as the score rises, whatever the range of the score (below 1e-15 all are 1).
    ``result`` is empty, for what could stand there must fit the labeling configuration of the project.
    """
    names, before = None, "[\n"
    for table in tables:
        names = names or [name for name in table.column_names if name not in ("key", "prediction")]
        columns = ", ".join(f'"{name}": %s' for name in names)
        task = (
            f'{{"data": {{"image": %s, {columns}, "prediction": %s}}, '
            f'"predictions": [{{"model_version": {_escaped(about.model)}, "score": %r, "result": []}}]}}'
        )
        images = [json.dumps(about.prefix + key) for key in table["key"].to_pylist()]
        predictions = [json.dumps(about.class_name(value)) for value in table["prediction"].to_pylist()]
        confidences = [1 / (1 + score) for score in table[about.by].to_pylist()]
        rows = zip(images, *zip(*_rows(table, names), strict=True), predictions, confidences, strict=True)
        for tasks in [",\n".join(task % row for row in rows)] if len(table) else []:
            file.write((before + tasks).encode())
            before = ",\n"
    file.write(b"[]\n" if before == "[\n" else b"\n]\n")


def _fiftyone(file: BinaryIO, tables: Tables, about: About) -> None:
    """labels.json of a FiftyOneImageClassificationDataset: absolute path -> predicted label, item and scores as its attributes.

    fiftyone.Dataset.from_dir(data_path=IMAGES, labels_path=FILE, dataset_type=fiftyone.types.FiftyOneImageClassificationDataset)
    """
    file.write(b'{"labels": {')
    before = "\n"
    for table in tables:
        names = [name for name in table.column_names if name not in ("key", "prediction")]
        # An attribute "id" would take the place of the label's own.
        columns = ", ".join(f'"{"item" if name == "id" else name}": %s' for name in names)
        entry = f'%s: {{"label": %s, "attributes": {{{columns}}}}}'
        paths = [json.dumps(os.path.abspath(about.prefix + key)) for key in table["key"].to_pylist()]
        labels = [json.dumps(about.class_name(value)) for value in table["prediction"].to_pylist()]
        rows = zip(paths, labels, *zip(*_rows(table, names), strict=True), strict=True)
        for entries in [",\n".join(entry % row for row in rows)] if len(table) else []:
            file.write((before + entries).encode())
            before = ",\n"
    file.write(b"\n}}\n")


FORMATS = {
    "parquet": Format(".parquet", _parquet),
    "csv": Format(".csv", _csv),
    "jsonl": Format(".jsonl", _jsonl),
    "label-studio": Format(".label-studio.json", _label_studio, needs_keys=True),
    "fiftyone": Format(".fiftyone.json", _fiftyone, needs_keys=True),
}


def _rows(table: pyarrow.Table, names: list[str]) -> Iterator[tuple[str, ...]]:
    """The rows with each value as JSON. Arrow writes the shortest digits that read back as the same float32."""
    import pyarrow
    import pyarrow.compute as pc

    columns = []
    for name in names:
        column = table[name]
        if pyarrow.types.is_string(column.type):
            columns.append([json.dumps(text) for text in column.to_pylist()])
        else:
            text = pc.fill_null(pc.cast(column, pyarrow.string()), "null")
            columns.append(
                pc.replace_substring_regex(text, "^-0$", "-0.0").to_pylist()
            )  # -0 would be read as integer 0
    return zip(*columns, strict=True)


def _escaped(text: str) -> str:
    """As JSON inside a template for %."""
    return json.dumps(text).replace("%", "%%")
