"""The map of embeddings, and how many of the selected are near-repeats of each other."""

from __future__ import annotations

from typing import Any

from ..text import count
from .plots import embedding_plane
from .shown import Shown

TITLE = "Where the selection lies among the candidates"


def map_section(shown: Shown) -> dict[str, Any] | None:
    """The section: title, sentences, plot. None for a selection that was made without embeddings."""
    if shown.chosen is None or (places := shown.chosen.map) is None:
        return None
    return {"title": TITLE, "text": sentences(places), "plot": embedding_plane(places)}


def sentences(places: dict[str, Any]) -> list[str]:
    """What the map shows and does not.

    >>> near = {"distance": 1.234, "selected": 1, "random": 12, "of": 50}
    >>> for sentence in sentences({"explained": [0.4, 0.2], "near": near}):
    ...     print(sentence)
    Embeddings, in the two directions in which candidates differ most: they hold 60% of the variance.
    1 of 50 selected items has another within 1.23, half of what is usual among random candidates; of as many of these, 12.
    """
    near, shown = places["near"], sum(places["explained"])
    has = "has" if near["selected"] == 1 else "have"
    lines = [
        f"Embeddings, in the two directions in which candidates differ most: they hold {shown:.0%} of the variance."
        if places["explained"]
        else "Embeddings, laid out by UMAP: neighbors lie together, but distances between groups and the axes mean nothing."
    ]
    if near["of"] > 1:
        selected = (
            f"{near['selected']:,} of {count(near['of'], 'selected item')} {has} another within {near['distance']:.3g}"
        )
        lines.append(
            f"{selected}, half of what is usual among random candidates; of as many of these, {near['random']:,}."
        )
    return lines
