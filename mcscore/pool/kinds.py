"""What a column of labels holds: classes, or numbers to be predicted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import PoolError
from ..labels import UNLABELED

MAIN = "label"  # the column of labels that decides what is labeled
KINDS = ("class", "number")
COLUMN_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels: what one annotator, or one question, says of the items.

    Attributes:
        name: "label" is the main column: an item that has a value there is labeled, and is neither scored nor selected.
        kind: "class", the number of a class, int32, -1 where an item has none; or "number", a number to be predicted
            (regression), float32, NaN where an item has none.
        classes: names of its classes; None: those of the pool, or labels are numbers.
    """

    name: str = MAIN
    kind: str = "class"
    classes: tuple[str, ...] | None = None

    @property
    def dtype(self) -> np.dtype:
        """Of its values."""
        return np.dtype(np.int32 if self.kind == "class" else np.float32)

    @property
    def empty(self) -> float:
        """Its value where an item has no label."""
        return UNLABELED if self.kind == "class" else math.nan

    @property
    def array(self) -> str:
        """The name of its array."""
        base = "labels" if self.kind == "class" else "numbers"
        return base if self.name == MAIN else f"{base}-{self.name}"


def column_name(name: str) -> str:
    """Return the name of a column of labels.

    Raises:
        PoolError: it can be no part of the name of a file.
    """
    if not COLUMN_NAME.fullmatch(name):
        raise PoolError(
            f"{name!r} cannot name a column of labels: up to 64 letters, digits, and _ . - inside are needed"
        )
    return name


def main_column(kind: str, classes: Any) -> LabelColumn:
    """Return the main column of labels of a pool to be made.

    Raises:
        PoolError: the kind is unknown; numbers with class names.
    """
    if kind not in KINDS:
        raise PoolError(f"labels are of kind {' or '.join(KINDS)}, not {kind!r}")
    if kind == "number" and classes is not None:
        raise PoolError("labels that are numbers to be predicted have no class names: leave out one of the two")
    return LabelColumn(kind=kind)


def checked_classes(classes: Iterable[Any]) -> tuple[str, ...]:
    """Return class names; PoolError if they repeat."""
    names = tuple(str(name) for name in classes)
    if len(set(names)) != len(names):
        raise PoolError(f"class names must differ from each other: {', '.join(names)}")
    return names
