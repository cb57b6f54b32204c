"""mcscore run info --watch: how far a run is and who works on it, again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..text import count, duration
from .terminal import emit

if TYPE_CHECKING:
    from ..run.glance import Glance

_TEXTS = 4  # columns of the table that are no numbers


def watch_run(path: Path, every: float) -> None:
    """Show how far a run is until it is complete: in place on a terminal, elsewhere line by line, or object by object."""
    from ..run.glance import glance

    live = sys.stdout.isatty() and not click.get_current_context().meta.get("json")
    try:
        while True:
            now = glance(path)
            if live:
                click.clear()
            emit(now.facts(), *(_table(now) if live else [f"{time.strftime('%H:%M:%S')}  {_progress(now)}"]))
            if now.over:
                return
            time.sleep(every)
    except KeyboardInterrupt:  # the usual end of watching
        return


def aligned(rows: Sequence[Sequence[str]], texts: int) -> list[str]:
    """A table as lines: the first columns, ``texts`` of them, to the left, the others, numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if at < texts else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _progress(now: Glance) -> str:
    parts = [f"{now.done:,} of {now.items:,} items done", count(len(now.workers), "worker")]
    if now.items_per_second:
        parts.append(f"{now.items_per_second:,.0f} items/s")
    if now.seconds_left:
        parts.append(f"about {duration(now.seconds_left)} left")
    return f"{now.stage}: {', '.join(parts)}" if now.stage else ", ".join(parts)


def _table(now: Glance) -> list[str]:
    """What a terminal shows: the progress, then a row for each worker, and below a driver one for each of its workers."""
    rows: list[tuple[str, ...]] = [("worker", "host", "process", "state", "items", "items/s", "seen")]
    for worker in now.workers:
        state = "ended without a word" if worker.alive is False else worker.state
        done, speed, seen = f"{worker.done:,}", f"{worker.items_per_second:,.0f}", f"{duration(worker.seen)} ago"
        rows.append((worker.what, worker.host, str(worker.pid), state, done, speed, seen))
        for each in worker.workers:
            told = [str(each.get(name, "")) for name in ("host", "pid", "state")]
            numbers = [f"{each[name]:,.0f}" if name in each else "" for name in ("done", "items_per_second")]
            rows.append((f"  {each.get('what', 'worker')}", *told, *numbers, ""))
    table = aligned(rows, _TEXTS)
    return [f"{now.path}  {_progress(now)}", "", *(table if now.workers else ["nobody works on it"])]
