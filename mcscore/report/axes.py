"""Axes of a plot: where a value lies, and which values are named along it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SIDE = 1000  # of the square in which marks are drawn; the page stretches it to the room there is
MOST_TICKS = 6  # so many texts fit beside each other on a telephone
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)
_BEYOND = 0.01  # of a step: 0 is named where the least value is 1e-8
_UNITS = ("", "k", "M", "G", "T")


@dataclass(frozen=True)
class Tick:
    """A named value: its place in percent of the axis, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """Values from ``lo`` to ``hi``; ``log``: by their logarithm."""

    lo: float
    hi: float
    log: bool = False

    def at(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the places of values, 0 at ``lo`` to SIDE at ``hi``.

        >>> Axis(1, 100, log=True).at([1, 10, 100]).tolist(), Axis(-1, 1).at(0.5).tolist()
        ([0.0, 500.0, 1000.0], 750.0)
        """
        given = np.asarray(values, np.float64)
        lo, hi = (math.log(self.lo), math.log(self.hi)) if self.log else (self.lo, self.hi)
        placed = (np.log(given) if self.log else given) - lo
        return placed * (SIDE / (hi - lo if hi > lo else 1.0))

    def ticks(self, *, whole: bool = False) -> list[Tick]:
        """Return up to MOST_TICKS round values within the axis; ``whole``: whole numbers only."""
        values = self._powers() if self.log else round_values(self.lo, self.hi, whole=whole)
        step = min(np.diff(values), default=0.0)
        return [Tick(float(self.at(v)) * 100 / SIDE, _short(v) if self.log else text_of(v, step)) for v in values]

    def _powers(self) -> list[float]:
        first, last = math.ceil(math.log10(self.lo)), math.floor(math.log10(self.hi))
        return [10.0**power for power in range(first, last + 1, max(1, -(-(last - first) // MOST_TICKS)))]


def around(values: npt.NDArray[np.float64], margin: float = 0.03, *, zero: bool = False) -> Axis:
    """Return the axis of the values with a margin; ``zero``: from 0 on, unless half of the axis would be empty then."""
    lo, hi = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    edge = margin * (hi - lo) or margin * max(abs(lo), 1.0)
    return Axis(0.0 if zero and 0 <= lo < 0.5 * hi else lo - edge, hi + edge)


def round_values(lo: float, hi: float, *, whole: bool = False) -> list[float]:
    """Return the multiples of a round step from lo to hi, MOST_TICKS or one more; ``whole``: the step is a whole number.

    >>> round_values(0.1, 2.3), round_values(1, 5, whole=True)
    ([0.5, 1.0, 1.5, 2.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    """
    if not hi > lo:
        return [lo]
    rough = max((hi - lo) / MOST_TICKS, 1.0 if whole else 0.0) * (1 - 1e-9)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(each * unit for each in _STEPS if each * unit >= rough and (not whole or (each * unit).is_integer()))
    first, last = math.ceil(lo / step - _BEYOND), math.floor(hi / step + _BEYOND)
    return [n * step for n in range(first, last + 1)]


def text_of(value: float, step: float) -> str:
    """Return a value with as many digits as tell it from its neighbor a step away.

    >>> text_of(0.25, 0.25), text_of(0.2, 0.1), text_of(3000, 500), text_of(3e-7, 1e-7)
    ('0.25', '0.2', '3,000', '3e-07')
    """
    if step and (step < 1e-4 or abs(value) >= 1e7):
        return f"{value:.3g}"
    digits = next((d for d in range(5) if abs(round(step, d) - step) < 1e-9), 5)
    return f"{value:,.{digits}f}".replace("-", "−")


def _short(value: float) -> str:
    power = min(int(math.log10(value) + 1e-9) // 3, len(_UNITS) - 1) if value >= 1 else 0
    return f"{value / 1000.0**power:g}{_UNITS[power]}"
