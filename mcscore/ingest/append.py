"""Growing a pool: the new items are staged beside it, then committed (see append_commit)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..errors import PoolError
from ..labels import UNLABELED, has_label
from ..pool.create import as_blocks, checked_blocks
from ..pool.history import Append, read_appends
from ..pool.keys import KnownKeys, as_arrow, encoded_keys
from ..pool.kinds import MAIN, LabelColumn
from ..pool.labels import checked_column
from ..pool.pictures.decode import require_decoder
from ..pool.pool import Pool
from ..pool.schema import Grid
from ..progress import Shown
from ..store.chunks import ChunkReader
from ..store.writer import ArrayWriter
from .append_commit import Added, appending, check_base, commit_staged, complete_earlier, stage_ready
from .arrays import read_source
from .counts import Report
from .images import counted, tell, write_bad
from .pipeline import SAME_KEY, ingest_entries
from .sources import open_source
from .staging_log import StagingLog
from .worker import ImageFormat

File = tuple[str, str | None, str | None]
"""A file of an array as a source: its absolute path, and the key and layout that were given."""


def append_images(
    path: str | os.PathLike[str],
    src: str | os.PathLike[str],
    *,
    labels: bool = False,
    column: str | None = None,
    max_bad: int | None = None,
    workers: int | None = None,
    reading: str | None = None,
    progress: Shown = None,
    report: Report | None = None,
) -> Pool:
    """Add the images of a source to a pool, in its size and form; repeat the call after a kill to resume.

    Ids and bytes of old items stay. Fit, background, range and depth are those that the pool records. Entries whose key the
    pool has already count as bad, so a folder that has grown can be given as a whole.

    Args:
        path: a pool made by import_images, or one of uint8 (1 or 3, H, W).
        src: the images, as for import_images.
        labels: take labels, as import_images does; class folders are matched with the pool's classes by name.
        column: the Parquet column of images.
        max_bad: stop when more entries than this cannot be used; None: never.
        workers: decoding processes; default: one per core.
        reading: whether labels of digits are "names" or "numbers", as for import_images.
        progress: called as progress(entries done, entries in all); None and False as of ``import_images``.
        report: called with the closing count, as for import_images.

    Raises:
        PoolError: the pool does not hold images; no source; the pool lacks a class; no entry can be used, other than
            because the pool has its key; another append was interrupted; and the errors of import_images.

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
    if len(pool.item_shape) != 3 or pool.item_shape[0] not in (1, 3) or pool.dtype != pool.storage.pixel_format.dtype:
        raise PoolError(
            f"{path} holds {pool.dtype} items of shape {pool.item_shape}; images need uint8 (1 or 3, H, W), or "
            "uint16 of an import with depth=16 (--depth 16)"
        )
    image_format = ImageFormat(pool.storage.pixel_format, pool.storage.attributes.encoded)
    main = _main(pool)
    if labels and main.kind == "number":
        raise PoolError(f"labels of {path} are numbers, and those of images are classes: append without labels")
    number = _class_numbers(pool, source.classes)
    settings = {"source": source.identity, "labels": labels, "column": column}
    settings |= {"reading": reading} if reading else {}
    identity = json.dumps(settings)
    try:
        with appending(pool, settings) as (where, stage):
            pool, done = complete_earlier(where, stage)
            if done:
                return pool
            again = named(identity) in {one.source for one in read_appends(pool.storage.appends)}
            check_base(stage, pool)
            atomic.create_directory(stage / "files")
            log = StagingLog(stage / "log", pool.storage.rows.n, pool.storage.attributes.content)
            writer = _writer(pool, stage, log)
            known = KnownKeys(pool.storage.keys)
            if not log.ended:
                # All entries of a source that was appended before are known, and no fault.
                most = None if again else max_bad
                ingest_entries(
                    source, image_format, writer, log, known, max_bad=most, workers=workers, progress=progress
                )
                writer.finish()
                log.commit(writer.n, writer.content, _grid(pool), ended=True)
            ingested = log.ingested
            write_bad(Path(path), ingested.bad)
            if not ingested.keys:
                atomic.discard_directory(stage)
                if ingested.bad and all(reason == SAME_KEY for _, reason in ingested.bad):
                    tell(Path(path), source, log, report)
                    return pool
                raise PoolError(
                    f"none of the {len(ingested.bad)} entries of {src} can be added: {'; '.join(counted(Path(path), source, log).lines())}"
                )
            given = np.array([number[label] for label in ingested.labels] if number else ingested.labels, np.int32)
            given = checked_column(main, given if main.kind == "class" else None, len(ingested.keys), pool.classes)
            offsets = np.array([*ingested.starts[1:], log.n], np.int64) if image_format.keep_encoded else None
            added = Added(given, encoded_keys(ingested.keys, len(given)), offsets, named(identity))
            stage_ready(stage, pool, log.content, added)
            grown = commit_staged(where, stage)
            tell(Path(path), source, log, report)
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

    A kill costs only time. The same call again adds nothing: a file is known by its path, and by a hash of its items, which
    the pool keeps of every file that was appended.

    Raises:
        PoolError: shape or dtype of the items differ from the pool's; the items were appended before with other labels;
            another append was interrupted; and the errors of import_array.

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
    file = os.path.abspath(src), key, layout
    return _append(path, blocks, n=n, labels=given, keys=None, identity=identity, file=file)


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
        labels: (n,) of the main column of labels; further ones are empty of the new items.
        keys: the names of the items.
        identity: names the source: if any earlier append had the same identity, nothing is added.

    Raises:
        PoolError: shape or dtype of the items differ from the pool's; labels or keys that do not fit; the pool has a key
            already; another append was interrupted; disk full. The pool is unchanged then.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> pool = Pool.create(folder / "pool.zarr", np.zeros((5, 1, 28, 28), np.uint8))
        >>> append_blocks(folder / "pool.zarr", np.ones((2, 1, 28, 28), np.uint8), labels=[3, -1]).labels.tolist()
        [-1, -1, -1, -1, -1, 3, -1]
    """
    return _append(path, items, n=n, labels=labels, keys=keys, identity=identity, file=None)


def _append(
    path: str | os.PathLike[str], items: Any, *, n: int | None, labels: Any, keys: Any, identity: str, file: File | None
) -> Pool:
    """Do the work of append_blocks; ``file`` names a source that is known by its content too, ``identity`` only resumes."""
    pool = Pool.open(path)
    if pool.storage.attributes.encoded:
        raise PoolError(f"{path} holds encoded images: append images to it, not an array")
    blocks, n = as_blocks(items, n)
    labels = None if labels is None else checked_column(_main(pool), labels, n, pool.classes)  # before anything is read
    keys = None if keys is None else encoded_keys(keys, n)
    settings = {"source": identity, "labels": None, "column": None}
    try:
        while True:
            with appending(pool, settings) as (where, stage):
                pool, done = complete_earlier(where, stage)
                if done and file is not None:
                    continue  # the file may hold other items since; they are told by their hash
                if done and not identity:
                    raise PoolError(
                        f"an interrupted append to {path} was completed now; the pool holds {pool.n} items, and the items "
                        "of this call were not added. Append those that are missing"
                    )
                legacy = bool(identity) and pool.storage.attributes.appended == identity
                if done or legacy or (file is None and _known(pool, named(identity))):
                    if not done:
                        atomic.discard_directory(stage)
                    return pool
                try:
                    added = _staged(pool, stage, blocks, n, labels, keys, identity, file)
                except PoolError:
                    atomic.discard_directory(stage)  # wrong arguments: nobody will resume this
                    raise
                if added is None:
                    atomic.discard_directory(stage)
                    return pool
                return commit_staged(where, stage)
    except OSError as error:
        raise PoolError(f"{path} could not be appended to and is unchanged: {error}") from error


def _staged(
    pool: Pool,
    stage: Path,
    blocks: Iterable[np.ndarray],
    n: int | None,
    labels: np.ndarray | None,
    keys: np.ndarray | None,
    identity: str,
    file: File | None,
) -> Added | None:
    """Make everything ready in the stage; None if the pool has the items of the file already.

    Raises:
        PoolError: the items, or what came with them, do not fit; the pool has the items, and with other labels.
    """
    atomic.remove_tree(stage / "files")  # of an earlier call that was killed
    atomic.create_directory(stage / "files")
    content, count, digest = _stage_items(pool, stage, blocks)
    if n is not None and count != n:
        raise PoolError(f"n={n}, but the blocks hold {count} items")
    given = checked_column(_main(pool), labels, count, pool.classes)
    keys = None if keys is None else _new_keys(pool, keys, count)
    added = Added(given, keys, None, named(identity if file is None else f"{file!r} {digest}"))
    before = None if file is None else _known(pool, added.source)
    if before and before.details != added.details:
        raise PoolError(
            f"{pool.path} has the items of this file already, from item {before.n} on; they came with other labels then, and "
            "nothing was added now. `mcscore pool label` changes labels"
        )
    if before or (file is not None and _is_import(pool, file, count, digest, given)):
        return None
    stage_ready(stage, pool, content, added)
    return added


def named(identity: str) -> str | None:
    """Return how a pool records the source of an append; None if it has no name."""
    return f"sha256:{hashlib.sha256(identity.encode(errors='surrogatepass')).hexdigest()}" if identity else None


def _known(pool: Pool, source: str | None) -> Append | None:
    """Return the append of a source."""
    found = [one for one in read_appends(pool.storage.appends) if one.source == source]
    return found[0] if source and found else None


def _is_import(pool: Pool, file: File, count: int, digest: str, given: np.ndarray) -> bool:
    """Return whether the items of a file are those that the pool was made with.

    Raises:
        PoolError: they are, and come with other labels than the pool has.
    """
    appends = read_appends(pool.storage.appends)
    if Path(file[0]).name != pool.source or count != (appends[0].n if appends else pool.n) or not count:
        return False
    found, step = hashlib.sha256(), pool.block_items
    for batch in pool.blocks((at, min(at + step, count)) for at in range(0, count, step)):
        found.update(np.ascontiguousarray(batch.items).reshape(-1).view(np.uint8).data)
    if found.hexdigest() != digest:
        return False
    if (has_label(given) & (given != pool.labels[:count])).any():
        raise PoolError(
            f"{pool.path} was made with the items of this file, and has other labels for them now; nothing was added. "
            "`mcscore pool label` changes labels"
        )
    return True


def _stage_items(pool: Pool, stage: Path, blocks: Iterable[np.ndarray]) -> tuple[str, int, str]:
    """Write the blocks into the stage; return the pool's hash with them, their number, and a hash of them alone."""
    writer, digest = _writer(pool, stage, None), hashlib.sha256()
    for block in checked_blocks(iter(blocks)):
        if block.shape[1:] != pool.item_shape or block.dtype != pool.dtype:
            raise PoolError(
                f"items are {block.dtype} {block.shape[1:]}; {pool.path} holds {pool.dtype} {pool.item_shape}"
            )
        digest.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        writer.add(block)
    writer.finish()
    return writer.content, writer.n - pool.n, digest.hexdigest()


def _main(pool: Pool) -> LabelColumn:
    return pool.label_columns[MAIN]


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


def _new_keys(pool: Pool, keys: np.ndarray, count: int) -> np.ndarray:
    """Return the keys of new items.

    Raises:
        PoolError: another number of keys; a key that is given twice, or that the pool has.
    """
    if len(keys) != count:
        raise PoolError(f"{len(keys)} keys came for {count} items")
    names = as_arrow(keys)
    given = keys.view(f"S{keys.shape[1]}")[:, 0]
    given = np.sort(given[given != b""])
    twice = given[1:][given[1:] == given[:-1]]
    there = np.flatnonzero(pool.find_keys(names) != -1)
    if len(twice) or len(there):
        key = bytes(twice[0]) if len(twice) else names[int(there[0])].as_py()
        raise PoolError(f"key {key.decode()!r} is given twice, or {pool.path} has it already")
    return keys


def _writer(pool: Pool, stage: Path, log: StagingLog | None) -> ArrayWriter:
    """Return a writer behind the last row of the pool, or of the log."""
    start = pool.storage.rows.n if log is None else log.n
    begin = start - start % _grid(pool).unit
    tail = np.empty((start - begin, *pool.storage.rows.row_shape), pool.storage.rows.dtype)
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
