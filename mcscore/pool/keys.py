"""Keys, the user's names of items: checked, encoded, read and searched, chunk by chunk and never as a Python object each.

On disk a key is UTF-8, padded with zero bytes to the width of its array: the one string layout that Zarr v3 has settled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..errors import PoolError
from ..store.columns import Column
from ..store.layout import ChunkLayout
from .text_columns import empty, integers, mask

KEY_BYTES_MAX = 4096  # as long as a path may be; every key of an array takes the bytes of the longest
SEVERAL = -2  # in place of an id: the key names several items
_STEP_BYTES = 4 << 20  # of keys in memory at a time; a search takes several times that


def why_no_key(key: str) -> str | None:
    r"""Return why a string cannot be a key; None if it can.

    >>> why_no_key("a\0b")
    'it contains a zero byte, which pads keys on disk'
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        return f"it is not valid UTF-8 ({error.reason} at position {error.start})"
    if "\0" in key:
        return "it contains a zero byte, which pads keys on disk"
    if size > KEY_BYTES_MAX:
        return f"it has {size:,} bytes, a key has at most {KEY_BYTES_MAX:,}"
    return None


def encoded_keys(keys: Iterable[Any], n: int | None) -> np.ndarray:
    """Return keys as (n, width) uint8.

    Raises:
        PoolError: another number of keys; a key that is no UTF-8, contains a zero byte, or is longer than KEY_BYTES_MAX.

    >>> encoded_keys(["a", "bc"], n=2)
    array([[97,  0],
           [98, 99]], dtype=uint8)
    """
    encoded = []
    for at, key in enumerate(keys):
        text = str(key)
        if why := why_no_key(text):
            raise PoolError(f"key {at} cannot be stored, {why}: {text[:60]!r}")
        encoded.append(text.encode())
    if n is not None and len(encoded) != n:
        raise PoolError(f"{len(encoded)} keys came for {n} items")
    width = max(1, max(map(len, encoded), default=1))
    return np.array(encoded, dtype=f"S{width}").view(np.uint8).reshape(len(encoded), width)


def read_keys(keys: dict[int, ChunkLayout], n: int, ids: np.ndarray | None = None) -> np.ndarray:
    """Return keys as strings, "" where an item has none.

    Args:
        keys: the arrays of keys, by the first item they name.
        n: how many items the pool has.
        ids: the items, in the order wanted; None: all. Only the chunks concerned are read.
    """
    return np.char.decode(_padded(keys, n, ids), "utf-8")


def keys_at(keys: dict[int, ChunkLayout], ids: np.ndarray) -> Any:
    """Return the keys of items, in the order of ``ids``, as a pyarrow array of binary; b"" where an item has none."""
    padded = _padded(keys, len(ids), ids)
    return as_arrow(padded.view(np.uint8).reshape(len(ids), padded.itemsize))


def _padded(keys: dict[int, ChunkLayout], n: int, ids: np.ndarray | None) -> np.ndarray:
    width = max(layout.row_shape[0] for layout in keys.values())
    names = np.zeros(n if ids is None else len(ids), f"S{width}")
    for start, layout in keys.items():
        if ids is None:
            where: Any = slice(start, start + layout.n)
            raw = Column(layout)[:]
        else:
            where = np.flatnonzero((ids >= start) & (ids < start + layout.n))
            raw = Column(layout).at(ids[where] - start)
        names[where] = raw.view(f"S{raw.shape[1]}")[:, 0]
    return names


def key_parts(keys: dict[int, ChunkLayout]) -> Iterator[tuple[int, Any]]:
    """Yield (first item, pyarrow array of binary) of consecutive items, all keys of the pool, some MB at a time."""
    for start, layout in keys.items():
        column, step = Column(layout), max(1, _STEP_BYTES // layout.row_shape[0])
        if layout.chunk < step:
            step -= step % layout.chunk  # each chunk is decoded once
        for at in range(0, layout.n, step):
            yield start + at, as_arrow(column[at : at + step])


def as_arrow(rows: np.ndarray) -> Any:
    """Return (n, width) padded rows as a pyarrow array of binary, without a Python object per row.

    >>> as_arrow(encoded_keys(["a", "", "bc"], 3)).to_pylist()
    [b'a', b'', b'bc']
    """
    import pyarrow

    used = rows != 0
    width = rows.shape[1]
    lengths = np.where(used.any(axis=1), width - used[:, ::-1].argmax(axis=1), 0)
    inside = np.arange(width) < lengths[:, None]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(rows[inside])]
    return pyarrow.Array.from_buffers(pyarrow.binary(), len(rows), buffers)


def find_keys(keys: dict[int, ChunkLayout], wanted: Any) -> np.ndarray:
    """Return which item has each of the keys: its id, -1 where no item has it (or it is ""), SEVERAL where several have.

    Args:
        keys: the arrays of keys, by the first item they name.
        wanted: strings: a list, an array of NumPy, or one of pyarrow.
    """
    import pyarrow
    from pyarrow import compute

    if not isinstance(wanted, pyarrow.Array | pyarrow.ChunkedArray):
        try:
            wanted = pyarrow.array(wanted, pyarrow.large_string())
        except (UnicodeEncodeError, pyarrow.ArrowException):  # a name that is not UTF-8, which no item has
            wanted = pyarrow.array([str(key).encode(errors="surrogatepass") for key in wanted], pyarrow.large_binary())
    if isinstance(wanted, pyarrow.Array):
        wanted = pyarrow.chunked_array([wanted])
    wanted = wanted.cast(pyarrow.large_binary())
    if wanted.null_count:
        wanted = compute.fill_null(wanted, b"")
    found = np.full(len(wanted), -1, np.int64)
    for start, part in key_parts(keys):
        encoded = part.dictionary_encode()
        _, first, counts = np.unique(integers(encoded.indices), return_index=True, return_counts=True)
        items = np.where(counts == 1, start + first, SEVERAL)
        places = compute.index_in(wanted, value_set=encoded.dictionary.cast(pyarrow.large_binary()))
        rows = np.flatnonzero(mask(places.is_valid()))
        found[rows] = np.where(found[rows] == -1, items[integers(places.drop_null())], SEVERAL)
    found[empty(wanted)] = -1
    return found


class KnownKeys:
    """The keys of a pool as a set of 16-byte hashes: 16 MB for a million keys of any length."""

    def __init__(self, keys: dict[int, ChunkLayout]) -> None:
        hashes = [
            np.frombuffer(b"".join(_hash(key) for key in part.to_pylist() if key), "<u8").reshape(-1, 2)
            for _, part in key_parts(keys)
        ]
        rows = np.concatenate([np.empty((0, 2), "<u8"), *hashes])
        self._rows = rows[np.argsort(rows[:, 0], kind="stable")]

    def __contains__(self, key: object) -> bool:
        first, second = np.frombuffer(_hash(str(key).encode(errors="surrogatepass")), "<u8")
        low, high = np.searchsorted(self._rows[:, 0], first, "left"), np.searchsorted(self._rows[:, 0], first, "right")
        return bool((self._rows[low:high, 1] == second).any())


def _hash(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16).digest()
