"""Reading chunks: straight from the files for the encodings a pool is written in, through zarr for any other.

zarr reads a chunk through a task scheduler and three copies (file, bytes, decoded, output), and reads a missing chunk as
zeros. Here a chunk goes from the page cache into the caller's array in one copy, its crc32c is compared, and a chunk that
is missing, short or flipped is an error that names it.
"""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from ..errors import ChunkError, PoolError
from .files import File, at_once, open_file, size_of
from .layout import ABSENT, CRC_BYTES, ChunkLayout, Encoding, crc32c
from .parallel import in_order

_HEADER_BYTES = 16
# Whole chunks of at least this many bytes are decoded several at a time; for smaller ones handing them to a thread (50 µs)
# would show.
_ALONE = 1 << 18
_THREADS = 8
# What the system says of a file whose bytes are lost, or that is none. Any other failure (too many open files, no
# permission, a file server that is away) leaves the bytes as they are: such items must not be skipped as damaged.
_DAMAGE = {errno.EIO, errno.ENODATA, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO), errno.EISDIR, errno.ENOTDIR}


class ChunkReader:
    """Reads rows of an array; keeps the last shard open and the last partly used chunk decoded.

    So a walk in steps that are no multiple of a chunk decodes every chunk once. Several threads decode the whole chunks
    of a step. Not for use by two threads at a time.
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
        """Fill ``out`` with rows from ``start`` on.

        Args:
            start: the first row.
            out: (n, *row_shape) in the array's dtype, C-contiguous.

        Raises:
            ChunkError: a chunk is missing, truncated or changed; names the chunk and its rows.
        """
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
        """Fill ``out`` with the rows ``ids``, in their order; each chunk they lie in is decoded once."""
        for at in np.argsort(ids, kind="stable"):
            self.read(int(ids[at]), out[at : at + 1])

    def check_files(self) -> None:
        """Check that every file is there and that the index of every shard is whole; reads no rows.

        Raises:
            ChunkError: a file is missing or an index damaged; names the first.
        """
        for _ in in_order(self._check_file, range(self.layout.files), at_once(self.layout.folder)):
            pass

    def _check_file(self, number_of_file: int) -> None:
        number = number_of_file * self.layout.rows_per_file // self.layout.chunk
        with closing(self._open(number_of_file, number)) as file:
            if self.layout.shard is not None:
                self._read_index(file, number)

    def stored_length(self, number: int) -> int:
        """Return the bytes that chunk ``number`` takes on disk."""
        with self._stored(number) as (_, _, length):
            return length

    def stored_crc(self, number: int) -> bytes:
        """Return the crc32c that chunk ``number`` carries, read without the chunk; empty where chunks carry none."""
        if self.layout.encoding is None or not self.layout.encoding.crc:
            return b""
        with self._stored(number) as (file, offset, length):
            tail = bytearray(CRC_BYTES)
            got = self._fill(number, file, [tail], offset + max(0, length - CRC_BYTES))
            return bytes(tail[:got])

    def _whole(self, number: int, out: np.ndarray) -> int:
        """Read whole chunks of one file, from chunk ``number`` on and as many as fit; returns the rows read."""
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
        """Read a part of one chunk, from its row ``skip`` on."""
        if self._decoded is None:
            self._decoded = (-1, np.empty((self.layout.chunk, *self.layout.row_shape), self.layout.dtype))
        held, buffer = self._decoded
        if held != number:
            self._decoded = (-1, buffer)  # in case decoding fails half way
            self.decode(number, buffer)
            self._decoded = (number, buffer)
        np.copyto(out, buffer[skip : skip + len(out)])

    def decode(self, number: int, out: np.ndarray) -> None:
        """Fill ``out``, (chunk, *row_shape), with one chunk; the last one is padded beyond the array's end."""
        encoding = self.layout.encoding
        if encoding is None:
            self._decode_by_zarr(number, out)
            return
        with self._stored(number) as (file, offset, length):
            self._decode(number, out, encoding, file, offset, length)

    def _decode(self, number: int, out: np.ndarray, encoding: Encoding, file: File, offset: int, length: int) -> None:
        crc_bytes = CRC_BYTES if encoding.crc else 0
        payload: Any
        if encoding.compressor is None:
            if length != out.nbytes + crc_bytes:
                raise self._bad(number, f"{length} bytes, {out.nbytes + crc_bytes} expected: truncated or torn")
            payload, tail = out.reshape(-1).view(np.uint8), bytearray(crc_bytes)
            got = self._fill(number, file, [payload, tail], offset)
        else:
            if length <= crc_bytes:
                raise self._bad(number, f"{length} bytes: truncated")
            whole = self._encoded_bytes(length)
            got = self._fill(number, file, [whole.data], offset)
            payload, tail = whole[: length - crc_bytes], bytearray(whole[length - crc_bytes :])
        if got != length:
            raise self._bad(number, f"ends after {got} of {length} bytes: truncated")
        if encoding.crc and crc32c(payload) != int.from_bytes(tail, "little"):
            raise self._bad(number, "crc32c mismatch: the bytes changed after they were written")
        if encoding.compressor is not None:
            try:
                encoding.compressor.decode(payload, out=out)
            except (ValueError, RuntimeError) as error:
                raise self._bad(number, f"cannot be decompressed ({error})") from error

    def _encoded_bytes(self, length: int) -> np.ndarray:
        """Return memory for the bytes of a chunk, this thread's own: fresh memory costs a page fault per 4 KiB."""
        held = getattr(self._scratch, "bytes", None)
        if held is None or len(held) < length + _HEADER_BYTES:
            held = self._scratch.bytes = np.empty(length + length // 8 + _HEADER_BYTES, np.uint8)
        held[length : length + _HEADER_BYTES] = 0  # blosc reads 16 bytes of header even of a shorter chunk
        return held[:length]

    def _fill(self, number: int, file: File, buffers: list[Any], offset: int) -> int:
        """Fill ``buffers`` from the file that holds chunk ``number``; returns the bytes read."""
        with self._reading(number):
            return file.read(buffers, offset)

    def _size(self, number: int, file: File) -> int:
        """Return the bytes in the file that holds chunk ``number``."""
        with self._reading(number):
            return file.size

    @contextmanager
    def _reading(self, number: int) -> Iterator[None]:
        """Turn a failure to read the file that holds chunk ``number`` into an error that names it."""
        try:
            yield
        except FileNotFoundError:
            raise self._bad(number, "the file is missing") from None
        except OSError as error:
            if error.errno in _DAMAGE:  # a bad sector
                raise self._bad(number, f"{error.strerror}") from error
            raise PoolError(
                f"{self.layout.file_of_chunk(number)} cannot be read: {error.strerror or error}. The file may be whole: "
                "try again when this is mended"
            ) from error

    def _decode_by_zarr(self, number: int, out: np.ndarray) -> None:
        with self._reading(number):
            size_of(self.layout.file_of_chunk(number))  # zarr would read a missing file as zeros
        start = number * self.layout.chunk
        stop = min(start + self.layout.chunk, self.layout.n)
        try:
            out[: stop - start] = self.layout.array[start:stop]
        except PoolError:  # a server that fails, which is no damage
            raise
        except Exception as error:  # zarr and its codecs raise a dozen unrelated types
            raise self._bad(number, f"{type(error).__name__}: {error}") from error

    @contextmanager
    def _stored(self, number: int) -> Iterator[tuple[File, int, int]]:
        """Yield the open file, the offset and the length of a chunk."""
        with self._file_of(number) as file:
            if self.layout.shard is None:
                yield file, 0, self._size(number, file)
                return
            offset, length = (int(v) for v in self._index[number % (self.layout.shard // self.layout.chunk)])
            if offset == ABSENT:
                raise self._bad(number, "not in the shard")
            yield file, offset, length

    @contextmanager
    def _file_of(self, number: int) -> Iterator[File]:
        """Yield the open file that holds a chunk; a shard stays open, with its index."""
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
                file.close()  # not kept: its chunks would be looked up in the index of another shard
                raise
            self._shard = shard, file
        yield self._shard[1]

    def _open(self, number_of_file: int, number: int) -> File:
        with self._reading(number):
            return open_file(self.layout.file(number_of_file))

    def _read_index(self, file: File, number: int) -> np.ndarray:
        """Return the table at a shard's end: (offset, length) per chunk as little-endian uint64; its crc32c follows."""
        assert self.layout.shard is not None
        size = self._size(number, file)
        table = 16 * (self.layout.shard // self.layout.chunk)
        raw = bytearray(table + CRC_BYTES)
        got = self._fill(number, file, [raw], max(0, size - table - CRC_BYTES))
        if got != len(raw) or crc32c(raw[:table]) != int.from_bytes(raw[table:], "little"):
            raise self._bad(number, f"crc32c mismatch in the index of the shard ({size} bytes): truncated or changed")
        return np.frombuffer(raw, "<u8", count=table // 8).reshape(-1, 2)

    def _close(self) -> None:
        if self._shard is not None:
            self._shard[1].close()
            self._shard = None

    def _bad(self, number: int, why: str) -> ChunkError:
        layout = self.layout
        first, stop = number * layout.chunk, min((number + 1) * layout.chunk, layout.n)
        file = layout.file_of_chunk(number)
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
    """Return the threads that decode chunks, for all readers: reading and decompressing release the interpreter."""
    return ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "mcscore-chunks")


os.register_at_fork(after_in_child=_workers.cache_clear)  # a child has none of its parent's threads
