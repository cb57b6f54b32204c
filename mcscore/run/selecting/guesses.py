"""The most probable classes of items."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GUESSES = 5  # classes of an item

Guesses = list[list[list[float]] | None]  # of each item [class, probability] each; None: not kept of this item


def guesses_of(mean_nC: npt.NDArray[np.float32] | None, most: int = GUESSES) -> Guesses | None:
    """Return the most probable classes of each item, the best first; None where nothing is kept.

    >>> guesses_of(np.array([[0.25, 0.75, 0.0], [np.nan] * 3], np.float32), 2)
    [[[1, 0.75], [0, 0.25]], None]
    """
    if mean_nC is None:
        return None
    best = np.argsort(-mean_nC, axis=1, kind="stable")[:, :most]
    return [
        None if np.isnan(p_C).any() else [[int(c), round(float(p_C[c]), 4)] for c in top]
        for p_C, top in zip(mean_nC, best, strict=True)
    ]
