"""Pool: the unlabeled data on disk, read in blocks; its labels, changed durably."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ..errors import ChunkError, PoolError
from ..paths import local_path
from ..store.buffers import Allocate, Buffers
from ..store.chunks import ChunkReader
from ..store.columns import Column
from ..store.encoded import EncodedReader
from ..store.files import path_of
from ..store.layout import ChunkLayout
from ..store.read_ahead import read_ahead
from ..store.watch import marks
from .batch import Batch
from .create import create
from .keys import find_keys, read_keys
from .labels import checked_labels, set_values
from .storage import Storage, open_storage

BLOCK_BYTES = 16 << 20  # glibc maps and unmaps every fresh buffer above 32 MiB: 12 GB/s become 1.5


class Pool:
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
    ) -> Pool:
        """Write a pool in memory that does not grow with its size: all of it or, on any failure, nothing.

        Args:
            path: must not exist.
            items: (N, ...) array-like (ndarray, memmap, tensor, Zarr array), or an iterator of blocks (n, ...) of any
                sizes; uint8, uint16, float16, float32 or float64.
            n: how many items an iterator gives, if known; checked.
            labels: (N,) integers, -1 = unlabeled (default).
            keys: (N,) the user's names of the items (path, URL).
            mean: per channel (first axis of an item), or one value, of the items as float (uint8 / 255, uint16 / 65535).
            std: as mean.
            classes: names of the labels 0, 1, ...
            source: free text: where the data came from.
            compression: "none" (fastest on local disks), "lz4" or "zstd" (slow disks).
            chunk_items: overrides the planned items per chunk (at most 4 MiB).
            shard_items: overrides the planned items per shard (no shards up to 64 MiB in all); needs chunk_items.

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
        )
        return Pool.open(path)

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
        ids_B = self._checked_ids(ids)
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

    # ------------------------------------------------------------------ labels and flags

    @property
    def labels(self) -> np.ndarray:
        """Labels, (N,) int32, -1 = unlabeled; a copy."""
        return self.column("labels")[:]

    @property
    def excluded(self) -> np.ndarray:
        """Flags, (N,) bool, True: never to be scored or selected; a copy."""
        return self.column("excluded")[:]

    @property
    def keys(self) -> np.ndarray | None:
        """The user's names of the items, (N,) str ("" where an item has none), or None; 4 bytes of memory per character.

        Of a large pool ask for the keys of some items (keys_of), or for the items of some keys (find_keys).
        """
        return read_keys(self.storage.keys, self.n) if self.storage.keys else None

    def keys_of(self, ids: Any) -> np.ndarray | None:
        """Return the keys of some items, (n,) str in the order of ``ids``, or None; reads only the chunks concerned.

        Raises:
            PoolError: ids outside the pool, naming them.
        """
        if not self.storage.keys:
            return None
        return read_keys(self.storage.keys, self.n, self._checked_ids(ids))

    @property
    def has_keys(self) -> bool:
        """Whether any item may have a key; reads nothing."""
        return bool(self.storage.keys)

    def find_keys(self, keys: Any) -> np.ndarray:
        """Return which item has each key, (n,) int64: its id, -1 where no item has it, -2 where several have.

        Args:
            keys: strings: a list, an array of NumPy, or one of pyarrow.

        >>> import tempfile
        >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.zeros((3, 2), np.uint8), keys=["a", "b", "b"])
        >>> pool.find_keys(["a", "b", "c"]).tolist()
        [0, -2, -1]
        """
        return find_keys(self.storage.keys, keys)

    def column(self, name: str) -> Column:
        """Return "labels" or "excluded" to be read range by range, in memory that does not grow with N."""
        return Column(self.storage.columns[name])

    def set_labels(self, ids: Any, labels: Any, *, check: Callable[[np.ndarray], None] | None = None) -> int:
        """Give items labels (-1 takes one away); durable when it returns. Returns how many changed.

        The labels of 2**20 consecutive items are replaced at once: a crash leaves old or new ones of each such chunk, and
        repeating the call completes it.

        Args:
            ids: the items.
            labels: one integer for each.
            check: is called with the labels that the items have, in the order of ``ids``, while no other process can
                change them; what it raises leaves all labels as they are.

        Raises:
            PoolError: ids outside the pool or repeated; labels that are not integers, below -1 or beyond the classes.
        """
        ids_B = self._checked_ids(ids)
        values = checked_labels(labels, len(ids_B), self.classes)
        return set_values(self.storage.columns["labels"], ids_B, values, check)

    def set_excluded(self, ids: Any, flag: Any = True, *, check: Callable[[np.ndarray], None] | None = None) -> None:
        """Exclude items from scoring and selection, or (False) readmit them; durable when it returns.

        Args:
            ids: the items.
            flag: one for all, or one for each.
            check: as for ``set_labels``, with the flags that the items have.

        >>> import tempfile
        >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.zeros((3, 2), np.uint8))
        >>> pool.set_excluded([0, 2])
        >>> Pool.open(pool.path).excluded
        array([ True, False,  True])

        Raises:
            PoolError: ids outside the pool or repeated.
        """
        ids_B = self._checked_ids(ids)
        flags = np.broadcast_to(np.asarray(flag, dtype=bool), ids_B.shape)
        set_values(self.storage.columns["excluded"], ids_B, flags, check)

    # ------------------------------------------------------------------ checks

    def _checked_ids(self, ids: Any) -> np.ndarray:
        given = np.asarray(ids)
        if given.ndim != 1 or (given.dtype.kind not in "iu" and len(given)):
            raise PoolError(f"ids must be a one-dimensional array of integers, not {given.dtype} {given.shape}")
        outside = given[(given < 0) | (given >= self.n)]
        if len(outside):
            some = ", ".join(str(v) for v in outside[:5])
            raise PoolError(f"{len(outside)} ids are outside the pool {self.path} of {self.n} items: {some}")
        return given.astype(np.int64)

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
