"""A selection, and its Parquet file.

File, version 2: columns id (int64), rank (int64, 0 = best), score (float32), then any others that the writer adds (key,
prediction). The schema metadata "mcscore" is JSON: ``version``, ``k``, ``method``, ``radius`` (number or null), ``facts`` (an object,
where there are any), the fields that the writer adds (by, run), and ``content``, a checksum of all columns. The metadata
"mcscore_checksum" is a checksum of that JSON, so neither can be lost unseen. Files written before the checksums have neither. A file
without ``version`` has version 1, which differs in that field alone.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import RunError
from ..fields import parse
from ..outputs import named_output
from ..paths import local_path
from ..store.files import AnyPath, RemotePath, Where, open_binary

SELECTION_VERSION = 2
COLUMNS = {"id": "int64", "rank": "int64", "score": "float32"}
"""The columns that every selection has, with their Arrow types."""
_CHECKSUM = "mcscore_checksum"
_METADATA: dict[str, tuple[type, ...]] = {"k": (int,), "method": (str,), "radius": (int, float, type(None))}


@dataclass(frozen=True)
class Selection:
    """The chosen items, best first.

    Attributes:
        ids: (k,) int64.
        scores: (k,) float32.
        rank: (k,) int64: rank among all candidates by score, 0 = best; ranks that are missing were left out for diversity.
        radius: any two chosen items are further apart than this; None by other methods.
        method: name of the method in DIVERSITY.
        facts: parameters, seed, constraints, and what the method tells of the choice; JSON.
        file: where a run keeps it; None: nowhere yet.
    """

    ids: np.ndarray
    scores: np.ndarray
    rank: np.ndarray
    radius: float | None
    method: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    file: AnyPath | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ties_at_zero(self) -> int:
        """Number of chosen items with score 0, as BALD has at its noise floor; among these the id decided."""
        return int((self.scores <= 0).sum())

    def to_table(self, columns: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None) -> Any:
        """Make a pyarrow.Table of the columns id, rank, score and ``columns`` (name -> k values, such as keys).

        Its schema metadata "mcscore" is JSON: version, k, method, radius, the fields of ``metadata`` (by, run) and a checksum of
        the columns. "mcscore_checksum" is the checksum of that JSON.

        Raises:
            ValueError: a column has not k values, or a column or metadata field has the name of one of the selection's own.
        """
        import pyarrow

        data: dict[str, Any] = {"id": self.ids, "rank": self.rank, "score": self.scores}
        for name, values in (columns or {}).items():
            if name in data:
                raise ValueError(f"column {name!r} is one of the selection's own: choose another name")
            if len(values) != len(self):
                raise ValueError(f"column {name!r} has {len(values)} values for {len(self)} selected items")
            data[name] = values
        fields: dict[str, Any] = {
            "version": SELECTION_VERSION,
            "k": len(self),
            "method": self.method,
            "radius": self.radius,
        }
        if self.facts:
            fields["facts"] = dict(self.facts)
        for name in metadata or {}:
            if name in (*fields, "content"):
                raise ValueError(f"metadata {name!r} is one of the selection's own: choose another name")
        table = pyarrow.table(data)
        text = json.dumps({**fields, **(metadata or {}), "content": _content_of(table)}, allow_nan=False)
        return table.replace_schema_metadata({"mcscore": text, _CHECKSUM: _sha256(text.encode())})

    def write_parquet(
        self,
        path: Where,
        columns: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AnyPath:
        """Write :meth:`to_table` as Parquet, whole or not at all, durable on return, and return the path.

        Raises:
            RunError: ``path`` holds something that is not a selection, or lies among the files of a run or pool.
        """
        where = path if isinstance(path, RemotePath) else local_path(path, "a selection", RunError)
        content = as_parquet(self.to_table(columns, metadata))
        with named_output(where, "a selection", _is_selection, RunError) as file:
            file.write(content)
        return where


def as_parquet(table: Any) -> bytes:
    """A table as a file of Parquet with checksums of its pages."""
    import pyarrow.parquet

    content = io.BytesIO()
    pyarrow.parquet.write_table(table, content, write_page_checksum=True)
    return content.getvalue()


def metadata_of(table: Any) -> dict[str, Any]:
    """What a table of :meth:`Selection.to_table`, or one that was read, says of the selection as a whole."""
    said: dict[str, Any] = parse(table.schema.metadata[b"mcscore"])
    return said


def read_parquet(path: Where) -> tuple[Any, dict[str, Any]]:
    """Read a file of :meth:`Selection.write_parquet` as (pyarrow.Table, metadata), checked.

    >>> import tempfile
    >>> chosen = Selection(np.array([7]), np.array([0.5], np.float32), np.array([0]), None, "none")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table, metadata = read_parquet(chosen.write_parquet(f"{folder}/chosen.parquet"))
    >>> table["id"].to_pylist(), metadata["version"], metadata["method"]
    ([7], 2, 'none')

    Raises:
        RunError: no selection, damaged, or written by a newer version of mcscore; ids or ranks that are negative or stand
            twice; scores that are not finite.
        OSError: the file cannot be opened.
    """
    table, metadata = _read_checked(path)
    version = metadata.setdefault("version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise RunError(f"{path}: version must be a whole number >= 1, got {version!r}")
    if version > SELECTION_VERSION:
        raise RunError(
            f"{path}: selection version {version}, but this mcscore reads up to {SELECTION_VERSION}: install a newer mcscore"
        )
    for name, types in _METADATA.items():
        if name not in metadata:
            raise RunError(f"{path}: metadata field {name!r} is missing")
        if isinstance(metadata[name], bool) or not isinstance(metadata[name], types):
            raise RunError(f"{path}: metadata field {name!r} has the wrong type: {metadata[name]!r}")
    for name, kind in COLUMNS.items():
        found = table.schema.field(name).type if name in table.column_names else "missing"
        if str(found) not in (kind, {"float32": "float"}.get(kind)):
            raise RunError(f"{path}: column {name!r} must be {kind}, is {found}")
    if metadata["k"] != table.num_rows:
        raise RunError(f"{path}: k = {metadata['k']}, but the file has {table.num_rows} rows")
    _refuse_impossible(path, table)
    return table, metadata


def _read_checked(path: Where) -> tuple[Any, dict[str, Any]]:
    """The table and its metadata, unchanged since they were written."""
    import pyarrow
    import pyarrow.parquet

    with open_binary(path if isinstance(path, RemotePath) else Path(path)) as file:
        try:
            table = _read_alone(file)
            table.validate(full=True)  # of text: that it is UTF-8
            said, content_now = table.schema.metadata or {}, _content_of(table)
        # Whatever a footer of nonsense leads to: pyarrow passes on what C++ and Python raise.
        except (pyarrow.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
            raise RunError(f"{path}: cannot be read as Parquet: {error}. Select again") from error
    text = said.get(b"mcscore")
    try:
        metadata = parse(text) if text is not None else None
    except ValueError as error:
        raise RunError(f"{path}: schema metadata 'mcscore' is not JSON: {error}") from error
    if not isinstance(metadata, dict) or text is None:
        raise RunError(f"{path}: not a selection of mcscore: schema metadata 'mcscore' is missing or no JSON object")
    content, checksum = metadata.pop("content", None), said.get(_CHECKSUM.encode())
    if content is None and checksum is None:  # of before there were checksums
        return table, metadata
    if checksum is None or checksum.decode("ascii", "replace") != _sha256(text) or content != content_now:
        raise RunError(f"{path}: is damaged: checksum mismatch, it is not as it was written. Select again")
    return table, metadata


def _read_alone(file: BinaryIO) -> Any:
    """Read an open file of Parquet in this thread alone.

    Threads of pyarrow let go of a Python file after ``read_table`` has returned, for which they need the interpreter: a process that
    ends by then is aborted ("terminate called without an active exception"; apache/arrow 34314, 50482).
    """
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file, pre_buffer=False, page_checksum_verification=True) as opened:
        return opened.read(use_threads=False)


def _refuse_impossible(path: Where, table: Any) -> None:
    """Raise RunError if a column has values that no selection has."""
    for name in COLUMNS:
        if table[name].null_count:
            raise RunError(f"{path}: column {name!r} has {table[name].null_count} rows without a value")
    ids, rank, scores = (table[name].to_numpy() for name in COLUMNS)
    for name, values in (("id", ids), ("rank", rank)):
        if (values < 0).any():
            raise RunError(f"{path}: column {name!r} has the negative value {values.min()}")
        found, times = np.unique(values, return_counts=True)
        if (times > 1).any():
            raise RunError(f"{path}: column {name!r} has the value {found[times > 1][0]} more than once")
    if not np.isfinite(scores).all():
        raise RunError(f"{path}: item {ids[~np.isfinite(scores)][0]} has no finite score")


def _is_selection(file: BinaryIO) -> bool:
    """Whether an open file is a selection that mcscore wrote, whole or damaged behind its schema."""
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(file)
    except (pyarrow.ArrowException, OSError, ValueError):
        return False
    return b"mcscore" in (schema.metadata or {}) and schema.names[: len(COLUMNS)] == list(COLUMNS)


def _content_of(table: Any) -> str:
    """The checksum of all columns: their names, types and values."""
    digest = hashlib.sha256()
    for each in table.schema:
        column = table[each.name]
        digest.update(json.dumps([each.name, _type_of(each.type), len(column)]).encode())
        if _is_number(each.type) and not column.null_count:
            digest.update(np.ascontiguousarray(column.to_numpy()).data)
        else:
            digest.update(json.dumps(column.to_pylist(), default=repr).encode())
    return f"sha256:{digest.hexdigest()}"


def _type_of(kind: Any) -> str:
    """The name of a type; Parquet gives the elements of a list another name than Arrow."""
    import pyarrow

    if pyarrow.types.is_fixed_size_list(kind):
        return f"list<{kind.value_type}>[{kind.list_size}]"
    return str(kind)


def _is_number(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)


def _sha256(text: bytes) -> str:
    return f"sha256:{hashlib.sha256(text).hexdigest()}"
