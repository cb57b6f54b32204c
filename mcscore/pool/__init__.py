"""Unlabeled items on disk (Zarr v3), read in blocks, and their labels. Knows nothing of models."""

from __future__ import annotations

from ..errors import ChunkError, PoolError
from .batch import Batch
from .facts import set_facts
from .label_columns import with_label_column
from .pool import Pool
from .tables import Labeled, items_from, label_from

__all__ = [
    "Batch",
    "ChunkError",
    "Labeled",
    "Pool",
    "PoolError",
    "items_from",
    "label_from",
    "set_facts",
    "with_label_column",
]
