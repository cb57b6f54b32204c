"""What is computed of a few items that lie anywhere in a pool: by whole chunks, each decoded once and read ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...store.read_ahead import read_ahead

if TYPE_CHECKING:
    from ...pool import Pool

Ints = npt.NDArray[np.int64]


Rows = npt.NDArray[np.floating]


def gathered(pool: Pool, ids: Ints, step: int, compute: Callable[[Any, Ints], Any]) -> Rows:
    """Compute something of items, and return it in the order of ``ids``.

    Args:
        pool: has the items.
        ids: (n,) int64, n >= 1, in any order.
        step: items of a call, about: all of a chunk are in one, so that no chunk is decoded twice.
        compute: (items, ids ascending) -> (items, ...), rows in their order.
    """

    def of_each(parts: Iterable[Ints]) -> Iterator[tuple[int, Rows]]:
        for number, (part, items) in enumerate(read_ahead(((part, pool.take(part)) for part in parts), 1)):
            yield number, compute(items, part)

    return gathered_by(pool, ids, step, of_each)


def gathered_by(
    pool: Pool, ids: Ints, step: int, of_each: Callable[[Iterable[Ints]], Iterator[tuple[int, Rows]]]
) -> Rows:
    """Return in the order of ``ids`` what is computed of parts of them; arguments as of ``gathered``.

    of_each: parts, ascending ids each -> (number of a part, its rows), in any order.
    """
    order = np.argsort(ids, kind="stable")
    parts = list(_parts(ids[order], _chunk_of(pool), step))
    stops = np.cumsum([len(part) for part in parts])
    rows: Rows | None = None
    for number, computed in of_each(parts):
        if rows is None:  # embeddings of a million items are in memory once
            rows = np.empty((len(ids), *computed.shape[1:]), computed.dtype)
        rows[order[stops[number] - len(parts[number]) : stops[number]]] = computed
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
