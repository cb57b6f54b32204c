"""Draws the plots of a report, each on a light and on a dark ground; the reader's browser chooses.

Matplotlib's object interface and its Agg canvas only: no window system, no state shared with a caller's own plots.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from ..text import count, number
from .stats import Cloud, Spread

DPI = 192  # two pixels per CSS pixel, of which an inch has 96
WIDTH = 540  # CSS pixels, half of the page
HEXAGONS = 56  # across the plot
FLOOR = 0.7  # of the logarithmic axes of counts: a bin of one item can be seen


@dataclass(frozen=True)
class Theme:
    """Colors of a plot."""

    ink: str
    faint: str
    grid: str
    pool: str
    chosen: str
    paper: str
    ramp: tuple[str, str, str]


# Blue and orange differ in lightness as well as in hue: color-blind readers and gray print can tell them apart.
LIGHT = Theme("#1f2733", "#66707f", "#e4e8ee", "#7d9cc9", "#d9480f", "#ffffff", ("#dbe6f5", "#6f94c9", "#1d3f72"))
DARK = Theme("#e6eaf0", "#98a3b3", "#2a323d", "#5d82b8", "#ff8a4c", "#161b22", ("#22344f", "#5d8ccb", "#d6e6ff"))


@dataclass(frozen=True)
class Plot:
    """Two PNG data URIs of one figure, its size in CSS pixels, and what it shows in words."""

    light: str
    dark: str
    width: int
    height: int
    alt: str


Draw = Callable[[Axes, Theme], None]


def histogram(spread: Spread, chosen: np.ndarray, cut: float | None, label: str) -> Plot:
    """Draw the items per bin of one score on a log scale, the selected items in front, and the lowest selected score."""
    front, _ = np.histogram(chosen, spread.edges)

    def draw(axes: Axes, theme: Theme) -> None:
        axes.set_yscale("log")
        axes.stairs(spread.counts, spread.edges, fill=True, baseline=FLOOR, color=theme.pool)
        if len(chosen):
            axes.stairs(front, spread.edges, fill=True, baseline=FLOOR, color=theme.chosen)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))  # 1, 10, 100, 1k
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(FLOOR, spread.counts.max() * 2.2)
        if cut is not None:
            axes.axvline(cut, color=theme.ink, linewidth=0.9, linestyle=(0, (4, 3)))
            right = cut > spread.lo + 0.6 * (spread.hi - spread.lo)
            axes.annotate(
                f"lowest selected {number(cut)}",
                (cut, 1.0), (-5 if right else 5, -4), xycoords=("data", "axes fraction"), textcoords="offset points",
                ha="right" if right else "left", va="top", fontsize=8, color=theme.ink,
            )  # fmt: skip
        axes.set_xlabel(label)
        axes.set_ylabel("items (log scale)")
        axes.grid(axis="y", color=theme.grid, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(6))

    shown = f", {len(chosen):,} of them selected" if len(chosen) else ""
    begins = f"; the lowest selected score is {number(cut)}" if cut is not None else ""
    alt = (
        f"Histogram of {label} over {spread.n:,} items{shown}: from {number(spread.lo)} to {number(spread.hi)}, "
        f"median {number(spread.quantiles[0.5])}{begins}."
    )
    return _plot(draw, WIDTH, 250, alt)


def plane(cloud: Cloud, chosen_x: np.ndarray, chosen_y: np.ndarray, labels: tuple[str, str], corners: bool) -> Plot:
    """Draw two quantities against each other as points or hexagons, and mark the selected items.

    ``corners``: x is expected entropy and y BALD, whose sum is the entropy: its contours are drawn, the corners named.
    """

    def draw(axes: Axes, theme: Theme) -> None:
        if cloud.weights is None:
            axes.scatter(cloud.x, cloud.y, s=9, color=theme.pool, alpha=0.65, linewidths=0)
        else:
            ramp = LinearSegmentedColormap.from_list("items", theme.ramp)
            axes.hexbin(
                cloud.x, cloud.y, C=cloud.weights, reduce_C_function=np.sum, gridsize=(HEXAGONS, HEXAGONS // 2),
                norm=LogNorm(1, max(2, cloud.weights.sum() / 50)), cmap=ramp, linewidths=0.1,
            )  # fmt: skip
        axes.scatter(
            chosen_x,
            chosen_y,
            s=26,
            color=theme.chosen,
            edgecolors=theme.paper,
            linewidths=0.7,
            label="selected",
            zorder=3,
        )
        axes.set_xlabel(labels[0])
        axes.ticklabel_format(useOffset=False)  # an offset such as "+2.3" would overlap the labels
        axes.set_ylabel(labels[1])
        axes.grid(color=theme.grid, linewidth=0.8)
        axes.margins(0.03)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        if corners:
            _name_corners(axes, cloud, theme)

    what = "Each of" if cloud.weights is None else "Density of"
    alt = f"{what} {cloud.n:,} items by {labels[0]} (across) and {labels[1]} (up), with {count(len(chosen_x), 'selected item')} marked."
    return _plot(draw, WIDTH, 375, alt)


def embedding_plane(places: Mapping[str, Any]) -> Plot:
    """Draw the candidates, labeled and selected items of an embedding map as points."""

    def draw(axes: Axes, theme: Theme) -> None:
        for kind, size, color, marker in (
            ("candidates", 7, theme.pool, "o"),
            ("labeled", 20, theme.ink, "x"),
            ("selected", 24, theme.chosen, "o"),
        ):
            points = np.array(places[kind], float).reshape(-1, 2)
            # A point is outlined, a cross is not.
            edge = {"edgecolors": theme.paper, "linewidths": 0.6} if kind == "selected" else {"linewidths": 0.8}
            axes.scatter(points[:, 0], points[:, 1], s=size, color=color, marker=marker, **edge)
        axes.set_xticks([])
        axes.set_yticks([])
        if places["explained"]:
            for label, share in zip(("xlabel", "ylabel"), [*places["explained"], 0.0][:2], strict=True):
                axes.set(**{label: f"{share:.0%} of the variance"})
        axes.margins(0.03)

    counts = ", ".join(f"{len(places[kind]):,} {kind}" for kind in ("candidates", "labeled", "selected"))
    layout = "the two directions of the largest variance of the candidates" if places["explained"] else "by UMAP"
    alt = f"Map of embeddings, {layout}: {counts}."
    return _plot(draw, WIDTH, 375, alt)


def steps(gains: Sequence[float], exact: int) -> Plot:
    """Draw the gain of each pick, in the order of choice; those after the first ``exact`` are hollow."""

    def draw(axes: Axes, theme: Theme) -> None:
        picks = np.arange(1, len(gains) + 1)
        axes.plot(picks, gains, color=theme.chosen, linewidth=0.9, zorder=1)
        for part, fill in ((slice(exact), theme.chosen), (slice(exact, None), theme.paper)):
            axes.scatter(
                picks[part], gains[part], s=22, facecolors=fill, edgecolors=theme.chosen, linewidths=0.9, zorder=2
            )
        axes.set_ylim(bottom=0)
        axes.set_xlabel("pick")
        axes.set_ylabel("information, nats")
        axes.grid(axis="y", color=theme.grid, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))

    alt = f"Information of {count(len(gains), 'pick')} in order, from {number(gains[0])} to {number(gains[-1])} nats."
    return _plot(draw, WIDTH, 250, alt)


def around_cut(
    ranks: np.ndarray, scores: np.ndarray, errors: np.ndarray, chosen: np.ndarray, cut: float, label: str
) -> Plot:
    """Draw scores with one standard error to each side against their rank (1 = best), those of selected items (bool) marked."""

    def draw(axes: Axes, theme: Theme) -> None:
        axes.axhline(cut, color=theme.ink, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        for part, color in ((~chosen, theme.pool), (chosen, theme.chosen)):
            axes.errorbar(
                ranks[part], scores[part], errors[part], fmt="o", markersize=3.2, elinewidth=1, color=color, zorder=2
            )
        axes.set_xlabel(f"rank by {label}")
        axes.set_ylabel(f"{label} ± standard error")
        axes.ticklabel_format(useOffset=False)
        axes.grid(axis="y", color=theme.grid, linewidth=0.8)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))

    alt = (
        f"{label} of the items of rank {ranks[0]:,} to {ranks[-1]:,} with their standard errors, {count(int(chosen.sum()), 'item')} of "
        f"them selected; the lowest selected score is {number(cut)}."
    )
    return _plot(draw, WIDTH, 300, alt)


def _name_corners(axes: Axes, cloud: Cloud, theme: Theme) -> None:
    """Draw contours of equal entropy and name the two ends. Axes begin at 0 unless half of an axis would be empty."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    x0 = 0.0 if cloud.x.min() < 0.5 * cloud.x.max() else x0
    y0 = 0.0 if cloud.y.min() < 0.5 * cloud.y.max() else y0
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
    for total in MaxNLocator(5).tick_values(x0 + y0, x1 + y1):
        ends = [x0, x1], [total - x0, total - x1]
        axes.plot(
            *ends, color=theme.faint, linewidth=0.6, linestyle=(0, (1, 3)), zorder=0.5, scalex=False, scaley=False
        )
    # Outside the axes, where they hide no item; the second stands in the line of the axis label.
    style: dict[str, Any] = {"fontsize": 8.5, "color": theme.ink, "style": "italic"}
    axes.set_title("↑ the model does not know", loc="left", pad=5, **style)
    axes.annotate(
        "the item is ambiguous →",
        (1, 0.5),
        xycoords=("axes fraction", axes.xaxis.label),
        ha="right",
        va="center",
        **style,
    )


def _plot(draw: Draw, width: int, height: int, alt: str) -> Plot:
    light, dark = (_png(draw, theme, width, height) for theme in (LIGHT, DARK))
    return Plot(light, dark, width, height, alt)


def _png(draw: Draw, theme: Theme, width: int, height: int) -> str:
    figure = Figure(figsize=(width / 96, height / 96), dpi=DPI, layout="constrained", facecolor="none")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor="none")
    axes.set_axisbelow(True)
    draw(axes, theme)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.grid)
    axes.tick_params(colors=theme.faint, labelsize=8.5, length=3, width=0.6, which="both")
    axes.tick_params(axis="y", length=0, which="both")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=theme.faint, fontsize=9, parse_math=False)  # a score's name is text, never a formula
    file = io.BytesIO()
    figure.savefig(
        file, format="png", metadata={"Software": None}
    )  # without the address of matplotlib, which the page would otherwise hold
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
