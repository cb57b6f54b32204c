"""Reading every chunk of a pool, to find what is damaged before a run does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import ChunkError
from ..store.chunks import ChunkLayout, ChunkReader
from ..store.encoded import items_of_bytes
from .pool import Pool


@dataclass(frozen=True)
class Damage:
    """Chunk ``chunk`` of an array cannot be read: the rows start..stop-1 of items start_item..stop_item-1, for what reason."""

    array: str
    chunk: int
    file: str
    start_item: int
    stop_item: int
    why: str


def verify(pool: Pool, progress: Callable[[int, int], None] | None = None) -> Iterator[Damage]:
    """What is damaged of all arrays, chunk by chunk: missing, torn, of another crc32c. Reads everything, keeps nothing.

    progress: called as progress(chunks done, chunks in all).
    """
    layouts = pool.arrays()
    total, done = sum(layout.chunks for layout, _ in layouts), 0
    offsets_broken = False
    for layout, first_item in layouts:
        buffer = np.empty((layout.chunk, *layout.item_shape), layout.array.dtype)
        with ChunkReader(layout) as reader:
            for number in range(layout.chunks):
                try:
                    reader.decode(number, buffer)
                except ChunkError as error:
                    offsets_broken |= layout.folder.name == "offsets"
                    yield _damage(pool, layout, first_item, number, error, offsets_broken)
                done += 1
                if progress:
                    progress(done, total)


def _damage(
    pool: Pool, layout: ChunkLayout, first_item: int, number: int, error: ChunkError, offsets_broken: bool
) -> Damage:
    start, stop = first_item + error.start, first_item + error.stop
    if layout.folder.name == "blob":
        start, stop = (0, pool.n) if offsets_broken else items_of_bytes(pool.offsets(), start, stop)
    elif layout.folder.name == "offsets":
        start, stop = max(start - 1, 0), min(stop, pool.n)
    file = layout.file(number * layout.chunk // (layout.shard or layout.chunk))
    return Damage(layout.folder.name, number, str(file), start, stop, error.why)
