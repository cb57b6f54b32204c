"""What the page's scripts know: one JSON object, in a form that no HTML parser reads as a tag."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from .cards import Card
from .plots import Plot, in_square, map_axes
from .shown import Shown, title


def page_data(shown: Shown, selected: list[Card], plots: list[Plot]) -> Markup:
    """Return the JSON of the selected items and of where they lie in the plots that have a name."""
    run, chosen = shown.run, shown.chosen
    facts = {
        "run": {"id": run.meta["id"], "name": _name(shown)},
        "selection": chosen.name if chosen else None,
        "by": shown.by,
        "error": shown.error,
        "scores": [[name, title(name)] for name in (shown.by, *(each for each in shown.spreads if each != shown.by))],
        "classes": None if shown.regression else _classes(shown, selected),
        "named": bool(shown.classes),
        "several": run.meta["likelihood"] == "bernoulli",
        "items": [_item(card) for card in selected],
        "plots": {plot.name: {"ids": _ids_in(shown, plot), "at": plot.selected} for plot in plots if plot.name},
        "candidates": _candidates(shown),
    }
    return as_script(facts)


def as_script(facts: Mapping[str, Any]) -> Markup:
    r"""Return JSON that may stand in a script element: ``<`` is escaped, so that nothing in it ends the element.

    >>> as_script({"key": "</script><!--"})
    Markup('{"key":"\\u003c/script>\\u003c!--"}')
    """
    return Markup(json.dumps(facts, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def _name(shown: Shown) -> str:
    path = shown.run.path
    return path.resolve().name if isinstance(path, Path) else path.name


def _item(card: Card) -> dict[str, Any]:
    return {
        "id": card.id,
        "key": card.key,
        "prediction": None if isinstance(card.predicted, int) and card.predicted < 0 else _number(card.predicted),
        "chance": card.chance if card.chance is None else _number(card.chance),
        "guesses": card.guesses,
        "label": card.number,
        "scores": {name: _number(value) for name, value in card.values.items()},
        "original": card.original,
    }


def _classes(shown: Shown, selected: list[Card]) -> list[str]:
    """The names of the classes; of a pool without names the numbers, as far as any is known, ten at least."""
    if shown.classes:
        return shown.classes
    seen = [int(number) for card in selected for number in (card.predicted, card.number) if number is not None]
    return [str(number) for number in range(max(10, 1 + max(seen, default=0)))]


def _ids_in(shown: Shown, plot: Plot) -> list[int]:
    """The ids of the selected items in a plot; a map has an even sample of a large selection."""
    from ..selection.embedding_map import evenly

    ids = shown.ids if plot.name != "map" else shown.ids[evenly(len(shown.ids), len(plot.selected))]
    found: list[int] = ids.tolist()
    return found


def _candidates(shown: Shown) -> list[list[Any]] | None:
    """[x, y, predicted class or value, score] of the candidates on the map; None for a selection without a map of ids."""
    places = shown.chosen.map if shown.chosen else None
    if not places or "ids" not in places:
        return None
    ids = np.array(places["ids"]["candidates"], np.int64)
    across, up = map_axes(places)
    x, y = np.array(places["candidates"], float).reshape(-1, 2).T
    columns = shown.run.values("prediction", ids).tolist(), shown.run.values(shown.by, ids).tolist()
    return [[*at, _number(c), _number(s)] for at, c, s in zip(in_square(across.at(x), up.at(y)), *columns, strict=True)]


def _number(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
