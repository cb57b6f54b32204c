"""Making a pool: a stream of blocks becomes chunks on disk, in bounded memory, all or nothing."""

from __future__ import annotations

import datetime
import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .durable import DurableStore, new_directory
from .format import (
    COLUMN_CHUNK,
    ITEM_DTYPES,
    UNLABELLED,
    Grid,
    PoolError,
    checked_facts,
    plan_grid,
)

COMPRESSIONS = ("none", "lz4", "zstd")
_SLICE_BYTES = 16 << 20


def create(
    path: Path,
    items: Any,
    *,
    n: int | None,
    labels: Any,
    keys: Any,
    mean: Any,
    std: Any,
    classes: Any,
    source: str | None,
    compression: str,
    chunk_items: int | None,
    shard_items: int | None,
) -> None:
    """The work of Pool.create, which documents it."""
    import zarr

    if compression not in COMPRESSIONS:
        raise PoolError(f"compression {compression!r} is unknown; choose from {', '.join(COMPRESSIONS)}")
    if path.exists() or path.is_symlink():
        raise PoolError(f"{path} exists already; pools are never overwritten: choose another path, or remove it first")
    blocks, n = _as_blocks(items, n)
    array, facts, digest, written = None, None, hashlib.sha256(), 0
    try:
        with new_directory(path) as partial:
            group = zarr.create_group(DurableStore(partial), zarr_format=3)
            for grid, unit in _units(blocks, n, chunk_items, shard_items):
                if array is None or facts is None:
                    facts = checked_facts(unit.shape[1:], mean, std, classes, source)
                    array = _items_array(group, grid, n or 0, unit, compression)
                if n is None:
                    array.resize((written + len(unit), *unit.shape[1:]))
                elif written + len(unit) > n:
                    raise PoolError(f"{n} items were announced, more came")
                array[written : written + len(unit)] = unit
                digest.update(unit.data)
                written += len(unit)
            if array is None or facts is None:
                raise PoolError("there are no items: no block came, so not even the shape of an item is known")
            if n is not None and written != n:
                raise PoolError(f"{n} items were announced, {written} came")
            _write_columns(group, written, labels, keys, facts.classes)
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            facts = replace(facts, created=now, content=f"sha256:{digest.hexdigest()}")
            group.update_attributes(facts.to_attrs())
    except OSError as error:
        raise PoolError(f"pool {path} could not be written, nothing was left behind: {error}") from error


def _as_blocks(items: Any, n: int | None) -> tuple[Iterator[np.ndarray], int | None]:
    """Blocks of an array-like (anything with shape and slices: memmap, tensor, Zarr array) or of an iterable."""
    if not hasattr(items, "shape"):
        if not isinstance(items, Iterable):
            raise PoolError(f"items must be an array or an iterator of blocks, not {type(items).__name__}")
        return (np.asarray(block) for block in items), n
    shape = tuple(items.shape)
    if len(shape) < 2:
        raise PoolError(f"items have shape {shape}; a pool needs (N, ...) with at least one axis per item")
    if n is not None and n != shape[0]:
        raise PoolError(f"{n} items were announced, the array has {shape[0]}")
    item_bytes = max(1, np.asarray(items[:0]).itemsize * math.prod(shape[1:]))
    step = max(1, _SLICE_BYTES // item_bytes)
    return (np.asarray(items[at : at + step]) for at in range(0, max(shape[0], 1), step)), shape[0]


def _units(
    blocks: Iterator[np.ndarray], n: int | None, chunk_items: int | None, shard_items: int | None
) -> Iterator[tuple[Grid, np.ndarray]]:
    """Cut blocks of any sizes to files' worth of items, in one reused buffer, with the grid they belong to.

    With n unknown the first unit decides: if the stream ends within one shard's worth, that was all.
    """
    grid, buffer, used, started = None, np.empty(0), 0, False
    for number, block in enumerate(blocks):
        if number == 0:
            _check_items(block)
            shape, dtype, item_bytes = block.shape[1:], block.dtype, block.itemsize * math.prod(block.shape[1:])
            if n is not None or chunk_items is not None:
                grid = _grid(n, item_bytes, chunk_items, shard_items)
            buffer = np.empty(((grid or plan_grid(None, item_bytes)).unit, *shape), dtype.newbyteorder("="))
        if block.shape[1:] != shape or block.dtype != dtype:
            raise PoolError(f"block {number} holds {block.dtype} {block.shape[1:]} items, those before {dtype} {shape}")
        while len(block):
            if used == len(buffer):
                grid = grid or plan_grid(None, item_bytes)
                yield grid, buffer
                used, started = 0, True
            part, block = block[: len(buffer) - used], block[len(buffer) - used :]
            buffer[used : used + len(part)] = part
            used += len(part)
    if used or (len(buffer) and not started):
        yield grid or plan_grid(used, item_bytes), buffer[:used]


def _check_items(block: np.ndarray) -> None:
    if block.ndim < 2 or 0 in block.shape[1:]:
        raise PoolError(f"a block of items has shape {block.shape}; a pool needs (n, ...), no axis of an item empty")
    if block.dtype.name not in ITEM_DTYPES:
        raise PoolError(f"items are {block.dtype}; a pool holds {', '.join(ITEM_DTYPES)}: convert them first")


def _grid(n: int | None, item_bytes: int, chunk_items: int | None, shard_items: int | None) -> Grid:
    if chunk_items is None:
        if shard_items is not None:
            raise PoolError("shard_items needs chunk_items")
        return plan_grid(n, item_bytes)
    if chunk_items < 1 or (shard_items is not None and (shard_items < chunk_items or shard_items % chunk_items)):
        raise PoolError(f"shards of {shard_items} items cannot hold whole chunks of {chunk_items}")
    return Grid(chunk_items, shard_items)


def _items_array(group: Any, grid: Grid, n: int, like: np.ndarray, compression: str) -> Any:
    from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

    item_shape = like.shape[1:]
    squeeze: list[Any] = []
    if compression == "lz4":
        squeeze = [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=like.itemsize)]
    elif compression == "zstd":
        squeeze = [ZstdCodec(level=3)]
    return group.create_array(
        "items",
        shape=(n, *item_shape),
        dtype=like.dtype,
        chunks=(grid.chunk, *item_shape),
        shards=(grid.shard, *item_shape) if grid.shard else None,
        compressors=[*squeeze, Crc32cCodec()],
        filters=None,
        fill_value=0,
        # All zeros is an item like any other: a chunk that is absent is then always a lost one.
        config={"write_empty_chunks": True},
        chunk_key_encoding={"name": "default", "separator": "."},  # one flat directory instead of one per axis
    )


def column(group: Any, name: str, values: np.ndarray, fill: Any, compressors: list[Any]) -> None:
    """Write one (N,) or (N, width) array beside the items, every chunk present and carrying its crc32c."""
    from zarr.codecs import Crc32cCodec

    chunk = min(max(len(values), 1), COLUMN_CHUNK)
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk, *values.shape[1:]),
        compressors=[*compressors, Crc32cCodec()],
        filters=None,
        fill_value=fill,
        config={"write_empty_chunks": True},
        chunk_key_encoding={"name": "default", "separator": "."},
    )
    for at in range(0, len(values), chunk):
        array[at : at + chunk] = values[at : at + chunk]


def _write_columns(group: Any, n: int, labels: Any, keys: Any, classes: list[str] | None) -> None:
    from zarr.codecs import ZstdCodec

    given = np.full(n, UNLABELLED, np.int32) if labels is None else checked_labels(labels, n, classes)
    column(group, "labels", given, UNLABELLED, [])
    column(group, "excluded", np.zeros(n, bool), False, [])
    if keys is not None:
        column(group, "keys", _encoded_keys(keys, n), 0, [ZstdCodec(level=3)])


def checked_labels(labels: Any, n: int, classes: list[str] | None) -> np.ndarray:
    """labels as int32 (n,).

    Raises:
        PoolError: another length or rank; not integers; below -1 (unlabelled); beyond the class names, if there are any.
    """
    given = np.asarray(labels)
    if given.shape != (n,):
        raise PoolError(f"labels have shape {given.shape} for {n} items; one integer per item is needed, ({n},)")
    if given.dtype.kind not in "iu" and n:
        raise PoolError(f"labels are {given.dtype}; they must be integers (-1: unlabelled)")
    highest = len(classes) - 1 if classes is not None else np.iinfo(np.int32).max
    wrong = np.flatnonzero((given < UNLABELLED) | (given > highest))
    if len(wrong):
        at = wrong[0]
        raise PoolError(f"label {given[at]} at position {at} is outside [-1, {highest}] ({len(wrong)} such labels)")
    return given.astype(np.int32)


def _encoded_keys(keys: Any, n: int) -> np.ndarray:
    """(n, width) uint8: fixed width is the one string layout that the Zarr v3 specification has settled."""
    encoded = [str(key).encode() for key in keys]
    if len(encoded) != n:
        raise PoolError(f"{len(encoded)} keys came for {n} items")
    width = max(1, max(map(len, encoded), default=1))
    for at, key in enumerate(encoded):
        if key.endswith(b"\0"):
            raise PoolError(f"key {at} ends in a zero byte, which pads keys on disk: {key!r}")
    return np.array(encoded, dtype=f"S{width}").view(np.uint8).reshape(n, width)


def default_source(src: Path) -> str:
    """What the attribute `source` says of an imported file: its name, without the folders of this machine."""
    return os.fspath(src.name)
