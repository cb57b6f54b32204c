"""What is said of curves and of paired results: all seeds count, and every comparison has its p-value."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

Floats = npt.NDArray[np.float64]
_EXACT = 14  # pairs up to which all 2^n signs are tried
_DRAWN = 100_000


def permutation_test(difference_S: npt.ArrayLike) -> float:
    """The one-sided p-value of a mean difference > 0 of S pairs: the share of all ways to swap within pairs that gives a mean as large.

    With S pairs it cannot be below 2^-S: 3 seeds show nothing at 0.05, 5 do. The signs of more than 14 pairs are drawn.

    >>> permutation_test([0.1, 0.2, 0.1, 0.3, 0.1])
    0.03125
    >>> permutation_test([0.1, -0.1])
    0.75
    """
    difference = np.asarray(difference_S, np.float64)
    S = len(difference)
    if S <= _EXACT:
        signs = np.array(list(itertools.product((1, -1), repeat=S)))
    else:
        signs = np.random.default_rng(0).choice((1, -1), (_DRAWN, S))
        signs[0] = 1  # what was seen is one of them, so that p is never 0
    return float((signs @ difference >= difference.sum() - 1e-12).mean())


def rate_of_failure(difference_S: npt.ArrayLike) -> float:
    """How often the mean of S other seeds would be at most 0, judged by the spread of these: Student's t, for a new mean.

    >>> rate_of_failure([0.1, 0.2, 0.1, 0.3, 0.1]) < 0.05 < rate_of_failure([0.1, -0.1, 0.2, -0.1, 0.1])
    True
    """
    mean, error = mean_and_error(difference_S)
    if not error:
        return float(mean <= 0)
    return float(student_t.cdf(-mean / (2**0.5 * error), len(np.asarray(difference_S)) - 1))


def area(labels_R: Sequence[int], values_SR: npt.ArrayLike) -> Floats:
    """The mean height of each seed's curve over the labels, (S,)."""
    labels, values = np.asarray(labels_R, np.float64), np.asarray(values_SR, np.float64)
    return np.trapezoid(values, labels, axis=-1) / (labels[-1] - labels[0])


def labels_to(labels_R: Sequence[int], error_R: npt.ArrayLike, target: float) -> int | None:
    """How many labels the first model was trained on whose error is at most ``target``; None if none was.

    >>> labels_to([20, 30, 40], [0.3, 0.1, 0.12], 0.1)
    30
    """
    below = np.flatnonzero(np.asarray(error_R) <= target)
    return int(labels_R[below[0]]) if len(below) else None


def mean_and_error(values_S: npt.ArrayLike) -> tuple[float, float]:
    """Mean of the seeds and its standard error; 0 of a single one."""
    values = np.asarray(values_S, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def with_error(values_S: npt.ArrayLike, digits: int) -> str:
    """Mean of the seeds and its standard error, as they stand in tables.

    >>> with_error([1000.0, 1002.0], 1)
    '1,001.0 ± 1.0'
    """
    mean, error = mean_and_error(values_S)
    return f"{mean:,.{digits}f} ± {error:,.{digits}f}"


def average_precision(score_N: npt.ArrayLike, relevant_N: npt.ArrayLike) -> float:
    """Mean over the relevant items of the share of relevant ones down to their rank; equal scores in the order given.

    >>> average_precision([0.9, 0.8, 0.7], [True, False, True])
    0.8333333333333333
    """
    order = np.argsort(-np.asarray(score_N, np.float64), kind="stable")
    relevant = np.asarray(relevant_N, bool)[order]
    ranks = np.flatnonzero(relevant) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean()) if len(ranks) else float("nan")


def ndcg(score_N: npt.ArrayLike, grade_N: npt.ArrayLike, at: int = 10) -> float:
    """Discounted gain (2^grade - 1) / log2(rank + 1) of the first ``at``, as a share of the best order's (LETOR 4.0).

    >>> ndcg([0.9, 0.8, 0.7], [0, 2, 1]) < ndcg([0.1, 0.8, 0.7], [0, 2, 1]) == 1.0
    True
    """
    gain = 2.0 ** np.asarray(grade_N) - 1
    discount = 1 / np.log2(np.arange(2, at + 2))
    order = np.argsort(-np.asarray(score_N, np.float64), kind="stable")[:at]
    best = np.sort(gain)[::-1][:at] @ discount[: min(at, len(gain))]
    return float(gain[order] @ discount[: len(order)] / best) if best else float("nan")


def calibration_error(confidence_N: npt.ArrayLike, right_N: npt.ArrayLike, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): mean of |accuracy - confidence| over bins of equal width, by their items."""
    confidence, right = np.asarray(confidence_N, np.float64), np.asarray(right_N, np.float64)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(which, right - confidence, bins)
    return float(np.abs(gap).sum() / len(confidence))
