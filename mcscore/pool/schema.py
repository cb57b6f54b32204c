"""What a pool is on disk: names, attributes, chunk sizes.

pool.zarr/         Zarr v3 group; attrs: format, version, created, item_shape, n, content, earlier, mean, std, classes, source
  items/           (N, ...) uint8 or float; chunks of whole items, sharded when big; crc32c per chunk
    or, when images are kept encoded (attribute encoded, item_shape is what they are decoded to):
  blob/            (bytes,) uint8: JPEG, PNG, WebP, ..., one after another
  offsets/         (N + 1,) int64: item i is blob[offsets[i]:offsets[i + 1]]
  labels/          (N,) int32, -1 = unlabeled
  excluded/        (N,) bool
  keys/            (N, width) uint8: UTF-8 names, padded with zero bytes; optional
  keys-<n>/        the same for the items that were appended when the pool held n
The attribute n is the only truth about N: an append that is under way, or was killed, leaves longer arrays behind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolError

FORMAT = "mcscore-pool"
VERSION = 1
UNLABELED = -1
ITEM_DTYPES = ("uint8", "float16", "float32", "float64")

# A chunk is the unit of decoding: the greatest power of two of items in at most 4 MiB. One item per chunk cost 30 times
# the time of 64 (per-chunk overhead), and blocks beyond 32 MiB fall off a cliff of page faults on glibc.
CHUNK_BYTES = 4 << 20
# Above one shard's worth, chunks are packed into shards, so that 100 M images are thousands of files and not millions.
SHARD_BYTES = 64 << 20
SHARD_BYTES_MAX = 1 << 30
SHARD_FILES = 1 << 14  # shards double in size (up to the maximum) rather than exceed this many files
COLUMN_CHUNK_MIN = 1 << 16  # so that a small pool that grows has few files
COLUMN_CHUNK = 1 << 20  # items per chunk of labels and excluded: at most 4 MiB are rewritten to change one label


@dataclass(frozen=True)
class Grid:
    """Items per chunk, and per shard (a multiple of it) or None when chunks are files of their own."""

    chunk: int
    shard: int | None

    @property
    def unit(self) -> int:
        """Items per file."""
        return self.shard or self.chunk


def plan_grid(n: int | None, item_bytes: int) -> Grid:
    """Chunk and shard sizes for ``n`` items (None: unknown, but more than one shard's worth)."""
    chunk = 1 << max(0, (CHUNK_BYTES // item_bytes).bit_length() - 1)
    per_shard = max(1, SHARD_BYTES // (chunk * item_bytes))
    if n is not None and n <= per_shard * chunk:
        return Grid(min(chunk, max(n, 1)), None)
    if n is not None:
        while n > SHARD_FILES * per_shard * chunk and 2 * per_shard * chunk * item_bytes <= SHARD_BYTES_MAX:
            per_shard *= 2
    return Grid(chunk, per_shard * chunk)


@dataclass(frozen=True)
class Facts:
    """The attributes of a pool. mean and std are per channel (or of length 1), in units of the stored items as floats,
    where uint8 counts as value / 255. n is None in pools of other makers: as many as the array of items has. content is a
    hash of all items, taken as they were written; earlier has (n, content) as they were before each append; appended tells
    the source of the last append from others.
    """

    item_shape: tuple[int, ...]
    created: str = ""
    n: int | None = None
    content: str | None = None
    earlier: tuple[tuple[int, str | None], ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: list[str] | None = None
    source: str | None = None
    encoded: bool | None = None
    appended: str | None = None

    def to_attrs(self) -> dict[str, Any]:
        known = {"format": FORMAT, "version": VERSION, **self.__dict__}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in known.items() if v is not None}

    @staticmethod
    def from_attrs(attrs: Mapping[str, Any]) -> Facts:
        def floats(name: str) -> tuple[float, ...] | None:
            return tuple(float(v) for v in attrs[name]) if attrs.get(name) is not None else None

        return Facts(
            item_shape=tuple(int(size) for size in attrs["item_shape"]),
            created=str(attrs.get("created", "")),
            n=None if attrs.get("n") is None else int(attrs["n"]),
            earlier=tuple((int(n), content) for n, content in attrs.get("earlier", ())),
            content=attrs.get("content"),
            mean=floats("mean"),
            std=floats("std"),
            classes=[str(name) for name in attrs["classes"]] if attrs.get("classes") is not None else None,
            source=attrs.get("source"),
            encoded=attrs.get("encoded"),
            appended=attrs.get("appended"),
        )


def key_arrays(facts: Facts) -> list[tuple[int, str]]:
    """(first item, name) of the arrays that may hold keys. Each append has its own: its keys may need a greater width."""
    return [(0, "keys"), *((n, f"keys-{n}") for n, _ in facts.earlier)]


def checked_facts(item_shape: tuple[int, ...], mean: Any, std: Any, classes: Any, source: str | None) -> Facts:
    """Facts of a pool to be made.

    Raises:
        PoolError: one of mean and std without the other; lengths other than 1 or the number of channels (the first axis
            of the items); values that are not finite; std that is not positive; class names that repeat.
    """
    if (mean is None) != (std is None):
        raise PoolError("mean and std go together: give both or neither")
    if mean is not None:
        mean, std = _floats("mean", mean, item_shape), _floats("std", std, item_shape)
        if min(std) <= 0:
            raise PoolError(f"std must be positive in every channel, not {std}")
    if classes is not None:
        classes = [str(name) for name in classes]
        if len(set(classes)) != len(classes):
            raise PoolError(f"class names must differ from each other: {classes}")
    return Facts(item_shape=item_shape, mean=mean, std=std, classes=classes, source=source)


def _floats(name: str, values: Any, item_shape: tuple[int, ...]) -> tuple[float, ...]:
    given = tuple(float(v) for v in (values if isinstance(values, (Sequence, np.ndarray)) else [values]))
    if len(given) not in (1, item_shape[0]):
        raise PoolError(f"{name} has {len(given)} values; items of shape {item_shape} need 1 or {item_shape[0]}")
    if not all(math.isfinite(v) for v in given):
        raise PoolError(f"{name} must be finite, not {given}")
    return given


def check_is_pool(path: Any) -> None:
    """Raises:
    PoolError: the path is missing, a file, no Zarr v3 group, a group of something else, or a pool of a newer version.
    """

    def no(why: str) -> PoolError:
        return PoolError(f"{path} is not a pool: {why}. `mcscore pool import` makes one")

    if isinstance(path, Path) and not path.exists():
        raise no("there is nothing at this path")
    if isinstance(path, Path) and not path.is_dir():
        raise no("it is a file; a pool is a directory")
    try:
        meta = json.loads((path / "zarr.json").read_bytes())
    except FileNotFoundError:
        raise no("it has no zarr.json, so it is no Zarr v3 group") from None
    except ValueError as error:
        raise no(f"its zarr.json cannot be read ({error})") from error
    attrs = meta.get("attributes", {}) if isinstance(meta, dict) else {}
    if not isinstance(meta, dict) or meta.get("node_type") != "group" or attrs.get("format") != FORMAT:
        raise no(f"its zarr.json does not say format {FORMAT!r}, so it is Zarr data of another kind")
    if not isinstance(attrs.get("version"), int) or attrs["version"] > VERSION:
        raise PoolError(
            f"{path} is a pool of version {attrs.get('version')!r}; this mcscore reads up to {VERSION}: upgrade mcscore"
        )
