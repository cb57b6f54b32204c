"""The pool: unlabelled items on disk (Zarr v3), read in blocks; importers that make one. Knows nothing of models."""

from __future__ import annotations

from .append import append_array, append_blocks, append_images
from .format import ChunkError, PoolError
from .import_images import import_images
from .importers import FORMATS, import_array
from .labels import items_from, label_from
from .pool import Batch, Pool

__all__ = [
    "FORMATS",
    "Batch",
    "ChunkError",
    "Pool",
    "PoolError",
    "append_array",
    "append_blocks",
    "append_images",
    "import_array",
    "import_images",
    "items_from",
    "label_from",
]
