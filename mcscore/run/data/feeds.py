"""What may be scored without a pool, as one thing: a ``Feed`` of items with their ids, in order and in parts of any size.

array-like (shape, dtype, slices)      parts by slices: NumPy, memmap, tensor, Zarr, h5py
path                                   a file that ``import_array`` reads, part by part
DataLoader                             its batches
map-style (len and [])                 one sample for each index: torch Dataset, HF Dataset, list
IterableDataset of torch or HF         samples, one after another
any other iterable                     batches
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from ...errors import PoolError, SampleError
from ...ingest.arrays import read_source
from ...ingest.samples import LABEL_NAMES, Name, array_of, parts

Ids = npt.NDArray[np.int64]
Items = npt.NDArray[Any]
Part = tuple[Ids, Items]

SAMPLES = 64  # of a dataset that are asked for at a time
FULL = 4096  # items in a part at most
PART_BYTES = 16 << 20  # of items that are put together, or read of an array


@dataclass(frozen=True)
class Feed:
    """Data to score.

    Attributes:
        n: the number of items; None: it is known at the end.
        parts: begins to read: (ids, items) in order, at least one item each.
        once: why it cannot be read again; empty: it can.
    """

    n: int | None
    parts: Callable[[], Iterator[Part]]
    once: str = ""


@dataclass(frozen=True)
class Fields:
    """Where item and id stand in a sample or a batch; None: the item is found, the id is the position."""

    item: Name | None
    ids: Name | None

    def item_of(self, sample: Any, where: str) -> Items:
        """The item of a sample, or the items of a batch."""
        label = None
        if isinstance(sample, Mapping):
            sample = {name: value for name, value in sample.items() if self.ids is None or name != self.ids}
            label = next((name for name in LABEL_NAMES if name in sample), None)
        try:
            return array_of(parts(sample, self.item, None if label == self.item else label).item)
        except SampleError as error:
            raise SampleError(f"{where}: {error}") from error

    def ids_of(self, sample: Any, where: str) -> Ids:
        """The id of a sample, or the ids of a batch, (n,)."""
        try:
            given = np.atleast_1d(np.asarray(sample[self.ids]))
        except (KeyError, IndexError, TypeError) as error:
            raise SampleError(f"{where} has no {self.ids!r}, which ids= names") from error
        if given.dtype.kind not in "iu" or given.ndim != 1 or (given < 0).any():
            raise SampleError(
                f"{where}: ids={self.ids!r} names {given.dtype} {given.shape}, not whole numbers from 0 on"
            )
        return given.astype(np.int64)


def feed_of(data: Any, fields: Fields) -> Feed:
    """Say what ``data`` is, and how it is read.

    Raises:
        SampleError: it is nothing that can be scored, or a loader that draws items in random order or leaves some out.
    """
    if isinstance(data, (str, os.PathLike)):
        return _file(Path(data))
    if isinstance(data, DataLoader):
        return _loader(data, fields)
    if isinstance(data, Mapping):
        raise SampleError(f"data is a {type(data).__name__} of {', '.join(map(repr, data))}: give one of these")
    if hasattr(data, "iloc"):
        raise SampleError(f"data is a {type(data).__name__} of pandas: give its numbers, data.to_numpy()")
    if hasattr(data, "shape") and hasattr(data, "dtype") and hasattr(data, "__getitem__"):
        return _array(data)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return Feed(len(data), lambda: _stacked(_by_index(data), fields))
    if isinstance(data, IterableDataset) or _is_streamed_by_hf(data):
        return Feed(None, lambda: _stacked(data, fields), _ONCE)
    if isinstance(data, Iterable):
        return Feed(None, lambda: _batches(data, fields), _ONCE)
    raise SampleError(f"data is of type {type(data).__name__}; give a dataset, a loader, an array, a path or batches")


_ONCE = "an iterable is read once, and a run that is resumed reads its items again by their ids"


def _array(data: Any) -> Feed:
    if not data.shape or (isinstance(data, np.ndarray) and data.dtype == object):
        raise SampleError(f"data is an array of {data.dtype} of shape {tuple(data.shape)}; (N, ...) numbers are needed")
    n = int(data.shape[0])

    def read() -> Iterator[Part]:
        item_bytes = max(1, int(np.prod(data.shape[1:])) * data.dtype.itemsize)
        step = max(1, PART_BYTES // item_bytes)
        for lo in range(0, n, step):
            yield np.arange(lo, min(lo + step, n)), _writable(array_of(data[lo : lo + step]))

    return Feed(n, read)


def _file(path: Path) -> Feed:
    try:
        _, n, _, _ = read_source(path, None, key=None, labels_key=None, layout=None)
    except PoolError as error:
        raise SampleError(
            f"{error}. A pool, or one array in a file, can be scored; of pictures make a pool: mcscore.ingest.import_images"
        ) from error

    def read() -> Iterator[Part]:
        first = 0
        for block in read_source(path, None, key=None, labels_key=None, layout=None)[0]:
            yield np.arange(first, first + len(block)), _writable(block)
            first += len(block)

    return Feed(n, read)


def _loader(loader: DataLoader[Any], fields: Fields) -> Feed:
    streamed = isinstance(loader.dataset, IterableDataset)
    once = "a DataLoader cannot be read by ids: give its dataset"
    if streamed:
        return Feed(None, lambda: _batches(loader, fields), once)
    sampler = loader.sampler if loader.batch_sampler is None else getattr(loader.batch_sampler, "sampler", None)
    known = loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler
    if fields.ids is None and not (known and type(sampler) is SequentialSampler):
        raise SampleError(
            f"the DataLoader draws its items by {type(sampler if known else loader.batch_sampler).__name__}, so their positions are no "
            "ids: give shuffle=False, or say where in a sample its number stands, ids="
        )
    n = len(loader.dataset)  # type: ignore[arg-type]
    if loader.batch_size is not None and loader.drop_last and n % loader.batch_size:
        raise SampleError(
            f"the DataLoader leaves out {n % loader.batch_size} of {n} items: give drop_last=False, or the dataset itself"
        )
    if loader.batch_sampler is None:
        return Feed(n, lambda: _stacked(loader, fields), once)
    return Feed(n if known and type(sampler) is SequentialSampler else None, lambda: _batches(loader, fields), once)


def _is_streamed_by_hf(data: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "datasets" for kind in type(data).__mro__)


def _by_index(data: Any) -> Iterator[Any]:
    """The samples of a map-style dataset; of one that gives many at once, many."""
    many = getattr(data, "__getitems__", None)
    for lo in range(0, len(data), SAMPLES):
        at = range(lo, min(lo + SAMPLES, len(data)))
        yield from many(list(at)) if callable(many) else (data[index] for index in at)


def _stacked(samples: Iterable[Any], fields: Fields) -> Iterator[Part]:
    """Put samples together."""
    items: list[Items] = []
    ids: list[Ids] = []
    like: Items | None = None
    for index, sample in enumerate(samples):
        where = f"sample {index}"
        item = fields.item_of(sample, where)
        like = item if like is None else like
        if (item.shape, item.dtype) != (like.shape, like.dtype):
            raise SampleError(
                f"{where} has an item of {item.dtype} {item.shape}, and those before it have {like.dtype} {like.shape}: give all "
                "one shape, in the dataset's transform"
            )
        items.append(item)
        ids.append(np.array([index]) if fields.ids is None else fields.ids_of(sample, where))
        if len(items) * max(1, item.nbytes) >= PART_BYTES or len(items) == FULL:
            yield np.concatenate(ids), np.stack(items)
            items, ids = [], []
    if items:
        yield np.concatenate(ids), np.stack(items)


def _batches(batches: Iterable[Any], fields: Fields) -> Iterator[Part]:
    first = 0
    for index, batch in enumerate(batches):
        where = f"batch {index}"
        items = fields.item_of(batch, where)
        if items.ndim == 0:
            raise SampleError(f"{where} is a single number; (B, ...) items are needed")
        ids = np.arange(first, first + len(items)) if fields.ids is None else fields.ids_of(batch, where)
        if len(ids) != len(items):
            raise SampleError(f"{where} has {len(items)} items and {len(ids)} ids in {fields.ids!r}")
        first += len(items)
        if len(items):
            yield ids, items


def regrouped(given: Iterable[Part], size: int) -> Iterator[Part]:
    """The same items in parts of ``size``; the last one may be smaller.

    >>> [len(ids) for ids, _ in regrouped([(np.arange(5), np.zeros((5, 2))), (np.arange(5, 7), np.zeros((2, 2)))], 3)]
    [3, 3, 1]

    Raises:
        SampleError: parts have items of different shape or dtype.
    """
    kept: list[Part] = []
    held = 0
    for ids, items in given:
        if kept and (items.shape[1:], items.dtype) != (kept[0][1].shape[1:], kept[0][1].dtype):
            raise SampleError(
                f"items from position {int(ids[0])} on are {items.dtype} {tuple(items.shape[1:])}, and those before are "
                f"{kept[0][1].dtype} {tuple(kept[0][1].shape[1:])}: give all one shape and type"
            )
        kept.append((ids, items))
        held += len(ids)
        if held < size:
            continue
        ids, items = _join(kept)
        whole = held // size * size
        for lo in range(0, whole, size):
            yield ids[lo : lo + size], items[lo : lo + size]
        kept, held = [(ids[whole:], items[whole:])] if whole < held else [], held - whole
    if held:
        yield _join(kept)


def _join(given: list[Part]) -> Part:
    if len(given) == 1:
        return given[0]
    return np.concatenate([ids for ids, _ in given]), np.concatenate([items for _, items in given])


def _writable(items: Items) -> Items:
    """The items, copied where they may not be written to: PyTorch warns of such an array."""
    return np.require(items, requirements="W")
