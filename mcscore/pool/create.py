"""Making a pool: a stream of blocks becomes chunks on disk, in bounded memory, all or nothing."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..errors import PoolError
from ..paths import status_of
from ..store.layout import ChunkLayout, layout_of
from ..store.writer import ArrayWriter
from ..store.zarr_store import AtomicStore
from .keys import encoded_keys
from .kinds import main_column
from .labels import checked_column
from .metadata import write_attributes
from .schema import (
    COLUMN_CHUNK,
    COLUMN_CHUNK_MIN,
    ITEM_DTYPES,
    KEY_CHUNK_BYTES,
    Attributes,
    Grid,
    checked_attributes,
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
    label_kind: str = "class",
) -> None:
    """Do the work of Pool.create, which documents it."""
    blocks, n = as_blocks(items, n)
    try:
        if status_of(path, follow=False) is not None:
            raise PoolError(
                f"{path} exists already; pools are never overwritten: choose another path, or remove it first"
            )
        column = main_column(label_kind, classes)
        labels = None if labels is None else checked_column(column, labels, n, classes)  # before anything is written
        keys = None if keys is None else encoded_keys(keys, n)
        with atomic.new_directory(path) as partial:
            grid, first, blocks = _planned(checked_blocks(blocks), n, chunk_items, shard_items)
            attributes = checked_attributes(
                first.shape[1:], mean, std, classes, source, dtype=first.dtype, label_kind=label_kind
            )
            writer = ArrayWriter(planned_layout(grid, first.shape[1:], first.dtype, compression), partial / "items")
            atomic.create_directory(partial / "items")
            for block in blocks:
                if n is not None and writer.n + len(block) > n:
                    raise PoolError(f"{n} items were announced, more came")
                writer.add(block)
            writer.finish()
            if n is not None and writer.n != n:
                raise PoolError(f"{n} items were announced, {writer.n} came")
            attributes = replace(attributes, content=writer.content)
            finish_pool(partial, attributes, replace(writer.layout, n=writer.n), compression, labels, keys)
    except OSError as error:
        raise PoolError(f"pool {path} could not be written, nothing was left behind: {error}") from error


def planned_layout(grid: Grid, item_shape: tuple[int, ...], dtype: np.dtype, compression: str) -> ChunkLayout:
    """Return how an array of items will be laid out and encoded: zarr says so of one that is made in memory.

    Raises:
        PoolError: the compression is unknown.
    """
    import zarr

    if compression not in COMPRESSIONS:
        raise PoolError(f"compression {compression!r} is unknown; choose from {', '.join(COMPRESSIONS)}")
    group = zarr.create_group(zarr.storage.MemoryStore(), zarr_format=3)
    return layout_of(items_array(group, grid, (0, *item_shape), dtype, compression), Path("items"))


def finish_pool(
    where: Path,
    attributes: Attributes,
    layout: ChunkLayout,
    compression: str,
    labels: Any,
    keys: Any,
    offsets: np.ndarray | None = None,
) -> None:
    """Make a directory that holds the files of the items a pool: columns, metadata, and last its attributes.

    Args:
        where: the directory.
        attributes: those of the pool, but for ``created`` and ``n``.
        layout: of the items, or of the blob if there are offsets; its n is how many rows there are.
        compression: as for Pool.create.
        labels: as for Pool.create.
        keys: as for Pool.create.
        offsets: (N + 1,) int64, of a pool that keeps encoded images.
    """
    import zarr

    for leftover in list(where.iterdir()):  # of an earlier call that was killed
        if leftover.name in ("labels", "numbers", "excluded", "keys", "offsets"):
            atomic.remove_tree(leftover)
        elif leftover.is_dir():
            atomic.remove(leftover / "zarr.json")
        else:
            atomic.remove(leftover)
    group = zarr.create_group(AtomicStore(where), zarr_format=3)
    shape = (layout.n, *layout.row_shape)
    name = "items" if offsets is None else "blob"
    n = layout.n if offsets is None else len(offsets) - 1
    items_array(group, Grid(layout.chunk, layout.shard), shape, layout.dtype, compression, name)
    if offsets is not None:
        write_column(group, "offsets", offsets, 0, [])
    write_columns(group, n, labels, keys, attributes)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    table = () if keys is None else (("keys", 0, n),)
    write_attributes(where, replace(attributes, created=now, n=n, keys=table))


def as_blocks(items: Any, n: int | None) -> tuple[Iterator[np.ndarray], int | None]:
    """Return (blocks, n) of an array-like (shape and slices: memmap, tensor, Zarr array) or of an iterable of blocks."""
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


def checked_blocks(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the same blocks in native byte order.

    Raises:
        PoolError: items of a shape or dtype that pools do not hold; a block unlike the first.
    """
    like: np.ndarray | None = None
    for number, block in enumerate(blocks):
        if like is None:
            _check_items(block)
            like = block[:0]
        if block.shape[1:] != like.shape[1:] or block.dtype != like.dtype:
            raise PoolError(
                f"block {number} holds {block.dtype} {block.shape[1:]} items, those before {like.dtype} {like.shape[1:]}"
            )
        yield block.astype(block.dtype.newbyteorder("="), copy=False)


def _planned(
    blocks: Iterator[np.ndarray], n: int | None, chunk_items: int | None, shard_items: int | None
) -> tuple[Grid, np.ndarray, Iterator[np.ndarray]]:
    """Return the grid, an empty block, and all blocks; where n is unknown, up to one shard of items is read ahead."""
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        held.append(block)
        item_bytes = block.itemsize * math.prod(block.shape[1:])
        if n is not None or chunk_items is not None:
            break
        held[-1] = block.copy()  # the maker of the blocks may reuse their memory
        count += len(block)
        if count > plan_grid(None, item_bytes).unit:
            count = -1
            break
    if not held:
        raise PoolError("there are no items: no block came, so the shape of an item is unknown")
    grid = _grid(n if n is not None else count if count >= 0 else None, item_bytes, chunk_items, shard_items)
    return grid, held[0][:0], itertools.chain(held, blocks)


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


def items_array(
    group: Any, grid: Grid, shape: tuple[int, ...], dtype: np.dtype, compression: str, name: str = "items"
) -> Any:
    """Make the metadata of an array of items; ArrayWriter writes its files."""
    from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

    item_shape = shape[1:]
    compressors: list[Any] = []
    if compression == "lz4":
        compressors = [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=dtype.itemsize)]
    elif compression == "zstd":
        compressors = [ZstdCodec(level=3)]
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(grid.chunk, *item_shape),
        shards=(grid.shard, *item_shape) if grid.shard else None,
        compressors=[*compressors, Crc32cCodec()],
        filters=None,
        fill_value=0,
        # Chunks of zeros are written too: a chunk that is absent is then always a lost one.
        config={"write_empty_chunks": True},
        chunk_key_encoding={"name": "default", "separator": "."},  # one flat directory instead of one per axis
    )


def write_column(
    group: Any, name: str, values: np.ndarray, fill: Any, compressors: list[Any], chunk: int | None = None
) -> None:
    """Write one (N,) or (N, width) array beside the items, every chunk present and carrying its crc32c."""
    from zarr.codecs import Crc32cCodec

    if chunk is None and values.ndim == 1:
        chunk = min(max(len(values), COLUMN_CHUNK_MIN), COLUMN_CHUNK)
    elif chunk is None:
        chunk = key_chunk(values.shape[1])
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


def key_chunk(width: int) -> int:
    """Return how many keys of a width a chunk holds."""
    return min(1 << (KEY_CHUNK_BYTES // width).bit_length() - 1, COLUMN_CHUNK)


def write_columns(group: Any, n: int, labels: Any, keys: Any, attributes: Attributes) -> None:
    """Write the columns of a new pool: labels, exclusion flags and, if given, keys."""
    from zarr.codecs import ZstdCodec

    column = attributes.columns_of_labels[0]
    write_column(group, column.array, checked_column(column, labels, n, attributes.classes), column.empty, [])
    write_column(group, "excluded", np.zeros(n, bool), False, [])
    if keys is not None:
        named = keys if isinstance(keys, np.ndarray) and keys.dtype == np.uint8 else encoded_keys(keys, n)
        if len(named) != n:
            raise PoolError(f"{len(named)} keys came for {n} items")
        write_column(group, "keys", named, 0, [ZstdCodec(level=3)])
