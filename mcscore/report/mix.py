"""The chart of predicted classes: the share of each class in the pool and in the selection, as bars that the page draws.

The bars are HTML, not a picture: a reader's browser has the fonts of every script, and takes no name for a formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MAX_CLASSES = 20  # bars; of more classes those are shown whose shares differ most


@dataclass(frozen=True)
class Share:
    """A share of the items, and the length of its bar; the longest bar of a chart has 1."""

    value: float
    length: float


@dataclass(frozen=True)
class Bar:
    """A class: its share in the pool and in the selection."""

    name: str
    pool: Share
    chosen: Share


def class_mix(pool: np.ndarray, chosen: np.ndarray, name: Callable[[int], str]) -> list[Bar]:
    """Return the bars of up to MAX_CLASSES classes, in the order of the classes.

    Args:
        pool: items of each class (C,), at least one in all.
        chosen: selected items of each class (C,).
        name: the name of a class.

    >>> class_mix(np.array([3, 1]), np.array([0, 2]), str)[1]
    Bar(name='1', pool=Share(value=0.25, length=0.25), chosen=Share(value=1.0, length=1.0))
    """
    shares = np.stack([pool / pool.sum(), chosen / max(chosen.sum(), 1)])
    rows = np.sort(np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:MAX_CLASSES])
    lengths = shares / shares[:, rows].max()
    return [
        Bar(name(row), *(Share(float(shares[of, row]), float(lengths[of, row])) for of in (0, 1)))
        for row in rows.tolist()
    ]
