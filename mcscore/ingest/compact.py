"""Compacting a pool: items that lie in many small files are written anew, in files of the size that a new pool would have.

The new array is written into the pool under a name that no attribute has, read back and compared with the old one, and
published by one replacement of the pool's attributes, which also record that the new layout has the old fingerprint, so that
runs over the pool go on. Until then the pool is the old one, afterwards the old array is removed. What a kill leaves is
removed by the next append or compaction.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..errors import PoolError
from ..paths import exists, local_path, status_of
from ..pool.borrow import refuse_borrowed
from ..pool.create import items_array, key_chunk, write_column
from ..pool.metadata import array_names, set_rows, write_attributes
from ..pool.pool import Pool
from ..pool.schema import Attributes, Grid, plan_grid
from ..store.chunks import ChunkReader
from ..store.files import local
from ..store.layout import ChunkLayout, layout_of
from ..store.lock import locked_in_turn
from ..store.writer import ArrayWriter
from ..store.zarr_store import AtomicStore
from .append_commit import discard_spare
from .staging import stage_of

_STEP_BYTES = 16 << 20
_STATES = 100  # earlier states of a pool whose fingerprints are kept: of the runs that scored it before it grew

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Compacted:
    """What a compaction did.

    Attributes:
        pool: the pool, opened anew.
        files_before: how many files of items and keys there were.
        files: how many there are.
        forgotten: of how many states of the pool, before it grew, the fingerprint is no longer known.
    """

    pool: Pool
    files_before: int
    files: int
    forgotten: int


def compact(
    path: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> Compacted:
    """Write the items and keys of a pool anew, in files of the size that a new pool of as many items would have.

    Ids, items, labels, keys and the fingerprint stay. Runs that read the pool meanwhile fail; the same command resumes them.

    Args:
        path: the pool.
        out: where to write the compacted pool; must not exist. None: in place, with room on the disk for both.
        progress: called as progress(rows done, rows in all), for writing and comparing.

    Raises:
        PoolError: the pool cannot be read or written; an append to it was interrupted; ``out`` exists.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> pool = Pool.create(folder / "p", np.arange(40, dtype=np.uint8).reshape(20, 2), chunk_items=1)
        >>> before = pool.fingerprint
        >>> done = compact(folder / "p")
        >>> done.files_before, done.files, done.pool.fingerprint == before
        (20, 1, True)
    """
    where = local(Pool.open(path).path, "compact").resolve()
    try:
        with locked_in_turn(where):
            _refuse_interrupted(where)
            pool = Pool.open(where)
            if out is None:
                refuse_borrowed(where)
                return _in_place(pool, where, progress)
            return _beside(pool, where, local_path(out, "a pool", PoolError), progress)
    except OSError as error:
        raise PoolError(f"{path} could not be compacted and is unchanged: {error}") from error


def _in_place(pool: Pool, where: Path, progress: Progress | None) -> Compacted:
    facts, before = pool.storage.facts(), _files(pool)
    used = {*array_names(facts)}
    discard_spare(where, used)
    atomic.discard_temporaries(where, "*")
    if _grid(pool) == _planned(pool) and len(pool.storage.keys) <= 1:
        return Compacted(pool, before, before, 0)
    generation = 1 + int((facts.rows or "items-0").rpartition("-")[2])
    names = f"{'blob' if facts.encoded else 'items'}-{generation}", f"keys-{generation}c"
    compacted = _write(pool, facts, where, names, progress)
    write_attributes(where, compacted)
    for name in used - {*array_names(compacted)}:
        atomic.remove_tree(where / name)
    made = Pool.open(where)
    return Compacted(made, before, _files(made), _forgotten(pool))


def _beside(pool: Pool, where: Path, out: Path, progress: Progress | None) -> Compacted:
    if status_of(out, follow=False) is not None:
        raise PoolError(
            f"{out} exists already, and pools are never overwritten: choose another path, or remove it first"
        )
    facts = pool.storage.facts()
    with atomic.new_directory(out) as partial:
        atomic.replace_file(partial / "zarr.json", (where / "zarr.json").read_bytes())
        kept = [name for name in array_names(facts) if name != facts.rows_name and not name.startswith("keys")]
        for name in kept:
            atomic.create_directory(partial / name)
            for file in sorted((where / name).iterdir()):
                if not file.name.endswith(atomic.TEMPORARY):
                    atomic.replace_file(partial / name / file.name, file.read_bytes())
        names = ("blob" if facts.encoded else "items", "keys")
        write_attributes(partial, _write(pool, facts, partial, names, progress))
    made = Pool.open(out)
    return Compacted(made, _files(pool), _files(made), _forgotten(pool))


def _refuse_interrupted(where: Path) -> None:
    stage = stage_of(where, "append")
    if exists(stage):
        raise PoolError(f"an append to {where} was interrupted: repeat that append first, or remove {stage}")


def _files(pool: Pool) -> int:
    return sum(layout.files for layout in (pool.storage.rows, *pool.storage.keys.values()))


def _forgotten(pool: Pool) -> int:
    return max(0, len(pool.storage.states()) - _STATES)


def _grid(pool: Pool) -> Grid:
    return Grid(pool.storage.rows.chunk, pool.storage.rows.shard)


def _planned(pool: Pool) -> Grid:
    rows = _cut(pool)
    return plan_grid(rows.n, rows.dtype.itemsize * math.prod(rows.row_shape))


def _cut(pool: Pool) -> ChunkLayout:
    """Return the layout of the items, or of the bytes of all encoded images without those of an append that was given up."""
    storage = pool.storage
    return replace(storage.rows, n=int(storage.edges()[-1])) if storage.offsets else storage.rows


def _write(pool: Pool, facts: Attributes, where: Path, names: tuple[str, str], progress: Progress | None) -> Attributes:
    """Write items and keys under their new names, compare them, and return the attributes of the compacted pool."""
    import zarr
    from zarr.codecs import ZstdCodec

    old = _cut(pool)
    group: Any = zarr.open_group(AtomicStore(where), mode="r+", zarr_format=3, use_consolidated=False)
    shape = (old.n, *old.row_shape)
    new = layout_of(items_array(group, _planned(pool), shape, old.dtype, _compression(old), names[0]), where / names[0])
    _copy(_steps(old), new, pool, progress)
    keys: tuple[tuple[str, int, int], ...] = ()
    if pool.has_keys:
        width = max(layout.row_shape[0] for layout in pool.storage.keys.values())
        write_column(group, names[1], np.zeros((0, width), np.uint8), 0, [ZstdCodec(level=3)], key_chunk(width))
        set_rows(where, names[1], pool.n)
        _copy(_key_rows(pool, width), layout_of(group[names[1]], where / names[1], pool.n), pool, None)
        keys = ((names[1], 0, pool.n),)
    # Hashes of arrays that stay; the new ones have names that others may have had.
    gone = {facts.rows_name, *(name for name, *_ in facts.keys or ()), *names}
    hashes = tuple((name, value) for name, value in facts.arrays or () if name not in gone)
    rows = names[0] if "-" in names[0] else None
    return replace(facts, rows=rows, keys=keys, arrays=hashes, known_as=_known_as(pool, facts, new))


def _known_as(pool: Pool, facts: Attributes, new: ChunkLayout) -> tuple[tuple[int, str, str], ...]:
    """Return (n, fingerprint of the new layout, fingerprint that runs have) of the pool, and of what it was lately."""
    storage = replace(pool.storage, rows=new)
    states = {**dict(list(pool.storage.states().items())[-_STATES:]), pool.n: facts.content}
    return tuple(
        (n, storage.fingerprint(n, content), pool.fingerprint_at(n) or "") for n, content in sorted(states.items())
    )


def _copy(rows: Iterator[np.ndarray], new: ChunkLayout, pool: Pool, progress: Progress | None) -> None:
    """Write rows as a new array, read them back and compare their hashes."""
    writer, written, done = ArrayWriter(new, local(new.folder, "compact")), hashlib.sha256(), 0
    for part in rows:
        written.update(part.reshape(-1).view(np.uint8).data)
        writer.add(part)
        done += len(part)
        if progress:
            progress(done, 2 * new.n)
    writer.finish()
    there = hashlib.sha256()
    for part in _steps(new):
        there.update(part.reshape(-1).view(np.uint8).data)
        done += len(part)
        if progress:
            progress(done, 2 * new.n)
    if writer.n != new.n or there.digest() != written.digest():
        raise PoolError(f"{new.folder} does not hold what was written; {pool.path} is unchanged. Check the disk")


def _steps(layout: ChunkLayout) -> Iterator[np.ndarray]:
    row_bytes = layout.dtype.itemsize * math.prod(layout.row_shape)
    step = max(1, _STEP_BYTES // row_bytes)
    with ChunkReader(layout) as reader:
        for at in range(0, layout.n, step):
            rows = np.empty((min(step, layout.n - at), *layout.row_shape), layout.dtype)
            reader.read(at, rows)
            yield rows


def _compression(layout: ChunkLayout) -> str:
    """Return the compression of a new pool that comes closest to that of an array."""
    return next((name for name in ("lz4", "zstd") if name in layout.codecs), "none")


def _key_rows(pool: Pool, width: int) -> Iterator[np.ndarray]:
    """Yield the keys of all items in order, in one width; zeros for items that no array has keys of."""
    at, step = 0, max(1, _STEP_BYTES // width)
    ends = [(start, layout) for start, layout in pool.storage.keys.items()]
    for start, layout in [*ends, (pool.n, None)]:
        while at < start:
            rows = np.zeros((min(step, start - at), width), np.uint8)
            at += len(rows)
            yield rows
        for part in () if layout is None else _steps(layout):
            rows = np.zeros((len(part), width), np.uint8)
            rows[:, : part.shape[1]] = part
            at += len(part)
            yield rows
