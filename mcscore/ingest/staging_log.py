"""The log of a staged import: checkpoints from which a killed import resumes.

One JSON file per checkpoint. A checkpoint is written after the rows that it counts are durable, so the log never counts
a row that a crash could lose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..atomic import create_directory, discard_temporaries
from ..pool.schema import Grid
from ..store.files import is_there
from .sources import Position
from .staging import read_fields, write_fields


@dataclass
class Ingested:
    """The items stored so far, and the entries that cannot be used (``bad``: key, reason).

    starts: the row at which each item begins: its number, or its first byte in a pool of encoded images.
    """

    keys: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    bad: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """The schema of one file of the log: ``ingested`` since the last checkpoint, everything else in total.

    n, content: rows written, and their hash. chunk, shard: the grid of the array. position, start: the entry in hand, and
    the row at which its item begins. entries: entries finished before it. ended: the source was read to its end. passed,
    converted: how many since the last checkpoint, by kind.
    """

    n: int
    content: str
    chunk: int
    shard: int | None
    position: list[int]
    start: int
    entries: int
    ended: bool
    ingested: dict[str, list[object]]
    passed: dict[str, int] = field(default_factory=dict)
    converted: dict[str, int] = field(default_factory=dict)


class StagingLog:
    """The checkpoints in ``folder``, and the sum of them.

    n, content: the rows that the array held before the first checkpoint, and their hash.
    """

    def __init__(self, folder: Path, n: int = 0, content: str | None = None) -> None:
        self.folder = folder
        self.ingested = Ingested()
        self.n, self.content = n, content or ""
        self.grid: Grid | None = None
        self.position: Position = (0, 0)  # of the entry in hand, whose item begins at row ``start``
        self.start, self.entries = n, 0
        self.ended = False
        self.checkpoints = 0
        self.passed, self.converted = Counter[str](), Counter[str]()
        self._since = Ingested()  # for the next checkpoint, as are the next two
        self._passed, self._converted = Counter[str](), Counter[str]()
        create_directory(folder)
        discard_temporaries(folder, "*")  # of a killed call: this one has the lock of the stage
        while not self.ended and is_there(self._file(self.checkpoints)):
            self._add(read_fields(self._file(self.checkpoints), Checkpoint))

    def _add(self, last: Checkpoint) -> None:
        self.checkpoints += 1
        for name, values in last.ingested.items():
            getattr(self.ingested, name).extend(values)
        self.passed.update(last.passed)
        self.converted.update(last.converted)
        self.n, self.content, self.grid = last.n, last.content, Grid(last.chunk, last.shard)
        self.position = (last.position[0], last.position[1])
        self.start, self.entries, self.ended = last.start, last.entries, last.ended

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:08d}.json"

    def add(self, key: str, label: int, converted: Iterable[str] = ()) -> None:
        """Add the item in hand, whose rows are complete, and what was converted in it."""
        self.converted.update(converted)
        self._converted.update(converted)
        for ingested in (self.ingested, self._since):
            ingested.keys.append(key)
            ingested.labels.append(label)
            ingested.starts.append(self.start)

    def add_bad(self, key: str, reason: str) -> None:
        """Add the entry in hand as one that cannot be used."""
        for ingested in (self.ingested, self._since):
            ingested.bad.append([key, reason])

    def add_passed(self, passed: Iterable[tuple[str, int]]) -> None:
        """Count what was passed over before the entry in hand."""
        for why, count in passed:
            self.passed[why] += count
            self._passed[why] += count

    def commit(self, n: int, content: str, grid: Grid, ended: bool = False) -> None:
        """Write a checkpoint; the first ``n`` rows must be durable."""
        checkpoint = Checkpoint(
            n=n,
            content=content,
            chunk=grid.chunk,
            shard=grid.shard,
            position=list(self.position),
            start=self.start,
            entries=self.entries,
            ended=ended,
            ingested=asdict(self._since),
            passed=dict(self._passed),
            converted=dict(self._converted),
        )
        write_fields(self._file(self.checkpoints), checkpoint)
        self.checkpoints += 1
        self.n, self.content, self.grid, self.ended = n, content, grid, ended
        self._since = Ingested()
        self._passed, self._converted = Counter(), Counter()
