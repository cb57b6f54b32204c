"""Learning curves: what cycles found, by method and seed, as JSON, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mcscore.cycle import Round

from .stats import Floats, area, permutation_test, with_error

JSON = dict[str, Any]
COLORS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#db2777", "#0891b2", "#65a30d", "#dc2626", "#92400e")
GRAY = "#6b7280"  # of the baseline, which is always called "random"


BELOW_TABLE = "better than random by: mean difference of the curves over the rounds of both; p: one-sided permutation test over the seeds."


def of_cycles(results: Mapping[str, Sequence[Sequence[Round]]]) -> JSON:
    """The measures of all rounds, by method, for each seed; the labels of the longest curve's rounds; and what they took.

    Methods may have curves of different lengths, but no longer ones than random's; the seeds of one have the same.
    """
    first = max((curves[0] for curves in results.values()), key=len)
    return {
        "labels": [turn.labels for turn in first],
        "measures": {
            method: {name: [[turn.measures[name] for turn in turns] for turns in curves] for name in first[0].measures}
            for method, curves in results.items()
        },
        "minutes": sum(turn.seconds for curves in results.values() for turns in curves for turn in turns) / 60,
        "seconds_per_round": {
            method: float(np.median([turn.seconds for turns in curves for turn in turns if len(turn.chosen)]))
            for method, curves in results.items()
        },
    }


def values(found: JSON, method: str, measure: str) -> Floats:
    """(seeds, rounds) of a measure."""
    return np.array(found["measures"][method][measure], np.float64)


def over_random(found: JSON, measure: str, better: float = 1.0) -> dict[str, Floats]:
    """By method, how much higher each seed's curve lies than random's on average over the labels, (S,); better=-1: lower."""
    base_SR = values(found, "random", measure)
    over = {}
    for method in found["measures"]:
        if method != "random":
            each_SR = values(found, method, measure)
            R = each_SR.shape[1]
            over[method] = better * area(found["labels"][:R], each_SR - base_SR[:, :R])
    return over


def table(found: JSON, measure: str, at: Sequence[int], digits: int = 3, better: float = 1.0) -> Iterator[str]:
    """Lines of a table: the mean of the seeds and its standard error at some numbers of labels, and the comparison with random."""
    compared = over_random(found, measure, better)
    yield f"| method | seeds | {' | '.join(f'at {n}' for n in at)} | better than random by | p |"
    yield f"|{' --- |' * (len(at) + 4)}"
    for method in found["measures"]:
        each = values(found, method, measure)
        cells = []
        for n in at:
            place = found["labels"].index(n)
            cells.append(with_error(each[:, place], digits) if place < each.shape[1] else "")
        over = compared.get(method)
        told = ["", ""] if over is None else [f"{over.mean():+.{digits}f}", f"{permutation_test(over):.2g}"]
        yield f"| {' | '.join([method, str(len(each)), *cells, *told])} |"


def plot(axes: Axes, found: JSON, measure: str, name: str) -> None:
    """Every seed as a thin line, the mean as a thick one; the methods' names stand at the ends of their lines, apart from each other."""
    labels, methods = found["labels"], list(found["measures"])
    ends = []
    for method, color in _colored(methods):
        each = values(found, method, measure)
        reached = labels[: each.shape[1]]
        axes.plot(reached, each.T, color=color, linewidth=0.6, alpha=0.35)
        axes.plot(reached, each.mean(0), color=color, linewidth=2)
        ends.append((float(each.mean(0)[-1]), method, color))
    low, high = axes.get_ylim()
    ends.sort()
    for (_, method, color), height in zip(
        ends, _apart([end for end, *_ in ends], (high - low) / 18, high), strict=True
    ):
        axes.annotate(method, (1.01, height), xycoords=("axes fraction", "data"), color=color, fontsize=9, va="center")
    axes.set(xlabel="labels", ylabel=name, xlim=(labels[0], labels[-1]))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _apart(heights: Sequence[float], step: float, highest: float) -> list[float]:
    """Ascending heights moved so that they are a step apart: up, and down again where the highest would be too high."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + step) if placed else height)
    for n in reversed(range(len(placed))):
        placed[n] = min(placed[n], placed[n + 1] - step if n + 1 < len(placed) else highest)
    return placed


def figure(width: float = 8.0, height: float = 4.5) -> Figure:
    """An empty figure that can be saved without a display."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def _colored(methods: Sequence[str]) -> Iterator[tuple[str, str]]:
    colors = iter(COLORS)
    for method in methods:
        yield method, GRAY if method == "random" else next(colors)
