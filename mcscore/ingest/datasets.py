"""Datasets as people have them (torch, Hugging Face, lists, generators) become pools, sample by sample.

The pool is filled in a stage beside it, one file of items at a time. A dataset that is read by index resumes behind the last full file:
``done.json`` says how many items are durable, and ``labels-<n>.npy`` has the labels of those before n that no earlier file has.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..errors import Error, PoolError, SampleError, first_line
from ..paths import exists, local_path
from ..pool.create import checked_blocks, finish_pool, planned_layout
from ..pool.keys import encoded_keys
from ..pool.kinds import LabelColumn
from ..pool.pool import Pool
from ..pool.schema import Attributes, checked_attributes, plan_grid
from ..progress import Progress, Shown, shown
from ..store.files import is_there
from ..store.writer import ArrayWriter
from .images import refuse_existing
from .labels_of_samples import LabelOf
from .samples import Name, array_of, parts
from .staging import check_same, read_fields, stage_of, staged, write_fields


@dataclass(frozen=True)
class Done:
    """The schema of done.json: how many items are durable, and their hash."""

    n: int
    content: str


def import_dataset(
    dataset: Any,
    path: str | os.PathLike[str],
    *,
    labels: bool = False,
    item: Name | None = None,
    label: Name | None = None,
    label_kind: str = "class",
    classes: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    mean: Any = None,
    std: Any = None,
    source: str | None = None,
    compression: str = "none",
    progress: Shown = None,
) -> Pool:
    """Do the work of Pool.from_dataset, which documents it."""
    where = local_path(path, "a pool", PoolError)
    samples = _Samples(dataset, item, label, LabelOf(label_kind, classes) if labels or label is not None else None)
    encoded = None if keys is None else encoded_keys(keys, samples.n)
    stage = stage_of(where, "dataset")
    atomic.discard_leftovers(stage)
    if not exists(stage):
        refuse_existing(where)
    like = samples.first()
    settings: dict[str, Any] = {"source": "iterated over"}
    facts = checked_attributes(
        like.shape, mean, std, classes, source or samples.name, dtype=like.dtype, label_kind=label_kind
    )
    if samples.n is not None:
        digest = hashlib.sha256(np.ascontiguousarray(like).data).hexdigest()
        settings = {
            "source": f"{samples.name} {samples.n} {like.dtype} {like.shape} {digest}",
            "labels": labels or label is not None,
            "item": item,
            "label": label,
            "label_kind": label_kind,
            "classes": None if classes is None else list(classes),
            "compression": compression,
        }
    if exists(where) and exists(stage):  # killed between the last two steps
        check_same(stage, settings)
        atomic.discard_directory(stage)
        return Pool.open(where)
    try:
        with staged(stage, settings), shown(progress) as tell:
            refuse_existing(where)
            _fill(samples, stage, facts, like, compression, encoded, tell)
            atomic.sync(stage / "pool")
            atomic.move(stage / "pool", where)
            atomic.discard_directory(stage)
    except OSError as error:
        again = "" if samples.n is None else ". Repeat the call to resume"
        raise PoolError(f"{where} could not be made: {error}{again}") from error
    return Pool.open(where)


def _fill(
    samples: _Samples,
    stage: Path,
    facts: Attributes,
    like: np.ndarray,
    compression: str,
    keys: np.ndarray | None,
    progress: Progress,
) -> None:
    """Make the stage a pool; on an error, what another call can go on with stays."""
    if samples.n is None:  # what a killed call had read cannot be told from what comes now
        atomic.remove(stage / "done.json")
        atomic.remove_tree(stage / "pool")
    filling = _Filling(stage, facts, like, samples.n, compression, samples.label_of is not None)
    try:
        progress(filling.n, samples.n or 0)
        for item, label in samples.from_(filling.n):
            filling.add(item, label, samples.name)
            progress(filling.n, samples.n or filling.n)
        filling.finish(keys)
    except BaseException:
        if samples.n is None or not filling.durable:
            atomic.discard_directory(stage)
        raise


class _Samples:
    """The samples of a dataset, in order.

    Attributes:
        name: of the dataset's class.
        n: how many there are, if they are read by index; None: they are iterated over.
        label_of: what makes values of labels; None: labels are not kept.
    """

    def __init__(self, dataset: Any, item: Name | None, label: Name | None, label_of: LabelOf | None) -> None:
        self.name, self.label_of = type(dataset).__name__, label_of
        self._dataset, self._item, self._label = dataset, item, label
        by_index = _is_by_index(dataset)
        self.n: int | None = len(dataset) if by_index else None
        self._given = None if by_index else self._iterated()
        self._first: Any = None

    def first(self) -> np.ndarray:
        """Return the first item.

        Raises:
            PoolError: there is none.
        """
        self._first = _END if self.n == 0 else self._read(0) if self._given is None else next(self._given, _END)
        if self._first is _END:
            raise PoolError(f"{self.name} holds no samples, so the shape of an item is unknown")
        return self._parts(0, self._first)[0]

    def from_(self, start: int) -> Iterator[tuple[np.ndarray, float | None]]:
        """Yield (item, label) from an index on; what is iterated over, from the first."""
        if self._given is None:
            yield from (self._parts(i, self._read(i)) for i in range(start, self.n or 0))
            return
        yield self._parts(0, self._first)
        self._first = None
        yield from (self._parts(i, one) for i, one in enumerate(self._given, 1))

    def _parts(self, i: int, sample: Any) -> tuple[np.ndarray, float | None]:
        try:
            found = parts(sample, self._item, self._label, labels=self.label_of is not None)
            item = array_of(found.item)
            if not item.size or not item.ndim:
                raise SampleError(f"the item has shape {item.shape}; one axis or more is needed, none of them empty")
            (item,) = next(checked_blocks(iter([item[None]])))
            return item, None if self.label_of is None else self.label_of(found.label)
        except Error as error:
            raise SampleError(f"sample {i} of {self.name}: {error}") from error

    def _read(self, i: int) -> Any:
        try:
            return self._dataset[i]
        except Exception as error:
            raise self._unreadable(i, error) from error

    def _iterated(self) -> Iterator[Any]:
        given, i = iter(self._dataset), 0
        while True:
            try:
                one = next(given, _END)
            except Exception as error:
                raise self._unreadable(i, error) from error
            if one is _END:
                return
            yield one
            i += 1

    def _unreadable(self, i: int, error: Exception) -> SampleError:
        return SampleError(f"sample {i} of {self.name} cannot be read: {first_line(error)}")


_END = object()


class _Filling:
    """A pool that is being filled in a stage; goes on behind what is durable there."""

    def __init__(
        self, stage: Path, facts: Attributes, like: np.ndarray, n: int | None, compression: str, labels: bool
    ) -> None:
        self._stage, self._facts, self._compression = stage, facts, compression
        self._shape, self._dtype = like.shape, like.dtype
        self._column: LabelColumn = facts.columns_of_labels[0]
        self._labels: list[float] | None = [] if labels else None  # of the items in no full file
        grid = plan_grid(n, like.itemsize * math.prod(like.shape))
        layout = planned_layout(grid, like.shape, like.dtype, compression)
        atomic.create_directory(stage / "pool")
        atomic.create_directory(stage / "pool" / "items")
        atomic.discard_temporaries(stage, "*")
        self.durable = is_there(stage / "done.json")  # whether an error loses nothing
        done = read_fields(stage / "done.json", Done) if self.durable else Done(0, "")
        self._writer = ArrayWriter(
            layout, stage / "pool" / "items", start=done.n, content=done.content, on_file=self._durable
        )

    @property
    def n(self) -> int:
        """How many items there are."""
        return self._writer.n

    def add(self, item: np.ndarray, label: float | None, name: str) -> None:
        """Add one item; SampleError if it is unlike the first."""
        if item.shape != self._shape or item.dtype != self._dtype:
            raise SampleError(
                f"sample {self.n} of {name} is {item.dtype} {item.shape}, and sample 0 is {self._dtype} {self._shape}: items of a pool "
                "have one shape and dtype"
            )
        if self._labels is not None:
            self._labels.append(self._column.empty if label is None else label)
        self._writer.add(item[None])

    def _durable(self, n: int, content: str) -> None:
        self._write_labels(n)
        write_fields(self._stage / "done.json", Done(n, content))
        self.durable = True

    def _write_labels(self, n: int) -> None:
        if self._labels is not None:
            with atomic.replaced(self._stage / f"labels-{n}.npy") as file:
                np.save(file, np.array(self._labels, self._column.dtype))
            self._labels.clear()

    def finish(self, keys: np.ndarray | None) -> None:
        """Write what is left, and make it a pool."""
        self._writer.finish()
        labels = None
        if self._labels is not None:
            if self._labels:
                self._write_labels(self.n)
            files = {int(file.stem.partition("-")[2]): file for file in self._stage.glob("labels-*.npy")}
            labels = np.concatenate([np.load(files[n]) for n in sorted(files) if n <= self.n])
        facts = replace(self._facts, content=self._writer.content)
        layout = replace(self._writer.layout, n=self.n)
        finish_pool(self._stage / "pool", facts, layout, self._compression, labels, keys)


def _is_by_index(dataset: Any) -> bool:
    """Return whether samples are read by index; False: by iterating.

    Raises:
        PoolError: it is no dataset.
    """
    name = type(dataset).__name__
    if isinstance(dataset, Mapping):
        raise PoolError(
            f"{name} is a dict of {', '.join(map(str, dataset)) or 'nothing'}: give one of its values, such as a split"
        )
    if hasattr(dataset, "shape") and hasattr(dataset, "dtype"):
        raise PoolError(f"{name} is an array of items: Pool.create(path, items) makes a pool of it")
    if hasattr(dataset, "batch_sampler") and hasattr(dataset, "dataset"):
        raise PoolError(f"{name} gives batches, and items are needed one by one: give its dataset, loader.dataset")
    iterable = hasattr(dataset, "__iter__")
    if any(each.__name__ == "IterableDataset" for each in type(dataset).__mro__) and iterable:
        return False  # those of torch have a __getitem__ too, which raises
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not isinstance(dataset, (str, bytes)):
        return True
    if not iterable or isinstance(dataset, (str, bytes)):
        raise PoolError(f"{name} is no dataset: it can neither be read by index (with a length) nor be iterated over")
    return False
