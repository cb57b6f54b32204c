"""Rows that are kept as encoded bytes: one blob, and where each row begins; decoded while reading.

Several threads decode: Pillow releases the interpreter while it decodes and resizes, and two threads came to the speed
of two processes, without a second copy of the pixels or a second interpreter beside the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from ..errors import ChunkError, DecoderError, ImageError, PoolError
from .chunks import ChunkReader
from .layout import ChunkLayout

WINDOW_BYTES = 16 << 20  # of encoded rows in memory at a time; a single row may be larger


class EncodedReader:
    """Reads rows as ChunkReader does, of an array that keeps them encoded. Not for use by two threads at a time.

    Args:
        blob: the bytes of all rows, one after another.
        offsets: where each row begins in the blob, and last where the blob ends.
        decode: turns the bytes of a row into its values; raises ImageError.
        name_of: names a row in errors.
    """

    def __init__(
        self,
        blob: ChunkLayout,
        offsets: ChunkLayout,
        decode: Callable[[bytes], np.ndarray],
        name_of: Callable[[int], str],
    ) -> None:
        self._decode, self._name_of = decode, name_of
        self._blob, self._offsets = ChunkReader(blob), ChunkReader(offsets)
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> EncodedReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._blob.__exit__(*exc)
        self._offsets.__exit__(*exc)
        if self._threads:
            self._threads.shutdown()

    def read(self, start: int, out: np.ndarray) -> None:
        """Fill ``out``, (n, *shape of a decoded row), with rows from ``start`` on.

        Raises:
            ChunkError: a chunk of bytes is damaged, or a row cannot be decoded; names the rows.
        """
        offsets = np.empty(len(out) + 1, np.int64)
        self._offsets.read(start, offsets)
        at = 0
        while at < len(out):
            stop = int(np.searchsorted(offsets, offsets[at] + WINDOW_BYTES, "right")) - 1
            stop = min(max(stop, at + 1), len(out))
            blob = np.empty(int(offsets[stop] - offsets[at]), np.uint8)
            try:
                self._blob.read(int(offsets[at]), blob)
            except ChunkError as error:
                raise self._rows_of(error) from error
            edges = offsets[at : stop + 1] - offsets[at]
            if self._threads is None:
                self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="mcscore-decode")
            work = [(start + at + i, blob[edges[i] : edges[i + 1]], out[at + i : at + i + 1]) for i in range(stop - at)]
            for _ in self._threads.map(self._decode_row, *zip(*work, strict=True)):
                pass
            at = stop

    def gather(self, ids: np.ndarray, out: np.ndarray) -> None:
        """Fill ``out`` with the rows ``ids``, in their order."""
        for at in np.argsort(ids, kind="stable"):
            self.read(int(ids[at]), out[at : at + 1])

    def check_files(self) -> None:
        """Check that every file is there, as ChunkReader.check_files does."""
        self._offsets.check_files()
        self._blob.check_files()

    def encoded(self, row: int) -> bytes:
        """Return the bytes of one row as they are stored."""
        edges = np.empty(2, np.int64)
        self._offsets.read(row, edges)
        blob = np.empty(int(edges[1] - edges[0]), np.uint8)
        self._blob.read(int(edges[0]), blob)
        return blob.tobytes()

    def _decode_row(self, row: int, data: np.ndarray, out: np.ndarray) -> None:
        try:
            out[0] = self._decode(data.tobytes())
        except DecoderError as error:  # the item is whole: another machine reads it
            raise PoolError(f"{self._name_of(row)} cannot be decoded here: {error}") from error
        except ImageError as error:  # the import decoded it: the bytes changed since
            raise ChunkError(
                f"{self._name_of(row)} cannot be decoded: {error}. "
                "Restore the pool from a copy, or import the data again",
                row,
                row + 1,
            ) from error

    def _rows_of(self, error: ChunkError) -> ChunkError:
        """Return the error of bytes as one of the rows that lie there."""
        offsets = np.empty(self._offsets.layout.n, np.int64)
        self._offsets.read(0, offsets)
        first, stop = rows_of_bytes(offsets, error.start, error.stop)
        return ChunkError(f"items {first}..{stop - 1} cannot be read: {error}", first, stop, error.why)


def rows_of_bytes(offsets: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """Return the range of rows to which bytes start..stop-1 of the blob belong.

    >>> rows_of_bytes(np.array([0, 10, 15, 40]), 12, 16)
    (1, 3)
    """
    return int(np.searchsorted(offsets, start, "right")) - 1, int(np.searchsorted(offsets, stop, "left"))


def first_rows(blob: ChunkLayout, offsets: ChunkLayout, n: int) -> list[ChunkLayout]:
    """Return the two layouts cut to what the first ``n`` rows use."""
    edge = np.empty(1, np.int64)
    with ChunkReader(offsets) as reader:
        reader.read(n, edge)
    return [replace(blob, n=int(edge[0])), replace(offsets, n=n + 1)]
