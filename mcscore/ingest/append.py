"""Growing a pool: the new items are staged beside it, then committed (see append_commit)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..errors import PoolError
from ..pool.create import as_blocks, checked_blocks
from ..pool.decode import require_decoder
from ..pool.labels import checked_labels, encoded_keys
from ..pool.pool import Pool
from ..pool.schema import UNLABELED, Grid
from ..store.chunks import ChunkReader
from ..store.files import local
from ..store.writer import ArrayWriter
from .append_commit import check_base, commit_staged, complete_earlier, stage_ready
from .arrays import read_source
from .counts import Report
from .images import counted, tell, write_bad
from .pipeline import Progress, ingest_entries
from .sources import open_source
from .staging import stage_of, staged
from .staging_log import StagingLog
from .worker import ImageFormat


def append_images(
    path: str | os.PathLike[str],
    src: str | os.PathLike[str],
    *,
    labels: bool = False,
    column: str | None = None,
    max_bad: int | None = None,
    workers: int | None = None,
    reading: str | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> Pool:
    """Add the images of a source to a pool, in its size and form; repeat the call after a kill to resume.

    Ids and bytes of old items stay. Entries whose key the pool has already count as bad, so a folder that has grown can be
    given as a whole.

    Args:
        path: a pool made by import_images, or one of uint8 (1 or 3, H, W).
        src: the images, as for import_images.
        labels: take labels, as import_images does; class folders are matched with the pool's classes by name.
        column: the Parquet column of images.
        max_bad: stop when more entries than this cannot be used; None: never.
        workers: decoding processes; default: one per core.
        reading: whether labels of digits are "names" or "numbers", as for import_images.
        progress: called as progress(entries done, entries in all).
        report: called with the closing count, as for import_images.

    Raises:
        PoolError: the pool does not hold images; no source; the pool lacks a class; no entry can be used; another append
            was interrupted; and the errors of import_images.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from mcscore.ingest import import_images
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (40, 30)).save(folder / "tom.png")
        >>> pool = import_images(folder, folder / "pool.zarr", size=32, workers=1)
        >>> Image.new("RGB", (40, 30)).save(folder / "ulf.png")
        >>> append_images(folder / "pool.zarr", folder, workers=1).keys.tolist()
        ['tom.png', 'ulf.png']
    """
    require_decoder()
    pool = Pool.open(path)
    source = open_source(src, labels, column, pool.classes, reading)
    if pool.dtype != np.uint8 or len(pool.item_shape) != 3 or pool.item_shape[0] not in (1, 3):
        raise PoolError(f"{path} holds {pool.dtype} items of shape {pool.item_shape}; images need uint8 (1 or 3, H, W)")
    channels, height, width = pool.item_shape
    attributes = pool.storage.attributes
    image_format = ImageFormat((height, width), channels, bool(attributes.encoded), attributes.fit or "crop")
    number = _class_numbers(pool, source.classes)
    where = local(pool.path, "append")
    stage = stage_of(where, "append")
    settings = {"source": source.identity, "labels": labels, "column": column}
    settings |= {"reading": reading} if reading else {}
    identity = json.dumps(settings)
    try:
        with staged(stage, settings):
            pool, done = complete_earlier(where, stage, identity)
            if done:
                return pool
            check_base(stage, pool)
            atomic.create_directory(stage / "files")
            log = StagingLog(stage / "log", pool.storage.rows.n, pool.storage.attributes.content)
            writer = _writer(pool, stage, log)
            known = () if pool.keys is None else pool.keys.tolist()
            if not log.ended:
                ingest_entries(
                    source, image_format, writer, log, known, max_bad=max_bad, workers=workers, progress=progress
                )
                writer.finish()
                log.commit(writer.n, writer.content, _grid(pool), ended=True)
            ingested = log.ingested
            write_bad(where, ingested.bad)
            if not ingested.keys:
                atomic.discard_directory(stage)
                raise PoolError(f"none of the entries of {src} can be added: {'; '.join(counted(where, source, log).lines())}")
            given = np.array([number[label] for label in ingested.labels] if number else ingested.labels, np.int32)
            given = checked_labels(given, len(ingested.keys), pool.classes)
            offsets = np.array([*ingested.starts[1:], log.n], np.int64) if image_format.keep_encoded else None
            stage_ready(stage, pool, identity, log.content, given, encoded_keys(ingested.keys, len(given)), offsets)
            grown = commit_staged(where, stage)
            tell(where, source, log, report)
            return grown
    except OSError as error:
        raise PoolError(f"{path} could not be appended to: {error}. Repeat the call to resume") from error


def append_array(
    path: str | os.PathLike[str],
    src: str | os.PathLike[str],
    labels: Any = None,
    *,
    key: str | None = None,
    labels_key: str | None = None,
    layout: str | None = None,
) -> Pool:
    """Add the items of an array file to a pool; the arguments are those of import_array.

    A kill costs only time. The same call twice adds the items once: the file that was appended last is recognized.

    Raises:
        PoolError: shape or dtype of the items differ from the pool's; another append was interrupted; and the errors of
            import_array.

    Example:
        >>> import tempfile
        >>> from mcscore.ingest import import_array
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.save(folder / "a.npy", np.zeros((5, 1, 28, 28), np.uint8))
        >>> np.save(folder / "b.npy", np.ones((2, 1, 28, 28), np.uint8))
        >>> pool = import_array(folder / "a.npy", folder / "pool.zarr")
        >>> append_array(folder / "pool.zarr", folder / "b.npy").n
        7
        >>> append_array(folder / "pool.zarr", folder / "b.npy").n
        7
    """
    blocks, n, given, identity = read_source(src, labels, key=key, labels_key=labels_key, layout=layout)
    return append_blocks(path, blocks, n=n, labels=given, identity=identity)


def append_blocks(
    path: str | os.PathLike[str],
    items: Any,
    *,
    n: int | None = None,
    labels: Any = None,
    keys: Any = None,
    identity: str = "",
) -> Pool:
    """Add items to a pool.

    Args:
        path: the pool.
        items: an array, or an iterable of blocks (n, ...), as for Pool.create.
        n: the number of items, as a check.
        labels: (n,) integers, -1 where unlabeled.
        keys: the names of the items.
        identity: names the source: if the last append had the same identity, nothing is added.

    Raises:
        PoolError: shape or dtype of the items differ from the pool's; the pool has a key already; another append was
            interrupted; disk full. The pool is unchanged then.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> pool = Pool.create(folder / "pool.zarr", np.zeros((5, 1, 28, 28), np.uint8))
        >>> append_blocks(folder / "pool.zarr", np.ones((2, 1, 28, 28), np.uint8), labels=[3, -1]).labels.tolist()
        [-1, -1, -1, -1, -1, 3, -1]
    """
    pool = Pool.open(path)
    if pool.storage.attributes.encoded:
        raise PoolError(f"{path} holds encoded images: append images to it, not an array")
    blocks, n = as_blocks(items, n)
    where = local(pool.path, "append")
    stage = stage_of(where, "append")
    try:
        with staged(stage, {"source": identity, "labels": None, "column": None}):
            pool, done = complete_earlier(where, stage, identity)
            if done and identity:
                return pool
            if done:
                raise PoolError(
                    f"an interrupted append to {path} was completed now; the pool holds {pool.n} items, and the items of "
                    "this call were not added. Append those that are missing"
                )
            atomic.remove_tree(stage / "files")  # of an earlier call that was killed
            atomic.create_directory(stage / "files")
            try:
                writer = _writer(pool, stage, None)
                for block in checked_blocks(blocks):
                    if block.shape[1:] != pool.item_shape or block.dtype != pool.dtype:
                        raise PoolError(
                            f"items are {block.dtype} {block.shape[1:]}; {path} holds {pool.dtype} {pool.item_shape}"
                        )
                    writer.add(block)
                writer.finish()
                count = writer.n - pool.n
                if n is not None and count != n:
                    raise PoolError(f"n={n}, but the blocks hold {count} items")
                given = np.full(count, UNLABELED) if labels is None else labels
                given = checked_labels(given, count, pool.classes)
                named = None if keys is None else encoded_keys(keys, count)
                _refuse_known(pool, keys)
                stage_ready(stage, pool, identity, writer.content, given, named, None)
            except PoolError:
                atomic.discard_directory(stage)  # wrong arguments: nobody will resume this
                raise
            return commit_staged(where, stage)
    except OSError as error:
        raise PoolError(f"{path} could not be appended to and is unchanged: {error}") from error


def _grid(pool: Pool) -> Grid:
    return Grid(pool.storage.rows.chunk, pool.storage.rows.shard)


def _class_numbers(pool: Pool, classes: list[str] | None) -> dict[int, int]:
    """Map labels of the source to labels of the pool by class name; empty: they are the same."""
    if classes is None:
        return {}
    unknown = [name for name in classes if name not in (pool.classes or [])]
    if unknown:
        raise PoolError(
            f"{pool.path} has no class {unknown[0]!r}; its classes are {', '.join(pool.classes or ['none'])}"
        )
    assert pool.classes is not None
    return {UNLABELED: UNLABELED, **{i: pool.classes.index(name) for i, name in enumerate(classes)}}


def _refuse_known(pool: Pool, keys: Any) -> None:
    given = [] if keys is None else [str(key) for key in keys if key]
    known = set() if pool.keys is None else set(pool.keys.tolist())
    for key in given:
        if key in known:
            raise PoolError(f"key {key!r} is given twice, or {pool.path} has it already")
        known.add(key)


def _writer(pool: Pool, stage: Path, log: StagingLog | None) -> ArrayWriter:
    """Return a writer behind the last row of the pool, or of the log."""
    start = pool.storage.rows.n if log is None else log.n
    begin = start - start % _grid(pool).unit
    tail = np.empty((start - begin, *pool.storage.rows.row_shape), pool.dtype)
    # Only the pool's last file can be partly filled; a checkpoint stands at the end of a file, or of the source.
    if len(tail) and start == pool.storage.rows.n:
        with ChunkReader(pool.storage.rows) as reader:
            reader.read(begin, tail)
    return ArrayWriter(
        pool.storage.rows,
        stage / "files",
        start=start,
        tail=tail,
        content=pool.storage.attributes.content if log is None else log.content,
        on_file=None if log is None else lambda n, content: log.commit(n, content, _grid(pool)),
    )
