"""The scores and errors of a run, or a selection from it, as a file for other tools: streamed, and whole or not there."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RunError
from ...outputs import named_output, refuse_foreign
from ...paths import local_path
from ...store.files import Where
from ..identity.place import pool_unless_gone
from ..journal import Values
from ..selecting.kept import read_selection
from ..selecting.select import refuse_incomplete
from ..stored import StoredScores
from ..table import table_of
from .formats import FORMATS, ExportFormat, is_export
from .images import Images
from .source import Source, Tables

if TYPE_CHECKING:
    import pyarrow

    from ...pool import Pool

_ROWS = 1 << 16  # per block, whatever the span


def export(
    run: StoredScores,
    format: str,
    out: str | os.PathLike[str] | None,
    *,
    selection: Where | int | None,
    by: str | None,
    prefix: str,
    images: str | os.PathLike[str] | None,
    texts: dict[int, str] | None,
    pool: Pool | None,
    partial: bool,
) -> Path:
    """Write a file for another tool, see ``Run.export``."""
    if format not in FORMATS:
        raise RunError(f"no format {format!r}; choose from {', '.join(FORMATS)}")
    kind = FORMATS[format]
    _refuse_places(format, kind, prefix, images, texts)
    pool = _pool_or_none(run, pool, required=kind.names != "nothing")
    facts = {"run": run.meta["id"], "pool": run.meta["pool"]["fingerprint"], "n": run.n, "done": run.done}
    if selection is None:
        if not partial:
            refuse_incomplete(run, pool)
        by, name, tables, ids = run.check_score(by or run.meta["scores"][0]), "all", _all(run, pool), None
    else:
        if by is not None:
            raise RunError("a selection has its own score: leave out by (--by)")
        file, table, how = read_selection(run, selection, pool)
        by, name, facts = how["by"], file.stem.removeprefix("selection-"), {**facts, **how}
        tables, ids = _selected(run, table), table["id"].to_numpy()
    if kind.names != "nothing":
        by_key = images is None and texts is None
        if by_key and (pool is None or not pool.has_keys):
            raise RunError(
                f"{format} needs the key of every item, but the pool of {run.path} has no keys: have the pictures written with images "
                "(--images DIR)"
            )
        tables = (_scored(table, by, by_key) for table in tables)
    source = Source(
        by,
        f"mcscore {run.meta['model']['fingerprint'].removeprefix('sha256:')[:12]} {by}",
        run.meta["likelihood"],
        tuple(pool.classes) if pool is not None and pool.classes is not None else None,
        Images(prefix, images, pool, ids, browser=kind.names == "address"),
        texts,
        {**facts, "by": by},
    )
    path = _file_of(run, f"export-{name}{kind.suffix}", out)
    beside = None if kind.beside is None else path.with_suffix(kind.beside)
    for each in (path, beside):
        if each is not None:
            refuse_foreign(each, "an export", is_export, RunError)
    try:
        with named_output(path, "an export", is_export, RunError) as target:
            second = kind.write(target, tables, source)
            source.images.sync()
        if beside is not None:
            with named_output(beside, "an export", is_export, RunError) as target:
                target.write(second or b"")
    except OSError as error:
        raise RunError(f"{path} could not be written, and is unchanged: {error}") from error
    return path


def _refuse_places(
    format: str,
    kind: ExportFormat,
    prefix: str,
    images: str | os.PathLike[str] | None,
    texts: dict[int, str] | None,
) -> None:
    """RunError if the format has no use for what it is given, or not enough of it."""
    if kind.names == "nothing" and (prefix or images is not None):
        raise RunError(f"{format} names no pictures: leave out prefix (--prefix) and images (--images)")
    if texts is not None and kind.names != "address":
        raise RunError(f"{format} has no texts: leave out texts (--text)")
    if texts is not None and (prefix or images is not None):
        raise RunError("items are shown as texts or as pictures: leave out texts (--text), or prefix and images")
    if kind.names == "file" and "://" in prefix:
        raise RunError(
            f"{format} names files on this machine, and {prefix} is a URL: give a folder, or images (--images DIR)"
        )
    if kind.names == "file" and prefix and images is not None:
        raise RunError(
            f"{format} names the pictures where they are written: leave out prefix (--prefix) or images (--images)"
        )
    if kind.names == "address" and images is not None and not prefix:
        raise RunError(
            f"{format} names pictures by their address: say with prefix (--prefix) where the files in {os.fspath(images)} are served, "
            "such as /data/local-files/?d=FOLDER/"
        )


def whole_table(run: StoredScores, pool: Pool | None, partial: bool) -> pyarrow.Table:
    """The scores of all items in memory, see ``Run.table``."""
    import pyarrow

    pool = _pool_or_none(run, pool, required=False)
    if not partial:
        refuse_incomplete(run, pool)
    return pyarrow.concat_tables(list(_all(run, pool)) or [table_of(np.empty(0, np.int64), None, {})])


def _file_of(run: StoredScores, name: str, out: str | os.PathLike[str] | None) -> Path:
    """The file to write: ``out``, or the one of this name in the run."""
    if out is not None:
        return local_path(out, "an export", RunError)
    if not isinstance(run.path, Path):
        raise RunError(f"{run.path} is at a URL, and an export is written to a local disk: say where with out (--out)")
    return run.path / name


def _pool_or_none(run: StoredScores, pool: Pool | None, required: bool) -> Pool | None:
    found, error = pool_unless_gone(run, pool)
    if error is not None:
        if required:
            raise error
        warnings.warn(f"{error}. The result is without keys and class names", stacklevel=4)
    return found


def _all(run: StoredScores, pool: Pool | None) -> Tables:
    """Yield every committed item, in order."""
    names = (*run.columns, "prediction")
    for columns in zip(*(run.spans(name) for name in names), strict=True):
        ids = columns[0][0]
        for at in range(0, len(ids), _ROWS):
            part = slice(at, at + _ROWS)
            keys = None if pool is None else pool.keys_of(ids[part])
            values = {name: column[part] for name, (_, column) in zip(names, columns, strict=True)}
            yield table_of(ids[part], keys, values | _of_first_stage(run, ids[part]))


def _of_first_stage(run: StoredScores, ids: Values) -> dict[str, Values]:
    """What a screened run says of the items ids[0]..ids[-1] besides: the passes of each, and what it was cut by."""
    if run.screen is None or run.header.screen is None:
        return {}
    start, stop, by = int(ids[0]), int(ids[-1]) + 1, run.header.screen.by
    names = [name for name in (by, f"{by}_se", f"{by}_bias") if name in run.screen.columns]
    return {"passes": run.passes_of(start, stop)} | {
        f"screen_{name}": run.screen.part(name, start, stop) for name in names
    }


def _selected(run: StoredScores, table: Any) -> Tables:
    """Yield the items of a selection, best first; values as the run has them."""
    ids = table["id"].to_numpy()
    keys = table["key"].to_numpy() if "key" in table.column_names else None
    for at in range(0, len(ids), _ROWS):
        part = slice(at, at + _ROWS)
        columns = {name: run.values(name, ids[part]) for name in (*run.columns, "prediction")}
        yield table_of(ids[part], None if keys is None else keys[part], columns, table["rank"].to_numpy()[part])


def _scored(table: pyarrow.Table, by: str, by_key: bool) -> pyarrow.Table:
    """Leave out the items that have no score; with ``by_key`` all others must have a key."""
    table = table.filter(table[by].is_valid())
    if by_key and table["key"].null_count:
        (without,) = table.filter(table["key"].is_null())["id"].slice(0, 1).to_pylist()
        raise RunError(f"item {without} has no key, which names its file; exclude it, or export to jsonl")
    return table
