"""The array files that become pools: .npy, .npz, idx, idx.gz and Zarr, each read in bounded memory.

Files are recognized by their first bytes; a Zarr array is a folder (``a.zarr``, or ``a.zarr::name`` in a group).
ARRAY_FORMATS is the whole list: another format is one row, and one function that returns an ArrayFile.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import PoolError
from .sources.entry import kind_problem
from .sources.folder import ZARR_MARKS

_READ_BYTES = 16 << 20
MAX_ITEM_BYTES = 1 << 30
MAX_HEADER_BYTES = 1 << 20  # of an .npy array; a file of some kB can declare 4 GiB of it
_NAMED = 5  # members of an archive that a message names
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile)  # what gzip and zip raise for broken or short streams


@dataclass(frozen=True)
class ArrayFile:
    """One array in a file: its shape, its dtype, and its items in blocks (n, ...)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[np.ndarray]]

    def read(self) -> np.ndarray:
        """Return the whole array; for small ones (labels)."""
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *self.blocks()])


@dataclass(frozen=True)
class ArrayFormat:
    """One file format: its first bytes, how to open it, and the default layout of its arrays."""

    name: str
    magic: bytes
    open: Callable[[Path, str | None], ArrayFile]
    layout: str | None
    text: str


def open_array(path: str | os.PathLike[str], key: str | None = None) -> tuple[ArrayFormat, ArrayFile]:
    """Open the array in a file and say which format it has.

    Raises:
        PoolError: no such file; unknown format; damaged or truncated file; key of an .npz missing or unknown.
    """
    where = Path(path)
    kind, array = _opened(where, key)
    item_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
    if item_bytes > MAX_ITEM_BYTES:
        raise PoolError(
            f"{where}: an item of shape {array.shape[1:]} has {item_bytes:,} bytes, more than {MAX_ITEM_BYTES:,}"
        )
    return kind, array


def _opened(where: Path, key: str | None) -> tuple[ArrayFormat, ArrayFile]:
    if where.is_dir() or "::" in where.name:
        return _ZARR, _open_zarr(where, key)
    try:
        problem = kind_problem(where.stat().st_mode)  # opening a FIFO waits for a writer
        if problem:
            raise PoolError(f"{where} cannot be read: {problem}")
        with where.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise PoolError(f"{where} cannot be read: {error.strerror or error}") from error
    if start.startswith(b"PK") and _holds_zarr(where):
        return _ZARR, _open_zarr(where, key)
    for kind in ARRAY_FORMATS:
        if start.startswith(kind.magic):
            if key is not None and kind.name != "npz":
                raise PoolError(f"{where} is {kind.name}, which holds one array and takes no key (given: {key!r})")
            return kind, kind.open(where, key)
    raise PoolError(f"{where} is none of {', '.join(kind.name for kind in ARRAY_FORMATS)} (it starts with {start!r})")


def _open_npy(path: Path, _: str | None) -> ArrayFile:
    with path.open("rb") as file:
        start = file.read(12)
    if start[6:7] > b"\1":  # from version 2 on the length has four bytes
        _check_header(int.from_bytes(start[8:12], "little"), path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise PoolError(f"{path} is a damaged .npy file, or holds Python objects: {error}") from error

    def blocks() -> Iterator[np.ndarray]:
        step = _step(array.shape, array.dtype)
        for at in range(0, max(len(array), 1), step):
            # Mapped anew for each block: pages of one long-lived map would pile up in resident memory.
            yield np.load(path, mmap_mode="r", allow_pickle=False)[at : at + step]

    if array.ndim == 0:
        raise PoolError(f"{path} holds a single value, not an array of items")
    return ArrayFile(array.shape, array.dtype, blocks)


def _open_npz(path: Path, key: str | None) -> ArrayFile:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise PoolError(f"{path} is a damaged .npz file: {error}") from error
    key = _npz_key(path, members, key)

    def stream() -> BinaryIO:
        try:
            return zipfile.ZipFile(path).open(f"{key}.npy")  # type: ignore[return-value]
        except (RuntimeError, NotImplementedError, *_DAMAGE) as error:  # encrypted; compressed in a way Python lacks
            raise PoolError(f"{key} of {path} cannot be read: {error}") from error

    with stream() as file:
        shape, fortran, dtype = _npy_header(file, path)
    if fortran and len(shape) > 1:
        raise PoolError(f"{key} of {path} is stored in Fortran order, which cannot be streamed: save it in C order")
    return _streamed(path, stream, lambda file: _npy_header(file, path), shape, dtype)


def _npz_key(path: Path, members: list[str], key: str | None) -> str:
    """Return the name of the array to read; members that are no arrays are passed over with a warning.

    Raises:
        PoolError: there is no array; or several, and no key chooses one; the key is unknown, or names two members.
    """
    names = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]
    others = [name for name in members if not name.endswith(".npy") and not name.endswith("/")]
    if not names:
        held = f"it holds {_listed(others)}" if others else "it is empty"
        raise PoolError(f"{path} is a ZIP file without an array (.npy), so no .npz file: {held}")
    if key is None and len(set(names)) == 1:
        key = names[0]
        if others:
            warnings.warn(f"{path}: passed over {_listed(others)}, not arrays (.npy); read {key}", stacklevel=2)
    if key not in names:
        problem = "choose one with key=" if key is None else f"there is no array {key!r}"
        raise PoolError(f"{path} holds {', '.join(names)}: {problem}")
    if names.count(key) > 1:
        raise PoolError(
            f"{path} holds {names.count(key)} arrays named {key!r}, and a name must mean one: save it again"
        )
    return key


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _check_header(length: int, path: Path) -> None:
    """Check the length of an .npy header, which numpy reads whole before it looks at it."""
    if length > MAX_HEADER_BYTES:
        raise PoolError(f"{path} has a header of {length:,} bytes, more than {MAX_HEADER_BYTES:,}")


def _npy_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        head = file.read(2 if version == (1, 0) else 4)
        length = int.from_bytes(head, "little")
        _check_header(length, path)
        shape, fortran, dtype = read(io.BytesIO(head + file.read(length)))
    except PoolError:
        raise
    except (ValueError, *_DAMAGE) as error:
        raise PoolError(f"{path} is damaged: {error}") from error
    if dtype.hasobject or not shape:
        raise PoolError(f"{path} holds {dtype} of shape {shape}, not an array of numbers")
    return shape, fortran, dtype


def _holds_zarr(path: Path) -> bool:
    """Whether a zip file is a Zarr array or group."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(set(ZARR_MARKS).intersection(archive.namelist()))
    except _DAMAGE:
        return False  # the reader of .npz says what is wrong


def _open_zarr(path: Path, key: str | None) -> ArrayFile:
    """Open the array named by ``key`` or after "::"; without a name, the path is an array, or a group with one array.

    The path is a folder, or a zip file of one.
    """
    import zarr

    folder, _, inside = os.fspath(path).partition("::")
    if key and inside and key != inside:
        raise PoolError(f"{path} names the array {inside!r}, and key={key!r} another: give one of them")
    name = key or inside
    try:
        zipped = os.path.isfile(folder)
        found: Any = zarr.open(zarr.storage.ZipStore(folder, mode="r") if zipped else folder, mode="r")
        if isinstance(found, zarr.Group):
            names = sorted(found.array_keys())
            if not name and len(names) == 1:
                name = names[0]
            if not name or name not in found:
                problem = f"there is no array {name!r}" if name else f"choose one: {folder}::{(names or ['name'])[0]}"
                raise PoolError(f"{folder} holds the arrays {', '.join(names)}: {problem}")
            found = found[name]
        elif name:
            raise PoolError(f"{folder} is one Zarr array, not a group, and takes no name of an array (given: {name!r})")
    except PoolError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoolError(
            f"{folder} is not a readable Zarr array or group (a folder of images needs a size): {error}"
        ) from error
    if not isinstance(found, zarr.Array) or not found.shape or found.dtype.kind not in "uif":
        raise PoolError(f"{path} is not an array of numbers")
    _warn_of_missing_chunks(found, path)

    def blocks() -> Iterator[np.ndarray]:
        rows = found.shards[0] if found.shards else found.chunks[0]
        step = max(1, _step(found.shape, found.dtype) // rows) * rows  # whole chunks: each is decoded once
        for at in range(0, max(found.shape[0], 1), step):
            try:
                yield np.asarray(found[at : at + step])
            except Exception as error:  # zarr and its codecs raise a dozen unrelated types
                raise PoolError(f"{path} cannot be read from item {at} on: {type(error).__name__}: {error}") from error

    return ArrayFile(tuple(found.shape), np.dtype(found.dtype), blocks)


def _warn_of_missing_chunks(array: Any, path: Path) -> None:
    """Warn of missing chunks, which read as fill values: Zarr omits chunks of zeros, but a lost file looks the same."""
    if array.nchunks_initialized < array.nchunks:
        warnings.warn(
            f"{path} lacks {array.nchunks - array.nchunks_initialized} of {array.nchunks} chunks; their items read as the fill "
            f"value {array.fill_value}. If the chunks were not omitted on purpose, the array has lost data",
            stacklevel=2,
        )


# Type codes of the idx format (LeCun et al., the format of MNIST): all big-endian.
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def _open_idx(path: Path, _: str | None) -> ArrayFile:
    return _idx(path, lambda: path.open("rb"))


def _open_idx_gz(path: Path, _: str | None) -> ArrayFile:
    return _idx(path, lambda: gzip.open(path, "rb"))  # type: ignore[arg-type, return-value]


def _idx(path: Path, stream: Callable[[], BinaryIO]) -> ArrayFile:
    def header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
        try:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or not magic[3]:
                raise PoolError(f"{path} is not an idx file: it starts with {magic!r}")
            sizes = file.read(4 * magic[3])
        except _DAMAGE as error:
            raise PoolError(f"{path} is damaged: {error}") from error
        if len(sizes) < 4 * magic[3]:
            raise PoolError(f"{path} ends inside its header")
        return tuple(int(v) for v in np.frombuffer(sizes, ">u4")), np.dtype(_IDX_TYPES[magic[2]])

    with stream() as file:
        shape, dtype = header(file)
    return _streamed(path, stream, header, shape, dtype)


def _streamed(
    path: Path, stream: Callable[[], BinaryIO], skip: Callable[[BinaryIO], Any], shape: tuple[int, ...], dtype: np.dtype
) -> ArrayFile:
    """Describe an array stored in C order behind a header, in a stream that can only be read forward."""

    def blocks() -> Iterator[np.ndarray]:
        step, native = _step(shape, dtype), dtype.newbyteorder("=")
        item_bytes = dtype.itemsize * math.prod(shape[1:])
        with stream() as file:
            skip(file)
            for at in range(0, max(shape[0], 1), step):
                wanted = min(step, shape[0] - at)
                raw = _read_fully(file, wanted * item_bytes, path)
                if len(raw) < wanted * item_bytes:
                    whole = at + len(raw) // max(item_bytes, 1)
                    raise PoolError(f"{path} is truncated: it holds {whole} of the {shape[0]} items in its header")
                yield np.frombuffer(raw, dtype).reshape(wanted, *shape[1:]).astype(native, copy=False)
            # Reading past the end also makes gzip and zip compare their checksums.
            if _read_fully(file, 1, path):
                raise PoolError(f"{path} is damaged: data follow the {shape[0]} items in its header")

    return ArrayFile(shape, dtype.newbyteorder("="), blocks)


def _read_fully(file: BinaryIO, count: int, path: Path) -> bytes:
    """Read ``count`` bytes, or fewer at the end of the file."""
    try:
        return file.read(count)
    except _DAMAGE as error:
        raise PoolError(f"{path} is damaged: {error}") from error


def _step(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return max(1, _READ_BYTES // max(1, dtype.itemsize * math.prod(shape[1:])))


_ZARR = ArrayFormat("zarr", b"", _open_zarr, None, "Zarr array, a folder, read chunk by chunk")
ARRAY_FORMATS: tuple[ArrayFormat, ...] = (
    ArrayFormat("npy", b"\x93NUMPY", _open_npy, None, "NumPy array, memory-mapped"),
    ArrayFormat("npz", b"PK", _open_npz, None, "NumPy archive, one array of it (key), streamed"),
    ArrayFormat("idx.gz", b"\x1f\x8b", _open_idx_gz, "hw", "idx (MNIST's format), gzipped, streamed"),
    ArrayFormat("idx", b"\0\0", _open_idx, "hw", "idx (MNIST's format), streamed"),
)
