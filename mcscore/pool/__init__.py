"""The pool: unlabelled items on disk (Zarr v3), read in blocks; importers that make one. Knows nothing of models."""

from __future__ import annotations

from .format import ChunkError, PoolError
from .import_images import import_images
from .importers import FORMATS, import_array
from .pool import Batch, Pool

__all__ = ["FORMATS", "Batch", "ChunkError", "Pool", "PoolError", "import_array", "import_images"]
