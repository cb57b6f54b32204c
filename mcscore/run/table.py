"""Scores as a table of Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow


def table_of(
    ids: npt.NDArray[Any],
    keys: Any,
    columns: Mapping[str, npt.NDArray[Any]],
    rank: npt.NDArray[Any] | None = None,
) -> pyarrow.Table:
    """Columns id, rank if given, key if given, and the others; null where an item has no value (NaN, class -1, no key)."""
    import pyarrow

    data: dict[str, Any] = {"id": pyarrow.array(ids, pyarrow.int64())}
    if rank is not None:
        data["rank"] = pyarrow.array(rank, pyarrow.int64())
    if keys is not None:
        data["key"] = pyarrow.array(keys.tolist(), pyarrow.string(), mask=keys == "")
    for name, values in columns.items():
        data[name] = pyarrow.array(values, mask=values == -1 if values.dtype.kind == "i" else np.isnan(values))
    return pyarrow.table(data)
