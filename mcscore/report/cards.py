"""The items on the page: the selected ones, and random ones beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from ..run.selecting.guesses import guesses_of
from ..text import count, number
from . import stats
from .items import Picture, pictures
from .shown import Shown, title

if TYPE_CHECKING:
    from ..pool import Pool

MAX_SELECTED, MAX_RANDOM = 1000, 60  # pictures; more would make the page too heavy to open
CARD_SCORES = 3  # the score of the selection, and two more
SHORT = {
    "expected_entropy": "exp. entr.",
    "least_confidence": "least conf.",
    "variation_ratio": "var. ratio",
    "mean_std": "std",
}


@dataclass(frozen=True)
class Card:
    """One item. ``scores``: short name, name, value; ``guesses``: the most probable classes, [class, probability] each."""

    id: int
    rank: int | None
    key: str | None
    predicted: int | float
    prediction: str
    chance: float | None
    second: tuple[str, float] | None
    guesses: list[list[float]] | None
    number: int | None  # of the class that it has as a label
    label: str | None
    correct: bool
    scores: list[tuple[str, str, str]]
    values: dict[str, float]
    picture: Picture | None
    original: str | None


def cards(shown: Shown) -> tuple[list[Card], list[Card]]:
    """The selected items, and random ones drawn by the run's seed."""
    run, by = shown.run, shown.by
    selected = shown.ids[:MAX_SELECTED]
    if not len(selected):
        return [], []
    random = stats.random_ids(
        min(len(selected), MAX_RANDOM),
        run.n,
        run.meta["seed"],
        shown.ids,
        lambda ids: np.isfinite(run.values(by, ids)),
        lambda: (ids[np.isfinite(values)] for ids, values in run.spans(by)),
    )
    both = np.concatenate([selected, random])
    # One call for all items, because their pictures share a scale.
    images = pictures(shown.pool.take(both)) if shown.pool is not None else [None] * len(both)
    names = [by, *(name for name in shown.spreads if name != by)]
    values = {name: run.values(name, both) for name in (*names, *([shown.error] if shown.error else []), "prediction")}
    keys = shown.pool.keys_of(both) if shown.pool is not None else None
    known = shown.chosen.probabilities if shown.chosen else None
    guesses, chances = guesses_of(None if known is None else known[:MAX_SELECTED]), _chances(shown, both)
    made = [
        _card(shown, at, int(id), at + 1 if at < len(selected) else None, names, values, image,
              None if keys is None else str(keys[at]), guesses[at] if guesses and at < len(guesses) else None, chances)
        for at, (id, image) in enumerate(zip(both, images, strict=True))
    ]  # fmt: skip
    return made[: len(selected)], made[len(selected) :]


def _card(
    shown: Shown, at: int, id: int, rank: int | None, names: list[str], values: dict[str, np.ndarray],
    picture: Picture | None, key: str | None, guesses: list[list[float]] | None, chances: np.ndarray | None,
) -> Card:  # fmt: skip
    predicted, label = values["prediction"][at].item(), _label(shown, id)
    told = [
        (SHORT.get(name, title(name)), title(name), number(float(values[name][at]))) for name in names[:CARD_SCORES]
    ]
    if shown.error is not None:
        told.insert(1, ("±", f"standard error of {title(names[0])}", f"{values[shown.error][at]:.2g}"))
    # Both probabilities from one source, where it has both.
    chance = next((p for c, p in guesses or [] if c == predicted), None if chances is None else float(chances[at]))
    second = next(((shown.class_name(int(c)), p) for c, p in guesses or [] if c != predicted), None)
    return Card(
        id=id,
        rank=rank,
        key=key,
        predicted=predicted,
        prediction=number(predicted) if shown.regression else shown.class_name(predicted),
        chance=chance,
        second=second,
        guesses=guesses,
        number=label,
        label=None if label is None else shown.class_name(label),
        correct=label == predicted,
        scores=told,
        values={name: float(column[at]) for name, column in values.items() if name != "prediction"},
        picture=picture,
        original=original(shown.pool, key),
    )


def original(pool: Pool | None, key: str | None) -> str | None:
    """The address of the file or page that an item is from, where the pool's source and the item's key tell it."""
    if pool is None or not key or not pool.source:
        return None
    if pool.source.startswith(("https://", "http://")):
        return f"{pool.source.rstrip('/')}/{quote(key, safe='/', errors='surrogateescape')}"
    file = Path(pool.source) / key
    return file.as_uri() if Path(pool.source).is_absolute() and file.is_file() else None


def _chances(shown: Shown, ids: np.ndarray) -> np.ndarray | None:
    """The probability of the prediction of each item, where the run has a score that tells it."""
    if "least_confidence" not in shown.run.columns or shown.run.meta["likelihood"] != "categorical":
        return None
    return 1 - shown.run.values("least_confidence", ids).astype(np.float64)


def _label(shown: Shown, i: int) -> int | None:
    """The class that the item is labeled with by now, if it is; a regression has no classes, nor have labels that are numbers."""
    if shown.labels_N is None or shown.regression or shown.labels_N.dtype.kind == "f" or shown.labels_N[i] < 0:
        return None
    return int(shown.labels_N[i])


def kept_text(shown: Shown, made: list[Card]) -> str:
    """What the run has not kept of the probabilities; blank if it has all."""
    if shown.regression or not made:
        return ""
    without = [card for card in made if card.guesses is None]
    first = any(card.chance is not None for card in without)
    if len(without) == len(made):
        score = " The probability of the prediction is 1 − least confidence." if first else ""
        return f"Second classes are not kept in this run: a selection by batchbald, epig or badge has them.{score}"
    told = "Probabilities are those that a selection by batchbald, epig or badge computed, with other masks than the scores."
    if not without:
        return told
    score = " the probability of the prediction is 1 − least confidence, and" if first else ""
    return f"{told} Of {count(len(without), 'item')}{score} the second class is not kept."
