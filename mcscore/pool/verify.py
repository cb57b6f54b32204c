"""Reading every chunk of a pool, to find damage before a run does."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ChunkError
from ..store.chunks import ChunkReader
from ..store.encoded import rows_of_bytes
from ..store.layout import ChunkLayout
from ..store.parallel import in_order
from .pool import Pool

_REQUESTS = 32  # to a server at a time: each brings a chunk
_MEMORY = 256 << 20  # bytes of chunks at a time, or one chunk


@dataclass(frozen=True)
class DamagedChunk:
    """A chunk of an array that cannot be read.

    Attributes:
        array: the name of the array.
        chunk: the number of the chunk in it.
        file: the file that holds the chunk.
        start_item: the first item concerned.
        stop_item: the item after the last one concerned.
        why: the reason.
    """

    array: str
    chunk: int
    file: str
    start_item: int
    stop_item: int
    why: str


def verify(pool: Pool, progress: Callable[[int, int], None] | None = None) -> Iterator[DamagedChunk]:
    """Yield the chunks of all arrays that are missing, torn or changed. Reads everything, keeps nothing.

    Args:
        pool: the pool.
        progress: called as progress(chunks done, chunks in all).

    >>> import tempfile
    >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.zeros((5, 2), np.uint8))
    >>> list(verify(pool))
    []
    """
    layouts = pool.arrays()
    total, done = sum(layout.chunks for layout, _ in layouts), 0
    offsets_broken = False
    for layout, first_item in layouts:
        for number, error in enumerate(_read(layout)):
            if error is not None:
                offsets_broken |= layout.folder.name == "offsets"
                yield _damage(pool, layout, first_item, number, error, offsets_broken)
            done += 1
            if progress:
                progress(done, total)


def _read(layout: ChunkLayout) -> Iterator[ChunkError | None]:
    """Read all chunks of an array; yields what is wrong with each, in order.

    At a URL several at a time, each in memory of its own. Not on a local disk: there one chunk takes less than handing it to a
    thread (uncompressed), lz4 uses all cores by itself, and nothing was gained with zstd.
    """
    own = threading.local()

    def read(number: int) -> ChunkError | None:
        if not hasattr(own, "reader"):
            own.reader = readers.enter_context(ChunkReader(layout))
            own.chunk = np.empty((layout.chunk, *layout.row_shape), layout.dtype)
        try:
            own.reader.decode(number, own.chunk)
        except ChunkError as error:
            return error
        return None

    chunk_bytes = layout.chunk * math.prod(layout.row_shape) * layout.dtype.itemsize
    threads = 1 if isinstance(layout.folder, Path) else max(1, min(_REQUESTS, _MEMORY // chunk_bytes))
    with contextlib.ExitStack() as readers:
        yield from in_order(read, range(layout.chunks), threads)


def _damage(
    pool: Pool, layout: ChunkLayout, first_item: int, number: int, error: ChunkError, offsets_broken: bool
) -> DamagedChunk:
    start, stop = first_item + error.start, first_item + error.stop
    if layout.folder.name == "appends":  # no item by itself; what the pool was before cannot be told
        start, stop = 0, pool.n
    elif layout is pool.storage.rows and pool.storage.offsets:
        start, stop = (0, pool.n) if offsets_broken else rows_of_bytes(pool.offsets(), start, stop)
    elif layout.folder.name == "offsets":
        start, stop = max(start - 1, 0), min(stop, pool.n)
    file = layout.file_of_chunk(number)
    return DamagedChunk(layout.folder.name, number, str(file), start, stop, error.why)
