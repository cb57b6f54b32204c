"""Pool: the unlabeled data on disk, read in blocks; its labels, changed durably."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import ChunkError, PoolError
from ..paths import local_path
from ..store.buffers import Allocate, Buffers
from ..store.chunks import ChunkReader
from ..store.encoded import EncodedReader
from ..store.files import path_of
from ..store.layout import ChunkLayout
from ..store.read_ahead import read_ahead
from ..store.watch import marks
from .batch import Batch
from .create import create
from .kinds import MAIN
from .labeled_items import LabeledItems
from .storage import Storage, open_storage

if TYPE_CHECKING:
    from ..progress import Shown
    from ..training import PoolDataset

BLOCK_BYTES = 16 << 20  # glibc maps and unmaps every fresh buffer above 32 MiB: 12 GB/s become 1.5


class Pool(LabeledItems):
    """Items of one shape on disk, with labels, exclusion flags and optional keys. An item's id is its row number.

    The items never change once created; ``append_blocks`` and its like add more, which an open pool does not see.
    ``labels`` and ``excluded`` are read from disk on each access, so changes by other processes are seen.

    Attributes:
        fingerprinted: the marks of before a fingerprint was first read through this object; None: none was.

    >>> import tempfile
    >>> import numpy as np
    >>> images = np.zeros((5, 1, 8, 8), np.uint8)
    >>> pool = Pool.create(tempfile.mkdtemp() + "/digits.pool", images, labels=[3, -1, -1, 0, -1])
    >>> pool.n, pool.item_shape, pool.dtype
    (5, (1, 8, 8), dtype('uint8'))
    >>> pool.set_labels([1], [7])
    1
    >>> pool.labels
    array([ 3,  7, -1,  0, -1], dtype=int32)
    """

    def __init__(self, storage: Storage) -> None:
        """Use :meth:`open` or :meth:`create`."""
        self.storage = storage
        attributes = storage.attributes
        self.path = storage.path
        self.n: int = storage.n
        self.item_shape = attributes.item_shape
        self.dtype: np.dtype = storage.dtype
        self.mean, self.std = attributes.mean, attributes.std
        self.classes = None if attributes.classes is None else list(attributes.classes)
        self.source, self.created = attributes.source, attributes.created
        self.fingerprinted: object = None
        self._earlier: dict[int, str | None] = {}  # fingerprints, by how many items there were

    def __repr__(self) -> str:
        return f"Pool({str(self.path)!r}, n={self.n}, item_shape={self.item_shape}, dtype={self.dtype})"

    def __len__(self) -> int:
        return self.n

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Pool:
        """Open a pool in a directory, or at a URL (s3://, gs://, https://), where it is read only.

        Raises:
            PoolError: nothing there, something else there, a pool of another format version, arrays missing or not
                matching.
        """
        return Pool(open_storage(path_of(path)))

    @staticmethod
    def create(
        path: str | os.PathLike[str],
        items: Any,
        *,
        n: int | None = None,
        labels: Any = None,
        keys: Any = None,
        mean: Any = None,
        std: Any = None,
        classes: Any = None,
        source: str | None = None,
        compression: str = "none",
        chunk_items: int | None = None,
        shard_items: int | None = None,
        label_kind: str = "class",
    ) -> Pool:
        """Write a pool in memory that does not grow with its size: all of it or, on any failure, nothing.

        Args:
            path: must not exist.
            items: (N, ...) array-like (ndarray, memmap, tensor, Zarr array), or an iterator of blocks (n, ...) of any
                sizes; uint8, uint16, float16, float32 or float64.
            n: how many items an iterator gives, if known; checked.
            labels: (N,) integers, -1 = unlabeled (default); or of ``label_kind`` "number" floats, NaN = unlabeled.
            keys: (N,) the user's names of the items (path, URL).
            mean: per channel (first axis of an item), or one value, of the items as float (uint8 / 255, uint16 / 65535).
            std: as mean.
            classes: names of the labels 0, 1, ...
            source: free text: where the data came from.
            compression: "none" (fastest on local disks), "lz4" or "zstd" (slow disks).
            chunk_items: overrides the planned items per chunk (at most 4 MiB).
            shard_items: overrides the planned items per shard (no shards up to 64 MiB in all); needs chunk_items.
            label_kind: "class", or "number": labels are numbers to be predicted (regression), kept as float32.

        Raises:
            PoolError: the path exists, the disk is full, shapes, dtypes or lengths do not match.
        """
        create(
            local_path(path, "a pool", PoolError),
            items,
            n=n,
            labels=labels,
            keys=keys,
            mean=mean,
            std=std,
            classes=classes,
            source=source,
            compression=compression,
            chunk_items=chunk_items,
            shard_items=shard_items,
            label_kind=label_kind,
        )
        return Pool.open(path)

    @staticmethod
    def from_dataset(
        dataset: Any,
        path: str | os.PathLike[str],
        *,
        labels: bool = False,
        item: str | int | None = None,
        label: str | int | None = None,
        label_kind: str = "class",
        classes: Any = None,
        keys: Any = None,
        mean: Any = None,
        std: Any = None,
        source: str | None = None,
        compression: str = "none",
        progress: Shown = None,
    ) -> Pool:
        """Write a pool of the samples of a dataset, in memory that does not grow with it but for 4 bytes a label.

        A sample is an array, a tensor, a picture of PIL, a pair (item, label), or a dict. A dataset that is read by index resumes: after a
        kill or an error, the same call goes on behind the last full file of items. One that is iterated over begins anew.

        Args:
            dataset: a map-style Dataset of PyTorch, a dataset of Hugging Face, a list; or anything that gives samples when iterated over.
            path: must not exist.
            labels: keep the labels of the samples.
            item: the key, or the position, of the item in a sample, where it is not the only array in it.
            label: the same of the label; its labels are kept.
            label_kind: "class", or "number": labels are numbers to be predicted (regression).
            classes: names of the classes 0, 1, ...; labels may be names.
            keys: (N,) the user's names of the items.
            mean: as for :meth:`create`.
            std: as for :meth:`create`.
            source: free text; default: the name of the dataset's class.
            compression: as for :meth:`create`.
            progress: called as progress(items done, items); a number of items that is not known is that of those done. None: a bar
                on a terminal and in a notebook; False: nothing.

        Raises:
            SampleError: a sample cannot be read, has no item or label of a known kind, or is unlike the first; names its index.
            PoolError: the path exists; the dataset is empty, none, an array or a DataLoader; as :meth:`create`.

        >>> import tempfile
        >>> samples = [(np.full((1, 2, 2), i, np.uint8), "cat") for i in range(3)]
        >>> pool = Pool.from_dataset(samples, tempfile.mkdtemp() + "/p", labels=True, classes=["dog", "cat"])
        >>> pool.n, pool.item_shape, pool.labels.tolist()
        (3, (1, 2, 2), [1, 1, 1])
        """
        from ..ingest.datasets import import_dataset  # above the pool: this method is the door to it

        return import_dataset(
            dataset,
            path,
            labels=labels,
            item=item,
            label=label,
            label_kind=label_kind,
            classes=classes,
            keys=keys,
            mean=mean,
            std=std,
            source=source,
            compression=compression,
            progress=progress,
        )

    def as_dataset(
        self, ids: Any = None, transform: Callable[[Any], Any] | None = None, *, name: str = MAIN
    ) -> PoolDataset:
        """Return items and their labels as a Dataset of PyTorch, to train on: (item, label) each, for a DataLoader with workers.

        Args:
            ids: the items; None: those that are labeled and not excluded.
            transform: one item as it is stored, a tensor -> the input; None: what a Scorer without a transform makes of it, so that
                training and scoring agree: uint8 / 255, then normalized by the pool's mean and std; floats as float32.
            name: the column of labels.

        Raises:
            PoolError: ids outside the pool, or without a label; no such column.

        >>> import tempfile
        >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.full((3, 2), 255, np.uint8), labels=[-1, 4, -1])
        >>> pool.as_dataset()[0]
        (tensor([1., 1.]), tensor(4))
        """
        from ..training import PoolDataset  # above the pool, as it imports PyTorch

        return PoolDataset(self, ids, transform, name)

    # ------------------------------------------------------------------ items

    @property
    def block_items(self) -> int:
        """A good step for reading: the items of as many whole chunks as fit into 16 MiB, at least one chunk."""
        item_bytes = self.dtype.itemsize * int(np.prod(self.item_shape))
        chunk = self.storage.rows.chunk if self.storage.offsets is None else 1
        return chunk * max(1, BLOCK_BYTES // (chunk * item_bytes))

    def _reader(self) -> ChunkReader | EncodedReader:
        return self.storage.reader(self._name_of)

    def _name_of(self, item: int) -> str:
        names = self.keys_of([item])
        return f"item {item}" if names is None else f"item {item} (key {str(names[0])!r})"

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return items start..stop-1 as (stop - start, *item_shape), in ``out`` if given.

        Args:
            start: the first item.
            stop: the item after the last.
            out: C-contiguous, of the shape and dtype of the result.

        Raises:
            PoolError: the range leaves the pool.
            ChunkError: a chunk is missing, truncated or changed (crc32c); names it.
        """
        self._check_range(start, stop)
        out = self._output(stop - start, out)
        with self._reader() as reader:
            reader.read(start, out)
        return out

    def take(self, ids: Any) -> np.ndarray:
        """Return the items of any ids, in the given order, repeats allowed; each chunk concerned is decoded once.

        >>> import tempfile
        >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.arange(10, dtype=np.uint8).reshape(5, 2))
        >>> pool.take([3, 0]).tolist(), pool.read(1, 2).tolist()
        ([[6, 7], [0, 1]], [[2, 3]])

        Raises:
            PoolError: ids outside the pool, naming them.
            ChunkError: a chunk cannot be read; names it.
        """
        ids_B = self.checked_ids(ids)
        out = self._output(len(ids_B), None)
        with self._reader() as reader:
            reader.gather(ids_B, out)
        return out

    def blocks(
        self,
        ranges: Iterable[tuple[int, int]] | None = None,
        prefetch: int = 2,
        on_bad_chunk: Literal["raise", "skip"] = "raise",
        allocate: Allocate | None = None,
    ) -> Generator[Batch, None, None]:
        """Yield one Batch per range, in order, read ahead by one thread.

        A batch is as large as its range, so the ranges decide the memory: (prefetch + 2) batches, used again as soon as
        nothing refers to their items. Consecutive ranges that share a chunk decode it once.

        Args:
            ranges: (start, stop) each; None: the whole pool in steps of :attr:`block_items`.
            prefetch: how many batches are read ahead.
            on_bad_chunk: "skip" puts the error of a chunk that cannot be read into :attr:`Batch.bad`; "raise" raises it.
            allocate: where the memory comes from (bytes -> uint8 array).

        Raises:
            ChunkError, PoolError: as for read, in the loop that consumes the batches.

        >>> import tempfile
        >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.zeros((5, 2), np.uint8))
        >>> [len(batch.ids) for batch in pool.blocks([(0, 2), (2, 5)])]
        [2, 3]
        """
        step = self.block_items
        if ranges is None:
            ranges = ((at, min(at + step, self.n)) for at in range(0, self.n, step))
        return read_ahead(self._batches(ranges, on_bad_chunk == "skip", Buffers(allocate)), prefetch)

    def _batches(self, ranges: Iterable[tuple[int, int]], skip: bool, buffers: Buffers) -> Iterator[Batch]:
        with self._reader() as reader:
            for start, stop in ranges:
                self._check_range(start, stop)
                items = buffers.lend((stop - start, *self.item_shape), self.dtype)
                bad: list[ChunkError] = []
                at = start
                while at < stop:
                    try:
                        reader.read(at, items[at - start :])
                        break
                    except ChunkError as error:
                        if not skip:
                            raise
                        first, at = max(error.start, start), min(error.stop, stop)
                        items[first - start : at - start] = 0
                        bad.append(ChunkError(str(error), first, at))
                yield Batch(np.arange(start, stop, dtype=np.int64), items, tuple(bad))
                del items  # the memory would stay in use while the next block is read

    def check_files(self) -> None:
        """Check that all files of items are there, many at a time; damage inside them shows when they are read.

        Raises:
            ChunkError: a file is missing, or the index of a shard is damaged; names the file and the items.
        """
        with self._reader() as reader:
            reader.check_files()

    def arrays(self) -> list[tuple[ChunkLayout, int]]:
        """Return (layout, first item) of every array on disk."""
        return self.storage.arrays()

    def offsets(self) -> np.ndarray:
        """Return (N + 1,) int64: where each image begins in the blob, of a pool that keeps encoded images."""
        return self.storage.edges()

    @cached_property
    def fingerprint(self) -> str:
        """Which data this is, as "sha256:...", by the sizes of all files; see Storage.fingerprint for what it detects."""
        return self._read_fingerprint(self.n) or ""

    def fingerprint_at(self, n: int) -> str | None:
        """Return the fingerprint that this pool had when it held ``n`` items; None if it never held exactly that many."""
        if n == self.n:
            return self.fingerprint
        if n not in self._earlier:
            self._earlier[n] = self._read_fingerprint(n)
        return self._earlier[n]

    def _read_fingerprint(self, n: int) -> str | None:
        self.fingerprinted = self.fingerprinted or self.marks()
        return self.storage.fingerprint_at(n)

    def identity(self, n: int | None = None) -> str | None:
        """Return which data the first ``n`` items (None: all) are by the pool's metadata alone; None if it never held that many.

        Equal for pools that were written with the same items in the same layout, whether or not their files are whole. It is
        another after the pool was compacted. A pool of other software, without a hash of its items, gives its fingerprint.
        """
        return self.storage.identity(self.n if n is None else n) or self.fingerprint_at(self.n if n is None else n)

    def marks(self) -> object:
        """Return what is equal as long as nobody has exchanged files of items; cheap enough to be asked every second.

        Other marks do not mean other items: an append changes them too. ``reopened().fingerprint_at(n)`` tells.
        """
        layouts = [self.storage.rows, self.storage.offsets]
        return marks(self.path, [layout for layout in layouts if layout is not None])

    def reopened(self) -> Pool:
        """Open what is at the place of this pool now."""
        return Pool(open_storage(self.path))

    # ------------------------------------------------------------------ checks

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.n:
            raise PoolError(f"items {start}..{stop} are outside the pool {self.path} of {self.n} items")

    def _output(self, count: int, out: np.ndarray | None) -> np.ndarray:
        shape = (count, *self.item_shape)
        if out is None:
            return np.empty(shape, self.dtype)
        if out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.dtype} {out.shape}; {self.dtype} {shape}, C-contiguous, is needed")
        return out
