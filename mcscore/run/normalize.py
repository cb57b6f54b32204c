"""A scorer of a run's own, which normalizes as the pool wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pool import Pool
    from ..scorer.scorer import Scorer


def own_scorer(scorer: Scorer, pool: Pool) -> Scorer:
    """A copy of ``scorer`` with the pool's mean and std, unless it was told others or transforms its input.

    A copy, because another thread may be using ``scorer`` for another pool.
    """
    own = scorer.copy()
    if pool.mean is not None and own.transform is None and own.normalization is None:
        own.normalize(pool.mean, pool.std)
    return own
