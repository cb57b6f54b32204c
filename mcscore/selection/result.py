"""A selection, and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import replaced


@dataclass(frozen=True)
class Selection:
    """The chosen items, best first.

    Attributes:
        ids: (k,) int64.
        scores: (k,) float32.
        rank: (k,) int64: place among all candidates by score, 0 = best. Gaps are what diversity left out.
        radius: no two chosen items are as close as this; None without diversity.
        method: the name in DIVERSITY.
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
        """How many chosen items have the score 0, as BALD has at its noise floor: these were chosen by id, not by score."""
        return int((self.scores <= 0).sum())

    def to_table(self, columns: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None) -> Any:
        """A pyarrow.Table with columns id, rank, score, then ``columns`` (name -> k values: keys, predictions).

        Its schema metadata holds, under "mcscore", JSON of k, method, radius and what ``metadata`` adds (by, run).

        Raises:
            ValueError: a column of another length, or with the name of one of the three.
        """
        import pyarrow

        data: dict[str, Any] = {"id": self.ids, "rank": self.rank, "score": self.scores}
        for name, values in (columns or {}).items():
            if name in data:
                raise ValueError(f"column {name!r} is one of the selection's own: choose another name")
            if len(values) != len(self):
                raise ValueError(f"column {name!r} has {len(values)} values for {len(self)} selected items")
            data[name] = values
        said = {"k": len(self), "method": self.method, "radius": self.radius, **(metadata or {})}
        return pyarrow.table(data).replace_schema_metadata({"mcscore": json.dumps(said)})

    def write_parquet(
        self,
        path: str | os.PathLike[str],
        columns: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write :meth:`to_table` as Parquet, whole or not at all, durable on return. Returns the path."""
        import pyarrow.parquet

        where = Path(path)
        table = self.to_table(columns, metadata)
        with replaced(where) as file:
            pyarrow.parquet.write_table(table, file)
        return where
