"""A pool of any size that lies nowhere: items, labels and flags are made from the id when they are read.

Everything but the bytes is the real thing: Pool, its reader, its columns. Items are 8 bytes, uint8 (8,).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcscore import Pool, Scorer
from mcscore.cli.model import grouped
from mcscore.pool.schema import Attributes
from mcscore.pool.storage import Storage
from mcscore.store.layout import ChunkLayout

CHUNK = 1 << 16
LABELED, EXCLUDED = 1000, 997  # every so many-th item is


class MadeUp:
    """As much of a zarr array as the reader uses."""

    def __init__(self, n: int, item: tuple[int, ...], dtype: str, make: Callable[[np.ndarray], np.ndarray]) -> None:
        self.shape, self.dtype, self._make = (n, *item), np.dtype(dtype), make
        self.metadata = SimpleNamespace(to_dict=lambda: {"codecs": [{"name": "bytes"}]})

    def __getitem__(self, part: slice) -> np.ndarray:
        return self._make(np.arange(part.start, part.stop, dtype=np.uint64))


def items_of(ids: np.ndarray) -> np.ndarray:
    """splitmix64 of the id, as 8 bytes."""
    x = (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).view(np.uint8).reshape(-1, 8)


def labels_of(ids: np.ndarray) -> np.ndarray:
    return np.where(ids % np.uint64(LABELED) == 0, 0, -1).astype(np.int32)


def excluded_of(ids: np.ndarray) -> np.ndarray:
    return ids % np.uint64(EXCLUDED) == 0


class MadeUpPool(Pool):
    """A pool without files: nothing of it can be exchanged while it is scored."""

    def marks(self) -> object:
        return None

    def reopened(self) -> Pool:
        return self


def made_up_pool(folder: Path, n: int) -> Pool:
    """A pool of n items; ``folder`` must exist and holds one empty file, which the reader looks for."""
    (folder / "made-up").touch()

    def layout(item: tuple[int, ...], dtype: str, make: Callable[[np.ndarray], np.ndarray]) -> ChunkLayout:
        return ChunkLayout(folder, MadeUp(n, item, dtype, make), n, CHUNK, None, "made-up", None)

    labels, excluded = {"label": layout((), "i4", labels_of)}, layout((), "bool", excluded_of)
    rows = layout((8,), "u1", items_of)
    return MadeUpPool(Storage(folder, Attributes(item_shape=(8,)), rows, None, labels, excluded, keys={}, appends=None))


def tiny_scorer(**how: Any) -> Scorer:
    """10 passes of a model that ends in dropout and Linear."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.drop, self.out = nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.drop(self.hidden(x).relu()))

    torch.manual_seed(0)
    return Scorer(Net(), passes=10, **grouped(**how))
