"""How sure a selection is: what other dropout masks would change of it, and the scores around its end with their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..methods import DIVERSITY
from ..run.screening.cut import population_of
from ..run.screening.told import told
from ..selection import TopK
from ..selection.screening.overlap import MOST_PASSES, Overlap, expected_overlap
from ..text import count, number
from .plots import around_cut
from .shown import Shown, title

if TYPE_CHECKING:
    pass

TITLE = "How sure is this selection"
WANTED = 0.95
AROUND = 40  # items shown to each side of the last selected one


def sureness(shown: Shown) -> dict[str, Any] | None:
    """The section: title, sentences, plot (None if the run has no errors). None if there is no selection, or no score to choose by."""
    chosen, spread = shown.chosen, shown.spreads[shown.by]
    if chosen is None or not len(chosen.ids) or spread is None or spread.flat:
        return None
    if chosen.method in DIVERSITY and not DIVERSITY[chosen.method].has_cut:
        return {"title": TITLE, "text": [_without_cut(chosen.method)], "plot": None}
    if (certificate := shown.run.meta.get("certificate")) is not None:
        return {
            "title": TITLE,
            "text": _sentences(told(certificate)),
            "plot": _plot(shown, shown.error),
        }
    if shown.error is None:
        hint = "This is not known, as the run has no standard errors: mcscore score --errors, into another directory, stores them."
        return {"title": TITLE, "text": [hint], "plot": None}
    passes = int(shown.run.meta["passes"])
    population = population_of(shown.run, chosen.by, len(chosen.ids))
    text = verdict(expected_overlap(population, passes, WANTED), title(chosen.by))
    cut, error = shown.selected[chosen.by][-1], shown.selected[shown.error][-1]
    if chosen.near_cut is not None:
        were = "that was not selected lies" if chosen.near_cut == 1 else "that were not selected lie"
        lowest = f"{number(float(cut))} ± {error:.2g}"
        text.append(
            f"{count(chosen.near_cut, 'item')} {were} within one standard error of the lowest selected score, {lowest}."
        )
    if chosen.method != "none":
        text.append("The selection also looks at diversity, which may change more than this.")
    return {"title": TITLE, "text": text, "plot": _plot(shown, shown.error)}


def _without_cut(method: str) -> str:
    """Why nothing can be said of the lowest selected score of a method that does not go down the scores.

    >>> _without_cut("k-center")
    'This is not known: k-center does not choose by score alone, so no lowest selected score divides the items.'
    """
    how = (
        "draws at random, and another seed draws other items"
        if DIVERSITY[method].draws
        else "does not choose by score alone"
    )
    return f"This is not known: {method} {how}, so no lowest selected score divides the items."


def _sentences(lines: list[str]) -> list[str]:
    return [f"{line[0].upper()}{line[1:]}." for line in lines]


def verdict(found: Overlap, by: str) -> list[str]:
    """Sentences on what another seed would change.

    >>> for sentence in verdict(Overlap(50, 20, 0.344, 0.5, 0.95, 6115), "BALD"):
    ...     print(sentence)
    With other dropout masks (another seed), about 34% of the 50 items with the highest BALD would be the same.
    About 6,200 passes an item instead of 20 would make it 95%.
    Of the 50 items that would be highest after endless passes, about 50% are expected to be among these.
    """
    if found.overlap >= found.wanted:
        more = "More passes would change little."
    elif found.enough is None:
        more = (
            f"Even {MOST_PASSES:,} passes would not make it {found.wanted:.0%}: too many items are equal, or nearly so."
        )
    else:
        more = f"About {_two_digits(found.enough):,} passes an item instead of {found.passes:,} would make it {found.wanted:.0%}."
    items = count(found.top, "item")
    same = f"With other dropout masks (another seed), about {found.overlap:.0%} of the {items} with the highest {by} would be the same."
    true = f"Of the {items} that would be highest after endless passes, about {found.recall:.0%} are expected to be among these."
    return [same, more, true]


def _two_digits(passes: int) -> int:
    """Rounded up: the estimate holds to about a tenth.

    >>> _two_digits(6115), _two_digits(100), _two_digits(37)
    (6200, 100, 37)
    """
    unit = 10 ** max(0, len(str(passes)) - 2)
    return -(-passes // unit) * unit


def _plot(shown: Shown, error: str | None) -> Any:
    """The scores around the last selected item, by rank among all scored items."""
    if error is None:
        return None
    run, by = shown.run, shown.by
    last, cut = int(shown.ids[-1]), shown.selected[by][-1]
    rank = sum(int(((scores > cut) | ((scores == cut) & (ids <= last))).sum()) for ids, scores in run.spans(by))
    best = TopK(min(rank + AROUND, run.n))
    for ids, scores in run.spans(by):
        best.update(ids, scores)
    first = max(0, rank - AROUND)
    ids, scores = (part[first:] for part in best.result())
    ranks = np.arange(first + 1, first + 1 + len(ids))
    return around_cut(ranks, scores, run.values(error, ids), np.isin(ids, shown.ids), float(cut), title(by))
