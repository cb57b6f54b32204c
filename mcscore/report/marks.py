"""Marks of a plot as SVG paths in a square of SIDE that the page stretches to the room there is.

Strokes keep their width (``vector-effect`` in the style sheet), so a point is a line of no length with round ends: round at any size,
and thousands of points are one path. Colors are classes of the style sheet, which has a light and a dark form of each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from .axes import SIDE

Values = npt.NDArray[np.float64]


def dots(x: Values, y: Values, kind: str, *, ring: bool = False) -> Markup:
    """Points, those that are finite; ``ring``: with an edge of the page's color, so that those that overlap can be told apart."""
    known = np.isfinite(x) & np.isfinite(y)
    where = "".join(f"M{a:.0f} {SIDE - b:.0f}h0" for a, b in zip(x[known], y[known], strict=True))
    edge = _path(where, "dot edge") if ring else Markup()
    return edge + _path(where, f"dot {kind}")


def line(x: Values, y: Values, kind: str) -> Markup:
    """A line through points."""
    return _path("M" + "L".join(f"{a:.0f} {SIDE - b:.0f}" for a, b in zip(x, y, strict=True)), f"line {kind}")


def columns(left: Values, right: Values, top: Values, kind: str) -> Markup:
    """Columns from the bottom up; those without height are left out."""
    return _path(
        "".join(
            f"M{a:.1f} {SIDE}V{SIDE - y:.1f}H{b:.1f}V{SIDE}z" for a, b, y in zip(left, right, top, strict=True) if y > 0
        ),
        f"area {kind}",
    )


def cells(x: Values, y: Values, width: float, height: float, kind: str) -> Markup:
    """Rectangles of one size; x and y are their lower left corners."""
    shape = f"h{width:.1f}v{height:.1f}h-{width:.1f}z"
    return _path("".join(f"M{a:.0f} {SIDE - b - height:.0f}{shape}" for a, b in zip(x, y, strict=True)), f"area {kind}")


def spans(x: Values, low: Values, high: Values, kind: str) -> Markup:
    """Upright lines."""
    return _path(
        "".join(f"M{a:.0f} {SIDE - b:.0f}V{SIDE - c:.0f}" for a, b, c in zip(x, low, high, strict=True)), f"line {kind}"
    )


def across(y: Values, kind: str) -> Markup:
    """Level lines from side to side."""
    return _path("".join(f"M0 {SIDE - b:.0f}H{SIDE}" for b in y), f"line {kind}")


def _path(where: str, kind: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(kind, where) if where else Markup()
