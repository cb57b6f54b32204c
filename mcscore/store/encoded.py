"""Items that are kept as encoded images: one blob of bytes and where each begins; decoded while reading.

Decoding is shared out over threads: Pillow lets go of the interpreter while it decodes and resizes, and two threads came
to the speed of two processes, without a second copy of the pixels or a pool of interpreters beside the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from ..errors import ChunkError, ImageError
from .chunks import ChunkLayout, ChunkReader
from .decode import decode

WINDOW_BYTES = 16 << 20  # of encoded images in memory at a time; a single one may be greater


class EncodedReader:
    """Reads items as ChunkReader does, of a pool that keeps encoded images. Not for use by two threads at a time.

    key_of: the name of an item, for errors.
    """

    def __init__(
        self, blob: ChunkLayout, offsets: ChunkLayout, item_shape: tuple[int, ...], key_of: Callable[[int], str]
    ) -> None:
        self._channels, self._size, _ = item_shape
        self._key_of = key_of
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
        """Fill ``out``, (n, channels, size, size) uint8, with items from ``start`` on.

        Raises:
            ChunkError: a chunk of bytes is damaged, or an image cannot be decoded; names the items.
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
                raise self._damage(error) from error
            edges = offsets[at : stop + 1] - offsets[at]
            if self._threads is None:
                self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="mcscore-decode")
            work = [(start + at + i, blob[edges[i] : edges[i + 1]], out[at + i : at + i + 1]) for i in range(stop - at)]
            for _ in self._threads.map(self._decode, *zip(*work, strict=True)):
                pass
            at = stop

    def gather(self, ids: np.ndarray, out: np.ndarray) -> None:
        """As ChunkReader.gather."""
        for at in np.argsort(ids, kind="stable"):
            self.read(int(ids[at]), out[at : at + 1])

    def check_files(self) -> None:
        """As ChunkReader.check_files."""
        self._offsets.check_files()
        self._blob.check_files()

    def encoded(self, item: int) -> bytes:
        """The bytes of one image as they are stored."""
        edges = np.empty(2, np.int64)
        self._offsets.read(item, edges)
        blob = np.empty(int(edges[1] - edges[0]), np.uint8)
        self._blob.read(int(edges[0]), blob)
        return blob.tobytes()

    def _decode(self, item: int, data: np.ndarray, out: np.ndarray) -> None:
        try:
            out[0] = decode(data.tobytes(), self._size, self._channels)
        except ImageError as error:  # the import has decoded it: since then it has changed
            raise ChunkError(
                f"item {item} (key {self._key_of(item)!r}) cannot be decoded: {error}. "
                "Restore the pool from a copy, or import the data again",
                item,
                item + 1,
            ) from error

    def _damage(self, error: ChunkError) -> ChunkError:
        offsets = np.empty(self._offsets.layout.n, np.int64)
        self._offsets.read(0, offsets)
        first, stop = items_of_bytes(offsets, error.start, error.stop)
        return ChunkError(f"items {first}..{stop - 1} cannot be read: {error}", first, stop, error.why)


def items_of_bytes(offsets: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """The items first..last-1 to which bytes start..stop-1 of the blob belong."""
    return int(np.searchsorted(offsets, start, "right")) - 1, int(np.searchsorted(offsets, stop, "left"))


def blob_until(blob: ChunkLayout, offsets: ChunkLayout, n: int) -> list[ChunkLayout]:
    """The layouts cut to what the first ``n`` items use."""
    edge = np.empty(1, np.int64)
    with ChunkReader(offsets) as reader:
        reader.read(n, edge)
    return [replace(blob, n=int(edge[0])), replace(offsets, n=n + 1)]
