"""Reading chunks: straight from the files for the encodings a pool is written in, through zarr for any other.

Why not through zarr always: a chunk read there passes a task scheduler and three copies (file, bytes, decoded, output)
and a missing chunk reads as zeros. Here a chunk goes from the page cache into the caller's array in one copy, its
crc32c is compared, and what is missing, short or flipped is an error that names it.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ChunkError, PoolError
from .files import File, Place, open_file

CRC_BYTES = 4
_HEADER_BYTES = 16
ABSENT = 2**64 - 1  # offset and length of a chunk that a shard does not hold
# Whole chunks of at least this many bytes are decoded several at a time: below it handing them over (50 µs) would show.
_ALONE = 1 << 18
_THREADS = 8


@dataclass(frozen=True)
class Encoding:
    """How one chunk's bytes come to be: C order, then ``squeeze`` (a numcodecs codec or None), then crc32c or not."""

    squeeze: Any
    crc: bool


@dataclass(frozen=True)
class ChunkLayout:
    """Where the chunks of an array lie. ``encoding`` is None when only zarr knows how to decode them."""

    folder: Place
    array: Any  # zarr.Array
    n: int
    chunk: int  # items per chunk
    shard: int | None  # items per shard
    name: str  # file name with {} for the number along the first axis
    encoding: Encoding | None

    @property
    def item_shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape[1:])

    @property
    def codecs(self) -> list[str]:
        """Names of what a chunk's bytes go through."""
        codecs = self.array.metadata.to_dict()["codecs"]
        inner = codecs[0]["configuration"]["codecs"] if codecs[0]["name"] == "sharding_indexed" else codecs
        return [
            codec["configuration"].get("cname", codec["name"]) if codec["name"] == "blosc" else codec["name"]
            for codec in inner
        ]

    @property
    def files(self) -> int:
        """Number of files (chunks or shards) that must be there."""
        return -(-self.n // (self.shard or self.chunk))

    @property
    def chunks(self) -> int:
        """Number of chunks that hold items."""
        return -(-self.n // self.chunk)

    def file(self, number: int) -> Place:
        return self.folder / self.name.format(number)


def layout_of(array: Any, folder: Place, n: int | None = None) -> ChunkLayout:
    """``n``: how many of the array's rows count; an append that is under way has made the array longer.

    Raises:
        PoolError: chunks that cut items apart.
    """
    meta = array.metadata.to_dict()
    outer = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
    codecs, shard = list(meta["codecs"]), None
    inner = outer
    direct = meta["chunk_key_encoding"]["name"] == "default"
    separator = meta["chunk_key_encoding"].get("configuration", {}).get("separator", "/")
    if codecs[0]["name"] == "sharding_indexed":
        sharding = codecs[0]["configuration"]
        inner, shard = tuple(sharding["chunk_shape"]), outer[0]
        direct &= len(codecs) == 1 and sharding.get("index_location", "end") == "end"
        direct &= [codec["name"] for codec in sharding["index_codecs"]] == ["bytes", "crc32c"]
        codecs = list(sharding["codecs"])
    if inner[1:] != array.shape[1:]:
        raise PoolError(f"{folder} has chunks of shape {inner}, which cut items of shape {array.shape[1:]} apart")
    name = separator.join(["c", "{}", *["0"] * (array.ndim - 1)])
    encoding = _encoding(codecs, array.dtype) if direct else None
    return ChunkLayout(folder, array, array.shape[0] if n is None else n, inner[0], shard, name, encoding)


def _encoding(codecs: list[dict[str, Any]], dtype: np.dtype) -> Encoding | None:
    import numcodecs

    names = [codec["name"] for codec in codecs]
    if names[0] != "bytes" or (dtype.itemsize > 1 and codecs[0]["configuration"]["endian"] != sys.byteorder):
        return None
    crc = names[-1] == "crc32c"
    middle = codecs[1:-1] if crc else codecs[1:]
    if not middle:
        return Encoding(None, crc)
    said = middle[0].get("configuration", {})
    if names[1] == "blosc" and len(middle) == 1:
        shuffle = ("noshuffle", "shuffle", "bitshuffle").index(said["shuffle"])
        return Encoding(numcodecs.Blosc(said["cname"], said["clevel"], shuffle, said["blocksize"]), crc)
    if names[1] == "zstd" and len(middle) == 1:
        return Encoding(numcodecs.Zstd(said["level"], said["checksum"]), crc)
    return None


class ChunkReader:
    """Reads items in order, keeping the last shard open and the last partly used chunk decoded.

    So a walk in steps that are no multiple of a chunk decodes every chunk once. What a step holds of whole chunks is
    decoded by several threads. Not for use by two threads at a time.
    """

    def __init__(self, layout: ChunkLayout) -> None:
        self.layout = layout
        self._decoded: tuple[int, np.ndarray] | None = None
        self._shard: tuple[int, File] | None = None  # number, open file
        self._index = np.empty((0, 2), np.uint64)  # offset and length per chunk of the open shard
        self._scratch = threading.local()  # encoded bytes of a chunk

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read(self, start: int, out: np.ndarray) -> None:
        """Fill ``out`` (C-contiguous, (n, *item_shape), the pool's dtype) with items from ``start`` on."""
        size = self.layout.chunk
        done = 0
        while done < len(out):
            number, skip = divmod(start + done, size)
            take = min(size - skip, len(out) - done)
            if take < size:
                self._part(number, skip, out[done : done + take])
            else:
                take = self._whole(number, out[done:])
            done += take

    def gather(self, ids: np.ndarray, out: np.ndarray) -> None:
        """Fill ``out`` with the items of any ids, in their order: every chunk concerned is decoded once."""
        for at in np.argsort(ids, kind="stable"):
            self.read(int(ids[at]), out[at : at + 1])

    def check_files(self) -> None:
        """Look whether every file is there and every shard says what it holds; reads no items.

        Raises:
            ChunkError: the first that is not.
        """
        per_file = (self.layout.shard or self.layout.chunk) // self.layout.chunk
        for number in range(0, self.layout.chunks, per_file):
            with self._file_of(number):
                pass

    def stored_length(self, number: int) -> int:
        """Bytes that chunk ``number`` takes on disk."""
        with self._place(number) as (_, _, length):
            return length

    def stored_crc(self, number: int) -> bytes:
        """The crc32c that chunk ``number`` carries, read without the chunk; empty where chunks carry none."""
        if self.layout.encoding is None or not self.layout.encoding.crc:
            return b""
        with self._place(number) as (file, offset, length):
            tail = bytearray(CRC_BYTES)
            got = self._fill(number, file, [tail], offset + max(0, length - CRC_BYTES))
            return bytes(tail[:got])

    def _whole(self, number: int, out: np.ndarray) -> int:
        """The whole chunks that lie in one file, from chunk ``number`` on and as many as fit; returns the items read."""
        size = self.layout.chunk
        count = len(out) // size
        if self.layout.shard is not None:
            per_shard = self.layout.shard // size
            count = min(count, per_shard - number % per_shard)
        parts = [(number + i, out[i * size : (i + 1) * size]) for i in range(count)]
        if count == 1 or parts[0][1].nbytes < _ALONE or self.layout.encoding is None:
            for part in parts:
                self.decode(*part)
        else:
            with self._file_of(number):  # opens the shard, so that the threads find it open
                futures = [_workers().submit(self.decode, *part) for part in parts]
                wait(futures)  # also if one fails: the others write to ``out``
            for future in futures:
                future.result()
        return count * size

    def _part(self, number: int, skip: int, out: np.ndarray) -> None:
        """Items skip.. of one chunk, not all of it."""
        if self._decoded is None:
            self._decoded = (-1, np.empty((self.layout.chunk, *self.layout.item_shape), self.layout.array.dtype))
        held, buffer = self._decoded
        if held != number:
            self._decoded = (-1, buffer)  # in case decoding fails half way
            self.decode(number, buffer)
            self._decoded = (number, buffer)
        np.copyto(out, buffer[skip : skip + len(out)])

    def decode(self, number: int, out: np.ndarray) -> None:
        """Fill ``out``, (chunk, *item_shape), with all of one chunk; the last one is padded beyond the pool's end."""
        encoding = self.layout.encoding
        if encoding is None:
            self._decode_by_zarr(number, out)
            return
        with self._place(number) as (file, offset, length):
            self._decode(number, out, encoding, file, offset, length)

    def _decode(self, number: int, out: np.ndarray, encoding: Encoding, file: File, offset: int, length: int) -> None:
        crc_bytes = CRC_BYTES if encoding.crc else 0
        payload: Any
        if encoding.squeeze is None:
            if length != out.nbytes + crc_bytes:
                raise self._bad(number, f"{length} bytes, {out.nbytes + crc_bytes} expected: it is truncated or torn")
            payload, tail = out.reshape(-1).view(np.uint8), bytearray(crc_bytes)
            got = self._fill(number, file, [payload, tail], offset)
        else:
            if length <= crc_bytes:
                raise self._bad(number, f"{length} bytes: it is truncated")
            whole = self._encoded_bytes(length)
            got = self._fill(number, file, [whole.data], offset)
            payload, tail = whole[: length - crc_bytes], bytearray(whole[length - crc_bytes :])
        if got != length:
            raise self._bad(number, f"it ends after {got} of {length} bytes: it is truncated")
        if encoding.crc and crc32c(payload) != int.from_bytes(tail, "little"):
            raise self._bad(number, "its crc32c does not match: the bytes have changed since they were written")
        if encoding.squeeze is not None:
            try:
                encoding.squeeze.decode(payload, out=out)
            except (ValueError, RuntimeError) as error:
                raise self._bad(number, f"it cannot be decompressed ({error})") from error

    def _encoded_bytes(self, length: int) -> np.ndarray:
        """Memory for them, this thread's own: fresh memory would cost a page fault per 4 KiB, for every chunk."""
        held = getattr(self._scratch, "bytes", None)
        if held is None or len(held) < length + _HEADER_BYTES:
            held = self._scratch.bytes = np.empty(length + length // 8 + _HEADER_BYTES, np.uint8)
        held[length : length + _HEADER_BYTES] = 0  # blosc reads its header even where less than that is there
        return held[:length]

    def _fill(self, number: int, file: File, buffers: list[Any], offset: int) -> int:
        """Bytes read into ``buffers`` from the file that holds chunk ``number``."""
        try:
            return file.read(buffers, offset)
        except OSError as error:  # a bad sector
            raise self._bad(number, f"{error.strerror}") from error

    def _decode_by_zarr(self, number: int, out: np.ndarray) -> None:
        file = self.layout.file(number * self.layout.chunk // (self.layout.shard or self.layout.chunk))
        if not file.exists():
            raise self._bad(number, "the file is missing")
        start = number * self.layout.chunk
        stop = min(start + self.layout.chunk, self.layout.n)
        try:
            out[: stop - start] = self.layout.array[start:stop]
        except Exception as error:  # zarr and its codecs raise a dozen unrelated types
            raise self._bad(number, f"{type(error).__name__}: {error}") from error

    @contextmanager
    def _place(self, number: int) -> Iterator[tuple[File, int, int]]:
        """Open file, offset and length of a chunk."""
        with self._file_of(number) as file:
            if self.layout.shard is None:
                yield file, 0, file.size
                return
            offset, length = (int(v) for v in self._index[number % (self.layout.shard // self.layout.chunk)])
            if offset == ABSENT:
                raise self._bad(number, "the shard does not hold it")
            yield file, offset, length

    @contextmanager
    def _file_of(self, number: int) -> Iterator[File]:
        """Open file that holds a chunk; that of a shard stays open, with its index."""
        if self.layout.shard is None:
            with closing(self._open(number, number)) as file:
                yield file
            return
        shard = number * self.layout.chunk // self.layout.shard
        if self._shard is None or self._shard[0] != shard:
            self._close()
            file = self._open(shard, number)
            try:
                self._index = self._read_index(file, number)
            except PoolError:
                file.close()  # or the next chunk would be looked up in the index of another shard
                raise
            self._shard = shard, file
        yield self._shard[1]

    def _open(self, number_of_file: int, number: int) -> File:
        try:
            return open_file(self.layout.file(number_of_file))
        except FileNotFoundError:
            raise self._bad(number, "the file is missing") from None

    def _read_index(self, file: File, number: int) -> np.ndarray:
        """The table at a shard's end: (offset, length) per chunk as little-endian uint64, then its crc32c."""
        assert self.layout.shard is not None
        size = file.size
        table = 16 * (self.layout.shard // self.layout.chunk)
        raw = bytearray(table + CRC_BYTES)
        got = self._fill(number, file, [raw], max(0, size - table - CRC_BYTES))
        if got != len(raw) or crc32c(raw[:table]) != int.from_bytes(raw[table:], "little"):
            raise self._bad(number, f"the index of the shard ({size} bytes) does not match its crc32c: it is truncated")
        return np.frombuffer(raw, "<u8", count=table // 8).reshape(-1, 2)

    def _close(self) -> None:
        if self._shard is not None:
            self._shard[1].close()
            self._shard = None

    def _bad(self, number: int, why: str) -> ChunkError:
        layout = self.layout
        first, stop = number * layout.chunk, min((number + 1) * layout.chunk, layout.n)
        file = layout.file(first // (layout.shard or layout.chunk))
        inside = "" if layout.shard is None else f" (chunk {number % (layout.shard // layout.chunk)} inside)"
        return ChunkError(
            f"{layout.folder.name} {first}..{stop - 1} cannot be read, chunk {number} of {file}{inside}: {why}. "
            "Restore the file from a copy, or import the data again",
            first,
            stop,
            why,
        )


@functools.cache
def _workers() -> ThreadPoolExecutor:
    """The threads that decode chunks, for all readers: reading and decompressing leave the interpreter to others."""
    return ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "mcscore-chunks")


os.register_at_fork(after_in_child=_workers.cache_clear)  # a child has none of its parent's threads


def crc32c(data: Any) -> int:
    """crc32c (Castagnoli) of a contiguous buffer; by the processor's instruction, 20 GB/s where measured."""
    import google_crc32c

    return int(google_crc32c.value(np.frombuffer(data, np.uint8)))
