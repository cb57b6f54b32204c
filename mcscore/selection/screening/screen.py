"""Screening: few passes for every item, all passes only for the items that may still reach the top.

    population = measure(stage_1, top=1000)               # reads (score, error, bias) of every item three times
    cut = fix_cut(population, recall=0.995)               # or, with the passes of stage 2:
    choice = choose_passes(population, screen=16)         # choice.cut, choice.passes, choice.why
    survivors_B = choice.cut.survives(score_B, se_B, bias_B)

An item's true score θ is that of infinitely many passes. With P the probability that an item is one of the ``top`` truly best
(population.py), the survivors are the fewest items whose P add up to recall × top. P depends on the corrected score x = score - bias
alone and rises with it, so the cut is one threshold on x. An item's own standard error is left out: it is 0 for an item on which
no pass disagreed, whatever its true score, and at 16 passes it is mostly noise (the best by x - a se, a from -1 to 1.5, held the most of
the true top 50 to 1,000 at a = 0, or at most 0.3 % less than the most). How far below its θ an item may be measured is known from the
errors of the items that are up there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .overlap import remeasured
from .population import Floats, Population, corrected_scores

SCREEN = 16
"""Passes of the first stage. After 8, twice as many items survive for the same recall; 32 leave little of 40 passes an item for stage 2.

Gal's CNN of 100 labels on 60,000 digits, recall of the true top (3,000 passes); a flat run of 100 passes: 0.66, 0.74, 0.81.

              40 passes an item         100 passes an item
    screen    50    200   1,000         50    200   1,000
         8    0.84  0.85  0.85          0.92  0.89  0.89
        16    0.87  0.88  0.87          0.96  0.91  0.91
        32    0.87  0.86  0.85          0.96  0.92  0.92
"""

PASSES = (50, 100, 200, 400, 800, 1600, 3200)
"""Numbers of passes of the second stage that are tried."""

STAGE_RECALLS = (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.993, 0.995, 0.997, 0.999, 0.9995, 0.9999)
"""Recalls of the first stage that are tried."""


@dataclass(frozen=True)
class Cut:
    """Which items survive the first stage.

    Attributes:
        threshold: the least corrected score of a survivor. None: every item with a score survives.
        top: the number of items that are looked for.
        recall: the share of the truly best ``top`` that was to survive.
        items: the number of items with a score.
        survivors: the number of survivors, counted.
        expected_recall: the share of the truly best ``top`` that survives, expected.
        border: the estimate of the true score of the top-th best.
        reason: why no item is dropped; "" if some are.
    """

    threshold: float | None
    top: int
    recall: float
    items: int
    survivors: int
    expected_recall: float
    border: float
    reason: str = ""

    def survives(self, score_B: npt.ArrayLike, se_B: npt.ArrayLike, bias_B: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """(B,) whether each item survives; never where one of the three is NaN.

        Raises:
            ValueError: the shapes differ.
        """
        x_B = corrected_scores(score_B, se_B, bias_B)
        return ~np.isnan(x_B) if self.threshold is None else x_B >= self.threshold


@dataclass(frozen=True)
class Choice:
    """A second stage and why it was chosen.

    Attributes:
        passes: of the second stage.
        screen: passes of the first stage.
        cut: which items survive.
        expected_recall: the share of the truly best ``top`` in the final selection, expected.
        cost: of both stages per item of the pool, in passes (of the tail; with ``prefix``, what runs once is counted).
        why: one sentence.
    """

    passes: int
    screen: int
    cut: Cut
    expected_recall: float
    cost: float
    why: str


def fix_cut(population: Population, recall: float = 0.995) -> Cut:
    """The cut with the fewest survivors among which the share ``recall`` of the truly best is expected.

    Raises:
        ValueError: recall is not within (0, 1].
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must lie in (0, 1], got {recall}")
    survivors_X, recall_X = _from_above(population)
    # At least as many as are wanted must survive, and the last cell can hold only a part of the best. To 1e-9: sums are rounded.
    enough = np.flatnonzero((recall_X >= recall - 1e-9) & (survivors_X >= population.top))
    cell = int(enough[-1]) if len(enough) else 0
    top, items = population.top, population.items
    if cell == 0 or survivors_X[cell] == items:
        reason = _why_all(population)
        return Cut(None, top, recall, items, items, 1.0, population.border, reason)
    threshold, survivors, expected = float(population.edges[cell - 1]), int(survivors_X[cell]), float(recall_X[cell])
    return Cut(threshold, top, recall, items, survivors, expected, population.border)


def choose_passes(
    population: Population,
    screen: int,
    *,
    target: float = 0.99,
    budget: float = 100.0,
    prefix: float = 0.0,
    passes: Sequence[int] = PASSES,
) -> Choice:
    """The cheapest second stage with the target recall within the budget; if there is none, the one of the best recall within it.

    If none fits the budget, because nearly all items survive, the cheapest one.

    Args:
        population: of the scores of the first stage.
        screen: passes of the first stage.
        target: share of the truly best ``top`` that the final selection is to have, expected.
        budget: passes per item of the pool of a run of one stage that costs as much as may be spent.
        prefix: cost of what runs once per item, in passes; a survivor pays for it twice.
        passes: the numbers of passes that are tried.

    Raises:
        ValueError: none of ``passes`` is more than those of the screen.
    """
    tried = [
        choice_of(population, screen, T, cut, prefix)
        for T in passes
        if screen < T
        for cut in _cuts(population, (budget - screen) / (prefix + T))
    ]
    if not tried:
        raise ValueError(
            f"no number of passes that is tried, at most {max(passes)}, is more than the {screen} of the screen"
        )
    affordable = [choice for choice in tried if choice.cost <= budget + prefix]
    enough = [choice for choice in affordable if choice.expected_recall >= target]
    if enough:
        best = min(enough, key=lambda choice: (choice.cost, -choice.expected_recall))
        why = f"the cheapest of {len(tried)} that reaches an expected recall of {target:g}"
    elif not affordable:
        best = min(tried, key=lambda choice: (choice.cost, -choice.expected_recall))
        why = f"the cheapest of {len(tried)}, and yet more than {budget:.3g} passes an item: too many items may be among the best"
    else:
        best = max(affordable, key=lambda choice: (choice.expected_recall, -choice.cost))
        why = f"the best recall within {budget:.3g} passes an item; none of {len(tried)} reaches {target:g} there"
    flat_recall = remeasured(population, population.joint.sum(0), screen / budget).recall
    sentence = (
        f"{best.passes} passes for {best.cut.survivors:,} survivors of {best.cut.items:,} items: {why} (expected recall "
        f"{best.expected_recall:.3f} at {best.cost - prefix:.1f} passes an item; {budget:.3g} passes for all: {flat_recall:.3f})"
    )
    return replace(best, why=sentence)


@dataclass(frozen=True)
class Certificate:
    """What is expected of a selection from the survivors.

    Attributes:
        expected_recall: the share of the truly best ``top`` of all items in the selection.
        survived: the share of them that survived the cut, expected; the rest is the share of those that stage 2 misses.
        assumption: what both rest on.
    """

    expected_recall: float
    survived: float
    assumption: str = (
        "a score differs from its value at infinitely many passes by a normal error, whose size depends on that value alone and is "
        "that of the jackknife; items of the true top that the first stage measured low are as rare as this says"
    )


def certify(cut: Cut, final: Population) -> Certificate:
    """The expected recall of the best ``top`` of the survivors by all passes.

    Args:
        cut: by which they survived.
        final: the population of the survivors' scores by all passes: measure(stream of survivors, cut.top).
    """
    # The truly best that did not survive are not in this population: so many fewer of it are the truly best.
    wanted = cut.expected_recall * min(cut.top, cut.items)
    found_X = final.selected(cut.top) * (final.joint @ final.above(wanted))
    return Certificate(float(found_X.sum() / max(1, min(cut.top, cut.items))), cut.expected_recall)


def _cuts(population: Population, share: float) -> list[Cut]:
    """Cuts of the recalls that are tried, and the one that keeps as many items as may be kept: at most such a share of them."""
    survivors_X, recall_X = _from_above(population)
    kept = recall_X[survivors_X <= share * population.items]
    recalls = [*STAGE_RECALLS, *kept[:1][kept[:1] > 0]]
    return list(dict.fromkeys(fix_cut(population, min(1.0, float(recall))) for recall in recalls))


def choice_of(population: Population, screen: int, passes: int, cut: Cut, prefix: float = 0.0) -> Choice:
    """What a given second stage costs and is expected to find; arguments as of ``choose_passes``."""
    share = cut.survivors / cut.items if cut.items else 0.0
    cost = prefix + screen + share * (prefix + passes)
    cell = 0 if cut.threshold is None else int(np.searchsorted(population.edges, cut.threshold, side="right"))
    surviving_M = population.joint[cell:].sum(0)
    recall = remeasured(population, surviving_M, screen / passes).recall
    return Choice(passes, screen, cut, recall, cost, "")


def _from_above(population: Population) -> tuple[npt.NDArray[np.int64], Floats]:
    """(X,) how many items are measured in each cell or above, and the share of the truly best that are expected there."""
    best_X = population.joint @ population.above(population.top)
    return np.cumsum(population.counts[::-1])[::-1], np.cumsum(best_X[::-1])[::-1] / population.attainable


def _why_all(population: Population) -> str:
    top, items = population.top, population.items
    if items <= top:
        return f"only {items:,} items have a score, and the best {top:,} are wanted"
    if population.ties > top:
        return f"{population.ties:,} items share the score of the best {top:,}: they cannot be told apart"
    return f"the errors are so large that every one of {items:,} items may be one of the best {top:,}"
