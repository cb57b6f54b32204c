"""Committing a staged append to its pool, in steps of which only the last one counts.

``.<name>.append`` holds the new files of items (the first also holds the old items of the pool's last, partly filled file),
the new columns, and at last ``ready.json``. Only then is the pool touched, in this order:

1. The files move to their places by renames. A reader of the old pool finds the same items in the file that was replaced,
   and does not read beyond its n.
2. labels, excluded and offsets are extended, under the lock that labeling takes, so no label is lost; the new keys become
   an array of their own.
3. zarr.json of each array gets the new length, for other Zarr readers.
4. zarr.json of the pool gets the new n. Until here the pool is the old one, from here on the new one.

Each step can be repeated, so the next append completes an interrupted one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..errors import PoolError
from ..pool.create import write_column
from ..pool.pool import Pool
from ..pool.schema import Attributes
from ..store.chunks import ChunkReader
from ..store.layout import layout_of
from ..store.lock import locked_in_turn
from ..store.writer import file_parts
from ..store.zarr_store import AtomicStore
from .staging import read_fields, write_fields


@dataclass(frozen=True)
class Base:
    """The schema of base.json: items and hash of the pool that a stage extends."""

    n: int
    content: str | None


@dataclass(frozen=True)
class Ready:
    """The schema of ready.json: items and hash of the pool before and after the append, and the identity of its source."""

    base_n: int
    base_content: str | None
    n: int
    content: str
    source: str


def stage_ready(
    stage: Path,
    pool: Pool,
    identity: str,
    content: str,
    labels: np.ndarray,
    keys: np.ndarray | None,
    offsets: np.ndarray | None,
) -> None:
    """Complete a stage: the columns of the new items, then ready.json, after which the append will be committed."""
    for name, values in (("labels", labels), ("keys", keys), ("offsets", offsets)):
        if values is not None:
            with atomic.replaced(stage / f"{name}.npy") as file:
                np.save(file, values)
    atomic.sync(stage / "files")
    write_fields(
        stage / "ready.json", Ready(pool.n, pool.storage.attributes.content, pool.n + len(labels), content, identity)
    )


def check_base(stage: Path, pool: Pool) -> None:
    """Record the state of the pool that a new stage extends, or compare it with the recorded one.

    Raises:
        PoolError: the pool has changed since the stage was started.
    """
    file, now = stage / "base.json", Base(pool.n, pool.storage.attributes.content)
    if not file.exists():
        write_fields(file, now)
    if read_fields(file, Base) != now:
        raise PoolError(f"{pool.path} has changed since the append in {stage} was started: remove that directory")


def complete_earlier(path: Path, stage: Path, identity: str) -> tuple[Pool, bool]:
    """Return the pool, and whether an earlier call with the same source has done the work, up to the commit or all of it."""
    if (stage / "ready.json").exists():
        return commit_staged(path, stage), True
    pool = Pool.open(path)
    if identity and pool.storage.attributes.appended == identity:
        atomic.discard_directory(stage)
        return pool, True
    return pool, False


def commit_staged(path: Path, stage: Path) -> Pool:
    """Commit a complete stage to its pool. Can be repeated after a stop at any step.

    Raises:
        PoolError: the pool has changed since the stage was completed.
    """
    import zarr

    ready = read_fields(stage / "ready.json", Ready)
    pool = Pool.open(path)
    facts = pool.storage.attributes
    if (pool.n, facts.content) != (ready.n, ready.content):
        if (pool.n, facts.content) != (ready.base_n, ready.base_content):
            raise PoolError(f"{path} has changed since the append in {stage} was completed: remove that directory")
        group: Any = zarr.open_group(AtomicStore(path), mode="r+", zarr_format=3, use_consolidated=False)
        if facts.n is None:  # made by other software: from now on the pool records its n
            facts = replace(facts, n=pool.n)
            group.update_attributes(facts.to_json())
        values = {file.stem: np.load(file) for file in stage.glob("*.npy")}
        atomic.move_files(stage / "files", path / pool.storage.rows.folder.name)
        rows = ready.n
        if "offsets" in values:
            _extend(group, path, "offsets", pool.n + 1, values["offsets"])
            rows = int(values["offsets"][-1])
        _extend(group, path, "labels", pool.n, values["labels"])
        _extend(group, path, "excluded", pool.n, np.zeros(len(values["labels"]), bool))
        _write_keys(group, path, f"keys-{pool.n}", values.get("keys"))
        group[pool.storage.rows.folder.name].resize((rows, *pool.storage.rows.row_shape))
        _update_attributes(group, facts, ready)
    atomic.discard_directory(stage)
    return Pool.open(path)


def _extend(group: Any, path: Path, name: str, start: int, values: np.ndarray) -> None:
    """Set rows start.. of a column to ``values``; a repetition changes nothing."""
    array = group[name]
    layout = layout_of(array, path / name)
    stop = start + len(values)
    with locked_in_turn(path / name):
        atomic.discard_temporaries(path / name, "*")
        for number in range(start // layout.chunk, -(-stop // layout.chunk)):
            first = number * layout.chunk
            chunk = np.zeros(layout.chunk, array.dtype)
            if first < start:
                with ChunkReader(layout) as reader:
                    reader.decode(number, chunk)
            low, high = max(first, start), min(first + layout.chunk, stop)
            chunk[low - first : high - first] = values[low - start : high - start]
            atomic.replace_file(path / name / layout.name.format(number), *file_parts(layout, chunk, len(chunk)))
    array.resize((stop,))


def _write_keys(group: Any, path: Path, name: str, keys: np.ndarray | None) -> None:
    from zarr.codecs import ZstdCodec

    atomic.remove_tree(path / name)  # of an interrupted append, perhaps of other items
    if keys is not None:
        write_column(group, name, keys, 0, [ZstdCodec(level=3)])


def _update_attributes(group: Any, facts: Attributes, ready: Ready) -> None:
    earlier = (*facts.earlier, (ready.base_n, ready.base_content))
    facts = replace(facts, n=ready.n, content=ready.content, earlier=earlier, appended=ready.source or None)
    group.update_attributes(facts.to_json())
