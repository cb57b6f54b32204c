"""The facts of the page, read once, and what scores are called on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import stats
from .source import Chosen

if TYPE_CHECKING:
    from ..pool import Pool
    from ..run import Run

TITLES = {"bald": "BALD"}


@dataclass(frozen=True)
class Shown:
    """The facts of the page, read once. Without the pool: no pictures, labels, keys and class names."""

    run: Run
    pool: Pool | None
    chosen: Chosen | None
    spreads: dict[str, stats.Spread | None]
    selected: dict[str, np.ndarray]  # every column and the prediction of the selected items, (k,)
    labels_N: np.ndarray | None
    classes: list[str] | None

    @property
    def ids(self) -> np.ndarray:
        """Ids of the selected items."""
        return self.chosen.ids if self.chosen else np.empty(0, np.int64)

    @property
    def by(self) -> str:
        """The score that the selection was made by; without a selection, the first score of the run."""
        return self.chosen.by if self.chosen else next(iter(self.spreads))

    @property
    def error(self) -> str | None:
        """The column of the standard errors of ``by``; None if the run has none."""
        name = f"{self.by}_se"
        return name if name in self.run.columns else None

    @property
    def regression(self) -> bool:
        """Whether predictions are numbers, not classes."""
        return bool(self.run.meta["likelihood"] == "gaussian")

    def class_name(self, index: int) -> str:
        """The name of a class; its number where it has none or the name is blank."""
        if index < 0:
            return "nothing"
        if not self.classes or index >= len(self.classes):
            return str(index)
        name = self.classes[index]
        return name if name.strip() else f"{index} (its name is blank)"


def stream(run: Run, name: str) -> stats.Stream:
    """The values of a column, or "prediction", span by span."""
    return lambda: (values for _ids, values in run.spans(name))


def title(name: str) -> str:
    """The name of a score as headings show it."""
    return TITLES.get(name, name.replace("_", " "))
