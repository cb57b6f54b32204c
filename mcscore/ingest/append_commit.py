"""Committing a staged append to its pool, in steps of which only the last one counts.

``.<name>.append`` holds the new files of items (the first also holds the old items of the pool's last, partly filled file),
the new columns, and at last ``ready.json``. Only then is the pool touched, in this order:

1. The files move to their places by renames. A reader of the old pool finds the same items in the file that was replaced,
   and does not read beyond its n.
2. labels, excluded and offsets are extended, under the lock that labeling takes, so no label is lost; so are keys, or where
   the new ones are wider they begin an array of their own; and the array ``appends``, which says what was added.
3. zarr.json of each array gets the new length, for other Zarr readers.
4. zarr.json of the pool gets the new n, and how many rows of keys and appends count. Until here the pool is the old one,
   from here on the new one, which knows the source of the new items.

Each step can be repeated, so the next append completes an interrupted one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..errors import PoolError
from ..pool.borrow import refuse_borrowed
from ..pool.create import key_chunk, write_column
from ..pool.history import CHUNK, Append, encoded_appends
from ..pool.kinds import MAIN
from ..pool.metadata import array_names, set_rows, write_attributes
from ..pool.pool import Pool
from ..store.chunks import ChunkReader
from ..store.files import is_there, local
from ..store.layout import ChunkLayout
from ..store.lock import locked_in_turn
from ..store.writer import file_parts
from ..store.zarr_store import AtomicStore
from .staging import read_fields, stage_of, staged, write_fields

_SPARE = re.compile(r"(items|blob|keys)(-\d+c?)?|appends|labels|numbers")  # names of arrays that come and go


@dataclass(frozen=True)
class Base:
    """The schema of base.json: items and hash of the pool that a stage extends."""

    n: int
    content: str | None


@dataclass(frozen=True)
class Ready:
    """The schema of ready.json.

    Items and hash of the pool before and after the append; the source of the items, and a hash of what came with them.
    """

    base_n: int
    base_content: str | None
    n: int
    content: str
    source: str | None
    details: str | None = None


@dataclass(frozen=True)
class Added:
    """What comes with the items of an append: labels, keys, where each image ends, and the source."""

    labels: np.ndarray
    keys: np.ndarray | None
    offsets: np.ndarray | None
    source: str | None

    @property
    def details(self) -> str:
        """A hash of labels and keys."""
        digest = hashlib.sha256(self.labels.astype(self.labels.dtype.newbyteorder("<")).tobytes())
        digest.update(b"" if self.keys is None else repr(self.keys.shape).encode() + self.keys.tobytes())
        return f"sha256:{digest.hexdigest()}"


@contextmanager
def appending(pool: Pool, settings: dict[str, Any]) -> Iterator[tuple[Path, Path]]:
    """Hold the locks of an append; yields the directory of the pool, links followed, and the stage beside it.

    Raises:
        PoolError: the pool is at a URL; other software wrote it in an encoding that only zarr can write; the stage holds
            another append.
    """
    where = local(pool.path, "append").resolve()
    refuse_borrowed(where)
    columns = [
        pool.storage.rows,
        *pool.storage.labels.values(),
        pool.storage.excluded,
        *([pool.storage.offsets] if pool.storage.offsets else []),
    ]
    for layout in columns:
        if layout.encoding is None:
            raise PoolError(f"{layout.folder} was written by other software in an encoding that mcscore cannot write")
    stage = stage_of(where, "append")
    with locked_in_turn(where), staged(stage, settings):
        atomic.discard_temporaries(where, "*")  # of a killed call: this one has the lock
        yield where, stage


def stage_ready(stage: Path, pool: Pool, content: str, added: Added) -> None:
    """Complete a stage: the columns of the new items, then ready.json, after which the append will be committed."""
    for name, values in (("labels", added.labels), ("keys", added.keys), ("offsets", added.offsets)):
        if values is not None:
            with atomic.replaced(stage / f"{name}.npy") as file:
                np.save(file, values)
    atomic.sync(stage / "files")
    before, n = pool.storage.attributes.content, pool.n + len(added.labels)
    write_fields(stage / "ready.json", Ready(pool.n, before, n, content, added.source, added.details))


def check_base(stage: Path, pool: Pool) -> None:
    """Record the state of the pool that a new stage extends, or compare it with the recorded one.

    Raises:
        PoolError: the pool has changed since the stage was started.
    """
    file, now = stage / "base.json", Base(pool.n, pool.storage.attributes.content)
    if not is_there(file):
        write_fields(file, now)
    if read_fields(file, Base) != now:
        raise PoolError(f"{pool.path} has changed since the append in {stage} was started: remove that directory")


def complete_earlier(path: Path, stage: Path) -> tuple[Pool, bool]:
    """Return the pool, and whether an earlier call had made the stage ready, which is committed then."""
    if is_there(stage / "ready.json"):
        return commit_staged(path, stage), True
    return Pool.open(path), False


def commit_staged(path: Path, stage: Path) -> Pool:
    """Commit a complete stage to its pool. Can be repeated after a stop at any step.

    Raises:
        PoolError: the pool has changed since the stage was completed.
    """
    ready = read_fields(stage / "ready.json", Ready)
    pool = Pool.open(path)
    facts = pool.storage.attributes
    if (pool.n, facts.content) != (ready.n, ready.content):
        if (pool.n, facts.content) != (ready.base_n, ready.base_content):
            raise PoolError(f"{path} has changed since the append in {stage} was completed: remove that directory")
        _extend_pool(pool, path, stage, ready)
    atomic.discard_directory(stage)
    return Pool.open(path)


def _extend_pool(pool: Pool, path: Path, stage: Path, ready: Ready) -> None:
    storage, facts = pool.storage, pool.storage.attributes
    table = tuple((layout.folder.name, start, start + layout.n) for start, layout in storage.keys.items())
    facts = replace(facts, keys=table)
    discard_spare(path, {*array_names(facts)})
    atomic.discard_temporaries(path / facts.rows_name, "zarr.json.*")
    if facts.n is None:  # made by other software: from now on the pool records its n
        facts = write_attributes(path, replace(facts, n=pool.n))
    values = {
        name: np.load(stage / f"{name}.npy")
        for name in ("labels", "keys", "offsets")
        if is_there(stage / f"{name}.npy")
    }
    main = facts.columns_of_labels[0]
    if values["labels"].dtype != main.dtype:
        raise PoolError(
            f"labels of {path} are of kind {main.kind} since the append in {stage} was completed: remove that directory"
        )
    atomic.move_files(stage / "files", path / facts.rows_name)
    if "offsets" in values:
        assert storage.offsets is not None
        _extend(storage.offsets, pool.n + 1, values["offsets"])
    for column in facts.columns_of_labels:
        new = values["labels"]
        empty = np.full(len(new), column.empty, column.dtype)
        _extend(storage.labels[column.name], pool.n, new if column.name == MAIN else empty)
    _extend(storage.excluded, pool.n, np.zeros(len(values["labels"]), bool))
    if "keys" in values:
        facts = replace(facts, keys=_extend_keys(path, pool, table, values["keys"]))
    if ready.content != ready.base_content or ready.n != ready.base_n:
        line = encoded_appends([Append(ready.base_n, ready.base_content, ready.source, ready.details)])
        if storage.appends is None:
            _new_array(path, "appends", line, CHUNK)
        else:
            _extend(storage.appends, storage.appends.n, line)
        facts = replace(facts, appends=1 + (facts.appends or 0))
    set_rows(path, facts.rows_name, int(values["offsets"][-1]) if "offsets" in values else ready.n)
    write_attributes(path, replace(facts, n=ready.n, content=ready.content, appended=None))


def discard_spare(path: Path, used: set[str]) -> None:
    """Remove arrays that killed calls left and no attribute names. The caller has the lock of the pool."""
    for found in [entry for entry in path.iterdir() if _SPARE.fullmatch(entry.name) and entry.name not in used]:
        atomic.remove_tree(found)


def _extend(layout: ChunkLayout, start: int, values: np.ndarray) -> None:
    """Set rows start.. of a column to ``values``; a repetition changes nothing."""
    folder = local(layout.folder, "append")
    stop = start + len(values)
    with locked_in_turn(folder), ChunkReader(layout) as reader:
        atomic.discard_temporaries(folder, "*")
        for number in range(start // layout.chunk, -(-stop // layout.chunk)):
            first = number * layout.chunk
            chunk = np.zeros((layout.chunk, *layout.row_shape), layout.dtype)
            if first < start:
                reader.decode(number, chunk)
            low, high = max(first, start), min(first + layout.chunk, stop)
            chunk[low - first : high - first] = values[low - start : high - start]
            atomic.replace_file(folder / layout.name.format(number), *file_parts(layout, chunk, len(chunk)))
    set_rows(folder.parent, folder.name, stop)


def _extend_keys(
    path: Path, pool: Pool, table: tuple[tuple[str, int, int], ...], keys: np.ndarray
) -> tuple[tuple[str, int, int], ...]:
    """Add keys to the last array of keys if they fit, else to a new, wider one; return the new table of arrays.

    Widths double, so that a pool has few arrays of keys whatever is appended.
    """
    needed, least = keys.shape[1], 1
    if table:
        name, start, stop = table[-1]
        last = pool.storage.keys[start]
        width = last.row_shape[0]
        if needed <= width and last.encoding is not None and 4 * last.chunk >= key_chunk(width):
            rows = np.zeros((pool.n - stop + len(keys), width), np.uint8)  # items between have no keys
            rows[pool.n - stop :, :needed] = keys
            _extend(last, stop - start, rows)
            return (*table[:-1], (name, start, pool.n + len(keys)))
        least = 2 * width
    name = f"keys-{pool.n}" if table or pool.n else "keys"
    if table and table[-1][0] == name:  # after an append of no items
        name = f"{name}c"
    wide = np.zeros((len(keys), max(needed, least)), np.uint8)
    wide[:, :needed] = keys
    _new_array(path, name, wide, None)
    return (*table, (name, pool.n, pool.n + len(keys)))


def _new_array(path: Path, name: str, rows: np.ndarray, chunk: int | None) -> None:
    import zarr
    from zarr.codecs import ZstdCodec

    atomic.remove_tree(path / name)  # of an interrupted append, perhaps of other items
    group: Any = zarr.open_group(AtomicStore(path), mode="r+", zarr_format=3, use_consolidated=False)
    write_column(group, name, rows, 0, [ZstdCodec(level=3)], chunk)
