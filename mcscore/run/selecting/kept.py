"""The selections that a run keeps: numbered files, selection-0001.parquet and so on, none of which is ever replaced.

The number is the whole name, so that of two processes that select at once only one gets it; the other takes the next. Files of before
they were numbered, selection-<by>-<k>.parquet, are read as well, and are older than all numbered ones.
"""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import RunError
from ...labels import has_label
from ...store.files import AnyPath, Where
from ...store.place import any_path, place_at
from ..identity.place import pool_unless_gone
from ..spans import Span
from ..stored import StoredScores
from .samples_file import mean_probabilities, samples_file

if TYPE_CHECKING:
    from ...pool import Pool
    from ...selection import Selection

_NUMBERED = re.compile(r"selection-([0-9]{4,})\.parquet")


@dataclass(frozen=True)
class KeptSelection:
    """One selection of a run, as a list shows it.

    Attributes:
        number: its number; None: a file of before they were numbered.
        file: where it is.
        created: when it was made, ISO 8601, UTC; "" if the file does not say.
        by: the score.
        method: the diversity method.
        k: how many items.
        asked: all arguments of ``Run.select``; empty in a file of before they were recorded.
        facts: parameters as used, and what the method tells.
        labeled_then: labeled items of the pool when it was made.
        labeled: how many of its items have a label by now; None: the pool is gone.
        damage: why the file cannot be read, "" if it can; the rest is empty then.
    """

    number: int | None
    file: AnyPath
    created: str = ""
    by: str = ""
    method: str = ""
    k: int = 0
    asked: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    labeled_then: int = 0
    labeled: int | None = None
    damage: str = ""


def number_of(file: AnyPath) -> int | None:
    """The number of a selection, by the name of its file; None if it has none.

    >>> number_of(Path("run/selection-0012.parquet")), number_of(Path("run/selection-bald-50.parquet"))
    (12, None)
    """
    found = _NUMBERED.fullmatch(file.name)
    return int(found[1]) if found else None


def selections_of(run: AnyPath) -> list[AnyPath]:
    """The selection files in a run, the newest last."""
    place = place_at(run)
    files = [run / name for name in fnmatch.filter(place.names(), "selection-*.parquet")]
    numbered = [file for file in files if number_of(file) is not None]
    former = [file for file in files if number_of(file) is None]
    former.sort(key=lambda file: (place.modified(file.name), file.name))
    return [*former, *sorted(numbered, key=lambda file: number_of(file) or 0)]


def keep(run: StoredScores, selection: Selection, columns: Mapping[str, Any], how: Mapping[str, Any]) -> AnyPath:
    """Write a selection under the next number, durable on return; if the newest one is the same, that is it.

    Raises:
        RunError: the file cannot be written.
    """
    from ...selection.result import as_parquet, metadata_of

    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    table = selection.to_table(columns, {**how, "created": now})
    files = selections_of(run.path)
    if files and _says(files[-1]) == _without_moment(metadata_of(table)):
        return files[-1]
    place, data = place_at(run.path), as_parquet(table)
    file = run.path
    try:
        place.lay_out(alone=False)  # what killed selects left behind is removed
        while True:  # whoever is later takes the next number
            file = run.path / f"selection-{1 + _last(files):04d}.parquet"
            try:
                place.create(file.name, data)
            except FileExistsError:
                files = [*selections_of(run.path), file]
            else:
                return file
    except OSError as error:
        raise RunError(f"{file} could not be written: {error}") from error


def selected_file(run: AnyPath, which: Where | int | None = None) -> AnyPath:
    """The file of a selection of a run.

    Args:
        run: the run directory.
        which: its number, also as text; a path or URL; "latest" or None: the newest.

    Raises:
        RunError: there is no selection, or none of that number.
    """
    text = which if isinstance(which, str) else ""
    if which is not None and text != "latest" and not isinstance(which, int) and not text.isdecimal():
        return any_path(which)
    files = selections_of(run)
    if not files:
        raise RunError(f"there is no selection in {run}; `mcscore select` makes one")
    if which is None or text == "latest":
        return files[-1]
    number = int(which)  # type: ignore[arg-type]
    for file in files:
        if number_of(file) == number:
            return file
    there = ", ".join(str(number_of(file)) for file in files if number_of(file) is not None) or "none with a number"
    raise RunError(f"there is no selection {number} in {run}: it has {there}. `mcscore run selections` lists them")


def read_selection(
    run: StoredScores, which: Where | int | None = None, pool: Pool | None = None
) -> tuple[AnyPath, Any, dict[str, Any]]:
    """Read a selection of ``run``, see ``selected_file``.

    Returns:
        The file, its pyarrow.Table, and how it was chosen.

    Raises:
        RunError: there is none, it cannot be read, it was selected from another run, it has items that the run has no score
            of, or that have other keys in ``pool``.
    """
    from ...selection.result import read_parquet

    path = selected_file(run.path, which)
    try:
        table, how = read_parquet(path)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if (other := how.get("run")) != run.meta["id"]:
        raise RunError(f"{path} was selected from another run (id {other}), not from {run.path} (id {run.meta['id']})")
    by = how.get("by")
    if not isinstance(by, str) or by not in run.meta["scores"]:
        raise RunError(f"{path} was selected by {by!r}; {run.path} has {', '.join(run.meta['scores'])}. Select again")
    _refuse_unknown_items(run, path, table, by, pool)
    return path, table, how


def listed(run: StoredScores, pool: Pool | None = None) -> list[KeptSelection]:
    """All selections of a run, the oldest first. RunError if ``pool``, or what is at its place, is another one."""
    found, _error = pool_unless_gone(run, pool)
    return [_listed(run, file, found) for file in selections_of(run.path)]


def probabilities_of(run: StoredScores, table: Any) -> npt.NDArray[np.float32] | None:
    """Mean probabilities (k, C) of the items of a selection, NaN where they are not known; None if none are.

    They stand in the file if the method had them. Before they did, all there is are the samples that a run keeps of its candidates.
    """
    if "probabilities" in table.column_names:
        return np.array(table["probabilities"].to_pylist(), np.float32)
    if not isinstance(run.path, Path):
        return None
    ids = table["id"].to_numpy().astype(np.int64)
    return mean_probabilities(samples_file(run.path, "candidates"), ids, run.meta["model"]["fingerprint"])


def _last(files: list[AnyPath]) -> int:
    return max((number_of(file) or 0 for file in files), default=0)


def _says(file: AnyPath) -> dict[str, Any] | None:
    """What a selection says, but for when it was made; None if it cannot be read, which is told."""
    from ...selection.result import metadata_of, read_parquet

    try:
        table, _ = read_parquet(file)
        return _without_moment(metadata_of(table))
    except (OSError, RunError) as error:
        warnings.warn(f"{file} cannot be compared with this selection, which gets a new number: {error}", stacklevel=4)
        return None


def _without_moment(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name != "created"}


def _listed(run: StoredScores, file: AnyPath, pool: Pool | None) -> KeptSelection:
    try:
        _, table, how = read_selection(run, file, pool)
    except RunError as error:
        return KeptSelection(number_of(file), file, damage=str(error))
    ids = table["id"].to_numpy().astype(np.int64)
    labeled = None if pool is None else int(has_label(pool.column("labels").at(ids)).sum())
    return KeptSelection(
        number_of(file),
        file,
        how.get("created", ""),
        how["by"],
        how["method"],
        how["k"],
        how.get("asked", {}),
        how.get("facts", {}) | ({} if how["radius"] is None else {"radius": how["radius"]}),
        how.get("labeled", 0),
        labeled,
    )


def _refuse_unknown_items(run: StoredScores, path: AnyPath, table: Any, by: str, pool: Pool | None) -> None:
    ids = table["id"].to_numpy()
    if len(beyond := ids[ids >= run.n]):
        raise RunError(f"{path} has the item {beyond[0]}, but {run.path} has {run.n:,} items. Select again")
    if len(without := ids[np.isnan(run.values(by, ids))]):
        index, size = int(without[0]) // run.meta["span"], run.meta["span"]
        span = Span(index, index * size, min((index + 1) * size, run.n))
        raise RunError(
            f"item {without[0]} of {path} has no {by} in {run.path}: {span} is not committed, or its record is damaged. "
            "`mcscore run verify` tells; scoring into the run again repairs it"
        )
    if pool is None or "key" not in table.column_names or (keys := pool.keys_of(ids)) is None:
        return
    for id, said, key in zip(ids.tolist(), table["key"].to_pylist(), keys.tolist(), strict=True):
        if (said or "") != key:
            raise RunError(f"item {id} has the key {said!r} in {path}, but {key!r} in {pool.path}. Select again")
