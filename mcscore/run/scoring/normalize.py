"""A copy of a scorer that normalizes as the pool says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...pool import Pool
    from ...scorer.scorer import Scorer


def require_scorer(scorer: object) -> None:
    """Raise TypeError if this is no ``Scorer``, but a model, say."""
    if not hasattr(scorer, "passes"):
        kind = type(scorer).__name__
        raise TypeError(
            f"scorer is of type {kind}: a Scorer is needed, mcscore.Scorer(model, passes=100, scores=('bald',))"
        )


def own_scorer(scorer: Scorer, pool: Pool) -> Scorer:
    """Copy ``scorer`` and give it the pool's mean and std, unless it has others or transforms its input.

    A copy, because another thread may be using ``scorer`` for another pool.
    """
    own = scorer.copy()
    if pool.mean is not None and own.transform is None and own.normalization is None:
        own.normalize(pool.mean, pool.std)
    return own
