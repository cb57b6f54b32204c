"""How a run stands, and whether it is whole; both change nothing, and work beside a process that scores into it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..store.files import Where, is_there
from ..store.holder import Holder, holder_of
from ..store.place import any_path
from .journal import Journal, SpanDamage
from .presence import Worker, workers_of
from .run import Run
from .screening.options import DIRECTORY
from .spans import ranges_of


@dataclass(frozen=True)
class Status:
    """What `mcscore run info` shows.

    Attributes:
        run: the run.
        spans_done: how many spans are committed whole.
        spans: how many there are.
        seconds_left: at the pace of what is done (skipped items, too), by those who work now; None before the first span, 0 when complete.
        nonfinite_ids: items the model gave NaN or infinity for.
        unreadable: (start, stop) of items that could not be read from the pool.
        holder: the process that writes into the run, or has left its lock behind; None if there is none.
        bytes: size of all files of the run.
        workers: who works on the run, or was killed while it did.
        screen: the first stage of a screened run; None if there is none, or it has not begun.
    """

    run: Run
    spans_done: int
    spans: int
    seconds_left: float | None
    nonfinite_ids: list[int]
    unreadable: list[tuple[int, int]]
    holder: Holder | None
    bytes: int
    workers: list[Worker]
    screen: Status | None = None

    def facts(self) -> dict[str, Any]:
        """The same as JSON."""
        run = self.run
        return {
            "run": str(run.path),
            "pool": run.meta["pool"]["path"],
            "created": run.meta["created"],
            "scores": list(run.meta["scores"]),
            "columns": list(run.columns),
            "passes": run.meta["passes"],
            "items": run.n,
            "done": run.done,
            "left": run.n - run.done,
            "scored": run.scored,
            "complete": run.complete,
            "span": run.meta["span"],
            "spans": self.spans,
            "spans_done": self.spans_done,
            "spans_left": self.spans - self.spans_done,
            "seconds": run.seconds,
            "items_per_second": run.items_per_second,
            "seconds_left": self.seconds_left,
            "nonfinite": len(self.nonfinite_ids),
            "nonfinite_ids": self.nonfinite_ids,
            "unreadable": sum(stop - start for start, stop in self.unreadable),
            "unreadable_ranges": [list(pair) for pair in self.unreadable],
            "grown": run.meta["grown"],
            "hardware": run.meta["hardware"],
            "lock": None if self.holder is None else self.holder.facts(),
            "workers": [worker.facts() for worker in self.workers],
            "bytes": self.bytes,
            "damage": [each.facts() for each in run.damaged],
            "screen": run.meta["screen"],
            "not_screened": run.meta["not_screened"],
            "stage_1": self.screen and self.screen.facts(),
            "cut": run.meta["cuts"][-1] if run.meta["cuts"] else None,
            "certificate": run.meta["certificate"],
        }


def info(path: Where) -> Status:
    """Tell how the run at ``path``, a directory or a URL, stands. Raises RunError if there is none."""
    journal = Journal.open(any_path(path))
    committed, damaged = journal.survey()
    run = Run(journal, committed, damaged=damaged)
    first = info(run.path / DIRECTORY) if run.screen is not None else None
    workers = workers_of(run.path)
    # ``seconds`` of spans are those of one worker each.
    at_work = max(1, sum(max(1, len(worker.workers)) for worker in workers if worker.alive is not False))
    left = _seconds_left(run, first)
    whole = sum(record.span == journal.spans[record.span.index] for record in committed)
    return Status(
        run,
        whole,
        len(journal.spans),
        None if left is None else left / at_work,
        run.nonfinite_ids.tolist(),
        ranges_of(run.unreadable_ids),
        holder_of(run.path) if isinstance(run.path, Path) else None,  # at a URL nobody holds a lock
        journal.place.size(),
        workers,
        first,
    )


def _seconds_left(run: Run, first: Status | None) -> float | None:
    """At the pace of what is done; of the second stage of a screened run, before its first span, at that of the first one."""
    left = run.n - run.done
    if first is not None and not first.run.complete:
        return None  # how many will survive is not known
    if not left or run.done:
        return run.seconds / run.done * left if left else 0.0
    if first is None or not run.header.cuts:
        return None
    from .screening.told import seconds_of_second  # imports torch, in a second or two

    return seconds_of_second(run.header, first.run, left)


def verify(path: str | os.PathLike[str]) -> list[SpanDamage]:
    """Read every record and every committed shard of a run, and compare them with their checksums. Changes nothing.

    Returns:
        What is damaged, in order; scoring into the run again repeats the spans concerned, and only those.

    Raises:
        RunError: there is no run at ``path``, or its run.json cannot be read.
    """
    journal = Journal.open(any_path(path))
    first = journal.path / DIRECTORY
    stages = [Journal.open(first)] if journal.header.screened and is_there(first / "run.json") else []
    return [damage for stage in (*stages, journal) for damage in stage.damage()]
