"""What is computed of a few items that lie anywhere in a pool: by whole chunks, each decoded once and read ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...store.read_ahead import read_ahead

if TYPE_CHECKING:
    from ...pool import Pool

Ints = npt.NDArray[np.int64]


def gathered(pool: Pool, ids: Ints, step: int, compute: Callable[[Any, Ints], Any]) -> npt.NDArray[np.floating]:
    """Compute something of items, and return it in the order of ``ids``.

    Args:
        pool: has the items.
        ids: (n,) int64, n >= 1, in any order.
        step: items of a call, about: all of a chunk are in one, so that no chunk is decoded twice.
        compute: (items, ids ascending) -> (items, ...), rows in their order.
    """
    order, done = np.argsort(ids, kind="stable"), 0
    rows: npt.NDArray[np.floating] | None = None
    parts = (part for part in _parts(ids[order], _chunk_of(pool), step))
    for part, items in read_ahead(((part, pool.take(part)) for part in parts), 1):
        computed = compute(items, part)
        if rows is None:  # embeddings of a million items are in memory once
            rows = np.empty((len(ids), *computed.shape[1:]), computed.dtype)
        rows[order[done : done + len(part)]] = computed
        done += len(part)
    assert rows is not None
    return rows


def _chunk_of(pool: Pool) -> int:
    """Items of a chunk; 1 where each is encoded by itself."""
    return pool.storage.rows.chunk if pool.storage.offsets is None else 1


def _parts(ids: Ints, chunk: int, step: int) -> Iterator[Ints]:
    """Cut ascending ids between chunks, as soon as a part has ``step`` of them.

    >>> [part.tolist() for part in _parts(np.array([0, 1, 5, 11, 12, 13]), chunk=10, step=2)]
    [[0, 1, 5], [11, 12, 13]]
    """
    stops = np.append(np.flatnonzero(np.diff(ids // chunk)) + 1, len(ids))  # where the chunks of the ids end
    start = 0
    while start < len(ids):
        stop = int(stops[min(int(np.searchsorted(stops, start + step)), len(stops) - 1)])
        yield ids[start:stop]
        start = stop
