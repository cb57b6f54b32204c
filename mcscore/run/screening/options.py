"""``Screen``: what a screened run is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import RunError

DIRECTORY = "screen"  # of the first stage, in the run
# A flat run costs as much as this many times the screened one before it is screened without being asked to: below it the
# second reading of the pool, the commits of another stage and steps that are not full eat up the gain.
WORTH = 1.25
_SURVIVORS = 0.05  # share of the items that is expected to survive, before anything is known of them
_MOST = 0.5  # the largest expected share with which it is screened without being asked to
_PER_TOP = 2.0  # survivors for each of the top
_FULL = 4  # passes of the second stage, in flat runs of 100: see ``Prediction``


@dataclass(frozen=True, kw_only=True)
class Screen:
    """How a pool is screened: a first stage of few passes over every item, then all passes of the survivors.

    Attributes:
        top: the selections that the run is for take at most this many items.
        passes: passes of the first stage, 2 or more; passes 0..passes-1 of the same masks.
        by: the score that the selections are made by; default: the first of the scorer.
        recall: expected share of the true ``top`` best that survive, in (0, 1].
        audit: cost of the audit as a share of all other passes: so many dropped items, drawn at random, get all passes too.
        budget: if given, the number of all passes T is chosen after the first stage: what finds ``recall`` of the true best
            at the least cost, or the most of them at a cost of at most this many passes per item. A model of which
            screening would not save passes is then scored in full, with the scorer's passes. None: T is that of the scorer.

    Raises:
        RunError: a value is out of range.

    Example:
        >>> Screen(top=1000, passes=16, by="bald").recall
        0.99
    """

    top: int
    passes: int = 16
    by: str = ""
    recall: float = 0.99
    audit: float = 0.01
    budget: float | None = None

    def __post_init__(self) -> None:
        limits: list[tuple[bool, str, Any, str]] = [
            (self.top >= 1, "top", self.top, "at least 1 item"),
            (2 <= self.passes < 1 << 16, "passes", self.passes, "2 to 65,535 passes"),
            (0 < self.recall <= 1, "recall", self.recall, "a share in (0, 1]"),
            (0 <= self.audit <= 1, "audit", self.audit, "a share in [0, 1]"),
            (
                self.budget is None or self.budget > self.passes,
                "budget",
                self.budget,
                f"more than {self.passes} passes",
            ),
        ]
        for holds, name, value, wanted in limits:
            if not holds:
                raise RunError(f"a screen needs {wanted} as {name}, got {value!r}")

    def of(self, scores: tuple[str, ...], passes: int) -> Screen:
        """The screen of a scorer with these scores and passes: with the score that it is by.

        Raises:
            RunError: there is no such score; the first stage has as many passes as the second one.
        """
        by = self.by or scores[0]
        if by not in scores:
            raise RunError(f"the screen is by {by!r}, but the scorer computes {', '.join(scores)}: name one of these")
        if self.budget is None and self.passes >= passes:
            raise RunError(
                f"screening with {self.passes} passes saves nothing where all passes are {passes}: ask for fewer to screen "
                "with, or for more in all"
            )
        return replace(self, by=by)

    def why_not(self, plan: Mapping[str, Any], n: int) -> str:
        """Why a run of n items with this plan is not screened unless that is insisted on; empty if it is."""
        if self.budget is None:
            return ""
        if expected_share(self.top, n) > _MOST:
            return f"the best {self.top:,} are so large a part of {n:,} items that most of these would survive"
        if (gain := predicted(plan, screen=self.passes).gain) >= WORTH:
            return ""
        return (
            f"passes cost little beside what runs once per item: screening would save a factor of {max(gain, 1.0):.2f}, "
            f"and is done from {WORTH} on"
        )


def expected_share(top: int, n: int) -> float:
    """The share of n items that are expected to get all passes, before anything is known of them."""
    return min(1.0, max(_SURVIVORS, _PER_TOP * top / n))


@dataclass(frozen=True)
class Prediction:
    """The cost of a run by the FLOPs of its plan, flat and screened, before anything is known of the items.

    Attributes:
        passes: of the flat run.
        flat: FLOPs per item of the pool.
        screened: the same of a run of 16 passes of every item and of four times the flat run's passes of 5 % of them.
    """

    passes: int
    flat: float
    screened: float

    @property
    def gain(self) -> float:
        """How many times the screened run costs less."""
        return self.flat / self.screened if self.screened else 1.0

    def facts(self) -> dict[str, float]:
        """The same as JSON."""
        return {"flat_flops": self.flat, "screened_flops": self.screened, "gain": self.gain}

    def __str__(self) -> str:
        flat = f"{self.passes} passes of every item are {self.flat:.3g} FLOPs per item"
        if self.gain < WORTH:
            return f"screening  gains nothing: {flat}, most of them before the first dropout, which run once"
        full, share = _FULL * self.passes, f"{_SURVIVORS:.0%}".replace("%", " %")
        return (
            f"screening  {flat}; screened (--top), {Screen.passes} passes of all and {full:,} of {share} are "
            f"{self.screened:.3g}: {self.gain:.1f} times less"
        )


def predicted(plan: Mapping[str, Any], passes: int = 100, screen: int = 16) -> Prediction:
    """Predict the cost of a flat run of ``passes`` passes, and of one that is screened with ``screen``.

    >>> round(predicted({"prefix_flops": 0, "tail_flops": 1}).gain, 2)
    2.78
    >>> round(predicted({"prefix_flops": 10**6, "tail_flops": 1}).gain, 2)
    0.95
    """
    prefix, tail = plan["prefix_flops"], plan["tail_flops"]
    screened = prefix + screen * tail + _SURVIVORS * (prefix + _FULL * passes * tail)
    return Prediction(passes, prefix + passes * tail, screened)
