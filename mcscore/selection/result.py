"""A selection, and its Parquet file.

File, version 2: columns id (int64), rank (int64, 0 = best), score (float32), then any others that the writer adds (key,
prediction). The schema metadata "mcscore" is JSON: ``version``, ``k``, ``method``, ``radius`` (number or null) and the fields
that the writer adds (by, run). A file without ``version`` has version 1, which differs in that field alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import replaced
from ..errors import RunError

SELECTION_VERSION = 2
COLUMNS = {"id": "int64", "rank": "int64", "score": "float32"}
"""The columns that every selection has, with their Arrow types."""
_METADATA: dict[str, tuple[type, ...]] = {"k": (int,), "method": (str,), "radius": (int, float, type(None))}


@dataclass(frozen=True)
class Selection:
    """The chosen items, best first.

    Attributes:
        ids: (k,) int64.
        scores: (k,) float32.
        rank: (k,) int64: rank among all candidates by score, 0 = best; ranks that are missing were left out for diversity.
        radius: any two chosen items are further apart than this; None without diversity.
        method: name of the method in DIVERSITY.
    """

    ids: np.ndarray
    scores: np.ndarray
    rank: np.ndarray
    radius: float | None
    method: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ties_at_zero(self) -> int:
        """Number of chosen items with score 0, as BALD has at its noise floor; among these the id decided."""
        return int((self.scores <= 0).sum())

    def to_table(self, columns: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None) -> Any:
        """Make a pyarrow.Table of the columns id, rank, score and ``columns`` (name -> k values, such as keys).

        Its schema metadata "mcscore" is JSON: version, k, method, radius and the fields of ``metadata`` (by, run).

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
        fields = {"version": SELECTION_VERSION, "k": len(self), "method": self.method, "radius": self.radius}
        for name in metadata or {}:
            if name in fields:
                raise ValueError(f"metadata {name!r} is one of the selection's own: choose another name")
        text = json.dumps({**fields, **(metadata or {})})
        return pyarrow.table(data).replace_schema_metadata({"mcscore": text})

    def write_parquet(
        self,
        path: str | os.PathLike[str],
        columns: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write :meth:`to_table` as Parquet, whole or not at all, durable on return, and return the path."""
        import pyarrow.parquet

        where = Path(path)
        table = self.to_table(columns, metadata)
        with replaced(where) as file:
            pyarrow.parquet.write_table(table, file)
        return where


def read_parquet(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Read a file of :meth:`Selection.write_parquet` as (pyarrow.Table, metadata), checked.

    >>> import tempfile
    >>> chosen = Selection(np.array([7]), np.array([0.5], np.float32), np.array([0]), None, "none")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table, metadata = read_parquet(chosen.write_parquet(f"{folder}/chosen.parquet"))
    >>> table["id"].to_pylist(), metadata["version"], metadata["method"]
    ([7], 2, 'none')

    Raises:
        RunError: the file is not a selection, is damaged, or was written by a newer version of mcscore.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with open(path, "rb") as file:
            table = pyarrow.parquet.read_table(file)
    except pyarrow.ArrowException as error:
        raise RunError(f"{path}: cannot be read as Parquet: {error}") from error
    try:
        metadata = json.loads((table.schema.metadata or {}).get(b"mcscore", b"null"))
    except ValueError as error:
        raise RunError(f"{path}: schema metadata 'mcscore' is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise RunError(f"{path}: not a selection of mcscore: schema metadata 'mcscore' is missing or not a JSON object")
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
    return table, metadata
