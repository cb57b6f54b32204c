"""Parquet files with a column of images: structs of {bytes, path} as the datasets library writes them, or bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import ImageError, PoolError
from ...labels import UNLABELED
from ...pool.pictures.decode import MAX_BYTES, too_large
from .entry import Entry, Position, Source, identity_of
from .labels import LabelOptions, label_of, numbers_of
from .tar import shard_names

LABEL = "label"
_BATCH, _BATCH_BYTES = 64, 16 << 20


@dataclass(frozen=True)
class _Table:
    """The files, the column of images, and how labels are read; ``names``: those of a ClassLabel, which labels index."""

    files: list[Path]
    shards: list[str]
    column: str
    options: LabelOptions
    names: list[str] | None
    number: dict[str, int]


def open_parquet(files: list[Path], options: LabelOptions, column: str | None) -> Source:
    """Open Parquet files.

    Raises:
        PoolError: a file cannot be read; no or several columns of images and none chosen; the chosen one is missing or holds
            no images; the files have other columns or class names; there is no column "label" to take.
    """
    import pyarrow
    import pyarrow.parquet as pq

    counts, schemas = [], []
    for file in files:
        try:
            metadata = pq.read_metadata(file)
            schemas.append(metadata.schema.to_arrow_schema())
        except (OSError, pyarrow.ArrowException) as error:
            raise PoolError(f"{file} cannot be read as Parquet: {error}") from error
        counts.append(metadata.num_rows)
    name = _image_column(files, schemas, column)
    classes, number, names = _classes(files, schemas, options) if options.take else (None, {}, None)
    shards = shard_names(files)
    table = _Table(files, shards, name, LabelOptions(options.take, _tuple(classes), options.reading), names, number)

    def entries(start: Position) -> Iterator[Entry]:
        for i in range(start[0], len(files)):
            yield from _rows(table, i, start[1] if i == start[0] else 0)

    identity = identity_of((str(file), os.stat(file)) for file in files)
    given = None if options.classes is None else list(options.classes)
    return Source("parquet", sum(counts), identity, classes or given, entries)


def _tuple(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _image_column(files: list[Path], schemas: list[Any], column: str | None) -> str:
    """Return the column of images, which all files must have."""
    first = schemas[0]
    if column is None:
        found = [field.name for field in first if _holds_structs(field.type)]
        found = found or [field.name for field in first if _holds_bytes(field.type)]
        if len(found) != 1:
            listed = ", ".join(found) if found else f"its columns are {', '.join(first.names)}"
            choose = ": choose one with column= (--column)" if found else ""
            raise PoolError(f"{files[0]} has {len(found)} columns of images ({listed}){choose}")
        column = found[0]
    for file, schema in zip(files, schemas, strict=True):
        if schema.names.count(column) != 1:
            count = schema.names.count(column)
            raise PoolError(f"{file} has {count or 'no'} columns {column!r}; it has {', '.join(schema.names)}")
        kind = schema.field(column).type
        if not (_holds_structs(kind) or _holds_bytes(kind)):
            raise PoolError(f"{file}: column {column!r} holds {kind}; images are bytes, or structs of bytes and path")
    return column


def _classes(
    files: list[Path], schemas: list[Any], options: LabelOptions
) -> tuple[list[str] | None, dict[str, int], list[str] | None]:
    """Return (class names of the pool, number of each name of a ClassLabel or of a column of text, names of the ClassLabel)."""
    import pyarrow.types as types

    for file, schema in zip(files, schemas, strict=True):
        if schema.names.count(LABEL) != 1:
            raise PoolError(f"{file} has {schema.names.count(LABEL) or 'no'} columns {LABEL!r} to take labels from")
        if _class_names(schema) != _class_names(schemas[0]):
            raise PoolError(f"{file} and {files[0]} have different class names: import them one by one, with --classes")
    names = _class_names(schemas[0])
    if names is not None:
        return *numbers_of(names, options.classes, files[0]), names
    kind = schemas[0].field(LABEL).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if options.classes is None and (types.is_string(kind) or types.is_large_string(kind)):
        found = sorted(_texts(files))
        if any(not text.lstrip("-").isdigit() for text in found):
            return found, {name: i for i, name in enumerate(found)}, None
    return (None if options.classes is None else list(options.classes)), {}, None


def _texts(files: list[Path]) -> set[str]:
    """Return the different values of the column of labels."""
    import pyarrow
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found: set[str] = set()
    for file in files:
        try:
            with pq.ParquetFile(file) as table:
                for batch in table.iter_batches(1 << 16, columns=[LABEL]):
                    found.update(str(value).strip() for value in pc.unique(batch.column(0)).to_pylist() if value)
        except (OSError, pyarrow.ArrowException) as error:
            raise PoolError(f"{file}: column {LABEL!r} cannot be read: {error}") from error
    return found


def _rows(table: _Table, number: int, skip: int) -> Iterator[Entry]:
    """Yield the rows of one file from row ``skip`` on; row groups before it are not read."""
    import pyarrow
    import pyarrow.parquet as pq

    file, row, reader = table.files[number], 0, table.options.reader()
    take = table.options.take
    try:
        with pq.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                facts = opened.metadata.row_group(group)
                if row + facts.num_rows <= skip:
                    row += facts.num_rows
                    continue
                step = max(1, min(_BATCH, _BATCH_BYTES * max(1, facts.num_rows) // max(1, facts.total_byte_size)))
                columns = [table.column, *([LABEL] if take else [])]
                for batch in opened.iter_batches(step, row_groups=[group], columns=columns):
                    values, labels = batch.column(table.column), batch.column(LABEL) if take else None
                    for i in range(batch.num_rows):
                        if row >= skip:
                            entry = _row(table, (number, row), values[i].as_py())
                            yield entry if labels is None else _labeled(entry, labels[i].as_py(), table, reader)
                        row += 1
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        why = f"the file is damaged; rows from {row} on are lost: {error}"
        yield Entry((number, row), str(file), UNLABELED, None, why)


def _labeled(entry: Entry, value: object, table: _Table, reader: Any) -> Entry:
    """Give an entry its label, or refuse it."""
    try:
        if table.names is not None and isinstance(value, int) and value != UNLABELED:
            if not 0 <= value < len(table.names):
                raise ImageError(f"label {value} is not the number of one of the {len(table.names)} classes")
            return replace(entry, label=table.number[table.names[value]])
        if table.number and table.names is None and isinstance(value, str) and value.strip() in table.number:
            return replace(entry, label=table.number[value.strip()])
        return replace(entry, label=label_of(reader, value))
    except ImageError as error:
        return replace(entry, data=None, refused=str(error), label=UNLABELED)


def _class_names(schema: Any) -> list[str] | None:
    """Return the names of a ClassLabel, which the datasets library writes beside the schema."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        names = metadata["info"]["features"][LABEL]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return [str(name) for name in names]


def _holds_structs(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _row(table: _Table, position: Position, value: Any) -> Entry:
    data = value.get("bytes") if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else None
    file = table.files[position[0]]
    key = f"{table.shards[position[0]]}:{position[1]}" + (f":{path}" if path else "")
    if data is not None:
        if len(data) > MAX_BYTES:
            return Entry(position, key, UNLABELED, None, str(too_large(len(data))))
        return Entry(position, key, UNLABELED, data, None, len(data))
    if not path:
        return Entry(position, key, UNLABELED, None, "the row holds neither bytes nor a path")
    try:
        found = (file.parent / path).resolve()
        inside = found.is_relative_to(file.parent.resolve())
        size = found.stat().st_size if inside else 0
    except (OSError, ValueError, RuntimeError) as error:
        return Entry(position, key, UNLABELED, None, f"its path leads to no file: {error}")
    if not inside:
        # The path could name any file of this machine; a data set must not choose which of them are read.
        return Entry(
            position, key, UNLABELED, None, "the row holds no bytes, and its path points outside the file's folder"
        )
    return Entry(position, key, UNLABELED, found, None, size)
