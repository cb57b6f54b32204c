"""What a pool is on disk: names, attributes and their defaults, chunk sizes. docs/formats.md describes the format.

pool.zarr/         Zarr v3 group; its attributes are those of :class:`Attributes`, with format and version
  items/           (N, ...) uint8, uint16 or float; chunks of whole items, sharded when big; crc32c per chunk
    or, where images are kept encoded (item_shape is the shape after decoding):
  blob/            (bytes,) uint8: JPEG, PNG, WebP, ..., one after another
  offsets/         (N + 1,) int64: item i is blob[offsets[i]:offsets[i + 1]]
  labels/          (N,) int32, -1 = unlabeled; or numbers/, (N,) float32, NaN = unlabeled
  labels-<name>/   a further column of labels; numbers-<name>/ where they are numbers; optional
  excluded/        (N,) bool
  keys/            (N, width) uint8: UTF-8 names, padded with zero bytes; optional
  keys-<n>/        the same for the items from n on, where the names became wider
  appends/         (M, width) uint8: one line of JSON per append, padded with zero bytes; see history.py
A compacted pool has items-<g> (or blob-<g>) and keys-<g>c, <g> counting up; its attributes name them.
The attribute n is the only truth about N: an append that is under way, or was killed, leaves longer arrays behind.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import PoolError
from .kinds import COLUMN_NAME, KINDS, MAIN, LabelColumn, checked_classes, main_column

FORMAT = "mcscore-pool"
VERSION = 2
ITEM_DTYPES = ("uint8", "uint16", "float16", "float32", "float64")
FULL_SCALE = {"uint8": 255, "uint16": 65535}  # the value that counts as 1, for normalization

# A chunk is the unit of decoding: the largest power of two of items in at most 4 MiB. One item per chunk took 30 times
# as long as 64 items (overhead per chunk), and blocks above 32 MiB cost a page fault per 4 KiB on glibc.
CHUNK_BYTES = 4 << 20
# A pool larger than one shard packs its chunks into shards, so that 100 M images are thousands of files, not millions.
SHARD_BYTES = 64 << 20
SHARD_BYTES_MAX = 1 << 30
SHARD_FILES = 1 << 14  # shards double in size (up to the maximum) rather than exceed this many files
COLUMN_CHUNK_MIN = 1 << 16  # so that a small pool stays at few files when it grows
COLUMN_CHUNK = 1 << 20  # items per chunk of labels and excluded: at most 4 MiB are rewritten to change one label
# Bytes of keys per chunk: what an append of a few items rewrites, and what a search holds in memory at a time.
KEY_CHUNK_BYTES = 4 << 20
COUNT_MAX = 2**63 - 1  # an id is an int64


@dataclass(frozen=True)
class Grid:
    """Items per chunk, and per shard: a multiple of it, or None where each chunk is a file."""

    chunk: int
    shard: int | None

    @property
    def unit(self) -> int:
        """Items per file."""
        return self.shard or self.chunk


def plan_grid(n: int | None, item_bytes: int) -> Grid:
    """Return chunk and shard sizes for ``n`` items (None: unknown, but more than one shard holds).

    The chunk depends on the bytes of an item alone: a pool that begins with five items may grow to millions.

    >>> plan_grid(5, item_bytes=3 * 32 * 32)
    Grid(chunk=1024, shard=None)
    >>> plan_grid(10**6, item_bytes=3 * 32 * 32)
    Grid(chunk=1024, shard=21504)
    """
    chunk = 1 << max(0, (CHUNK_BYTES // item_bytes).bit_length() - 1)
    per_shard = max(1, SHARD_BYTES // (chunk * item_bytes))
    if n is not None and n <= per_shard * chunk:
        return Grid(chunk, None)
    if n is not None:
        while n > SHARD_FILES * per_shard * chunk and 2 * per_shard * chunk * item_bytes <= SHARD_BYTES_MAX:
            per_shard *= 2
    return Grid(chunk, per_shard * chunk)


@dataclass(frozen=True)
class Attributes:
    """The attributes of a pool, format version 2.

    Attributes:
        item_shape: the shape of an item.
        created: when the pool was made, ISO 8601.
        n: how many items count; None: as many as the array of items has.
        content: a hash of all items, taken as they were written; None: unknown.
        earlier: (n, content) as they were before each append that is not in the array ``appends``.
        mean: per channel, or one value, of the items as floats, where uint8 counts as value / 255 and uint16 as value / 65535;
            None: not normalized.
        std: as mean.
        classes: names of the labels 0, 1, ...; None: labels are bare numbers.
        label_columns: the columns of labels, the main one first; None: the main one alone, of classes.
        source: free text: where the data came from.
        encoded: whether items are kept as encoded images.
        fit: how an image of another shape was or is made to fit: crop, pad or squash; None: crop, or no images. This and the
            next three are fields of :class:`PixelFormat`.
        background: what transparent pixels are laid on; None: nothing, transparency is dropped.
        value_range: the values of black and white in images of more than 8 bits; None: type.
        depth: bits of a stored value of an image; None: 8.
        appended: identity of the source of the last append, as earlier releases recorded it.
        rows: name of the array of items (or of encoded bytes); None: "items" (or "blob").
        keys: (name, first item, item after the last) of each array of keys; None: as earlier releases named them.
        appends: how many rows of the array ``appends`` count; None: there is no such array.
        known_as: (n, fingerprint, earlier fingerprint) of what is stored otherwise since the pool was compacted.
        arrays: (name, hash of its metadata) of each array; None: not recorded.
    """

    item_shape: tuple[int, ...]
    created: str = ""
    n: int | None = None
    content: str | None = None
    earlier: tuple[tuple[int, str | None], ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    label_columns: tuple[LabelColumn, ...] | None = None
    source: str | None = None
    encoded: bool = False
    fit: str | None = None
    background: str | None = None
    value_range: str | tuple[float, float] | None = None
    depth: int | None = None
    appended: str | None = None
    rows: str | None = None
    keys: tuple[tuple[str, int, int], ...] | None = None
    appends: int | None = None
    known_as: tuple[tuple[int, str, str], ...] = ()
    arrays: tuple[tuple[str, str], ...] | None = None

    @property
    def rows_name(self) -> str:
        """The name of the array of items, or of their encoded bytes."""
        return self.rows or ("blob" if self.encoded else "items")

    @property
    def columns_of_labels(self) -> tuple[LabelColumn, ...]:
        """The columns of labels, the main one first."""
        return self.label_columns or (LabelColumn(),)

    def to_json(self) -> dict[str, Any]:
        """Return format, version and every attribute; null where it has no value, so that an update clears an older one."""
        return {
            "format": FORMAT,
            "version": VERSION,
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "label_columns": None
            if self.label_columns is None
            else [[one.name, one.kind, one.classes] for one in self.label_columns],
            "arrays": None if self.arrays is None else dict(self.arrays),
        }

    @staticmethod
    def from_json(attributes: Mapping[str, Any]) -> Attributes:
        """Read attributes; one that is missing or null has its default.

        Raises:
            PoolError: an attribute is unknown, so written by a newer mcscore, or has a value of another type or one that
                does not fit the others.

        >>> Attributes.from_json({"format": FORMAT, "version": 2, "item_shape": [3, 32, 32]}).encoded
        False
        """
        given = {name: value for name, value in attributes.items() if name not in ("format", "version")}
        for name in given:
            if name not in _READERS:
                raise PoolError(f"unknown attribute {name!r}: written by a newer mcscore. Upgrade mcscore")
        if given.get("item_shape") is None:
            raise PoolError("the attribute 'item_shape' is missing")
        read = {name: _READERS[name](name, value) for name, value in given.items() if value is not None}
        shape = read["item_shape"]
        if not shape or 0 in shape or math.prod(shape) > COUNT_MAX:
            raise _wrong("item_shape", given["item_shape"], "a list of positive lengths, whose product is an int64,")
        for name in ("mean", "std"):
            if name in read and len(read[name]) not in (1, shape[0]):
                raise _wrong(name, given[name], f"a list of 1 or {shape[0]} numbers")
        if ("mean" in read) != ("std" in read):
            raise PoolError("the attributes 'mean' and 'std' go together: one is missing")
        if "std" in read and min(read["std"]) <= 0:
            raise _wrong("std", given["std"], "a list of positive numbers")
        columns = read.get("label_columns", (LabelColumn(),))
        if columns[0].name != MAIN or len({one.name.casefold() for one in columns}) < len(columns):
            raise _wrong("label_columns", given["label_columns"], f"a list of columns that differ, {MAIN!r} first,")
        return Attributes(**read)


# -- reading attributes ------------------------------------------------------------------------------------------------


def _wrong(name: str, value: Any, wanted: str) -> PoolError:
    return PoolError(f"the attribute {name!r} is {reprlib.repr(value)}; {wanted} is needed")


def _integer(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= COUNT_MAX:
        raise _wrong(name, value, "an integer from 0 on, below 2^63,")
    return value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e300:  # nor NaN
        raise _wrong(name, value, "a finite number")
    return float(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a string")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _list_of(read: Callable[[str, Any], Any]) -> Callable[[str, Any], tuple[Any, ...]]:
    def read_list(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise _wrong(name, value, "a list")
        return tuple(read(name, element) for element in value)

    return read_list


def _state(name: str, value: Any) -> tuple[int, str | None]:
    """Read one element of ``earlier``."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise _wrong(name, value, "a list of pairs (n, content)")
    return _integer(name, value[0]), None if value[1] is None else _text(name, value[1])


def _range(name: str, value: Any) -> str | tuple[float, float]:
    if value in ("type", "image"):
        return str(value)
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not _number(name, value[0]) < _number(name, value[1]):
        raise _wrong(name, value, '"type", "image" or a list of two numbers, the first smaller,')
    return _number(name, value[0]), _number(name, value[1])


def _depth(name: str, value: Any) -> int:
    if value not in (8, 16) or isinstance(value, (bool, float)):
        raise _wrong(name, value, "8 or 16")
    return int(value)


def _record(*readers: Callable[[str, Any], Any]) -> Callable[[str, Any], tuple[Any, ...]]:
    def read_record(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or len(value) != len(readers):
            raise _wrong(name, value, f"a list of lists of {len(readers)}")
        return tuple(read(name, element) for read, element in zip(readers, value, strict=True))

    return read_record


def _file_name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or value.startswith(".") or "/" in value or "\0" in value:
        raise _wrong(name, value, "the name of an array")
    return value


def _label_column(name: str, value: Any) -> LabelColumn:
    """Read one element of ``label_columns``."""
    if not isinstance(value, (list, tuple)) or len(value) != 3 or value[1] not in KINDS:
        raise _wrong(name, value, f"a list of lists (name, kind, classes), with the kind {' or '.join(KINDS)},")
    if not isinstance(value[0], str) or not COLUMN_NAME.fullmatch(value[0]):
        raise _wrong(name, value, "a name of letters and digits")
    return LabelColumn(value[0], value[1], None if value[2] is None else _list_of(_text)(name, value[2]))


def _hashes(name: str, value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "an object")
    return tuple((_file_name(name, array), _text(name, digest)) for array, digest in value.items())


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "item_shape": _list_of(_integer),
    "created": _text,
    "n": _integer,
    "content": _text,
    "earlier": _list_of(_state),
    "mean": _list_of(_number),
    "std": _list_of(_number),
    "classes": _list_of(_text),
    "label_columns": _list_of(_label_column),
    "source": _text,
    "encoded": _flag,
    "fit": _text,
    "background": _text,
    "value_range": _range,
    "depth": _depth,
    "appended": _text,
    "rows": _file_name,
    "keys": _list_of(_record(_file_name, _integer, _integer)),
    "appends": _integer,
    "known_as": _list_of(_record(_integer, _text, _text)),
    "arrays": _hashes,
}


def checked_attributes(
    item_shape: tuple[int, ...],
    mean: Any,
    std: Any,
    classes: Any,
    source: str | None,
    fit: str | None = None,
    dtype: np.dtype | None = None,
    label_kind: str = "class",
) -> Attributes:
    """Return the attributes of a pool to be made.

    Raises:
        PoolError: one of mean and std without the other; lengths other than 1 or the number of channels (the first axis
            of an item); values that are not finite, or not in the units of uint8 or uint16 items; std that is not positive; class names
            that repeat.
    """
    if (mean is None) != (std is None):
        raise PoolError("mean and std go together: give both or neither")
    if mean is not None:
        mean, std = _per_channel("mean", mean, item_shape), _per_channel("std", std, item_shape)
        if min(std) <= 0:
            raise PoolError(f"std must be positive in every channel, not {std}")
        top = FULL_SCALE.get(str(dtype))
        if top and (min(mean) < 0 or max(*mean, *std) > 1):
            raise PoolError(
                f"mean {mean} and std {std} are not in units of [0, 1], in which {dtype} items are normalized (value / {top}): "
                f"divide both by {top}"
            )
    columns = (main_column(label_kind, classes),)
    return Attributes(
        item_shape=item_shape,
        mean=mean,
        std=std,
        classes=None if classes is None else checked_classes(classes),
        label_columns=None if label_kind == "class" else columns,
        source=source,
        fit=fit,
    )


def _per_channel(name: str, values: Any, item_shape: tuple[int, ...]) -> tuple[float, ...]:
    given = tuple(float(v) for v in (values if isinstance(values, (Sequence, np.ndarray)) else [values]))
    if len(given) not in (1, item_shape[0]):
        last = len(item_shape) == 3 and item_shape[2] == len(given)
        hint = ", as channels come first. Are they last here? Move them: --layout hwc (layout=), or items.transpose(0, 3, 1, 2)"
        text = f"{name} has {len(given)} values; items of shape {item_shape} need 1 or {item_shape[0]}"
        raise PoolError(f"{text}{hint if last else ''}")
    if not all(math.isfinite(v) for v in given):
        raise PoolError(f"{name} must be finite, not {given}")
    return given
