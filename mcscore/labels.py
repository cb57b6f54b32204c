"""What a label is to all rooms: a class, -1 where an item has none; or a number, NaN where it has none.

It stands outside of the pool's room, whose import brings zarr: runs are read and resumed without it.
"""

from __future__ import annotations

import numpy as np

UNLABELED = -1


def has_label(labels: np.ndarray) -> np.ndarray:
    """Return which values of a column are labels.

    >>> has_label(np.array([0, -1])), has_label(np.array([-1, np.nan], np.float32))
    (array([ True, False]), array([ True, False]))
    """
    return ~np.isnan(labels) if labels.dtype.kind == "f" else labels != UNLABELED
