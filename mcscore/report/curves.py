"""Learning curves of cycles: accuracy against labels, for each seed and on average, and what they say of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..cycle.state import Curve

BASELINE = "random"


@dataclass(frozen=True)
class Point:
    """A number of labels that all seeds of a method had: mean and sample standard deviation over the seeds."""

    labels: int
    mean: float
    sd: float


@dataclass(frozen=True)
class Line:
    """The curves of one method.

    Attributes:
        method: its name.
        seeds: (labels, value) of each seed.
        points: where all seeds have a value.
    """

    method: str
    seeds: list[list[tuple[int, float]]]
    points: list[Point]

    @property
    def last(self) -> Point | None:
        """The mean at the largest number of labels that all seeds reached."""
        return self.points[-1] if self.points else None


def measures_of(curves: Sequence[Curve]) -> list[str]:
    """The names of what all rounds measured, in the order of the first."""
    rounds = [each for curve in curves for each in curve.rounds]
    return [] if not rounds else [name for name in rounds[0].measures if all(name in each.measures for each in rounds)]


def lines_of(curves: Sequence[Curve], measure: str) -> list[Line]:
    """One line for each method, in the order of the curves; methods without a finished round are left out."""
    found = []
    for method in dict.fromkeys(curve.method for curve in curves):
        rows = [
            [(each.labels, each.measures[measure]) for each in curve.rounds]
            for curve in curves
            if curve.method == method and curve.rounds
        ]
        if rows:
            found.append(Line(method, rows, _points(rows)))
    return found


def labels_to_reach(line: Line, target: float, falls: bool = False) -> list[int | None]:
    """The labels with which each seed first reached a value; None where it did not. falls: whether lower is better.

    >>> labels_to_reach(Line("a", [[(20, 0.5), (30, 0.8)], [(20, 0.6)]], []), 0.7)
    [30, None]
    """
    return [
        next((labels for labels, value in row if (value <= target if falls else value >= target)), None)
        for row in line.seeds
    ]


def advantage(line: Line, baseline: Line) -> float | None:
    """How far the mean of a line lies above that of another, on average over the numbers of labels that both have after the start."""
    other = {point.labels: point.mean for point in baseline.points[1:]}
    found = [point.mean - other[point.labels] for point in line.points[1:] if point.labels in other]
    return float(np.mean(found)) if found else None


def _points(rows: Sequence[Sequence[tuple[int, float]]]) -> list[Point]:
    tables = [dict(row) for row in rows]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    values = {labels: np.array([table[labels] for table in tables]) for labels in common}
    return [Point(n, float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else 0.0) for n, v in values.items()]
