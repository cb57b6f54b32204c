"""One value per row, read as far as it is asked for."""

from __future__ import annotations

import numpy as np

from .chunks import ChunkReader
from .layout import ChunkLayout


class Column:
    """A column on disk as it was when first read: ``column[start:stop]`` reads only the chunks it needs.

    The chunk read last is kept, so a walk from start to end reads each chunk once and holds one. Not for two threads at
    a time. A slice whose chunk cannot be read raises ChunkError.
    """

    def __init__(self, layout: ChunkLayout) -> None:
        self._layout = layout
        self._reader = ChunkReader(layout)

    def __len__(self) -> int:
        return self._layout.n

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self._layout.n)
        out = self._empty(max(0, stop - start))
        self._reader.read(start, out)
        return out

    def at(self, ids: np.ndarray) -> np.ndarray:
        """Return the values of any rows, in the order of ``ids``."""
        out = self._empty(len(ids))
        self._reader.gather(ids, out)
        return out

    def _empty(self, count: int) -> np.ndarray:
        return np.empty((count, *self._layout.row_shape), self._layout.dtype)
