"""Arrays in files become pools: .npy, .npz, idx and idx.gz, recognized by their first bytes, and Zarr arrays, which are
folders (a.zarr, or a.zarr::name in a group); all read in bounded memory.

FORMATS is the whole list; a further format is one row and one function that gives an ArrayFile.
"""

from __future__ import annotations

import gzip
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
from ..pool.pool import Pool

_READ_BYTES = 16 << 20
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile)  # what gzip and zip raise for broken or short streams
LAYOUTS = ("hw", "chw", "hwc")


@dataclass(frozen=True)
class ArrayFile:
    """One array in a file: its shape, dtype and the blocks (n, ...) it is read in."""

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[np.ndarray]]

    def read(self) -> np.ndarray:
        """All of it, for small arrays (labels)."""
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *self.blocks()])


@dataclass(frozen=True)
class Format:
    """One kind of file: what its first bytes are, how it is opened, the layout its arrays have unless told."""

    name: str
    magic: bytes
    open: Callable[[Path, str | None], ArrayFile]
    layout: str | None
    text: str


def open_array(path: str | os.PathLike[str], key: str | None = None) -> tuple[Format, ArrayFile]:
    """Raises:
    PoolError: no such file; none of the formats; a damaged or truncated file; the key of an .npz missing or unknown.
    """
    where = Path(path)
    if where.is_dir() or "::" in where.name:
        return _ZARR, _open_zarr(where, key)
    try:
        with where.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise PoolError(f"{where} cannot be read: {error.strerror or error}") from error
    for kind in FORMATS:
        if start.startswith(kind.magic):
            if key is not None and kind.name != "npz":
                raise PoolError(f"{where} is {kind.name}, which holds one array: it takes no key ({key!r})")
            return kind, kind.open(where, key)
    raise PoolError(f"{where} is none of {', '.join(kind.name for kind in FORMATS)} (it starts with {start!r})")


def import_array(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    labels: Any = None,
    *,
    key: str | None = None,
    labels_key: str | None = None,
    layout: str | None = None,
    mean: Any = None,
    std: Any = None,
    classes: Any = None,
    compression: str = "none",
) -> Pool:
    """Make a pool of an array in a file.

    Args:
        src: an .npy, .npz, idx or idx.gz file of (N, ...) uint8 or floats.
        dst: the pool to make; must not exist.
        labels: (N,) integers, or a file of one of these formats that holds them.
        key, labels_key: which array of an .npz; needed when it holds several.
        layout: what the axes after N are: "hw" (a channel axis is added: (N, 1, H, W)), "chw" (kept), "hwc" (moved to
            channels first). Default: idx images are "hw"; arrays from .npy and .npz are kept as they are.
        mean, std, classes, compression: as for Pool.create.

    Raises:
        PoolError: a file that is missing, damaged or of no known format; lengths that differ; a layout that does not fit.
    """
    blocks, n, labels, _ = read_source(src, labels, key=key, labels_key=labels_key, layout=layout)
    return Pool.create(
        dst,
        blocks,
        n=n,
        labels=labels,
        mean=mean,
        std=std,
        classes=classes,
        source=Path(src).name,
        compression=compression,
    )


def read_source(
    src: str | os.PathLike[str], labels: Any, *, key: str | None, labels_key: str | None, layout: str | None
) -> tuple[Iterator[np.ndarray], int, Any, str]:
    """(blocks of items, how many, labels or None, what tells this source from another) of the arguments of import_array."""
    kind, array = open_array(src, key)
    if len(array.shape) < 2:
        raise PoolError(f"{src} has shape {array.shape}; items need (N, ...) with at least one axis per item")
    if layout is None and kind.layout == "hw" and len(array.shape) == 3:
        layout = "hw"
    arrange = _arrangement(layout, array.shape, src)
    files = [src]
    if isinstance(labels, (str, os.PathLike)):
        files.append(labels)
        labels = open_array(labels, labels_key)[1].read()
    if labels is not None and len(labels) != array.shape[0]:
        raise PoolError(f"{len(labels)} labels came for the {array.shape[0]} items of {src}")
    stamps = [_stamp(os.fspath(file)) for file in files]
    identity = repr((stamps, key, labels_key, layout))
    return (arrange(block) for block in array.blocks()), array.shape[0], labels, identity


def _stamp(file: str) -> tuple[str, int, int]:
    """What changes when a file does; of a Zarr array the latest change of a folder of it."""
    folder = file.partition("::")[0]
    if not os.path.isdir(folder):
        return file, os.stat(file).st_size, os.stat(file).st_mtime_ns
    return file, 0, max(os.stat(inside).st_mtime_ns for inside, _, _ in os.walk(folder))


def _arrangement(layout: str | None, shape: tuple[int, ...], src: Any) -> Callable[[np.ndarray], np.ndarray]:
    ranks = {"hw": 3, "chw": 4, "hwc": 4}
    if layout is None:
        return lambda block: block
    if layout not in LAYOUTS:
        raise PoolError(f"layout {layout!r} is unknown; choose from {', '.join(LAYOUTS)}")
    if len(shape) != ranks[layout]:
        raise PoolError(f"{src} has shape {shape}, layout {layout!r} needs {ranks[layout]} axes (N and {layout})")
    if layout == "hw":
        return lambda block: block[:, None]
    if layout == "hwc":
        return lambda block: np.moveaxis(block, -1, 1)
    return lambda block: block


# ---------------------------------------------------------------------- formats


def _open_npy(path: Path, _: str | None) -> ArrayFile:
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
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise PoolError(f"{path} is a damaged .npz file: {error}") from error
    if key is None and len(names) == 1:
        key = names[0]
    if key not in names:
        said = "which array to take must be said" if key is None else f"there is no array {key!r}"
        raise PoolError(f"{path} holds {', '.join(names)}: {said}")

    def stream() -> BinaryIO:
        return zipfile.ZipFile(path).open(f"{key}.npy")  # type: ignore[return-value]

    with stream() as file:
        shape, fortran, dtype = _npy_header(file, path)
    if fortran and len(shape) > 1:
        raise PoolError(f"{key} of {path} is stored in Fortran order, which cannot be streamed: save it in C order")
    return _streamed(path, stream, lambda file: _npy_header(file, path), shape, dtype)


def _npy_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, *_DAMAGE) as error:
        raise PoolError(f"{path} is damaged: {error}") from error
    if dtype.hasobject or not shape:
        raise PoolError(f"{path} holds {dtype} of shape {shape}, not an array of numbers")
    return shape, fortran, dtype


def _open_zarr(path: Path, key: str | None) -> ArrayFile:
    """``key``, or what follows "::" in the path, is an array of a group; without, the path is an array or holds one."""
    import zarr

    folder, _, inside = os.fspath(path).partition("::")
    name = key or inside
    try:
        found: Any = zarr.open(folder, mode="r")
        if isinstance(found, zarr.Group):
            names = sorted(found.array_keys())
            if not name and len(names) == 1:
                name = names[0]
            if not name or name not in found:
                said = f"there is no array {name!r}" if name else f"say which one: {folder}::{(names or ['name'])[0]}"
                raise PoolError(f"{folder} holds the arrays {', '.join(names)}: {said}")
            found = found[name]
    except PoolError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoolError(
            f"{folder} is no Zarr array or group that can be read (a folder of images needs a size): {error}"
        ) from error
    if not isinstance(found, zarr.Array) or not found.shape or found.dtype.kind not in "uif":
        raise PoolError(f"{path} is no array of numbers")
    _require_all_chunks(found, path)

    def blocks() -> Iterator[np.ndarray]:
        rows = found.shards[0] if found.shards else found.chunks[0]
        step = max(1, _step(found.shape, found.dtype) // rows) * rows  # whole chunks: each is decoded once
        for at in range(0, max(found.shape[0], 1), step):
            try:
                yield np.asarray(found[at : at + step])
            except Exception as error:  # zarr and its codecs raise a dozen unrelated types
                raise PoolError(f"{path} cannot be read from item {at} on: {type(error).__name__}: {error}") from error

    return ArrayFile(tuple(found.shape), np.dtype(found.dtype), blocks)


def _require_all_chunks(array: Any, path: Path) -> None:
    """A chunk that is missing reads as fill values: that may be how zeros were stored, or data that were lost."""
    if array.nchunks_initialized < array.nchunks:
        warnings.warn(
            f"{path} lacks {array.nchunks - array.nchunks_initialized} of {array.nchunks} chunks; there, items are the fill "
            f"value {array.fill_value}. If that is not how it was meant, the array has lost data",
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
                raise PoolError(f"{path} is no idx file: its first bytes are {magic!r}")
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
    """An array whose values follow a header in C order, in a file that can only be read forwards."""

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
                    raise PoolError(f"{path} is truncated: it holds {whole} of the {shape[0]} items its header names")
                yield np.frombuffer(raw, dtype).reshape(wanted, *shape[1:]).astype(native, copy=False)
            if _read_fully(file, 1, path):  # the read beyond the end is also what makes gzip and zip compare checksums
                raise PoolError(f"{path} is damaged: it goes on after the {shape[0]} items its header names")

    return ArrayFile(shape, dtype.newbyteorder("="), blocks)


def _read_fully(file: BinaryIO, count: int, path: Path) -> bytes:
    """Count bytes, or fewer at the end of the file."""
    try:
        return file.read(count)
    except _DAMAGE as error:
        raise PoolError(f"{path} is damaged: {error}") from error


def _step(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return max(1, _READ_BYTES // max(1, dtype.itemsize * math.prod(shape[1:])))


_ZARR = Format("zarr", b"", _open_zarr, None, "Zarr array, a folder, read chunk by chunk")
FORMATS: tuple[Format, ...] = (
    Format("npy", b"\x93NUMPY", _open_npy, None, "NumPy array, memory-mapped"),
    Format("npz", b"PK", _open_npz, None, "NumPy archive, one array of it (key), streamed"),
    Format("idx.gz", b"\x1f\x8b", _open_idx_gz, "hw", "idx (MNIST's format), gzipped, streamed"),
    Format("idx", b"\0\0", _open_idx, "hw", "idx (MNIST's format), streamed"),
)
