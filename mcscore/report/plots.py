"""Draws the plots of a report as SVG inside the page: marks that stretch with the page, and text that keeps its size.

The style sheet colors them for a light and a dark ground.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from ..text import count, number
from . import marks
from .axes import SIDE, Axis, Tick, around, round_values
from .stats import Cloud, Spread

CELLS = (60, 42)  # across and up, that many items are counted in
SHADES = 6
FLOOR = 0.7  # of the logarithmic axes of counts: a bin of one item can be seen


@dataclass(frozen=True)
class Note:
    """A text at a place in percent of the width, on its left or right side, at the top of the plot."""

    at: float
    text: str

    @property
    def left(self) -> bool:
        """Whether the text stands to the left of its place."""
        return self.at > 60


@dataclass(frozen=True)
class Plot:
    """Marks in a square of SIDE, ticks, the texts around them, and what the plot shows in words.

    ``name``: of a plot whose selected items can be chosen by a rectangle; ``selected``: their places in the square.
    """

    marks: Markup
    x: list[Tick]
    y: list[Tick]
    labels: tuple[str, str]
    alt: str
    height: int = 250  # CSS pixels
    notes: list[Note] = field(default_factory=list)
    corners: tuple[str, str] = ("", "")  # what the upper end and the right end mean
    name: str = ""
    selected: list[list[int]] = field(default_factory=list)


def histogram(spread: Spread, chosen: np.ndarray, cut: float | None, label: str) -> Plot:
    """Draw the items per bin of one score on a log scale, the selected items in front, and the lowest selected score."""
    front, _ = np.histogram(chosen, spread.edges)
    across, up = Axis(spread.edges[0], spread.edges[-1]), Axis(FLOOR, spread.counts.max() * 2.2, log=True)
    ticks, edges = up.ticks(), across.at(spread.edges)
    drawn = [marks.across(_places(ticks), "grid")]
    for counts, kind in ((spread.counts, "pool"), (front, "chosen")):
        drawn.append(marks.columns(edges[:-1], edges[1:], up.at(np.maximum(counts, FLOOR)), kind))
    notes = []
    if cut is not None:
        at = across.at(np.array([cut]))
        drawn.append(marks.spans(at, np.zeros(1), np.full(1, SIDE), "cut"))
        notes.append(Note(float(at[0]) * 100 / SIDE, f"lowest selected {number(cut)}"))
    shown = f", {len(chosen):,} of them selected" if len(chosen) else ""
    begins = f"; the lowest selected score is {number(cut)}" if cut is not None else ""
    alt = (
        f"Histogram of {label} over {spread.n:,} items{shown}: from {number(spread.lo)} to {number(spread.hi)}, "
        f"median {number(spread.quantiles[0.5])}{begins}."
    )
    return Plot(Markup("").join(drawn), across.ticks(), ticks, (label, "items (log scale)"), alt, notes=notes)


def plane(cloud: Cloud, chosen_x: np.ndarray, chosen_y: np.ndarray, labels: tuple[str, str], corners: bool) -> Plot:
    """Draw two quantities against each other as points or as counts in cells, and mark the selected items.

    ``corners``: x is expected entropy and y BALD, whose sum is the entropy: its contours are drawn, the ends named.
    """
    across, up = around(cloud.x, zero=corners), around(cloud.y, zero=corners)
    x_ticks, y_ticks = across.ticks(), up.ticks()
    drawn = [marks.across(_places(y_ticks), "grid")]
    x, y = across.at(cloud.x), up.at(cloud.y)
    drawn.append(_density(x, y, cloud.weights) if cloud.weights is not None else marks.dots(x, y, "pool"))
    if corners:
        for total in round_values(across.lo + up.lo, across.hi + up.hi)[1:]:
            ends = np.array([max(across.lo, total - up.hi), min(across.hi, total - up.lo)])
            drawn.append(marks.line(across.at(ends), up.at(total - ends), "contour"))
    chosen = across.at(chosen_x), up.at(chosen_y)
    drawn.append(marks.dots(*chosen, "chosen", ring=True))
    what = "Each of" if cloud.weights is None else "Density of"
    alt = f"{what} {cloud.n:,} items by {labels[0]} (across) and {labels[1]} (up), with {count(len(chosen_x), 'selected item')} marked."
    return Plot(
        Markup("").join(drawn), x_ticks, y_ticks, labels, alt, 360, name="plane", selected=in_square(*chosen),
        corners=("↑ the model does not know", "the item is ambiguous →") if corners else ("", ""),
    )  # fmt: skip


def embedding_plane(places: Mapping[str, Any]) -> Plot:
    """Draw the candidates, labeled and selected items of an embedding map as points."""
    across, up = map_axes(places)
    drawn, selected = [], list[list[int]]()
    for kind, style in (("candidates", "pool"), ("labeled", "labeled"), ("selected", "chosen")):
        x, y = np.array(places[kind], float).reshape(-1, 2).T
        at = across.at(x), up.at(y)
        drawn.append(Markup('<g class="{}">{}</g>').format(kind, marks.dots(*at, style, ring=kind == "selected")))
        selected = in_square(*at)
    labels = ("", "")
    if places["explained"]:
        first, second = [*places["explained"], 0.0][:2]
        labels = (f"{first:.0%} of the variance", f"{second:.0%} of the variance")
    counts = ", ".join(f"{len(places[kind]):,} {kind}" for kind in ("candidates", "labeled", "selected"))
    layout = "the two directions of the largest variance of the candidates" if places["explained"] else "by UMAP"
    alt = f"Map of embeddings, {layout}: {counts}."
    return Plot(Markup("").join(drawn), [], [], labels, alt, 420, name="map", selected=selected)


def map_axes(places: Mapping[str, Any]) -> tuple[Axis, Axis]:
    """The axes of an embedding map, across and up."""
    x, y = np.array([*places["candidates"], *places["labeled"], *places["selected"]], float).reshape(-1, 2).T
    return around(x), around(y)


def in_square(x: np.ndarray, y: np.ndarray) -> list[list[int]]:
    """Places of points as the page's scripts have them, from the upper left corner of the square; [] of one that is not finite."""
    known = np.isfinite(x) & np.isfinite(y)
    return [
        [round(a), round(SIDE - b)] if ok else []
        for a, b, ok in zip(x.tolist(), y.tolist(), known.tolist(), strict=True)
    ]


def steps(gains: Sequence[float], exact: int) -> Plot:
    """Draw the gain of each pick, in the order of choice; those after the first ``exact`` are hollow."""
    values = np.asarray(gains, np.float64)
    across, up = around(np.arange(1.0, len(values) + 1), 0.02), Axis(0.0, max(float(values.max()), 1e-9) * 1.06)
    x, y, ticks = across.at(np.arange(1, len(values) + 1)), up.at(values), up.ticks()
    drawn = [
        marks.across(_places(ticks), "grid"),
        marks.line(x, y, "chosen"),
        marks.dots(x, y, "chosen"),
        marks.dots(x[exact:], y[exact:], "hollow"),
    ]
    alt = f"Information of {count(len(gains), 'pick')} in order, from {number(gains[0])} to {number(gains[-1])} nats."
    return Plot(Markup("").join(drawn), across.ticks(whole=True), ticks, ("pick", "information, nats"), alt)


def around_cut(
    ranks: np.ndarray, scores: np.ndarray, errors: np.ndarray, chosen: np.ndarray, cut: float, label: str
) -> Plot:
    """Draw scores with one standard error to each side against their rank (1 = best), those of selected items (bool) marked."""
    across, up = (
        around(ranks.astype(float), 0.02),
        around(np.concatenate([scores - errors, scores + errors]).astype(float)),
    )
    x, ticks = across.at(ranks), up.ticks()
    drawn = [marks.across(_places(ticks), "grid"), marks.across(up.at([cut]), "cut")]
    for part, kind in ((~chosen, "pool"), (chosen, "chosen")):
        drawn.append(marks.spans(x[part], up.at((scores - errors)[part]), up.at((scores + errors)[part]), kind))
        drawn.append(marks.dots(x[part], up.at(scores[part]), kind))
    alt = (
        f"{label} of the items of rank {ranks[0]:,} to {ranks[-1]:,} with their standard errors, {count(int(chosen.sum()), 'item')} of "
        f"them selected; the lowest selected score is {number(cut)}."
    )
    labels = (f"rank by {label}", f"{label} ± standard error")
    return Plot(Markup("").join(drawn), across.ticks(whole=True), ticks, labels, alt, 300)


def _density(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Markup:
    """Cells in shades of the logarithm of the items in them; x, y: places in the square."""
    columns, rows = CELLS
    width, height = SIDE / columns, SIDE / rows
    i, j = np.minimum(x / width, columns - 1).astype(int), np.minimum(y / height, rows - 1).astype(int)
    counts = np.bincount(j * columns + i, weights, columns * rows)
    full = np.flatnonzero(counts)
    shade = np.minimum(np.log(counts[full]) / np.log(max(2.0, counts.max() / 2)) * SHADES, SHADES - 1).astype(int)
    drawn = []
    for each in range(SHADES):
        row, column = np.divmod(full[shade == each], columns)
        drawn.append(marks.cells(column * width, row * height, width, height, f"shade-{each}"))
    return Markup("").join(drawn)


def _places(ticks: list[Tick]) -> np.ndarray:
    return np.array([tick.at for tick in ticks]) * (SIDE / 100)
