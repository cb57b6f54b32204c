"""A sample of a pool for the checks of model and input: items that lie all over it, and items that have labels."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..spans import ranges_of
from .prefetch import readable

if TYPE_CHECKING:
    from ...pool import Pool
    from ...scorer.checks import Sample

_SPREAD, _LABELED = 64, 128  # items
_RUNS = 8  # of consecutive items, each of which is in one chunk or two
_STRIDE, _STRIDES = 1 << 16, 64  # labels read at a time, and how often at most
Ids = npt.NDArray[np.int64]


def sample_of(pool: Pool) -> Sample:
    """Read a sample. Items that cannot be read, or are excluded, are left out."""
    from ...scorer.checks import Sample  # imports torch

    classes = pool.label_columns["label"].kind == "class"  # there is no check of labels that are numbers
    ids, labels = _labeled(pool) if classes else (np.empty(0, np.int64), np.empty(0, np.int64))
    spread = _in_runs(np.arange(pool.n), _SPREAD) if pool.n < _STRIDE else _starts(pool.n, _SPREAD)
    more = ~np.isin(ids, spread)
    ids, labels = ids[more], labels[more]
    items_S, kept_S = _read(pool, spread)
    items_L, kept_L = _read(pool, ids)
    return Sample(
        np.concatenate([items_S, items_L]),
        np.concatenate(
            [_labels_at(pool, spread[kept_S]) if classes else np.full(len(items_S), -1), labels[kept_L]]
        ).astype(np.int64),
        len(items_S),
        pool.classes,
    )


def _labeled(pool: Pool) -> tuple[Ids, Ids]:
    """Ids of labeled items, in runs all over them, and their labels."""
    column = pool.column("labels")
    starts = range(0, pool.n, _STRIDE)
    if len(starts) > _STRIDES:
        starts = range(0, pool.n, pool.n // _STRIDES)
    found, labels = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in starts:
        part = column[start : min(start + _STRIDE, pool.n)]
        at = _in_runs(np.flatnonzero(part >= 0), _LABELED)
        found.append(start + at)
        labels.append(part[at].astype(np.int64))
    every = np.concatenate(found)
    chosen = _in_runs(np.arange(len(every)), _LABELED)
    return every[chosen], np.concatenate(labels)[chosen]


def _in_runs(given: Ids, n: int) -> Ids:
    """N of the values, in runs of consecutive ones; all of them if there are no more."""
    if len(given) <= n:
        return given
    return given[_starts(len(given), n)]


def _starts(total: int, n: int) -> Ids:
    starts = np.linspace(0, total - n // _RUNS, _RUNS).astype(np.int64)
    return np.unique((starts[:, None] + np.arange(n // _RUNS)).ravel())


def _read(pool: Pool, ids: Ids) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """The items that can be read and are not excluded, and which of ``ids`` these are."""
    excluded, ranges = pool.column("excluded"), ranges_of(ids)
    items, kept = [np.empty((0, *pool.item_shape), pool.dtype)], [np.empty(0, bool)]
    if not ranges:
        return items[0], kept[0]
    with contextlib.closing(pool.blocks(ranges, 0, "skip")) as blocks:
        for (start, stop), batch in zip(ranges, blocks, strict=True):
            keep = readable(batch, ~excluded[start:stop])
            items.append(batch.items[keep])
            kept.append(keep)
    return np.concatenate(items), np.concatenate(kept)


def _labels_at(pool: Pool, ids: Ids) -> Ids:
    column = pool.column("labels")
    parts = [column[start:stop].astype(np.int64) for start, stop in ranges_of(ids)]
    return np.concatenate([np.empty(0, np.int64), *parts])
