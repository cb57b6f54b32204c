"""When a cycle ends before its last round."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stop:
    """What ends a cycle; whichever is first.

    Attributes:
        labels: a budget: no more items are labeled in all, with those of the start. The last round takes what is left of it.
        accuracy: what ``evaluate`` is to reach.
        stable: share of the items scored in two consecutive rounds whose predicted class is to be the same in both (Bloodgood and
            Vijay-Shanker, 2009, stop when predictions no longer change). Needs runs, which the random baseline has none of.

    Raises:
        ValueError: a number is out of its range.
    """

    labels: int | None = None
    accuracy: float | None = None
    stable: float | None = None

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels < 1:
            raise ValueError(f"a budget of labels must be at least 1, got {self.labels}")
        if self.stable is not None and not 0 < self.stable <= 1:
            raise ValueError(f"stable is a share of equal predictions in (0, 1], got {self.stable}")

    def before_scoring(self, labels: int, accuracy: float) -> str:
        """Why a cycle ends once a model is evaluated, "" if it goes on.

        >>> Stop(labels=40).before_scoring(40, 0.9)
        'all 40 labels of the budget are given'
        """
        if self.accuracy is not None and accuracy >= self.accuracy:
            return f"accuracy {accuracy:.4g} reached {self.accuracy:g}"
        if self.labels is not None and labels >= self.labels:
            return f"all {self.labels:,} labels of the budget are given"
        return ""

    def after_scoring(self, agreement: float | None) -> str:
        """Why it ends once the pool is scored, "" if it goes on; agreement: with the predictions of the round before."""
        if self.stable is not None and agreement is not None and agreement >= self.stable:
            return f"{agreement:.2%} of predictions are those of the round before"
        return ""
