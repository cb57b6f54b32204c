"""The zarr.json files of a pool: read and checked at every open, written with hashes of what they mean.

The attributes of the group carry a checksum of themselves, and a hash of the metadata of every array but for its number of
rows: an append makes the arrays longer before it counts. Pools of earlier releases and of other software have neither, and
are read without. A pool that has one attribute of this release has the checksum too, or is damaged.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
import stat
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..atomic import replace_file
from ..errors import PoolError
from ..paths import status_of
from ..store.files import AnyPath
from .schema import COUNT_MAX, FORMAT, VERSION, Attributes

FILE = "zarr.json"
_SIGNED = ("rows", "keys", "appends", "known_as", "arrays")  # attributes that no pool without a checksum has
_RESTORE = "The file was damaged, or changed by other software. Restore it from a copy, or import the data again"


def read_attributes(path: AnyPath) -> Attributes:
    """Read the attributes of the pool at a path.

    Raises:
        PoolError: the path is missing, a file, no Zarr v3 group, a group of something else, or a pool of another format
            version; an attribute is unknown or has a value of another type; the checksum does not fit.
        OSError: the path cannot be read, which does not say that there is no pool.
    """

    def no(why: str) -> PoolError:
        return PoolError(f"{path} is not a pool: {why}. `mcscore pool import` makes one")

    if isinstance(path, Path):
        status = status_of(path)
        if status is None:
            raise no("there is nothing at this path")
        if not stat.S_ISDIR(status.st_mode):
            raise no("it is a file; a pool is a directory")
    try:
        meta = _parsed((path / FILE).read_bytes())
    except FileNotFoundError:
        raise no("it has no zarr.json, so it is no Zarr v3 group") from None
    except PoolError:  # a server that fails, which does not say what is there
        raise
    except ValueError as error:
        raise no(f"its zarr.json cannot be read ({error})") from error
    given = meta.get("attributes") if isinstance(meta, dict) else None
    if not isinstance(given, dict) or meta.get("node_type") != "group" or given.get("format") != FORMAT:
        raise no(f"its zarr.json does not have the format {FORMAT!r}, so it is Zarr data of another kind")
    return _attributes_of(path, meta, given)


def _attributes_of(path: AnyPath, meta: Mapping[str, Any], given: dict[str, Any]) -> Attributes:
    checksum = given.pop("checksum", None)
    signed = checksum is not None or any(name in given for name in _SIGNED)
    intact = not signed or checksum == attributes_hash(given)
    version = given.get("version")
    try:
        if meta.get("zarr_format") != 3:
            raise PoolError(f"the field 'zarr_format' is {reprlib.repr(meta.get('zarr_format'))}; 3 is needed")
        if not isinstance(version, int) or isinstance(version, bool) or version > VERSION:
            raise PoolError(
                f"it has pool format version {reprlib.repr(version)}, written by a newer mcscore; this one reads version "
                f"{VERSION}: upgrade mcscore"
            )
        if version < VERSION:
            raise PoolError(
                f"it has pool format version {version}, written by an older mcscore; this one reads version {VERSION}: "
                "import the data again"
            )
        attributes = Attributes.from_json(given)
    except PoolError as error:
        if intact:
            raise PoolError(f"{path} cannot be read: {error}") from error
        raise PoolError(f"{path / FILE} is damaged, its checksum does not fit: {error}. {_RESTORE}") from error
    if not intact:
        what = "is missing" if checksum is None else "does not fit the other attributes"
        raise PoolError(f"{path / FILE} is damaged: the attribute 'checksum' {what}. {_RESTORE}")
    return attributes


def attributes_hash(attributes: Mapping[str, Any]) -> str:
    """Return the checksum of the attributes of a group, without the checksum itself."""
    return _hash_of(attributes)


def array_hash(metadata: Mapping[str, Any]) -> str:
    """Return the hash of what the metadata of an array mean, but for the number of rows.

    >>> array_hash({"shape": [3, 8], "fill_value": 0}) == array_hash({"fill_value": 0, "shape": [5, 8], "attributes": {}})
    True
    """
    free = ("attributes", "dimension_names", "shape")  # what software that reads the array may add or know
    meaning = {name: value for name, value in metadata.items() if name not in free}
    meaning["row_shape"] = metadata["shape"][1:]
    return _hash_of(meaning)


def _hash_of(fields: Mapping[str, Any]) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()}"


def read_array(path: AnyPath, name: str, recorded: str | None) -> dict[str, Any]:
    """Read the metadata of one array of the pool at ``path``.

    Args:
        path: the pool.
        name: the array.
        recorded: the hash that the pool has of them; None: it has none.

    Raises:
        PoolError: they are no metadata of a Zarr v3 array (names the field), or others than those that were written.
        FileNotFoundError: there is no such array.
    """
    file = path / name / FILE
    try:
        meta = _parsed(file.read_bytes())
    except PoolError:  # a server that fails
        raise
    except ValueError as error:
        raise PoolError(f"{file} cannot be read: {error}. {_RESTORE}") from error
    for field, (fits, wanted) in _ARRAY_FIELDS.items():
        value = meta.get(field) if isinstance(meta, dict) else meta
        if not isinstance(meta, dict) or not fits(value):
            raise PoolError(
                f"{file} is damaged: the field {field!r} is {reprlib.repr(value)}; {wanted} is needed. {_RESTORE}"
            )
    if len(meta["chunk_grid"]["configuration"]["chunk_shape"]) != len(meta["shape"]):
        raise PoolError(
            f"{file} is damaged: the field 'chunk_grid' has another number of axes than 'shape'. {_RESTORE}"
        )
    if recorded is not None and array_hash(meta) != recorded:
        raise PoolError(f"{file} is damaged: it differs from the hash that {path / FILE} has of it. {_RESTORE}")
    return dict(meta)


def write_attributes(path: Path, attributes: Attributes) -> Attributes:
    """Replace the attributes of a pool at once, with the hashes of its arrays and the checksum; returns them.

    Arrays that ``attributes.arrays`` has a hash of keep it: they were compared with it when the pool was opened.
    """
    known = dict(attributes.arrays or ())
    hashes = {name: known.get(name) or array_hash(read_array(path, name, None)) for name in array_names(attributes)}
    attributes = replace(attributes, arrays=tuple(hashes.items()))
    given = json.loads(json.dumps(attributes.to_json()))
    given["checksum"] = attributes_hash(given)
    meta = _parsed((path / FILE).read_bytes())
    meta.pop("consolidated_metadata", None)  # of other software: it would say the old lengths
    replace_file(path / FILE, json.dumps({**meta, "attributes": given}, indent=2).encode())
    return attributes


def array_names(attributes: Attributes) -> Iterable[str]:
    """Return the names of all arrays of a pool whose attributes name its arrays of keys."""
    offsets = ["offsets"] if attributes.encoded else []
    appends = [] if attributes.appends is None else ["appends"]
    return [
        attributes.rows_name,
        *offsets,
        *(one.array for one in attributes.columns_of_labels),
        "excluded",
        *(name for name, *_ in attributes.keys or ()),
        *appends,
    ]


def set_rows(path: Path, name: str, rows: int) -> None:
    """Write how many rows an array has, for other Zarr readers; everything else stays as it is."""
    file = path / name / FILE
    meta = _parsed(file.read_bytes())
    if meta["shape"][0] != rows:
        meta["shape"][0] = rows
        replace_file(file, json.dumps(meta, indent=2).encode())


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _is_lengths(value: Any, least: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(length) is int and least <= length <= COUNT_MAX for length in value)
    )


def _is_grid(value: Any) -> bool:
    options = value.get("configuration") if isinstance(value, dict) else None
    return isinstance(options, dict) and value.get("name") == "regular" and _is_lengths(options.get("chunk_shape"), 1)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


_ARRAY_FIELDS: dict[str, tuple[Any, str]] = {
    "zarr_format": (lambda value: value == 3, "3"),
    "node_type": (lambda value: value == "array", '"array"'),
    "shape": (lambda value: _is_lengths(value, 0), "a list of lengths"),
    "data_type": (lambda value: isinstance(value, str) or _is_named(value), "a string, or an object with a name,"),
    "chunk_grid": (_is_grid, "a regular grid"),
    "chunk_key_encoding": (_is_named, "an object with a name"),
    "codecs": (
        lambda value: isinstance(value, list) and value and all(isinstance(v, str) or _is_named(v) for v in value),
        "a list of codecs",
    ),
}
