"""A column of a pool at some items, read again only where its files changed."""

from __future__ import annotations

import os
import threading

import numpy as np
import numpy.typing as npt

from ..store.columns import Column
from ..store.files import local
from ..store.layout import ChunkLayout


class Watched:
    """The values of a column at ids, as they are now.

    The page asks for them every second or so. 1,000 items of 10^8 lie in a hundred chunks of 4 MiB, of which a label changes one: only
    that one is read. A column is changed by replacing files, so a chunk is as it was while its file has the same mark.
    """

    def __init__(self, layout: ChunkLayout, ids: npt.NDArray[np.int64]) -> None:
        self._layout, self._ids = layout, ids
        self._values = np.empty(len(ids), layout.dtype)
        chunks = ids // layout.chunk
        self._at = {int(number): np.flatnonzero(chunks == number) for number in np.unique(chunks)}
        self._marks: dict[int, tuple[int, int, int]] = {}
        self._turn = threading.Lock()

    def now(self) -> npt.NDArray[np.generic]:
        """Return (n,) values in the order of the ids; a copy.

        Raises:
            ChunkError: a chunk cannot be read.
        """
        with self._turn:
            for number, at in self._at.items():
                mark = self._mark(number)  # before the values: a change in between is then read next time
                if mark is None or self._marks.get(number) != mark:
                    self._values[at] = Column(self._layout).at(self._ids[at])
                    if mark is not None:
                        self._marks[number] = mark
            return self._values.copy()

    def _mark(self, number: int) -> tuple[int, int, int] | None:
        try:
            status = os.stat(local(self._layout.file_of_chunk(number), "label its items"))
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
