"""The most probable classes of items, where the run has kept probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .samples_file import mean_probabilities, samples_file

if TYPE_CHECKING:
    from ..stored import StoredScores

GUESSES = 5  # classes of an item

Guesses = list[list[list[float]] | None]  # of each item [class, probability] each; None: not kept of this item


def guesses_of(run: StoredScores, ids: npt.NDArray[np.int64], most: int = GUESSES) -> Guesses | None:
    """Return the most probable classes of each item by the samples of a joint selection; None where the run has kept none."""
    if not isinstance(run.path, Path):
        return None
    mean_nC = mean_probabilities(samples_file(run.path, "candidates"), ids, run.meta["model"]["fingerprint"])
    if mean_nC is None:
        return None
    best = np.argsort(-mean_nC, axis=1, kind="stable")[:, :most]
    return [
        None if np.isnan(p_C).any() else [[int(c), round(float(p_C[c]), 4)] for c in top]
        for p_C, top in zip(mean_nC, best, strict=True)
    ]
