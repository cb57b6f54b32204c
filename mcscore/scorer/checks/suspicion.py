"""Whether an answer is suspicious, and whether another input fits the model clearly better.

Three kinds of evidence, of which the labels overrule the others:
- labels: predictions agree with the labels that the pool has already;
- the first BatchNorm: its input is near the running statistics that training left in it;
- spread of predictions: a model whose input is wrong tends to give one class to everything.
Confidence alone is no evidence: an input that is four times as large makes most networks more confident.
"""

from __future__ import annotations

import math

import numpy as np

from .seen import MIN_ITEMS, MIN_LABELS, Answer, Ints, Seen

FAR = 0.25  # nats between the input of the first BatchNorm and its statistics; forgotten normalization gives 0.5 to 5
NEARER = 3.0  # times, for another input to fit better
_COLLAPSED = 0.5  # share of one class, of three or more
_SURE = 3.0  # standard deviations of the sign test on labels


def suspicious(seen: Seen) -> bool:
    """Whether it is worth trying other inputs."""
    answer = seen.answer
    if not answer.finite_B.all() or len(answer.p_BC) < MIN_ITEMS:
        return False
    if answer.norm is not None and answer.norm.initial:  # not trained: no input is better than another
        return False
    far = answer.norm is not None and answer.norm.distance >= FAR
    return far or _collapsed(seen, answer) or (seen.categorical and _agreement(seen, answer) < 0.9)


def fits_better(seen: Seen, other: Answer, fitted: bool = False) -> float:
    """How much better another input fits the model, to compare such inputs by; 0: not clearly better.

    fitted: the other input has statistics of the sample in it. It is near the BatchNorm's also for a pool that is merely darker than
    the training data, so the present one must be farther from them.
    """
    now, n = seen.answer, seen.spread
    if other.C != now.C or len(other.p_BC) != len(now.p_BC) or not other.finite_B.all():
        return 0.0
    gained, lost = _won_and_lost(seen, other)
    if lost > gained:
        return 0.0
    size = len(seen.at_labels)
    evidence = 0.0
    if size >= MIN_LABELS and gained - lost >= max(0.1 * size, _SURE * math.sqrt(gained + lost)):
        evidence += 10.0 * (gained - lost) / size
    if _nearer(now, other, 2 * FAR if fitted else FAR):
        evidence += 1.0 / (0.1 + other.norm.distance)  # type: ignore[union-attr]
    spread_out = other.effective_classes(n) >= 2 * now.effective_classes(n)
    if _collapsed(seen, now) and spread_out and other.information(n) >= max(0.2, 2 * now.information(n)):
        evidence += other.information(n)
    return evidence / 2 if fitted else evidence


def _nearer(now: Answer, other: Answer, far: float) -> bool:
    if now.norm is None or other.norm is None:
        return False
    return now.norm.distance >= far and other.norm.distance * NEARER <= now.norm.distance


def _collapsed(seen: Seen, answer: Answer) -> bool:
    return (
        seen.categorical and answer.C >= 3 and seen.spread >= MIN_ITEMS and answer.common(seen.spread)[1] >= _COLLAPSED
    )


def _agreement(seen: Seen, answer: Answer) -> float:
    """Share of the labels that are predicted; 1 if there are too few of them."""
    at = seen.at_labels
    return float((answer.votes_B[at] == seen.labels_B[at]).mean()) if len(at) >= MIN_LABELS else 1.0


def _won_and_lost(seen: Seen, other: Answer) -> tuple[int, int]:
    """Labels that only the other answer has right, and that only the present one has."""
    if not seen.categorical:
        return 0, 0
    at = seen.at_labels
    labels: Ints = seen.labels_B[at]
    now, then = seen.answer.votes_B[at] == labels, other.votes_B[at] == labels
    return int(np.sum(then & ~now)), int(np.sum(now & ~then))
