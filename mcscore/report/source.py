"""Finds what a report needs beside the run: the pool that was scored, and the selection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..store.files import Where

if TYPE_CHECKING:
    from ..pool import Pool
    from ..run import Run


@dataclass(frozen=True)
class Chosen:
    """A selection as its file tells: ids (k,) int64, best first; score, method, radius (None without one), file name.

    map: the embeddings in a plane, see ``mcscore.selection.embedding_map``; None if the selection was made without any.
    facts: what the method tells of the choice.
    probabilities: of the classes, (k, C), NaN where they are not known; None if none are.
    near_cut: how many items that were not selected lie within their standard error of the lowest selected score, if that is known.
    """

    ids: np.ndarray
    by: str
    method: str
    radius: float | None
    name: str
    near_cut: int | None = None
    map: dict[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    probabilities: np.ndarray | None = None


def pool_of(run: Run, pool: Pool | None) -> tuple[Pool | None, list[str]]:
    """Return the pool that ``run`` scored; None and a warning if there is no pool at the recorded place.

    Raises RunError if ``pool``, or what is at that place now, is another one.
    """
    from ..run.identity.place import pool_unless_gone

    pool, error = pool_unless_gone(run, pool)
    if pool is None:
        assert error is not None
        return None, [f"No pictures, labels and class names: the pool is not where it was scored ({error.__cause__})."]
    if pool.n > run.n:
        return pool, [f"{pool.n - run.n:,} items were appended to the pool since it was scored; they are not shown."]
    return pool, []


def chosen_items(run: Run, path: Where | int | None = None, pool: Pool | None = None) -> Chosen | None:
    """The selection of that number or file, else the newest of the run's, else None. RunError if it is not of this run and pool."""
    from ..run.selecting.kept import probabilities_of, read_selection, selections_of

    if path is None and not selections_of(run.path):
        return None
    file, table, how = read_selection(run, path, pool)
    ids = table.column("id").to_numpy().astype(np.int64)
    told = how.get("near_cut"), how.get("map"), how.get("facts") or {}, probabilities_of(run, table)
    return Chosen(ids, how["by"], how["method"], how["radius"], file.name, *told)
