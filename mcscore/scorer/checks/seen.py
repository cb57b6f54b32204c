"""What a first sample shows of a model and its input: plain values, which the checks judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MIN_ITEMS = 16  # below, statistics of a sample say little
MIN_LABELS = 20
_MOST = 5.0  # nats of one channel: one that is dead or constant must not decide alone


@dataclass(frozen=True)
class Finding:
    """What a check found. ``check``: its name; ``text``: what was seen, why that is suspicious, what to do."""

    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.text} (check {self.check!r})"


@dataclass(frozen=True)
class Sample:
    """Items of a pool for the checks.

    Attributes:
        items_B: (B, ...) as the pool stores them.
        labels_B: (B,) their labels, -1 where there is none.
        spread: the first so many lie all over the pool; the rest are there for their labels.
        classes: the class names of the pool, if it has any.
    """

    items_B: Any
    labels_B: Ints
    spread: int
    classes: Sequence[str] | None = None


@dataclass(frozen=True)
class Norm:
    """The input of the first BatchNorm beside the running statistics that training left in it, each (channels,).

    Attributes:
        name: of the module.
        mean_C, var_C: of its input, over items and positions.
        running_mean_C, running_var_C: of the module.
    """

    name: str
    mean_C: Floats
    var_C: Floats
    running_mean_C: Floats
    running_var_C: Floats

    @property
    def initial(self) -> bool:
        """Whether the running statistics are those of a module that has not seen any data."""
        return bool((self.running_mean_C == 0).all() and (self.running_var_C == 1).all())

    @cached_property
    def distance(self) -> float:
        """KL(input ‖ running statistics) of normal distributions, in nats: the mean over the channels that are not dead."""
        live = self.running_var_C > 1e-6 * self.running_var_C.max(initial=0.0)
        mean, var = self.mean_C[live], self.var_C[live]
        running_mean, running_var = self.running_mean_C[live], self.running_var_C[live]
        if not len(mean):
            return 0.0
        ratio = np.maximum(var / running_var, 1e-12)
        shift = (mean - running_mean) ** 2 / running_var
        divergence = 0.5 * (ratio - 1.0 - np.log(ratio) + shift)
        return float(np.minimum(np.nan_to_num(divergence, nan=_MOST, posinf=_MOST), _MOST).mean())


@dataclass(frozen=True)
class Answer:
    """What the model gives for the sample with every dropout site off.

    Attributes:
        p_BC: probabilities of classes or labels; for likelihood gaussian (B, 1) means. The mean over pixels of dense outputs.
        norm: of its first BatchNorm in the order of execution; None: it has none.
        C: outputs per item (or pixel).
        dense: outputs per pixel, of which most may well be background in every item.
    """

    p_BC: Floats
    norm: Norm | None
    C: int
    dense: bool = False

    @cached_property
    def finite_B(self) -> npt.NDArray[np.bool_]:
        """Which items have finite outputs."""
        return np.asarray(np.isfinite(self.p_BC).all(1), np.bool_)

    @cached_property
    def votes_B(self) -> Ints:
        """The most probable class of each item."""
        return np.asarray(np.nan_to_num(self.p_BC).argmax(1), np.int64)

    def common(self, items: int) -> tuple[int, float]:
        """The class that is predicted most among the first items, and the share of those that have it."""
        counts = np.bincount(self.votes_B[:items], minlength=self.C)
        return int(counts.argmax()), float(counts.max() / max(1, items))

    def effective_classes(self, items: int) -> float:
        """Exp of the entropy of the predicted classes of the first items."""
        q = np.bincount(self.votes_B[:items], minlength=self.C) / max(1, items)
        return math.exp(float(-(q[q > 0] * np.log(q[q > 0])).sum()))

    def information(self, items: int) -> float:
        """I(item; class) = H[mean p] - mean H[p] of the first items, in nats: high where predictions are sure and differ."""
        p = self.p_BC[:items]
        return _entropy(p.mean(0)) - float(np.mean([_entropy(row) for row in p]))


def _entropy(p_C: Floats) -> float:
    p = p_C[p_C > 0]
    return float(-(p * np.log(p)).sum())


@dataclass(frozen=True)
class Values:
    """Statistics of numbers: of the items as stored, or of the model's input."""

    shape: tuple[int, ...]
    dtype: str
    lowest: float
    highest: float
    mean: float
    std: float

    def __str__(self) -> str:
        return f"values from {self.lowest:.3g} to {self.highest:.3g}, mean {self.mean:.3g}, standard deviation {self.std:.3g}"


@dataclass(frozen=True)
class Trial:
    """What the model would answer if the input were made otherwise: ``made`` says how, ``advice`` what to do then."""

    made: str
    advice: str
    answer: Answer


@dataclass(frozen=True)
class Seen:
    """All that the checks look at.

    Attributes:
        model: its name.
        likelihood, passes, scores: of the scorer.
        answer: of the model to the sample.
        items: as the pool stores them.
        input: as the model gets it; None if that is not one tensor.
        labels_B, spread, classes: as in ``Sample``.
        transform: whether the model has one of its own.
        mean_std: what uint8 items are normalized with.
        better: the trial that fits the model clearly better than its input as it is; None: none, or nothing was suspicious.
        rebuilt_differs: whether building the model again, without weights, gave other parameters; None: not tried.
    """

    model: str
    likelihood: str
    passes: int
    scores: Sequence[str]
    answer: Answer
    items: Values
    input: Values | None
    labels_B: Ints
    spread: int
    classes: Sequence[str] | None = None
    transform: bool = False
    mean_std: tuple[Sequence[float], Sequence[float]] | None = None
    better: Trial | None = None
    rebuilt_differs: bool | None = None

    @property
    def categorical(self) -> bool:
        """Whether each item is one of C classes, not each pixel."""
        return self.likelihood == "categorical" and not self.answer.dense

    def named(self, index: int) -> str:
        """A class as messages show it."""
        known = self.classes is not None and index < len(self.classes)
        return f"{index} ({self.classes[index]!r})" if known and self.classes is not None else str(index)

    @cached_property
    def at_labels(self) -> Ints:
        """Positions of the items that have a label the model has an output for, and a finite output."""
        return np.flatnonzero((self.labels_B >= 0) & (self.labels_B < self.answer.C) & self.answer.finite_B)
