"""What is still to be scored of a run, and the values of a span while they come in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .journal import Journal, Record, Values
from .spans import Span

Flags = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """A span to be scored and committed.

    Attributes:
        span: the items.
        held: the record of what is committed of it already and stays as it is.
        again: (start, stop) of what is held, could not be read from the pool, and is tried again.
    """

    span: Span
    held: Record | None
    again: tuple[tuple[int, int], ...] = ()

    @property
    def held_n(self) -> int:
        """Items of the span that are committed."""
        return self.held.span.n if self.held else 0

    @property
    def settled(self) -> Flags:
        """(span.n,): the items that are not scored because they are held."""
        settled = np.arange(self.span.n) < self.held_n
        for start, stop in self.again:
            settled[start - self.span.start : stop - self.span.start] = False
        return settled


def open_tasks(journal: Journal, committed: Iterable[Record], retry: bool) -> list[Task]:
    """The spans that are not wholly committed. retry: what could not be read from the pool counts as not committed."""
    held_by = {record.span.index: record for record in committed}
    tasks = []
    for span in journal.spans:
        held = held_by.get(span.index)
        again = tuple(held.unreadable) if held and retry else ()
        if held is None or held.span != span or again:
            tasks.append(Task(span, held, again))
    return tasks


class SpanBuffer:
    """The values of a span, "not scored" at first or as they were committed, filled block by block."""

    def __init__(self, journal: Journal, task: Task, retry: bool) -> None:
        self.span, held = task.span, task.held
        self.values: dict[str, Values] = {name: journal.empty(name, self.span.n) for name in journal.rows}
        self._scored, self._seconds = 0, 0.0
        self._nonfinite: list[Ids] = []
        self._unreadable: list[Ids] = []
        if held is not None:
            for name, column in self.values.items():
                column[: held.span.n] = journal.read(held, name)
            self._scored, self._seconds = held.scored, held.seconds
            self._nonfinite.append(np.array(held.nonfinite_ids, np.int64))
            if not retry:
                self._unreadable += [np.arange(start, stop) for start, stop in held.unreadable]

    def add_unreadable(self, ids: Ids) -> None:
        """Note items that could not be read: they stay "not scored"."""
        self._unreadable.append(ids)

    def add_scores(self, ids: Ids, columns: Mapping[str, Values]) -> None:
        """Take in what the model gave for ``ids``."""
        finite = np.all([np.isfinite(column) for column in columns.values()], axis=0)
        self._scored += len(ids)
        self._nonfinite.append(ids[~finite])
        for name, column in columns.items():
            # Where one score is not finite none is kept: "not scored" has one meaning and one bit pattern.
            self.values[name][ids[finite] - self.span.start] = column[finite]

    def facts(self, seconds: float) -> dict[str, Any]:
        """What the record says beside the values; ``seconds`` are added to those of former attempts."""
        return {
            "scored": self._scored,
            "nonfinite_ids": tuple(_sorted(self._nonfinite).tolist()),
            "unreadable": tuple(ranges_of(_sorted(self._unreadable))),
            "seconds": self._seconds + seconds,
        }


def ranges_of(ids: Ids) -> list[tuple[int, int]]:
    """Ascending ids as (start, stop) of those that follow each other."""
    if not len(ids):
        return []
    cuts = np.flatnonzero(np.diff(ids) > 1) + 1
    firsts, lasts = ids[np.r_[0, cuts]], ids[np.r_[cuts - 1, -1]]
    return list(zip(firsts.tolist(), (lasts + 1).tolist(), strict=True))


def _sorted(parts: list[Ids]) -> Ids:
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)
