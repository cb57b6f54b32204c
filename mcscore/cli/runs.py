"""mcscore run info of several runs: a line each, also for those that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import Error
from ..text import count, duration, visible
from .terminal import FAILED, emit, fail
from .watch import aligned

if TYPE_CHECKING:
    from ..run.status import Status

_HEADING = ("run", "state", "items", "done", "share", "items/s", "left", "no score")
_TEXTS = 2  # columns of the table that are no numbers


def show_runs(ctx: click.Context, paths: Sequence[Path]) -> None:
    """Show how runs stand. The exit code is 1 if one cannot be read, or is damaged."""
    rows: list[tuple[str, ...]] = [_HEADING]
    all_facts, broken, notes = [], [], []
    for path in paths:
        row, facts, why = _look(path)
        rows.append(row)
        all_facts.append(facts)
        if why:
            broken.append(path)
            notes.append(visible(f"{path}: {why}"))
    lines = [*aligned([[visible(cell) for cell in row] for row in rows], _TEXTS), *notes]
    if not broken:
        emit({"runs": all_facts}, *lines)
        return
    if not ctx.meta.get("json"):
        click.echo("\n".join(lines))
    text = (
        f"{count(len(broken), 'run')} of {len(paths)} cannot be read, or {'is' if len(broken) == 1 else 'are'} damaged"
    )
    fail(ctx, FAILED, text, "Damaged", runs=all_facts)


def _look(path: Path) -> tuple[tuple[str, ...], dict[str, Any], str]:
    """The row of a run, its facts, and what is wrong with it."""
    from ..run.journal import told
    from ..run.status import info

    try:
        status = info(path)
    except (Error, OSError) as error:
        why = " ".join(str(error).split())
        facts = {"run": str(path), "error": type(error).__name__, "message": why}
        return (str(path), "cannot be read", *[""] * (len(_HEADING) - _TEXTS)), facts, why
    run, left = status.run, status.seconds_left
    without = len(status.nonfinite_ids) + sum(stop - start for start, stop in status.unreadable)
    numbers = (f"{run.n:,}", f"{run.done:,}", f"{run.done / run.n:.1%}", f"{run.items_per_second:,.0f}")
    remaining = "" if run.complete or left is None else duration(left)
    row = (str(path), _state(status), *numbers, remaining, f"{without:,}")
    return row, status.facts(), told(run.damaged) if run.damaged else ""


def _state(status: Status) -> str:
    if status.run.damaged:
        return "damaged"
    at_work = [worker for worker in status.workers if worker.alive is not False]
    if at_work:
        return f"scoring, {count(sum(max(1, len(each.workers)) for each in at_work), 'worker')}"
    return "complete" if status.run.complete else "stopped"
