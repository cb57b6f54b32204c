"""What is still to be scored of a run, and what is committed of a span once it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .journal import Journal, Record, Values
from .scoring.task import Flags, SpanScores
from .spans import Span


@dataclass(frozen=True)
class Task:
    """A span to be scored and committed.

    Attributes:
        span: the items.
        held: the record of what is committed of it already and stays as it is.
        again: (start, stop) of what is held and is scored nevertheless: it could not be read, or a new cut lets it through.
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


def with_held(journal: Journal, task: Task, given: SpanScores, retry: bool) -> tuple[dict[str, Values], dict[str, Any]]:
    """The values of a span, and the facts of its record, with those of what is held of it.

    retry: what could not be read before was tried again.
    """
    values = dict(given.values)
    facts: dict[str, Any] = {
        "scored": given.scored,
        "nonfinite_ids": given.nonfinite_ids,
        "unreadable": given.unreadable,
        "seconds": given.seconds,
    }
    if (held := task.held) is None:
        return values, facts
    for name, column in values.items():
        before = journal.read(held, name)
        # Where an item was scored again, and has no score now either, what is held has none: it was not scored, or not finite.
        fresh = column[: held.span.n]
        values[name] = np.concatenate([np.where(_scored(fresh), fresh, before), column[held.span.n :]])
    facts["scored"] += held.scored
    facts["nonfinite_ids"] = tuple(sorted((*held.nonfinite_ids, *given.nonfinite_ids)))
    if not retry:
        facts["unreadable"] = tuple(sorted((*held.unreadable, *given.unreadable)))
    facts["seconds"] += held.seconds
    return values, facts


def _scored(column: Values) -> Flags:
    return column >= 0 if column.dtype.kind == "i" else ~np.isnan(column)
