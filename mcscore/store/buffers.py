"""Memory for blocks of rows, used again and again.

Filling a fresh buffer costs a page fault per 4 KiB: 9.5 GB/s out of the page cache, where a used one takes 13.7 GB/s.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np

KEPT = 4  # of a walk that reads 2 blocks ahead: those, one being filled and one in use

Allocate = Callable[[int], np.ndarray]


class Buffers:
    """Lends arrays; the memory comes back when the last array or tensor that refers to it is gone, and never earlier.

    So a consumer may keep an array: then the next loan is fresh memory.

    Args:
        allocate: bytes -> a uint8 array, for memory of a special kind (page-locked).

    >>> buffers = Buffers()
    >>> block = buffers.lend((2, 3), np.dtype(np.float32))
    >>> block.shape, block.dtype
    ((2, 3), dtype('float32'))
    """

    def __init__(self, allocate: Allocate | None = None) -> None:
        self._allocate = allocate or (lambda size: np.empty(size, np.uint8))
        self._idle: deque[np.ndarray] = deque(maxlen=KEPT)

    def lend(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array with arbitrary content."""
        size = int(np.prod(shape)) * dtype.itemsize
        memory = self._idle.popleft() if self._idle else None
        if memory is None or len(memory) < size:
            memory = self._allocate(max(size, 1))
        # Views of an array refer to the owner of the memory and not to the array they were made from. So each loan gets
        # an owner of its own, which ends when the last view of the loan does.
        owner = (ctypes.c_char * len(memory)).from_buffer(memory)  # type: ignore[arg-type]
        weakref.finalize(owner, self._idle.append, memory).atexit = False
        return np.frombuffer(memoryview(owner), np.uint8, count=size).view(dtype).reshape(shape)
