"""The section of rounds compared: which runs, and their tables as text for rounds.html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cycle.state import is_cycle
from ..paths import is_file, names_in
from .rounds import rounds_tables

if TYPE_CHECKING:
    from ..pool import Pool
    from ..run import Run


@dataclass(frozen=True)
class Shown:
    """A table as text; numbers: which columns are numbers, which stand to the right."""

    head: list[str]
    rows: list[list[str]]
    numbers: range


def runs_beside(run: Run) -> list[Run]:
    """The runs of the other rounds, if a run is a round of a cycle; else none."""
    from ..run import Run

    if not isinstance(run.path, Path) or not is_cycle(run.path.parent):
        return []
    names = [name for name in names_in(run.path.parent, "round-*") if name != run.path.name]
    return [Run.open(run.path.parent / name) for name in names if is_file(run.path.parent / name / "run.json")]


def rounds_section(run: Run, others: Sequence[Run], pool: Pool | None) -> dict[str, Shown] | None:
    """The tables of ``rounds_tables`` as text; None without another run.

    Raises:
        RunError: a run is of another pool.
    """
    runs = {str(each.path): each for each in (run, *others)}
    if len(runs) < 2:
        return None
    found = rounds_tables(list(runs.values()), pool)
    rounds, pairs, classes = found["rounds"], found["pairs"], found["classes"]
    names = pool.classes if pool is not None and pool.classes is not None else []
    return {
        "rounds": Shown(
            [
                "round",
                "model",
                "scored",
                "selected",
                "labeled by now",
                "right of these",
                "labeled since",
                "right of these",
            ],
            [
                [
                    _named(each),
                    each["model"],
                    _count(each["scored"]),
                    _count(each["selected"]),
                    _count(each["labeled"]),
                    _share(each["accuracy"]),
                    _count(each["later"]),
                    _share(each["later_accuracy"]),
                ]
                for each in rounds
            ],
            range(2, 8),
        ),
        "pairs": Shown(
            ["from one to the next", "scored in both", "equal predictions", "highest scores in both"],
            [
                [
                    f"{each['one']} → {each['other']}",
                    _count(each["both"]),
                    _share(each["agreement"]),
                    "" if each["by"] is None else f"{each['overlap']:,} of {each['top']:,} by {each['by']}",
                ]
                for each in pairs
            ],
            range(1, 4),
        ),
        "classes": Shown(
            ["class", *(each["name"] for each in rounds)],
            [
                [
                    names[each["index"]] if each["index"] < len(names) else str(each["index"]),
                    *map(_count, each["selected"]),
                ]
                for each in classes
            ],
            range(1, 1 + len(rounds)),
        ),
    }


def _named(row: dict[str, Any]) -> str:
    how = f" ({row['by']}, {row['method']})" if row["selected"] else ""
    return f"{row['name']}{how}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
