"""Read entries of a source, decode them in several processes, write them in order as rows of an array.

Each file of the array (at most 64 MiB in all but the largest pools) is durable before the checkpoint that counts it, so a
kill costs the work on one file. A restart reads the log and resumes behind its last checkpoint.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ..errors import ImageError, PoolError
from ..pool.decode import decode
from ..store.writer import ArrayWriter
from .sources import Entry, Position, Source
from .staging_log import StagingLog

# A process decodes BLOCK entries at a time, fewer where their pixels exceed BLOCK_BYTES.
BLOCK = 64
BLOCK_BYTES = 16 << 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImageFormat:
    """How an image is stored: as (channels, size, size) pixels, or its encoded bytes, decoded once as a check."""

    size: int
    channels: int
    keep_encoded: bool


def ingest_entries(
    source: Source,
    image_format: ImageFormat,
    writer: ArrayWriter,
    log: StagingLog,
    known: Iterable[str],
    *,
    max_bad: int | None,
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Write the entries of a source behind the last checkpoint.

    Args:
        source: the entries.
        image_format: how to store them.
        writer: stands behind the last row of the log, and commits to the log.
        log: where to resume, and what is stored.
        known: keys that the pool has already; entries with these keys are bad.
        max_bad: stop when more entries than this cannot be used; None: never.
        workers: decoding processes; None: one per core.
        progress: called as progress(entries done, entries in all).

    Raises:
        PoolError: more than max_bad entries cannot be used; an entry was usable before a restart and is not now.
    """
    seen = {*known, *log.ingested.keys}
    inside = writer.n - log.start  # rows of the entry in hand that are written
    refuse_too_many(log.ingested.bad, max_bad)
    for image in _decode_ahead(source, image_format, log, workers or os.cpu_count() or 1, progress):
        log.position, log.start = image.position, writer.n - inside
        if inside and image.rows is None:
            raise PoolError(
                f"{image.key} was stored in part and cannot be used now: {image.why}. Start the import anew"
            )
        if image.rows is None:
            log.add_bad(image.key, image.why)
        elif image.key in seen:
            log.add_bad(image.key, "an earlier item has the same key")
        else:
            writer.add(image.rows[inside:])
            inside = 0
            log.add(image.key, image.label)
            seen.add(image.key)
            continue
        refuse_too_many(log.ingested.bad, max_bad)


def refuse_too_many(bad: list[list[str]], max_bad: int | None) -> None:
    """Stop an import with too many bad entries.

    Raises:
        PoolError: there are more than max_bad.
    """
    if max_bad is not None and len(bad) > max_bad:
        raise PoolError(
            f"{len(bad)} entries cannot be used, more than max_bad={max_bad}; the last: {bad[-1][0]}: {bad[-1][1]}. "
            "Repeat the call with a larger max_bad to resume"
        )


@dataclass(frozen=True)
class _DecodedImage:
    position: Position
    key: str
    label: int
    rows: np.ndarray | None
    why: str


def _decode_ahead(
    source: Source, image_format: ImageFormat, log: StagingLog, workers: int, progress: Progress | None
) -> Iterator[_DecodedImage]:
    """Yield the entries behind the last checkpoint, in order; up to 2 blocks per worker are decoded ahead."""
    done = log.entries
    block = max(1, min(BLOCK, BLOCK_BYTES // (image_format.channels * image_format.size**2)))
    entries = source.entries(log.position)
    waiting: deque[Future[list[_DecodedImage]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            while True:
                while len(waiting) < 2 * workers and (part := list(islice(entries, block))):
                    waiting.append(pool.submit(_decode_block, part, image_format))
                if progress:
                    progress(done, source.count or done)
                if not waiting:
                    return
                for image in waiting.popleft().result():
                    log.entries = done
                    yield image
                    done += 1
        except BrokenProcessPool as error:
            raise PoolError(
                "a decoding process was killed, perhaps for lack of memory; repeat the call to resume"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _decode_block(entries: list[Entry], image_format: ImageFormat) -> list[_DecodedImage]:
    return [_decode_one(entry, image_format) for entry in entries]


def _decode_one(entry: Entry, image_format: ImageFormat) -> _DecodedImage:
    try:
        if entry.refused:
            raise ImageError(entry.refused)
        data = entry.data.read_bytes() if isinstance(entry.data, Path) else (entry.data or b"")
        pixels = decode(data, image_format.size, image_format.channels)
    except (ImageError, OSError) as error:
        return _DecodedImage(entry.position, entry.key, entry.label, None, str(error))
    rows = np.frombuffer(data, np.uint8) if image_format.keep_encoded else pixels[None]
    return _DecodedImage(entry.position, entry.key, entry.label, rows, "")
