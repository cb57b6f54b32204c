"""Standard error and bias of scores: the delete-group jackknife over a fixed partition of the passes.

The passes 0..T-1 are cut into groups of consecutive passes, of a size that depends on T alone (``group_size``), so that errors
do not depend on how passes are split over kernels, chunks or processes. With θ the score of all T passes and θ_(-g) the
score without the m_g passes of group g, G groups, h_g = T / m_g:

    θ_J   = G θ - Σ_g (1 - m_g / T) θ_(-g)                                       the corrected score
    bias  = θ - θ_J                                                              so θ - bias is the corrected score
    se²   = (1 / G) Σ_g (h_g θ - (h_g - 1) θ_(-g) - θ_J)² / (h_g - 1)

(Busing, Meijer and van der Leeden, Delete-m jackknife for unequal m, 1999, eqs. 7 and 9; Quenouille 1956 and Tukey 1958 where groups are
equal.) Groups of consecutive passes are as good as random ones, because passes are independent.

θ_(-g) is not clamped: a BALD that is stored as 0 because it is noise has an error like any other.

What it keeps, by simulation of 4,000 sets of passes (tests/test_jackknife_simulation.py): the root mean square of the standard errors is
0.98 to 1.05 of the spread of entropy and BALD, for 16 passes as for 100. For items of which one class has nearly all, one pass in a
hundred may hold most of the information. Their errors have heavy tails: on average they are 0.5 to 0.8 of the spread for 16 passes,
and a set of passes without a rare one has a standard error that is far too small. What the correction leaves of the bias is below a
fifth of it (and the simulation's own noise) for unsure items and for 100 passes, but 0.2 to 0.5 of it for such items and 16 passes.

Bias is estimated for scores that are smooth in the mean probabilities. A score that takes a maximum over classes (``Score.smooth`` is
False) has a bias the jackknife does not find (it left one to five times the bias where two classes are equally probable), and so none
is given; its standard error is too large there, by up to 1.7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .acquisition import SCORES

if TYPE_CHECKING:
    from torch import Tensor

MAX_GROUPS = 32
"""The most groups. A standard error from G groups is itself known to 1 / sqrt(2 (G - 1)) of its value: 13 % for 32, 18 % for 17."""


def group_size(passes: int) -> int:
    """The number of passes in a group: the smallest power of two that makes at most MAX_GROUPS groups of them.

    A power of two, so that groups of a stream whose end is not known are joined in pairs when there are too many.

    >>> [group_size(T) for T in (2, 16, 32, 33, 100, 400)]
    [1, 1, 1, 2, 4, 16]
    """
    size = 1
    while -(-passes // size) > MAX_GROUPS:
        size *= 2
    return size


def groups(passes: int) -> list[range]:
    """The passes of each group; the last group may be smaller than the others.

    >>> groups(5), len(groups(100)), groups(33)[-1]
    ([range(0, 1), range(1, 2), range(2, 3), range(3, 4), range(4, 5)], 25, range(32, 33))

    Raises:
        ValueError: fewer than 2 passes, of which no error can be estimated.
    """
    require_passes(passes)
    size = group_size(passes)
    return [range(first, min(first + size, passes)) for first in range(0, passes, size)]


def require_passes(passes: int) -> None:
    """Raise ValueError for fewer than 2 passes, of which no error can be estimated."""
    if passes < 2:
        raise ValueError(f"a standard error needs at least 2 passes, got {passes}")


def columns(scores: Sequence[str], errors: bool, smooth: Mapping[str, bool] | None = None) -> tuple[str, ...]:
    """The names of the results: the scores and, with errors, the standard error of each and the bias of those that have one.

    smooth: whether a score is smooth, of scores that may not be in the catalog of this process.

    >>> columns(["bald", "margin"], True)
    ('bald', 'margin', 'bald_se', 'margin_se', 'bald_bias')
    """
    if not errors:
        return tuple(scores)
    known = smooth or {}
    return (
        *scores,
        *(f"{name}_se" for name in scores),
        *(f"{name}_bias" for name in scores if (known[name] if name in known else SCORES[name].smooth)),
    )


def estimate(theta_B: Tensor, without_GB: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(standard error, bias), each (B,), of scores theta_B from all passes and without_GB from those outside of each group.

    sizes: the passes in each group. Both inputs in float64: the differences are a small part of the scores.
    """
    import torch

    passes = sum(sizes)
    m_G1 = torch.tensor(sizes, dtype=theta_B.dtype, device=theta_B.device)[:, None]
    # By differences from theta, so that where all are equal the error is exactly 0.
    delta_GB = without_GB - theta_B
    bias_B = ((1 - m_G1 / passes) * delta_GB).sum(0)
    h_G1 = passes / m_G1
    variance_B = (((h_G1 - 1) * delta_GB - bias_B).square() / (h_G1 - 1)).mean(0)
    return variance_B.sqrt(), bias_B


def oracle_errors(
    logits: Tensor,
    scores: Sequence[str],
    likelihood: str = "categorical",
    input: str = "logits",
    noise_variance: float | None = None,
    reduction: str | float = "mean",
) -> dict[str, Tensor]:
    """The errors by their definition, from float64 scores of all passes but a group: {name: (B,) float64}. For tests.

    Arguments as of ``acquisition.oracle_scores``.
    """
    import torch

    from .acquisition import oracle_scores

    T = len(logits)
    settings = (scores, likelihood, input, noise_variance, reduction)
    whole = oracle_scores(logits, *settings)
    sizes = [len(group) for group in groups(T)]
    kept = [torch.tensor([t for t in range(T) if t not in group], dtype=torch.long) for group in groups(T)]
    parts = [oracle_scores(logits[passes.to(logits.device)], *settings) for passes in kept]
    found = {}
    for name in scores:
        se, bias = estimate(whole[name], torch.stack([part[name] for part in parts]), sizes)
        found[f"{name}_se"] = torch.where(whole[name].isnan(), math.nan, se)
        found[f"{name}_bias"] = torch.where(whole[name].isnan(), math.nan, bias)
    return {name: found[name] for name in columns(scores, True)[len(scores) :]}
