"""Importing encoded images: decoded by several processes, block by block, so that a kill costs the blocks at hand only.

Beside the pool to be, in ``.<name>.import``, each block of 256 entries becomes two files: the pixels, and then, as the
commit, a JSON of keys, labels, bad entries and the crc of the pixels. Starting again skips what is committed. When all
are, the pool is made of them (all or nothing, as any pool), and the directory goes. It needs the pool's size once more
on disk while it lasts.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from .durable import locked, sync_directory, write_file
from .format import PoolError
from .images import BadImage, decode, require_decoder
from .pool import Pool
from .sources import Entry, open_source

BLOCK = 256
Progress = Callable[[int, int], None]


def import_images(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    size: int,
    channels: int = 3,
    labels: bool = False,
    column: str | None = None,
    max_bad: int | None = None,
    workers: int | None = None,
    mean: Any = None,
    std: Any = None,
    classes: Any = None,
    compression: str = "none",
    progress: Progress | None = None,
) -> Pool:
    """Make a pool of (channels, size, size) uint8 from images; started again after any kill it goes on, to the same pool.

    Args:
        src, labels, column: see sources.open_source. size, channels: see images.decode.
        max_bad: stop when more entries than this cannot be used; None: never. All are listed in ``<dst>.bad.csv``.
        workers: decoding processes; default one per core.
        progress: called as progress(entries done, entries in all; as many as are done where this is not known).

    Raises:
        PoolError: no source; dst exists; more than max_bad bad entries; source or settings changed since the import that
            is to go on; another process imports to dst; disk full. What is decoded stays and is used by the next call.
    """
    require_decoder()
    if size < 1 or channels not in (1, 3):
        raise PoolError(f"size must be at least 1 and channels 1 or 3, not {size} and {channels}")
    path, source = Path(dst), open_source(src, labels, column)
    stage = path.with_name(f".{path.name}.import")
    settings = {"source": source.identity, "size": size, "channels": channels, "labels": labels, "column": column}
    if path.exists() and stage.exists():  # killed between the last two steps
        _check_same(stage, settings)
        shutil.rmtree(stage)
        return Pool.open(path)
    if path.exists():
        raise PoolError(f"{path} exists already; pools are never overwritten: choose another path, or remove it first")
    try:
        stage.mkdir(parents=True, exist_ok=True)
        with locked(stage):
            _check_same(stage, settings)
            blocks = _decode_all(source, stage, size, channels, max_bad, workers or os.cpu_count() or 1, progress)
            pool = _assemble(path, stage, blocks, max_bad, mean, std, classes or source.classes, compression, src)
            shutil.rmtree(stage)
            return pool
    except OSError as error:
        raise PoolError(f"{path} could not be imported: {error}. The same call goes on where it stopped") from error


def _check_same(stage: Path, settings: dict[str, Any]) -> None:
    file = stage / "settings.json"
    if not file.exists():
        write_file(file, json.dumps(settings).encode())
        sync_directory(stage.parent)
    recorded = json.loads(file.read_bytes())
    changed = [name for name in settings if recorded.get(name) != settings[name]]
    if changed:
        raise PoolError(
            f"an import in {stage} was begun with other {', '.join(changed)}; go on with the same, or remove that directory"
        )


def _decode_all(
    source: Any, stage: Path, size: int, channels: int, max_bad: int | None, workers: int, progress: Progress | None
) -> list[dict[str, Any]]:
    """What was committed of every block, in order; those that are missing or damaged are decoded."""
    blocks: list[dict[str, Any]] = []
    while (said := _committed(stage, len(blocks))) is not None:
        blocks.append(said)
    begun = sum(said["entries"] for said in blocks)
    last = bool(blocks) and blocks[-1]["entries"] < BLOCK  # the source ended there
    entries = iter(()) if last else source.entries(begun)
    waiting: deque[Future[dict[str, Any]]] = deque()
    bad = [reason for said in blocks for reason in said["bad"]]
    done = begun
    number = len(blocks)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            while True:
                while len(waiting) < 2 * workers and (part := list(islice(entries, BLOCK))):
                    waiting.append(pool.submit(_decode_block, stage, number, part, size, channels))
                    number += 1
                if progress:
                    progress(done, source.count or done)
                if not waiting:
                    return blocks
                blocks.append(waiting.popleft().result())
                done += blocks[-1]["entries"]
                bad += blocks[-1]["bad"]
                _refuse_too_many(bad, max_bad, stage)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _decode_block(stage: Path, number: int, entries: list[Entry], size: int, channels: int) -> dict[str, Any]:
    """Runs in a worker: decode, write the pixels, then the record of them."""
    items, keys, labels, bad = [], [], [], []
    for entry in entries:
        try:
            if entry.refused:
                raise BadImage(entry.refused)
            data = entry.data.read_bytes() if isinstance(entry.data, Path) else (entry.data or b"")
            items.append(decode(data, size, channels))
            keys.append(entry.key)
            labels.append(entry.label)
        except (BadImage, FileNotFoundError, PermissionError) as error:
            bad.append([entry.key, str(error)])
    pixels = np.stack(items) if items else np.empty((0, channels, size, size), np.uint8)
    said = {
        "entries": len(entries),
        "keys": keys,
        "labels": labels,
        "bad": bad,
        "crc32": zlib.crc32(pixels.data) if items else 0,
    }
    write_file(stage / f"{number:08d}.u1", pixels.tobytes())
    write_file(stage / f"{number:08d}.json", json.dumps(said).encode())
    return said


def _committed(stage: Path, number: int) -> dict[str, Any] | None:
    try:
        said = json.loads((stage / f"{number:08d}.json").read_bytes())
        return said if zlib.crc32((stage / f"{number:08d}.u1").read_bytes()) == said["crc32"] else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _refuse_too_many(bad: list[list[str]], max_bad: int | None, stage: Path) -> None:
    if max_bad is not None and len(bad) > max_bad:
        raise PoolError(
            f"{len(bad)} entries cannot be used, more than max_bad = {max_bad}; the last: {bad[-1][0]}: {bad[-1][1]}. "
            f"The same call with a greater max_bad goes on from {stage}"
        )


def _assemble(
    path: Path,
    stage: Path,
    blocks: list[dict[str, Any]],
    max_bad: int | None,
    mean: Any,
    std: Any,
    classes: Any,
    compression: str,
    src: Any,
) -> Pool:
    seen: set[str] = set()
    kept, bad = [], []
    for said in blocks:
        keep = np.zeros(len(said["keys"]), bool)
        for i, key in enumerate(said["keys"]):
            keep[i] = key not in seen
            seen.add(key)
        bad += said["bad"] + [
            [key, "an earlier entry has the same key"] for key, k in zip(said["keys"], keep, strict=True) if not k
        ]
        kept.append(keep)
    if bad:
        text = io.StringIO()
        csv.writer(text).writerows([["path", "reason"], *bad])
        write_file(path.with_name(f"{path.name}.bad.csv"), text.getvalue().encode("utf-8", "surrogateescape"))
    _refuse_too_many(bad, max_bad, stage)
    if not seen:
        raise PoolError(f"none of the {len(bad)} entries of {src} can be used; {path.name}.bad.csv says why")
    settings = json.loads((stage / "settings.json").read_bytes())
    shape = (settings["channels"], settings["size"], settings["size"])

    def pixels() -> Iterator[np.ndarray]:
        for number, keep in enumerate(kept):
            raw = np.fromfile(stage / f"{number:08d}.u1", np.uint8).reshape(-1, *shape)
            if len(raw):
                yield raw[keep]

    def chosen(name: str) -> list[Any]:
        return [v for said, keep in zip(blocks, kept, strict=True) for v, k in zip(said[name], keep, strict=True) if k]

    return Pool.create(
        path,
        pixels(),
        n=len(seen),
        labels=np.array(chosen("labels"), np.int32),
        keys=chosen("keys"),
        mean=mean,
        std=std,
        classes=classes,
        source=Path(os.fspath(src)).name,
        compression=compression,
    )
