"""Rounds compared: runs over one pool with labels given in between, as plain tables.

What was selected in each round and of which classes; how often the model of a round was right on items that were labeled later; how far
the predictions of consecutive rounds agree, and the items of the highest scores.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RunError
from ..run.comparing import agreement, top_overlap
from ..run.identity.match import find_pool
from ..run.selecting.kept import read_selection, selections_of
from .mix import MAX_CLASSES

if TYPE_CHECKING:
    from ..pool import Pool
    from ..run import Run
    from ..run.stored import StoredScores

TOP = 100  # items whose overlap is told
Table = list[dict[str, Any]]


def rounds_tables(runs: Sequence[Run], pool: Pool | None) -> dict[str, Table]:
    """Compare runs of one pool, in the order in which they were started.

    Args:
        runs: two at least.
        pool: with the labels of now; None: it is gone, and nothing is told of accuracy.

    Returns:
        "rounds", a row for each run: name, started, model (12 digits of its fingerprint), scored, selected (how many; None: no selection),
            by, method, labeled (of the selected, by now), accuracy (of its predictions on the selected that are labeled by now; None
            without any), later and later_accuracy (the same of all items that were labeled since it was scored).
        "pairs", a row for each two consecutive runs: one, other, both (items scored in both), agreement (share of equal predictions;
            None of regression), by, top and overlap (how many of the ``top`` highest scores in one are so in the other, too).
        "classes", a row for each class: index, and selected, how many of each round's selection have that label or, where an item has
            none yet, that prediction. Up to MAX_CLASSES classes of which most were selected.

    Raises:
        RunError: a run is of another pool.
    """
    ordered = sorted(runs, key=lambda run: (run.meta["created"], str(run.path)))
    _refuse_other_pools(ordered, pool)
    labels_N = None if pool is None or pool.labels.dtype.kind != "i" else pool.labels
    rows, counts = [], []
    for run in ordered:
        row, classes = _round(run, labels_N)
        rows.append(row)
        counts.append(classes)
    return {
        "rounds": rows,
        "pairs": [_pair(one, other) for one, other in itertools.pairwise(ordered)],
        "classes": _classes(counts),
    }


def _refuse_other_pools(runs: Sequence[Run], pool: Pool | None) -> None:
    first = runs[0].meta["pool"]["fingerprint"]
    for run in runs:
        if pool is not None:
            find_pool(run, pool)
        elif run.meta["pool"]["fingerprint"] != first:
            raise RunError(f"{run.path} and {runs[0].path} are not of one pool, so that they cannot be compared")


def _round(run: Run, labels_N: np.ndarray | None) -> tuple[dict[str, Any], np.ndarray]:
    categorical = run.meta["likelihood"] == "categorical"
    row: dict[str, Any] = {
        "name": run.path.name,
        "started": run.meta["created"],
        "model": run.meta["model"]["fingerprint"].removeprefix("sha256:")[:12],
        "scored": run.scored,
        **dict.fromkeys(("selected", "by", "method", "labeled", "accuracy", "later", "later_accuracy")),
    }
    classes = np.empty(0, np.int64)
    if selections_of(run.path):
        _, table, how = read_selection(run)
        ids = table["id"].to_numpy().astype(np.int64)
        predicted = run.values("prediction", ids)
        row |= {"selected": len(ids), "by": how["by"], "method": how["method"]}
        given = np.full(len(ids), -1) if labels_N is None else labels_N[ids]
        if labels_N is not None:
            row["labeled"] = int((given >= 0).sum())
        if categorical:
            row["accuracy"] = _accuracy(predicted, given)
            known = np.where(given >= 0, given, predicted)
            classes = np.bincount(known[known >= 0].astype(np.int64))
    if labels_N is not None and categorical:
        right = later = 0
        for ids, predicted in run.spans("prediction"):
            given = labels_N[ids]
            since = (given >= 0) & (predicted >= 0)  # it had no label when it was scored
            later += int(since.sum())
            right += int((since & (given == predicted)).sum())
        row |= {"later": later, "later_accuracy": right / later if later else None}
    return row, classes


def _accuracy(predicted: np.ndarray, given: np.ndarray) -> float | None:
    known = (given >= 0) & (predicted >= 0)
    return float((predicted == given)[known].mean()) if known.any() else None


def _pair(one: StoredScores, other: StoredScores) -> dict[str, Any]:
    numbers = one.meta["likelihood"] == "gaussian"
    found = None if numbers else agreement(one, other)
    by = next((name for name in one.meta["scores"] if name in other.meta["scores"]), None)
    overlap, top = (None, None) if by is None else top_overlap(one, other, by, TOP)
    return {
        "one": one.path.name,
        "other": other.path.name,
        "both": None if found is None else found.both,
        "agreement": None if found is None else found.share,
        "by": by,
        "top": top,
        "overlap": overlap,
    }


def _classes(counts: Sequence[np.ndarray]) -> Table:
    width = max(len(each) for each in counts)
    table = np.stack([np.pad(each, (0, width - len(each))) for each in counts], axis=1)  # (C, rounds)
    most = np.sort(np.argsort(-table.sum(1), kind="stable")[:MAX_CLASSES])
    return [{"index": int(c), "selected": table[c].tolist()} for c in most if table[c].any()]
