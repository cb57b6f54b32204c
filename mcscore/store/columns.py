"""One value per item, read as far as it is asked for."""

from __future__ import annotations

import numpy as np

from .chunks import ChunkLayout, ChunkReader


class Column:
    """Labels, flags or keys as they were when first read: ``column[start:stop]`` reads the chunks concerned only.

    The chunk read last is kept, so a walk from start to end reads each once and holds one. Not for two threads at a time.

    Raises:
        PoolError: from a slice whose chunk cannot be read.
    """

    def __init__(self, layout: ChunkLayout) -> None:
        self._layout = layout
        self._reader = ChunkReader(layout)

    def __len__(self) -> int:
        return self._layout.n

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self._layout.n)
        out = np.empty((max(0, stop - start), *self._layout.item_shape), self._layout.array.dtype)
        self._reader.read(start, out)
        return out

    def at(self, ids: np.ndarray) -> np.ndarray:
        """The values of any ids, in their order."""
        out = np.empty((len(ids), *self._layout.item_shape), self._layout.array.dtype)
        self._reader.gather(ids, out)
        return out
