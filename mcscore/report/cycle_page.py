"""Writes the curves of a cycle, or of several methods and seeds, as one HTML page: no image, no script, nothing from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..cycle.state import POOL, Curve, read_cycle
from ..errors import PoolError, RunError
from ..paths import exists, local_path
from ..store.files import AnyPath
from ..text import count, duration
from .axes import round_values
from .curves import BASELINE, Line, advantage, labels_to_reach, lines_of, measures_of
from .rounds_section import Shown, rounds_section
from .write import place_of, write_page

if TYPE_CHECKING:
    from ..run import Run

COLORS = 7  # of methods beside the baseline; then they begin anew, dashed


def write_cycle_report(cycle: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> AnyPath:
    """Write the page of a cycle to ``out`` (default: report.html in its directory) and return its path.

    Raises ImportError if jinja2 is not installed; RunError if there is no cycle, none of its rounds is done, or a file is damaged.
    """
    if util.find_spec("jinja2") is None:
        raise ImportError("a report needs jinja2: pip install 'mcscore[report]'")
    folder = local_path(cycle, "a cycle", RunError)
    path = place_of(out, folder / "report.html")
    curves = [curve for curve in read_cycle(folder) if curve.rounds]
    if not curves:
        raise RunError(f"{folder} has no round that is done yet")
    write_page(path, "cycle.html", cycle_view(folder, curves))
    return path


def cycle_view(folder: Path, curves: Sequence[Curve]) -> dict[str, Any]:
    """The variables of cycle.html."""
    charts = [_chart(measure, lines_of(curves, measure)) for measure in measures_of(curves)]
    seconds = sum(each.seconds for curve in curves for each in curve.rounds)
    seeds = len({curve.seed for curve in curves})
    rounds, note = _rounds(curves[0]) if len(curves) == 1 else (None, "")
    return {
        "title": folder.resolve().name,
        "subtitle": f"{count(len({curve.method for curve in curves}), 'method')}, {count(seeds, 'seed')}, "
        f"{count(sum(len(curve.rounds) for curve in curves), 'round')} in {duration(seconds)}",
        "charts": charts,
        "several": seeds > 1,
        "cycles": Shown(
            ["method", "seed", "rounds", "labels", "ended because", "time"],
            [
                [
                    curve.method,
                    str(curve.seed),
                    str(len(curve.rounds)),
                    f"{curve.rounds[-1].labels:,}",
                    curve.rounds[-1].stopped or "it has not ended yet",
                    duration(sum(each.seconds for each in curve.rounds)),
                ]
                for curve in curves
            ],
            range(1, 4),
        ),
        "rounds": rounds,
        "note": note,
        "version": __version__,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _rounds(curve: Curve) -> tuple[dict[str, Shown] | None, str]:
    """The rounds compared, and why they are not."""
    from ..pool import Pool
    from ..run import Run

    runs: list[Run] = [Run.open(each.run) for each in curve.rounds if each.run is not None and exists(each.run)]
    if len(runs) < 2:
        return None, ""
    try:
        pool = Pool.open(curve.folder / POOL)
    except PoolError as error:  # the pool whose items it has is gone
        return None, f"Rounds are not compared: {error}."
    return rounds_section(runs[0], runs[1:], pool), ""


def _chart(measure: str, lines: Sequence[Line]) -> dict[str, Any]:
    """Lines, bands, dots and ticks in percent of the width and height of the plot."""
    values = [value for line in lines for row in line.seeds for _, value in row]
    values += [point.mean + sign * point.sd for line in lines for point in line.points for sign in (-1, 1)]
    labels = [n for line in lines for row in line.seeds for n, _ in row]
    low, high, first, last = min(values), max(values), min(labels), max(labels)
    margin = 0.03 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def x(n: float) -> float:
        return round(100 * (n - first) / max(1, last - first), 3)

    def y(value: float) -> float:
        return round(100 * (value - low) / (high - low), 3)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x(n)},{round(100 - y(value), 3)}" for n, value in points)

    drawn = []
    for line, color in zip(lines, _colors(lines), strict=True):
        upper = [(point.labels, point.mean + point.sd) for point in line.points]
        lower = [(point.labels, point.mean - point.sd) for point in reversed(line.points)]
        drawn.append(
            {
                "method": line.method,
                "color": color % COLORS if color >= 0 else "b",
                "dashed": color >= COLORS,
                "seeds": [path(row) for row in line.seeds] if len(line.seeds) > 1 else [],
                "mean": path([(point.labels, point.mean) for point in line.points]),
                "band": path([*upper, *lower]) if len(line.seeds) > 1 else "",
                "dots": [
                    {
                        "x": x(point.labels),
                        "y": y(point.mean),
                        "text": f"{line.method}, {point.labels:,} labels: {_number(point.mean)}"
                        + (f" ± {_number(point.sd)}" if len(line.seeds) > 1 else ""),
                    }
                    for point in line.points
                ],
            }
        )
    return {
        "measure": measure,
        "lines": drawn,
        "x_ticks": [{"at": x(tick), "text": f"{tick:g}"} for tick in round_values(first, last, whole=True)],
        "y_ticks": [{"at": y(tick), "text": f"{tick:g}"} for tick in round_values(low, high)],
        "alt": f"{measure} against labels: " + "; ".join(_in_words(line) for line in lines),
        "table": _table(measure, lines),
    }


def _table(measure: str, lines: Sequence[Line]) -> Shown:
    baseline = next((line for line in lines if line.method == BASELINE), None)
    target = baseline.last if baseline is not None and len(lines) > 1 else None
    head = ["method", "seeds", "labels", f"{measure} at the end", "lowest and highest seed"]
    if target is not None:
        head += [f"minus {BASELINE}'s, on average", f"labels to reach {_number(target.mean)}"]
    rows = []
    for line in lines:
        last = line.last
        ends = [dict(row)[last.labels] for row in line.seeds] if last is not None else []
        row = [line.method, str(len(line.seeds)), "–" if last is None else f"{last.labels:,}"]
        row += ["–", "–"] if last is None else [_with_sd(line), f"{_number(min(ends))} to {_number(max(ends))}"]
        if target is not None and baseline is not None:
            gain = None if line is baseline else advantage(line, baseline)
            falls = baseline.points[-1].mean < baseline.points[0].mean
            row += ["" if gain is None else f"{gain:+.4f}", _reached(labels_to_reach(line, target.mean, falls))]
        rows.append(row)
    return Shown(head, rows, range(1, len(head)))


def _reached(found: Sequence[int | None]) -> str:
    """The mean of those seeds that reached a value, and how many did not."""
    there = [each for each in found if each is not None]
    if not there:
        return "not reached"
    missed = f" ({len(found) - len(there)} of {len(found)} seeds not)" if len(there) < len(found) else ""
    return f"{sum(there) / len(there):,.0f}{missed}"


def _colors(lines: Sequence[Line]) -> list[int]:
    """A number for each method; -1 for the baseline, which is gray."""
    others = [line.method for line in lines if line.method != BASELINE]
    return [-1 if line.method == BASELINE else others.index(line.method) for line in lines]


def _with_sd(line: Line) -> str:
    last = line.last
    assert last is not None
    return _number(last.mean) + (f" ± {_number(last.sd)}" if len(line.seeds) > 1 else "")


def _in_words(line: Line) -> str:
    if not line.points:
        return f"{line.method}, seeds without a common number of labels"
    first, last = line.points[0], line.points[-1]
    return f"{line.method} from {_number(first.mean)} at {first.labels:,} to {_number(last.mean)} at {last.labels:,}"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
