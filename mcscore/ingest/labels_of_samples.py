"""What a dataset says of the label of a sample, as a value of a column of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import SampleError
from ..labels import UNLABELED

_TOP = 2**31 - 1


class LabelOf:
    """Turns the label of a sample into a number; None where it has none (None, NaN, or -1 for a class).

    Args:
        kind: "class" or "number".
        classes: names of the classes 0, 1, ...; None: there are only numbers.

    >>> of = LabelOf("class", ["cat", "dog"])
    >>> of("dog"), of(0), of(1.0), of(None)
    (1, 0, 1, None)
    """

    def __init__(self, kind: str, classes: Sequence[str] | None) -> None:
        self._number = kind == "number"
        self._classes = None if classes is None else {str(name): number for number, name in enumerate(classes)}
        self._top = _TOP if classes is None else len(classes) - 1

    def __call__(self, label: Any) -> float | None:
        """Return the value of a label.

        Raises:
            SampleError: it is no number, no class, or several.
        """
        if hasattr(label, "__array__") or hasattr(label, "item"):
            values = np.asarray(label.detach().cpu() if hasattr(label, "detach") else label)
            if values.size != 1:
                raise SampleError(f"the label has shape {values.shape}; one value per item is needed")
            label = values.item()
        if label is None or (isinstance(label, float) and math.isnan(label)):
            return None
        if isinstance(label, str) and not self._number:
            return self._named(label)
        if isinstance(label, bool) or not isinstance(label, (int, float)):
            raise SampleError(f"the label {label!r} is a {type(label).__name__}; a number is needed")
        if self._number:
            if not abs(label) <= np.finfo(np.float32).max:
                raise SampleError(f"the label {label!r} is not finite in float32")
            return float(label)
        if int(label) != label or not UNLABELED <= label <= self._top:
            regression = "" if int(label) == label else "; label_kind='number' keeps numbers to be predicted"
            classes = "from 0 on" if self._top == _TOP else f"0 to {self._top}"
            raise SampleError(f"the label {label!r} is not the number of a class, {classes}{regression}")
        return None if label == UNLABELED else int(label)

    def _named(self, label: str) -> int:
        if self._classes is None:
            raise SampleError(f"the label {label!r} is a name, and no classes= are given")
        if label not in self._classes:
            raise SampleError(f"the label {label!r} is none of the classes {', '.join(list(self._classes)[:5])}")
        return self._classes[label]
