"""Checks of predictions: finite, different from item to item, like the labels that are there."""

from __future__ import annotations

import math

import numpy as np

from .seen import MIN_ITEMS, MIN_LABELS, Ints, Seen

_ALL = 0.95  # share of one class that is suspicious in a pool without labels
_ONE_CLASS = 0.8  # share of the labels
_MANY = 0.75  # the same in a pool whose labels say otherwise


def check_finite(seen: Seen) -> str | None:
    """Outputs are finite."""
    bad = int((~seen.answer.finite_B).sum())
    if not bad:
        return None
    return (
        f"{seen.model} gives NaN or infinity for {bad} of {len(seen.answer.p_BC)} items, which get no score and cannot be selected: look "
        f"for overflow, a division by zero, or weights that are NaN; the input has {seen.input or seen.items}"
    )


def check_collapse(seen: Seen) -> str | None:
    """Predictions are not all the same."""
    n, answer = seen.spread, seen.answer
    if seen.better is not None or n < MIN_ITEMS or not answer.finite_B.all():
        return None
    p = answer.p_BC[:n]
    if np.ptp(p, axis=0).max() <= 1e-6 * max(1.0, float(np.abs(p).max())):
        return (
            f"{seen.model} gives the same output for all {n} items, which lie all over the pool: is its input what it was trained on, and "
            f"does it use it? The input has {seen.input or seen.items}"
        )
    if not seen.categorical or answer.C < 3:
        return None
    top, share = answer.common(n)
    labels = seen.labels_B[seen.at_labels]
    if len(labels) >= MIN_LABELS:
        if share < _MANY or (labels == top).mean() + 0.25 >= share:
            return None
        other = f", which {(labels == top).mean():.0%} of {len(labels)} labels are"
    elif share < _ALL:
        return None
    else:
        other = f", out of {answer.C} classes"
    return (
        f"{seen.model} predicts class {seen.named(top)} for {share:.0%} of {n} items all over the pool{other}: a model whose input is "
        "not scaled or normalized as in training does that. Compare with how training reads an item; `mcscore pool set POOL --mean --std`, "
        "or a transform beside the model, changes it"
    )


def check_agreement(seen: Seen) -> str | None:
    """Predictions agree with labels more often than by chance."""
    at = seen.at_labels
    if seen.better is not None or not seen.categorical or len(at) < MIN_LABELS:
        return None
    labels, votes, C, n = seen.labels_B[at], seen.answer.votes_B[at], seen.answer.C, len(at)
    agree = float((labels == votes).mean())
    of_labels, of_votes = (np.bincount(part, minlength=C) / n for part in (labels, votes))
    chance = float((of_labels * of_votes).sum())
    # Where nearly all labels are of one class, that class may just be the hard one.
    if (
        of_labels.max() > _ONE_CLASS
        or agree >= of_labels.max()
        or agree > chance + 2 * math.sqrt(chance * (1 - chance) / n)
    ):
        return None
    renamed = _renamed(labels, votes, C)
    what = f"{seen.model} predicts the label of {round(agree * n)} of {n} labeled items, as many as by chance"
    if renamed is not None:
        mapping, share = renamed
        some = ", ".join(f"{seen.named(a)} as {seen.named(b)}" for a, b in list(mapping.items())[:3])
        return (
            f"{what}, and of {share:.0%} if classes are numbered otherwise ({some}): the order of the pool's classes differs from the "
            "model's. Import with --classes in the order of the model's outputs"
        )
    return (
        f"{what}: the model does not know this task, its weights are not loaded, or its input is not what it was trained on. Compare with "
        "how training reads an item, and with the order of the class names"
    )


def _renamed(labels: Ints, votes: Ints, C: int) -> tuple[dict[int, int], float] | None:
    """Another numbering of the classes by which most predictions are right: label -> prediction, and the share; None: there is none."""
    table = np.zeros((C, C), np.int64)
    np.add.at(table, (labels, votes), 1)
    present = np.flatnonzero(table.sum(1))
    mapping = {int(a): int(table[a].argmax()) for a in present}
    share = float(sum(table[a, b] for a, b in mapping.items()) / len(labels))
    if len(present) < 3 or len(set(mapping.values())) < len(mapping) or share < 0.6:
        return None
    moved = {a: b for a, b in mapping.items() if a != b}
    return (moved, share) if moved else None
