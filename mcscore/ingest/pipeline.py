"""Read entries of a source, decode them in several processes, write them in order as rows of an array.

Each file of the array (at most 64 MiB in all but the largest pools) is durable before the checkpoint that counts it, so a
kill costs the work on one file. A restart reads the log and resumes behind its last checkpoint.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Container, Iterator
from concurrent.futures import Future
from dataclasses import replace

from ..errors import PoolError
from ..progress import Progress, Shown
from ..progress import shown as told
from ..store.writer import ArrayWriter
from .decoders import Decoders, decoders
from .sources import Entry, Source, key_problem, shown
from .staging_log import StagingLog
from .worker import DecodedImage, ImageFormat

__all__ = ["ImageFormat", "ingest_entries", "refuse_too_many"]

# A process decodes a block at a time. Entries that wait to be decoded or written have at most AHEAD_BYTES, counted as
# encoded bytes and pixels; one that is larger by itself waits alone.
BLOCK = 64
BLOCK_BYTES = 16 << 20
AHEAD_BYTES = 256 << 20
SAME_KEY = "an earlier item has the same key"


def ingest_entries(
    source: Source,
    image_format: ImageFormat,
    writer: ArrayWriter,
    log: StagingLog,
    known: Container[str],
    *,
    max_bad: int | None,
    workers: int | None,
    progress: Shown,
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
        progress: called as progress(entries done, entries in all); None and False as of ``import_images``.

    Raises:
        PoolError: more than max_bad entries cannot be used; an entry was usable before a restart and is not now.
    """
    seen = set(log.ingested.keys)  # the blocks hold no entry that is known
    inside = writer.n - log.start  # rows of the entry in hand that are written
    refuse_too_many(log.ingested.bad, max_bad)
    refuse_too_many([[shown(key), why] for key, why in source.refused], max_bad)
    processes = workers or os.cpu_count() or 1
    with decoders(processes, image_format) as pool, told(progress, "images") as tell:
        for entry, image in _decode_ahead(source, image_format, log, pool, known, 2 * processes, tell):
            log.position, log.start = entry.position, writer.n - inside
            if inside and image.rows is None:
                raise PoolError(
                    f"{shown(entry.key)} was stored in part and cannot be used now: {image.why}. Start the import anew"
                )
            if image.rows is not None and entry.key not in seen:
                writer.add(image.rows[inside:])
                inside = 0
                log.add(entry.key, entry.label, image.converted)
                seen.add(entry.key)
            elif image.rows is not None:
                log.add_bad(shown(entry.key), SAME_KEY)
            elif image.why:
                log.add_bad(shown(entry.key), shown(image.why))
            log.add_passed(entry.passed)
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


def _decode_ahead(
    source: Source,
    image_format: ImageFormat,
    log: StagingLog,
    pool: Decoders,
    known: Container[str],
    ahead: int,
    progress: Progress,
) -> Iterator[tuple[Entry, DecodedImage]]:
    """Yield the entries behind the last checkpoint, in order; up to ``ahead`` blocks are decoded in advance."""
    done = log.entries
    blocks = _blocks(source.entries(log.position), image_format, known)
    waiting: deque[tuple[list[Entry], int, Future[list[DecodedImage]]]] = deque()
    held, following = 0, next(blocks, None)
    while True:
        while following and len(waiting) < ahead and (not waiting or held + following[1] <= AHEAD_BYTES):
            waiting.append((*following, pool.submit(following[0])))
            held += following[1]
            following = next(blocks, None)
        progress(done, source.count or done)
        if not waiting:
            return
        block, cost, images = waiting.popleft()
        for entry, image in zip(block, images.result(), strict=True):
            log.entries = done
            yield entry, image
            done += bool(image.why or image.rows is not None)  # not for what only counts things passed over
        held -= cost


def _blocks(
    entries: Iterator[Entry], image_format: ImageFormat, known: Container[str]
) -> Iterator[tuple[list[Entry], int]]:
    """Yield entries, and the bytes that they will take, in blocks of at most BLOCK entries and, but for one large entry, BLOCK_BYTES."""
    block: list[Entry] = []
    cost = 0
    for entry in entries:
        checked = _checked(entry, known)
        price = image_format.item_bytes + checked.size if checked.data is not None else 0
        if block and (len(block) == BLOCK or cost + price > BLOCK_BYTES):
            yield block, cost
            block, cost = [], 0
        block.append(checked)
        cost += price
    if block:
        yield block, cost


def _checked(entry: Entry, known: Container[str]) -> Entry:
    """Refuse an entry by its key before its image is decoded."""
    if entry.refused or entry.data is None:
        return entry
    problem = SAME_KEY if entry.key in known else key_problem(entry.key)
    return replace(entry, data=None, refused=problem, size=0) if problem else entry
