"""What every experiment is: a module with

    QUESTION            what it asks, in a sentence
    DATA                the folder of its data
    run(setting)        do it, or go on with it -> results, as JSON
    claims(results)     what it shows, each with the rate at which it would not be if it is true

and SEEDS and QUICK_SEEDS; SPLITS, if its seeds are the splits of its data; PARTS, if it can be run in part; and APART, names of methods,
if processes with some of them each may share ``setting.work``, on any device.
And a module of the same name in ``pages`` with what is told of it:

    rows(results)       rows of the table in index.md: what, published, ours
    page(results)       its page, Markdown
    draw(results)       its picture, a figure of matplotlib

and WHY, what is known of the cause where a claim does not hold.
``python -m benchmarks.evidence NAME`` calls them in this order. ``run`` keeps each part in ``setting.work`` as soon as it is done, and says
in ``results["minutes"]`` what it took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .stats import permutation_test, rate_of_failure

INTERFACE = ("QUESTION", "DATA", "SEEDS", "QUICK_SEEDS", "run", "claims")
PAGE = ("rows", "page", "draw")
UNDECIDED = 0.05  # a claim that would not hold for more than this share of other seeds is not shown


@dataclass(frozen=True)
class Setting:
    """How an experiment is run.

    Attributes:
        data: the folder of the data sets, if one was given.
        work: where it keeps what is done; other sizes or seeds need another.
        quick: whether it is small enough for three minutes.
        seeds: the seeds, or folds.
        tell: called with a sentence at the start of each stage.
        device: where networks are trained and score.
        methods: those that this process is to run, if not all.
        parts: those that are run, if not all.
    """

    data: Path | None
    work: Path
    quick: bool
    seeds: tuple[int, ...]
    tell: Callable[[str], None]
    device: str = "cpu"
    methods: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def chosen(self, methods: Mapping[str, dict[str, Any]], quick: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The methods that are run: those named ``quick``, or all."""
        return {name: methods[name] for name in (quick if self.quick else methods)}


@dataclass(frozen=True)
class Claim:
    """What is claimed; whether it holds, "undecided" if other seeds might say otherwise; how often they would."""

    text: str
    verdict: Literal["holds", "undecided", "does not hold"]
    chance: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.text} (error rate: {self.chance})"


def above_zero(what: str, difference_S: npt.ArrayLike, digits: int = 3) -> Claim:
    """The claim that the mean of the seeds' differences is above 0; the error rate is what as many other seeds would give."""
    mean, p, rate = float(np.mean(difference_S)), permutation_test(difference_S), rate_of_failure(difference_S)
    verdict: Any = "does not hold" if mean <= 0 else "undecided" if rate > UNDECIDED else "holds"
    return Claim(f"{what}, by {mean:.{digits}f} (p = {p:.2g})", verdict, f"{rate:.1%}")


@dataclass(frozen=True)
class Row:
    """A row of the table of all experiments. instead: what is shown if there is no number of ours."""

    what: str
    published: float | None
    ours: float | None
    digits: int = 0
    instead: str = ""

    def cells(self) -> list[str]:
        shown = ["" if value is None else f"{value:,.{self.digits}f}" for value in (self.published, self.ours)]
        shown[1] = shown[1] or self.instead
        both = self.published is not None and self.ours is not None
        return [self.what, *shown, f"{self.ours / self.published:.2f}" if both and self.published else ""]  # type: ignore[operator]
