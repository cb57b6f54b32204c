"""Pool: the unlabeled data on disk, read in blocks; its labels, changed durably."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..atomic import discard_temporaries, replace_file
from ..errors import ChunkError, PoolError
from ..store.buffers import Allocate, Buffers
from ..store.chunks import ChunkLayout, ChunkReader, layout_of
from ..store.columns import Column
from ..store.encoded import EncodedReader, blob_until
from ..store.files import Place, local, place_of
from ..store.lock import locked_in_turn
from ..store.writer import file_parts
from .create import checked_labels, create
from .fingerprint import fingerprint_of
from .prefetch import prefetch as read_ahead
from .schema import Facts, check_is_pool, key_arrays

BLOCK_BYTES = 16 << 20  # glibc maps and unmaps every fresh buffer above 32 MiB: 12 GB/s become 1.5


@dataclass(frozen=True)
class Batch:
    """Consecutive items: ids (n,) int64, items (n, *item_shape) in the pool's dtype.

    bad: what could not be read, if that was to be skipped: errors whose (start, stop) lie in the batch; items there are 0.
    """

    ids: np.ndarray
    items: np.ndarray
    bad: tuple[ChunkError, ...] = ()


class Pool:
    """Items of one shape on disk, with labels, exclusion flags and optional keys. An item's id is its row number.

    >>> pool = Pool.create("digits.pool", images, labels=labels, mean=(0.13,), std=(0.31,))  # doctest: +SKIP
    >>> pool.n, pool.item_shape, pool.dtype  # doctest: +SKIP
    (1797, (1, 8, 8), dtype('uint8'))

    The items never change once created; ``append_blocks`` and its like add more, which an open pool does not see.
    ``labels`` and ``excluded`` are read from disk on each access, so that what another process has set is seen.
    """

    def __init__(
        self,
        path: Place,
        facts: Facts,
        layout: ChunkLayout,
        columns: dict[str, ChunkLayout],
        keys: dict[int, ChunkLayout],
        offsets: ChunkLayout | None = None,
    ) -> None:
        """Use :meth:`open` or :meth:`create`."""
        self.path = path
        self._facts = facts
        self._layout = layout
        self._columns = columns
        self._keys = keys  # by the first item they name
        self._offsets = offsets
        self.n: int = columns["labels"].n
        self.item_shape = facts.item_shape
        self.dtype: np.dtype = np.dtype(layout.array.dtype)
        self.mean, self.std = facts.mean, facts.std
        self.classes, self.source, self.created = facts.classes, facts.source, facts.created

    def __repr__(self) -> str:
        return f"Pool({str(self.path)!r}, n={self.n}, item_shape={self.item_shape}, dtype={self.dtype})"

    def __len__(self) -> int:
        return self.n

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Pool:
        """``path``: a directory, or a URL (s3://, gs://, https://), which is read only.

        Raises:
            PoolError: nothing there, something else there, a pool of a newer version, arrays missing or not matching.
        """
        import zarr

        where = place_of(path)
        check_is_pool(where)
        try:
            group: Any = zarr.open_group(
                where if isinstance(where, Path) else where.store, mode="r", zarr_format=3, use_consolidated=False
            )
            facts = Facts.from_attrs(group.attrs)
            with _reading_pipeline():
                array = group["blob" if facts.encoded else "items"]
            n = array.shape[0] if facts.n is None else facts.n
            offsets = layout_of(group["offsets"], where / "offsets", n + 1) if facts.encoded else None
            layout = layout_of(array, where / array.basename, None if offsets else n)
            columns = {name: layout_of(group[name], where / name, n) for name in ("labels", "excluded")}
            keys = {start: layout_of(group[name], where / name) for start, name in key_arrays(facts) if name in group}
        except PoolError:
            raise
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise PoolError(f"{where} is a damaged pool: {type(error).__name__}: {error}") from error
        lengths = {name: column.array.shape[0] for name, column in columns.items()}
        if offsets is not None:
            lengths["offsets"] = offsets.array.shape[0] - 1
        else:
            lengths["items"] = array.shape[0]
        # After an append that was cut short arrays are longer than what counts; without a count they must agree.
        fits = all(length == n if facts.n is None else length >= n for length in lengths.values())
        if tuple(array.shape[1:]) != (() if facts.encoded else facts.item_shape) or not fits:
            raise PoolError(
                f"{where} is a damaged pool: items {array.shape}, item_shape {facts.item_shape}, lengths {lengths}"
            )
        return Pool(where, facts, layout, columns, keys, offsets)

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
        """Write a pool, in memory for a few chunks whatever its size; all of it or, on any failure, nothing.

        Args:
            path: must not exist.
            items: (N, ...) array-like (ndarray, memmap, tensor, Zarr array), or an iterator of blocks (n, ...) of any
                sizes; uint8, float16, float32 or float64.
            n: how many items an iterator will give, if known; checked.
            labels: (N,) integers, -1 = unlabeled (default).
            keys: (N,) the user's names of the items (path, URL).
            mean, std: per channel (first axis of an item), or one value, of the items as float (uint8 / 255).
            classes: names of the labels 0, 1, ...
            source: free text: where the data came from.
            compression: "none" (fastest on local disks), "lz4" or "zstd" (slow disks).
            chunk_items, shard_items: override the planned chunk (at most 4 MiB) and shard (none up to 64 MiB in all).

        Raises:
            PoolError: the path exists, the disk is full, shapes, dtypes or lengths do not match.
        """
        create(
            Path(path),
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
        """Items in the greatest run of whole chunks that stays within 16 MiB (at least one chunk): a good step."""
        item_bytes = self.dtype.itemsize * int(np.prod(self.item_shape))
        chunk = self._layout.chunk if self._offsets is None else 1
        return chunk * max(1, BLOCK_BYTES // (chunk * item_bytes))

    def _reader(self) -> ChunkReader | EncodedReader:
        if self._offsets is None:
            return ChunkReader(self._layout)
        return EncodedReader(self._layout, self._offsets, self.item_shape, self._key)

    def _key(self, item: int) -> str:
        names = self.keys_of([item])
        return "" if names is None else str(names[0])

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Items start..stop-1 as (stop - start, *item_shape), in ``out`` if given (C-contiguous, that shape and dtype).

        Raises:
            PoolError: the range leaves the pool; a chunk is missing, truncated or changed (crc32c), and which.
        """
        self._check_range(start, stop)
        out = self._output(stop - start, out)
        with self._reader() as reader:
            reader.read(start, out)
        return out

    def take(self, ids: Any) -> np.ndarray:
        """Items of any ids, in the given order, repeats allowed: every chunk concerned is decoded once.

        Raises:
            PoolError: ids outside the pool, naming them; a chunk that cannot be read.
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
        """One Batch per range (start, stop), in order, read ahead by one thread up to ``prefetch`` batches.

        Without ranges: the whole pool in steps of :attr:`block_items`. A batch is as large as its range, so ranges
        decide the memory: (prefetch + 2) batches, used again as soon as nothing refers to their items any more. Consecutive
        ranges that share a chunk decode it once. With on_bad_chunk "skip" a chunk that cannot be read is said in
        :attr:`Batch.bad` instead of raised. allocate: where the memory comes from (bytes -> uint8 array).

        Raises:
            ChunkError, PoolError: as for read, raised in the loop that consumes the batches.
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
                del items  # or the memory would be in use while the next block is read

    def check_files(self) -> None:
        """Look whether all files of items are there, in milliseconds; what is in them shows when they are read.

        Raises:
            ChunkError: a file is missing, or the index of a shard is damaged; names the file and the items.
        """
        with self._reader() as reader:
            reader.check_files()

    def arrays(self) -> list[tuple[ChunkLayout, int]]:
        """(layout, first item) of every array on disk."""
        mutable = [(layout, 0) for layout in self._columns.values()]
        keys = [(layout, start) for start, layout in self._keys.items()]
        items = [(self._offsets, 0), (self._layout, 0)] if self._offsets else [(self._layout, 0)]
        return [*items, *mutable, *keys]

    def offsets(self) -> np.ndarray:
        """(N + 1,) int64: where each image of a pool of encoded images begins in the blob; of no other pool."""
        assert self._offsets is not None
        return Column(self._offsets)[:]

    @cached_property
    def fingerprint(self) -> str:
        """ "sha256:...": which data this is, read in milliseconds; see mcscore.pool.fingerprint for what it detects."""
        return self._fingerprint(self.n, self._facts.content)

    def fingerprint_at(self, n: int) -> str | None:
        """The fingerprint that this pool had when it held ``n`` items; None if it never held exactly that many."""
        if n == self.n:
            return self.fingerprint
        contents = dict(self._facts.earlier)
        return self._fingerprint(n, contents[n]) if n in contents else None

    def _fingerprint(self, n: int, content: str | None) -> str:
        layouts = blob_until(self._layout, self._offsets, n) if self._offsets else [replace(self._layout, n=n)]
        return fingerprint_of(layouts, self._facts, content)

    # ------------------------------------------------------------------ labels and flags

    @property
    def labels(self) -> np.ndarray:
        """(N,) int32, -1 = unlabeled; a copy."""
        return Column(self._columns["labels"])[:]

    @property
    def excluded(self) -> np.ndarray:
        """(N,) bool, True: never to be scored or selected; a copy."""
        return Column(self._columns["excluded"])[:]

    @property
    def keys(self) -> np.ndarray | None:
        """(N,) str, the user's names of the items ("" where one has none), or None."""
        if not self._keys:
            return None
        return self._named(self.n, lambda start, layout: (slice(start, start + layout.n), Column(layout)[:]))

    def keys_of(self, ids: Any) -> np.ndarray | None:
        """(n,) str, the names of some items in the order of their ids, or None; reads the chunks concerned only.

        Raises:
            PoolError: ids outside the pool, naming them.
        """
        if not self._keys:
            return None
        ids_B = self._checked_ids(ids)

        def those(start: int, layout: ChunkLayout) -> tuple[np.ndarray, np.ndarray]:
            inside = np.flatnonzero((ids_B >= start) & (ids_B < start + layout.n))
            return inside, Column(layout).at(ids_B[inside] - start)

        return self._named(len(ids_B), those)

    def _named(self, count: int, part: Callable[[int, ChunkLayout], tuple[Any, np.ndarray]]) -> np.ndarray:
        """``count`` names; ``part`` gives which of them an array of keys has, and its rows for them."""
        names = np.zeros(count, f"S{max(layout.item_shape[0] for layout in self._keys.values())}")
        for start, layout in self._keys.items():
            where, raw = part(start, layout)
            names[where] = raw.view(f"S{raw.shape[1]}")[:, 0]
        return np.char.decode(names, "utf-8")

    def column(self, name: str) -> Column:
        """ "labels" or "excluded", to be read range by range in memory that does not grow with N."""
        return Column(self._columns[name])

    def set_labels(self, ids: Any, labels: Any) -> None:
        """Give items labels (-1 takes one away); durable when it returns.

        The labels of 2**20 consecutive items are replaced at once: a crash leaves old or new ones of each such chunk, and
        repeating the call completes it.

        Raises:
            PoolError: ids outside the pool or repeated; labels that are not integers, below -1 or beyond the classes.
        """
        ids_B = self._checked_ids(ids)
        self._set("labels", ids_B, checked_labels(labels, len(ids_B), self.classes))

    def set_excluded(self, ids: Any, flag: Any = True) -> None:
        """Exclude items from scoring and selection, or (False) readmit them; durable when it returns."""
        ids_B = self._checked_ids(ids)
        self._set("excluded", ids_B, np.broadcast_to(np.asarray(flag, dtype=bool), ids_B.shape))

    def _set(self, name: str, ids: np.ndarray, values: np.ndarray) -> None:
        order = np.argsort(ids, kind="stable")
        ids, values = ids[order], values[order]
        repeated = ids[1:][ids[1:] == ids[:-1]]
        if len(repeated):
            raise PoolError(f"id {repeated[0]} is given more than once; which of its {name} holds would be chance")
        layout = self._columns[name]
        folder = local(layout.folder, f"change {name}")
        chunk = np.empty(layout.chunk, layout.array.dtype)
        with locked_in_turn(folder):
            discard_temporaries(folder, "*")
            for number in np.unique(ids // layout.chunk):
                start = int(number) * layout.chunk
                low, high = np.searchsorted(ids, [start, start + layout.chunk])
                with ChunkReader(layout) as reader:
                    reader.decode(int(number), chunk)
                chunk[ids[low:high] - start] = values[low:high]
                file = folder / layout.name.format(int(number))
                try:
                    replace_file(file, *file_parts(layout, chunk, len(chunk)))
                except OSError as error:
                    raise PoolError(f"{name} could not be written, {file} is as it was: {error}") from error

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


def _reading_pipeline() -> Any:
    """Zarr's configuration for arrays that only zarr can decode: the Rust pipeline where it is installed.

    Reading only: killed while writing, it leaves torn chunks that are visible.
    """
    import importlib.util

    import zarr

    found = importlib.util.find_spec("zarrs") is not None
    return zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"} if found else {})
