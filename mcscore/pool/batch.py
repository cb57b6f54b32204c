"""Batch: consecutive items of a pool as they are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ChunkError


@dataclass(frozen=True)
class Batch:
    """Consecutive items of a pool.

    Attributes:
        ids: (n,) int64.
        items: (n, *item_shape) in the pool's dtype.
        bad: where bad chunks are skipped, the errors of what could not be read, each with its range (start, stop) inside
            the batch; the items there are 0.
    """

    ids: np.ndarray
    items: np.ndarray
    bad: tuple[ChunkError, ...] = ()
