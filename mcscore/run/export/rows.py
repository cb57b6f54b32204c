"""Exports with a row for each item: Parquet, CSV, JSON lines. Tables are written block by block, nothing is kept.

Numbers are written with the fewest digits that read back as the same float32.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, BinaryIO

from ...cells import FORMULA
from .source import Source, Tables, json_objects

if TYPE_CHECKING:
    import pyarrow


def write_parquet(file: BinaryIO, tables: Tables, source: Source) -> None:
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


def write_csv(file: BinaryIO, tables: Tables, _source: Source) -> None:
    """Write the rows; no spreadsheet runs a key as a formula, and ``mcscore pool label`` reads the same keys back."""
    import pyarrow.csv

    with contextlib.ExitStack() as open_writer:
        writer = None
        for table in tables:
            if writer is None:
                writer = open_writer.enter_context(pyarrow.csv.CSVWriter(file, table.schema))
            writer.write(_guarded(table))


def write_jsonl(file: BinaryIO, tables: Tables, _source: Source) -> None:
    """Write an object a line."""
    for table in tables:
        rows = json_objects(table, {name: name for name in table.column_names})
        file.write("".join(f"{{{row}}}\n" for row in rows).encode())


def _guarded(table: pyarrow.Table) -> pyarrow.Table:
    """The table with every text as mcscore.cells.guarded has it; numbers stay numbers."""
    import pyarrow
    import pyarrow.compute as pc

    for at, field in enumerate(table.schema):
        if pyarrow.types.is_string(field.type):
            table = table.set_column(at, field, pc.replace_substring_regex(table[at], f"^({FORMULA})", "'\\1"))
    return table
