"""Entries of a source become rows of an array: decoded by several processes, written in order, so that a kill costs one file.

Each file of the array (at most 64 MiB in all but the greatest pools) is durable before its record in the journal is: what
came into it, and which entry comes next. Starting again reads the journal and goes on behind its last record.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import create_directory, replace_file
from ..errors import ImageError, PoolError
from ..pool.decode import decode
from ..pool.schema import Grid
from ..store.writer import ArrayWriter
from .sources import Entry, Place, Source

BLOCK = 64  # entries that a process decodes at a time, if they stay within
BLOCK_BYTES = 16 << 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class How:
    """What becomes of an image: (channels, size, size) pixels, or with ``keep`` its bytes as they are, once decoded to see."""

    size: int
    channels: int
    keep: bool


@dataclass
class Taken:
    """What came so far. starts: the row at which each item begins (its number, or its first byte)."""

    keys: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    bad: list[list[str]] = field(default_factory=list)


class Journal:
    """The records of an intake, in ``folder``; ``taken`` and the rest are what they say in all.

    n, content: rows that were there before the first, and their hash.
    """

    def __init__(self, folder: Path, n: int = 0, content: str | None = None) -> None:
        self.folder = folder
        self.taken = Taken()
        self.n, self.content = n, content or ""
        self.grid: Grid | None = None
        self.place: Place = (0, 0)  # of the entry at hand; its rows begin at row ``start``
        self.start, self.entries = n, 0
        self.ended = False
        self.records = 0
        self._since = Taken()  # what the next record will add
        create_directory(folder)
        while not self.ended and (said := self._read()) is not None:
            self.records += 1
            for name, values in said["taken"].items():
                getattr(self.taken, name).extend(values)
            self.n, self.content, self.grid = said["n"], said["content"], Grid(*said["grid"])
            self.place, self.start, self.entries = (said["place"][0], said["place"][1]), said["start"], said["entries"]
            self.ended = said["ended"]

    def _read(self) -> dict[str, Any] | None:
        try:
            return json.loads(self._file(self.records).read_bytes())
        except FileNotFoundError:
            return None

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:08d}.json"

    def add(self, key: str, label: int) -> None:
        """The item at hand is complete."""
        for taken in (self.taken, self._since):
            taken.keys.append(key)
            taken.labels.append(label)
            taken.starts.append(self.start)

    def add_bad(self, key: str, why: str) -> None:
        for taken in (self.taken, self._since):
            taken.bad.append([key, why])

    def commit(self, n: int, content: str, grid: Grid, ended: bool = False) -> None:
        """Record what came since the last record; the rows it speaks of are durable."""
        said = {
            "n": n,
            "content": content,
            "grid": [grid.chunk, grid.shard],
            "place": self.place,
            "start": self.start,
            "entries": self.entries,
            "ended": ended,
            "taken": self._since.__dict__,
        }
        replace_file(self._file(self.records), json.dumps(said).encode())
        self.records += 1
        self.n, self.content, self.grid, self.ended = n, content, grid, ended
        self._since = Taken()


def take_in(
    source: Source,
    how: How,
    writer: ArrayWriter,
    journal: Journal,
    known: Iterable[str],
    *,
    max_bad: int | None,
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Write what is left of the source behind the last record. ``writer`` must stand there, and commit to the journal.

    known: keys that may not come again. workers: processes; None: one per core.

    Raises:
        PoolError: more than max_bad entries cannot be used.
    """
    seen = {*known, *journal.taken.keys}
    inside = writer.n - journal.start  # rows of the entry at hand that are written
    refuse_too_many(journal.taken.bad, max_bad)
    for image in _decoded(source, how, journal, workers or os.cpu_count() or 1, progress):
        journal.place, journal.start = image.place, writer.n - inside
        if inside and image.rows is None:
            raise PoolError(f"{image.key} could be used before and cannot now ({image.why}): begin the import anew")
        if image.rows is None:
            journal.add_bad(image.key, image.why)
        elif image.key in seen:
            journal.add_bad(image.key, "an earlier item has the same key")
        else:
            writer.add(image.rows[inside:])
            inside = 0
            journal.add(image.key, image.label)
            seen.add(image.key)
            continue
        refuse_too_many(journal.taken.bad, max_bad)


def refuse_too_many(bad: list[list[str]], max_bad: int | None) -> None:
    if max_bad is not None and len(bad) > max_bad:
        raise PoolError(
            f"{len(bad)} entries cannot be used, more than max_bad = {max_bad}; the last: {bad[-1][0]}: {bad[-1][1]}. "
            "The same call with a greater max_bad goes on from there"
        )


@dataclass(frozen=True)
class _Image:
    place: Place
    key: str
    label: int
    rows: np.ndarray | None
    why: str


def _decoded(source: Source, how: How, journal: Journal, workers: int, progress: Progress | None) -> Iterator[_Image]:
    """The entries behind the last record, in order, of which some are decoded ahead."""
    done = journal.entries
    block = max(1, min(BLOCK, BLOCK_BYTES // (how.channels * how.size**2)))
    entries = source.entries(journal.place)
    waiting: deque[Future[list[_Image]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            while True:
                while len(waiting) < 2 * workers and (part := list(islice(entries, block))):
                    waiting.append(pool.submit(_decode_block, part, how))
                if progress:
                    progress(done, source.count or done)
                if not waiting:
                    return
                for image in waiting.popleft().result():
                    journal.entries = done
                    yield image
                    done += 1
        except BrokenProcessPool as error:
            raise PoolError(
                "a decoding process has died, killed from outside or by a lack of memory; the same call goes on"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _decode_block(entries: list[Entry], how: How) -> list[_Image]:
    return [_decode_one(entry, how) for entry in entries]


def _decode_one(entry: Entry, how: How) -> _Image:
    try:
        if entry.refused:
            raise ImageError(entry.refused)
        data = entry.data.read_bytes() if isinstance(entry.data, Path) else (entry.data or b"")
        pixels = decode(data, how.size, how.channels)
    except (ImageError, OSError) as error:
        return _Image(entry.place, entry.key, entry.label, None, str(error))
    rows = np.frombuffer(data, np.uint8) if how.keep else pixels[None]
    return _Image(entry.place, entry.key, entry.label, rows, "")
