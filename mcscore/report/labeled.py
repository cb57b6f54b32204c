"""How right the model is about the items that have labels: by class, by uncertainty, and against its own probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..text import count, number
from .shown import Shown, title

TITLE = "How right the model is where labels are known"
DECILES, BINS = 10, 10
MAX_CLASSES = 12  # of the confusion matrix; of more classes those with the most mistakes are shown
FEW = 20  # labeled items, from which on deciles are shown

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """Scored items that have a label by now: their score, prediction, label and the probability of the prediction, each (n,)."""

    ids: Ints
    scores: Floats
    predictions: Ints
    labels: Ints
    confidence: Floats | None

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the model predicts the label."""
        return self.predictions == self.labels


@dataclass(frozen=True)
class Group:
    """A part of the labeled items: its name, how many, the share that is right and the ends of its 95% interval."""

    name: str
    items: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Confusion:
    """Items by label (rows) and prediction (columns), of the classes that are shown; the last column has all other classes."""

    classes: list[str]
    rows: list[list[int]]
    totals: list[int]
    others: bool


def labeled_section(shown: Shown) -> dict[str, Any] | None:
    """The section; None if no scored item has a label, or items have several or none that are classes."""
    if shown.labels_N is None or shown.labels_N.dtype.kind == "f" or shown.run.meta["likelihood"] != "categorical":
        return None
    known = known_items(shown)
    if not len(known.ids):
        return None
    of_selection = int(np.isin(known.ids, shown.ids).sum())
    deciles = by_uncertainty(known, title(shown.by)) if len(known.ids) >= FEW else []
    bins = None if known.confidence is None else calibration(known.confidence, known.right)
    return {
        "title": TITLE,
        "text": [verdict(known), bias(len(known.ids), of_selection, bool(shown.run.meta.get("labeled")))],
        "deciles": deciles,
        "by": title(shown.by),
        "confusion": confusion(known, shown.class_name),
        "calibration": bins,
        "calibration_text": _calibration_text(known, bins),
    }


def known_items(shown: Shown) -> Known:
    """Read the scored items that have labels, span by span."""
    run, labels_N = shown.run, shown.labels_N
    assert labels_N is not None
    confident = "least_confidence" in run.columns
    names = ["prediction", shown.by, *(["least_confidence"] if confident else [])]
    parts = []
    for spans in zip(*(run.spans(name) for name in names), strict=True):
        ids, predictions, scores = spans[0][0], spans[0][1], spans[1][1]
        labels = labels_N[ids]
        keep = (labels >= 0) & (predictions >= 0) & np.isfinite(scores)
        sure = 1 - spans[2][1][keep].astype(float) if confident else np.empty(0)
        parts.append((ids[keep], scores[keep].astype(float), predictions[keep], labels[keep], sure))
    ids, scores, predictions, labels, sure = (
        (np.concatenate(each) for each in zip(*parts, strict=True)) if parts else [np.empty(0, int)] * 5
    )
    return Known(ids, scores, predictions, labels, sure if confident else None)


def verdict(known: Known) -> str:
    """The accuracy over the labeled items, in words."""
    group = _group("all", known.right)
    return (
        f"The model is right about {group.share:.0%} of the {count(group.items, 'scored item')} with a label by now "
        f"(95% interval {group.low:.0%} to {group.high:.0%})."
    )


def bias(items: int, of_selection: int, run_of_labeled: bool) -> str:
    """What the items with labels do not stand for.

    >>> bias(40, 40, False)  # doctest: +ELLIPSIS
    'All of them are of this selection: chosen because they are hard, not drawn at random. Of the whole pool the model is...'
    """
    if run_of_labeled:
        return (
            "This run scored items that had labels already. Those that the model was trained on are among them, if any: of these it is "
            "right more often than of new items. Neither are labeled items a random sample of the pool, unless they were drawn as one."
        )
    if not of_selection:
        return "None of them is of this selection. Unless they were drawn at random, the shares below hold for these items only."
    some = f"{of_selection:,} of them" if of_selection < items else "All of them" if items > 1 else "It"
    are, they = ("is", "it is") if of_selection == 1 else ("are", "they are")
    return (
        f"{some} {are} of this selection: chosen because {they} hard, not drawn at random. Of the whole pool the model is likely right "
        "more often, and the shares below hold for these items only."
    )


def by_uncertainty(known: Known, by: str) -> list[Group]:
    """The accuracy by deciles of the score of the labeled items, the lowest scores first."""
    order = np.argsort(known.scores, kind="stable")
    parts = np.array_split(order, DECILES)
    return [
        _group(f"{number(known.scores[part[0]])} to {number(known.scores[part[-1]])}", known.right[part])
        for part in parts
    ]


def calibration(confidence: Floats, right: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The accuracy by bins of the probability of the prediction, and the expected calibration error (Guo et al. 2017).

    >>> found = calibration(np.array([0.95, 0.95, 0.65]), np.array([True, False, True]))
    >>> round(found["error"], 3), [group.name for group in found["bins"]]
    (0.417, ['0.6 to 0.7', '0.9 to 1.0'])
    """
    at = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for each in np.unique(at):
        inside = at == each
        group = _group(f"{each / BINS:.1f} to {(each + 1) / BINS:.1f}", right[inside])
        mean = float(confidence[inside].mean())
        bins.append((group, mean))
        error += inside.sum() / len(at) * abs(group.share - mean)
    return {"error": float(error), "bins": [group for group, _ in bins], "means": [mean for _, mean in bins]}


def confusion(known: Known, name: Callable[[int], str]) -> Confusion:
    """Count the items by label and prediction; of many classes, those with the most mistakes."""
    C = int(max(known.labels.max(), known.predictions.max())) + 1
    wrong = known.labels[~known.right], known.predictions[~known.right]
    mistakes = np.bincount(wrong[0], minlength=C) + np.bincount(wrong[1], minlength=C)
    seen = np.unique(np.concatenate([known.labels, known.predictions]))
    if len(seen) > MAX_CLASSES:
        seen = np.sort(seen[np.argsort(-mistakes[seen], kind="stable")[:MAX_CLASSES]])
    rows, totals = [], []
    for label in seen:
        given = np.bincount(known.predictions[known.labels == label], minlength=C)
        rows.append([*given[seen].tolist(), int(given.sum() - given[seen].sum())])
        totals.append(int(given.sum()))
    return Confusion([name(int(each)) for each in seen], rows, totals, any(row[-1] for row in rows))


def _calibration_text(known: Known, found: dict[str, Any] | None) -> str:
    if found is None or known.confidence is None:
        return (
            "Whether the model's probabilities hold is not known: the run has not kept them (mcscore score --scores with "
            "least_confidence keeps the probability of the prediction)."
        )
    mean = float(known.confidence.mean())
    return (
        f"The model gives its predictions a probability of {mean:.0%} on average, and is right about {known.right.mean():.0%} of these "
        f"items: the expected calibration error is {100 * found['error']:.1f} percentage points, in {BINS} bins."
    )


def _group(name: str, right: npt.NDArray[np.bool_]) -> Group:
    """The share of items that are right, and the 95% interval of Wilson (1927)."""
    n, share, z = len(right), float(right.mean()), 1.96
    middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle + side * half) / (1 + z * z / n) for side in (-1, 1))
    return Group(name, n, share, max(0.0, float(low)), min(1.0, float(high)))
