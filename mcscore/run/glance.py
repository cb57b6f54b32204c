"""How far a run is, by a look at the names of its records: cheap enough to do every few seconds while many work on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..store.files import AnyPath, Where, is_there
from ..store.place import any_path
from .journal import Journal
from .presence import Worker, workers_of
from .screening.options import DIRECTORY


@dataclass(frozen=True)
class Glance:
    """What `mcscore run info --watch` shows again and again: by a look at the names of records, none of which is read.

    Attributes:
        stage: which stage of a screened run; empty if there is but one.
        done: items of spans that have a record.
        items: in the pool.
        workers: who works on the run, or was killed while it did.
    """

    path: AnyPath
    stage: str
    done: int
    items: int
    workers: list[Worker]

    @property
    def items_per_second(self) -> float:
        """Of all workers together, save those that are gone."""
        return sum(worker.items_per_second for worker in self.workers if worker.alive is not False)

    @property
    def seconds_left(self) -> float | None:
        """At that pace; None where nobody works, and before the first span."""
        if self.done == self.items:
            return 0.0
        return (self.items - self.done) / self.items_per_second if self.items_per_second else None

    @property
    def over(self) -> bool:
        """Whether there is no more to see: all is done, and nobody works."""
        return self.done == self.items and not any(worker.alive is not False for worker in self.workers)

    def facts(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "run": str(self.path),
            "stage": self.stage,
            "done": self.done,
            "items": self.items,
            "items_per_second": self.items_per_second,
            "seconds_left": self.seconds_left,
            "workers": [worker.facts() for worker in self.workers],
        }


def glance(path: Where) -> Glance:
    """Look how far the run at ``path`` is. Raises RunError if there is none."""
    journal = Journal.open(any_path(path))
    stage, workers = "", workers_of(journal.path)
    unrecorded = journal.unrecorded()
    if journal.header.screened:
        stage = "stage 2"
        if not journal.header.cuts:
            stage = "stage 1"
            there = is_there(journal.path / DIRECTORY / "run.json")
            unrecorded = Journal.open(journal.path / DIRECTORY).unrecorded() if there else journal.spans
    items = journal.header.pool.n
    return Glance(journal.path, stage, items - sum(span.n for span in unrecorded), items, workers)
