"""Growing a pool. What comes is made ready beside it, and takes its place in steps of which the last alone counts.

In ``.<name>.append``: the new files of items, the first of which also holds the old items of the pool's last, partly
filled file; then ``ready.json``, and only then is the pool touched, in this order:

1. The files take their places by renames. A reader of the pool as it was finds the same items in the file that was
   replaced, and does not look beyond its n.
2. labels, excluded and offsets are extended (under the lock that labeling takes, so no label is lost); the new keys become
   an array of their own.
3. zarr.json of each array says the new length, for other Zarr readers.
4. zarr.json of the pool says the new n. Until here the pool is the old one; from here on it is the new one.

Each step can be done again, so whoever appends next completes what was cut short.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..errors import PoolError
from ..pool.create import as_blocks, checked_blocks, write_column
from ..pool.decode import require_decoder
from ..pool.labels import checked_labels, encoded_keys
from ..pool.pool import Pool
from ..pool.schema import UNLABELED, Attributes, Grid
from ..store.chunks import ChunkReader
from ..store.files import local
from ..store.layout import layout_of
from ..store.lock import locked_in_turn
from ..store.writer import ArrayWriter, file_parts
from ..store.zarr_store import AtomicStore
from .arrays import read_source
from .images import write_bad
from .pipeline import How, Journal, Progress, take_in
from .sources import open_source
from .staging import stage_of, staged


def append_images(
    path: str | os.PathLike[str],
    src: str | os.PathLike[str],
    *,
    labels: bool = False,
    column: str | None = None,
    max_bad: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Pool:
    """Add the images of a source to a pool, in its size and form; started again after any kill it goes on.

    Ids and bytes of old items stay. Entries whose key the pool has already count as bad ones, so a folder that has grown
    can be given whole. Arguments as for import_images; class folders are matched with the pool's classes by name.

    Raises:
        PoolError: no pool of images; no source; a class that the pool does not have; no entry that can be used; another
            append was cut short; and what import_images raises.
    """
    require_decoder()
    pool, source = Pool.open(path), open_source(src, labels, column)
    how = How(pool.item_shape[-1], pool.item_shape[0], bool(pool.storage.attributes.encoded))
    if pool.dtype != np.uint8 or pool.item_shape not in ((1, how.size, how.size), (3, how.size, how.size)):
        raise PoolError(
            f"{path} holds {pool.dtype} items of shape {pool.item_shape}; images become uint8 (1 or 3, S, S)"
        )
    number = _class_numbers(pool, source.classes)
    where = local(pool.path, "append")
    stage = stage_of(where, "append")
    settings = {"source": source.identity, "labels": labels, "column": column}
    identity = json.dumps(settings)
    try:
        with staged(stage, settings):
            pool, done = _completed(where, stage, identity)
            if done:
                return pool
            _check_base(stage, pool)
            atomic.create_directory(stage / "files")
            journal = Journal(stage / "journal", pool.storage.rows.n, pool.storage.attributes.content)
            writer = _writer(pool, stage, journal)
            known = () if pool.keys is None else pool.keys.tolist()
            if not journal.ended:
                take_in(source, how, writer, journal, known, max_bad=max_bad, workers=workers, progress=progress)
                writer.finish()
                journal.commit(writer.n, writer.content, _grid(pool), ended=True)
            taken = journal.taken
            write_bad(where, taken.bad)
            if not taken.keys:
                atomic.discard_directory(stage)
                raise PoolError(
                    f"none of the {len(taken.bad)} entries of {src} can be added; {pool.path.name}.bad.csv says why"
                )
            given = np.array([number[label] for label in taken.labels] if number else taken.labels, np.int32)
            given = checked_labels(given, len(taken.keys), pool.classes)
            offsets = np.array([*taken.starts[1:], journal.n], np.int64) if how.keep else None
            _make_ready(stage, pool, identity, journal.content, given, encoded_keys(taken.keys, len(given)), offsets)
            return _commit(where, stage)
    except OSError as error:
        raise PoolError(f"{path} could not be appended to: {error}. The same call goes on where it stopped") from error


def append_array(
    path: str | os.PathLike[str],
    src: str | os.PathLike[str],
    labels: Any = None,
    *,
    key: str | None = None,
    labels_key: str | None = None,
    layout: str | None = None,
) -> Pool:
    """Add the items of an array in a file to a pool; the arguments are those of import_array.

    A kill loses nothing but time, and the same call twice adds the items once: a file that was appended last is known.

    Raises:
        PoolError: items of another shape or dtype than the pool's; another append was cut short; as import_array.
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
    """Add items, given as to Pool.create. identity tells sources apart: what was appended last is not appended again.

    Raises:
        PoolError: items of another shape or dtype than the pool's; keys that are there already; another append was cut
            short; disk full. The pool is as it was then.
    """
    pool = Pool.open(path)
    if pool.storage.attributes.encoded:
        raise PoolError(f"{path} keeps encoded images: append images to it, not an array")
    blocks, n = as_blocks(items, n)
    where = local(pool.path, "append")
    stage = stage_of(where, "append")
    try:
        with staged(stage, {"source": identity, "labels": None, "column": None}):
            pool, done = _completed(where, stage, identity)
            if done and identity:
                return pool
            if done:
                raise PoolError(
                    f"an append to {path} that had been cut short was completed just now: it holds {pool.n} items, and "
                    "nothing else was added. Append what is not among them"
                )
            atomic.remove_tree(stage / "files")  # of an earlier call that was killed
            atomic.create_directory(stage / "files")
            try:
                writer = _writer(pool, stage, None)
                for block in checked_blocks(blocks):
                    if block.shape[1:] != pool.item_shape or block.dtype != pool.dtype:
                        raise PoolError(
                            f"items are {block.dtype} {block.shape[1:]}; those of {path} are {pool.dtype} {pool.item_shape}"
                        )
                    writer.add(block)
                writer.finish()
                count = writer.n - pool.n
                if n is not None and count != n:
                    raise PoolError(f"{n} items were announced, {count} came")
                given = np.full(count, UNLABELED) if labels is None else labels
                given = checked_labels(given, count, pool.classes)
                named = None if keys is None else encoded_keys(keys, count)
                _refuse_known(pool, keys)
                _make_ready(stage, pool, identity, writer.content, given, named, None)
            except PoolError:
                atomic.discard_directory(stage)  # what was given is wrong: nobody will go on with it
                raise
            return _commit(where, stage)
    except OSError as error:
        raise PoolError(f"{path} could not be appended to, it is as it was: {error}") from error


def _grid(pool: Pool) -> Grid:
    return Grid(pool.storage.rows.chunk, pool.storage.rows.shard)


def _class_numbers(pool: Pool, classes: list[str] | None) -> dict[int, int]:
    """From labels of the source to labels of the pool, by the names of the classes; empty: they are the same."""
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
            raise PoolError(f"key {key!r} is given twice, or is that of an item of {pool.path} already")
        known.add(key)


def _writer(pool: Pool, stage: Path, journal: Journal | None) -> ArrayWriter:
    """One that goes on behind the pool's last row, or behind what the journal says."""
    start = pool.storage.rows.n if journal is None else journal.n
    begin = start - start % _grid(pool).unit
    tail = np.empty((start - begin, *pool.storage.rows.row_shape), pool.dtype)
    if (
        len(tail) and start == pool.storage.rows.n
    ):  # otherwise a journal stands at the end of a file, or at that of all of them
        with ChunkReader(pool.storage.rows) as reader:
            reader.read(begin, tail)
    return ArrayWriter(
        pool.storage.rows,
        stage / "files",
        start=start,
        tail=tail,
        content=pool.storage.attributes.content if journal is None else journal.content,
        on_file=None if journal is None else lambda n, content: journal.commit(n, content, _grid(pool)),
    )


def _make_ready(
    stage: Path,
    pool: Pool,
    identity: str,
    content: str,
    labels: np.ndarray,
    keys: np.ndarray | None,
    offsets: np.ndarray | None,
) -> None:
    for name, values in (("labels", labels), ("keys", keys), ("offsets", offsets)):
        if values is not None:
            with atomic.replaced(stage / f"{name}.npy") as file:
                np.save(file, values)
    atomic.sync(stage / "files")
    said = {
        "from": pool.n,
        "base": pool.storage.attributes.content,
        "n": pool.n + len(labels),
        "content": content,
        "source": identity,
    }
    atomic.replace_file(stage / "ready.json", json.dumps(said).encode())


def _check_base(stage: Path, pool: Pool) -> None:
    """What is staged follows on one state of the pool."""
    file, now = stage / "base.json", [pool.n, pool.storage.attributes.content]
    if not file.exists():
        atomic.replace_file(file, json.dumps(now).encode())
    if json.loads(file.read_bytes()) != now:
        raise PoolError(f"{pool.path} has changed since the append in {stage} was begun: remove that directory")


def _completed(path: Path, stage: Path, identity: str) -> tuple[Pool, bool]:
    """The pool, and whether there is nothing to do: an earlier call for the same had made all ready, or had ended."""
    if (stage / "ready.json").exists():
        return _commit(path, stage), True
    pool = Pool.open(path)
    if identity and pool.storage.attributes.appended == identity:
        atomic.discard_directory(stage)
        return pool, True
    return pool, False


def _commit(path: Path, stage: Path) -> Pool:
    """Put what is ready in its place. Can be repeated after having stopped anywhere.

    Raises:
        PoolError: the pool is not the one that this was made ready for.
    """
    import zarr

    ready = json.loads((stage / "ready.json").read_bytes())
    pool = Pool.open(path)
    facts = pool.storage.attributes
    if (pool.n, facts.content) != (ready["n"], ready["content"]):
        if (pool.n, facts.content) != (ready["from"], ready["base"]):
            raise PoolError(f"{path} has changed since the append in {stage} was made ready: remove that directory")
        group: Any = zarr.open_group(AtomicStore(path), mode="r+", zarr_format=3, use_consolidated=False)
        if facts.n is None:  # made by other software: from now on its n is said
            facts = replace(facts, n=pool.n)
            group.update_attributes(facts.to_json())
        values = {file.stem: np.load(file) for file in stage.glob("*.npy")}
        atomic.move_files(stage / "files", path / pool.storage.rows.folder.name)
        rows = ready["n"]
        if "offsets" in values:
            _extend(group, path, "offsets", pool.n + 1, values["offsets"])
            rows = int(values["offsets"][-1])
        _extend(group, path, "labels", pool.n, values["labels"])
        _extend(group, path, "excluded", pool.n, np.zeros(len(values["labels"]), bool))
        if "keys" in values:
            _write_keys(group, path, f"keys-{pool.n}", values["keys"])
        group[pool.storage.rows.folder.name].resize((rows, *pool.storage.rows.row_shape))
        _say(group, facts, ready)
    atomic.discard_directory(stage)
    return Pool.open(path)


def _extend(group: Any, path: Path, name: str, start: int, values: np.ndarray) -> None:
    """Rows start.. of a column become ``values``; repeating it changes nothing."""
    array = group[name]
    layout = layout_of(array, path / name)
    stop = start + len(values)
    with locked_in_turn(path / name):
        atomic.discard_temporaries(path / name, "*")
        for number in range(start // layout.chunk, -(-stop // layout.chunk)):
            first = number * layout.chunk
            chunk = np.zeros(layout.chunk, array.dtype)
            if first < start:
                with ChunkReader(layout) as reader:
                    reader.decode(number, chunk)
            low, high = max(first, start), min(first + layout.chunk, stop)
            chunk[low - first : high - first] = values[low - start : high - start]
            atomic.replace_file(path / name / layout.name.format(number), *file_parts(layout, chunk, len(chunk)))
    array.resize((stop,))


def _write_keys(group: Any, path: Path, name: str, keys: np.ndarray) -> None:
    from zarr.codecs import ZstdCodec

    atomic.remove_tree(path / name)  # of an earlier call that was killed
    write_column(group, name, keys, 0, [ZstdCodec(level=3)])


def _say(group: Any, facts: Attributes, ready: dict[str, Any]) -> None:
    earlier = (*facts.earlier, (ready["from"], ready["base"]))
    facts = replace(facts, n=ready["n"], content=ready["content"], earlier=earlier, appended=ready["source"] or None)
    group.update_attributes(facts.to_json())
