"""A pool's mean and std, lent to a scorer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pool import Pool
    from ..scorer import Scorer


@contextlib.contextmanager
def normalised(scorer: Scorer, pool: Pool) -> Iterator[None]:
    """Let the scorer normalise with the pool's mean and std, unless it was told others or transforms its input."""
    if pool.mean is None or scorer.transform is not None or scorer.describe()["normalise"] is not None:
        yield
        return
    scorer.normalise(pool.mean, pool.std)
    try:
        yield
    finally:
        scorer.normalise(None, None)
