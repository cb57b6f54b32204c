"""What each pick of a joint selection adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .plots import steps
from .shown import Shown

TITLE = "What each selected item adds"


def gains_section(shown: Shown) -> dict[str, Any] | None:
    """The section: title, sentences, plot. None for a selection by a method that does not tell gains."""
    if shown.chosen is None or not (gains := shown.chosen.facts.get("gains")):
        return None
    exact, together = int(shown.chosen.facts.get("exact", len(gains))), shown.chosen.method == "batchbald"
    return {"title": TITLE, "text": sentences(gains, exact, together), "plot": steps(gains, exact)}


def sentences(gains: Sequence[float], exact: int, together: bool) -> list[str]:
    """What the gains are, and how many are estimates.

    >>> sentences([0.5, 0.25, 0.05], 2, together=True)[0]
    'The labels of the 3 selected items together tell 0.8 nats of the model; the last adds 10% of what the first does.'
    >>> sentences([0.5, 0.25, 0.05], 2, together=True)[1]
    'Gains from pick 3 on are estimated from samples of the labels.'
    >>> sentences([0.5, 0.25], 2, together=False)
    ['The label of an item tells 0.25 to 0.5 nats of the prediction for a target, each item by itself.']
    """
    if not together:
        return [
            f"The label of an item tells {gains[-1]:.3g} to {gains[0]:.3g} nats of the prediction for a target, each item by itself."
        ]
    items = (
        f"labels of the {len(gains):,} selected items together tell"
        if len(gains) > 1
        else "label of the selected item tells"
    )
    last = (
        f"; the last adds {gains[-1] / gains[0]:.0%} of what the first does" if len(gains) > 1 and gains[0] > 0 else ""
    )
    told = [f"The {items} {sum(gains):.3g} nats of the model{last}."]
    if exact < len(gains):
        told.append(f"Gains from pick {exact + 1:,} on are estimated from samples of the labels.")
    return told
