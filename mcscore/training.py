"""The labeled items of a pool as a dataset of PyTorch, as the Scorer sees them: what a model is trained on is what it scores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .errors import PoolError
from .labels import has_label
from .pool import Pool
from .pool.kinds import MAIN
from .scorer.inputs import ModelInputs

_HELD_BYTES = 256 << 20  # items that a process keeps in memory


class PoolDataset(Dataset[tuple[Any, Tensor]]):
    """Items of a pool and their labels, (item, label) each; what ``Pool.as_dataset`` makes.

    Labels are those of when it was made. Each process that reads it, as the workers of a DataLoader do, opens the pool for itself. Items of
    up to 256 MiB are read once and kept; of more, those of a batch are read together, each chunk once.

    Args:
        pool: the pool.
        ids: the items; None: those that are labeled and not excluded.
        transform: one item as it is stored, a tensor (without a dimension for the batch) -> the input; None: as the Scorer does,
            uint8 / 255, then normalized by the pool's mean and std; floats as float32.
        name: the column of labels.

    Attributes:
        ids: (n,) int64.
        labels: (n,) int64, or float32 where labels are numbers.

    Raises:
        PoolError: ids outside the pool, or without a label; no such column.
    """

    def __init__(
        self, pool: Pool, ids: Any = None, transform: Callable[[Tensor], Any] | None = None, name: str = MAIN
    ) -> None:
        labels = pool.labels_of(name)
        self.ids = np.flatnonzero(has_label(labels) & ~pool.excluded) if ids is None else _checked(pool, ids)
        labels = labels[self.ids]
        without = self.ids[~has_label(labels)]
        if len(without):
            some = ", ".join(map(str, without[:5].tolist()))
            raise PoolError(
                f"{len(without)} of the items have no label {name!r}: {some}. ids=None takes those that have one; pool.take(ids) reads "
                "items alone"
            )
        self.labels = torch.from_numpy(labels if labels.dtype == np.float32 else labels.astype(np.int64))
        self.transform = transform
        self._path = os.path.abspath(pool.path) if isinstance(pool.path, os.PathLike) else str(pool.path)
        self._items_bytes = len(self.ids) * pool.dtype.itemsize * int(np.prod(pool.item_shape))
        mean_std = None if pool.mean is None or pool.std is None else (pool.mean, pool.std)
        self._inputs = ModelInputs(torch.device("cpu"), torch.float32, mean_std=mean_std)
        self._opened: tuple[int, Pool, Tensor | None] | None = None  # process, its pool, and the items if they are kept

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a dataset of {len(self)}")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Tensor]]:
        """Return several samples, read together; a DataLoader asks so for those of a batch."""
        at = np.asarray(indices, np.int64) % max(1, len(self))
        pool, held = self._open()
        items = torch.from_numpy(pool.take(self.ids[at])) if held is None else held[torch.from_numpy(at)]
        inputs = self._inputs(items) if self.transform is None else [self.transform(item) for item in items]
        return list(zip(inputs, self.labels[torch.from_numpy(at)], strict=True))

    def _open(self) -> tuple[Pool, Tensor | None]:
        if self._opened is None or self._opened[0] != os.getpid():
            pool = Pool.open(self._path)
            held = torch.from_numpy(pool.take(self.ids)) if self._items_bytes <= _HELD_BYTES else None
            self._opened = os.getpid(), pool, held
        return self._opened[1:]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def _checked(pool: Pool, ids: Any) -> np.ndarray:
    given = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if given.dtype == bool:
        raise PoolError("ids are flags: give numbers of items, np.flatnonzero(flags)")
    return pool.checked_ids(given)
