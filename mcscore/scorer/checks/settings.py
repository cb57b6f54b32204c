"""Checks of settings against each other: class names, passes, units of the normalization, weights."""

from __future__ import annotations

from .seen import Seen

SPREAD_SCORES = ("bald", "variation_ratio", "mean_std", "variance")  # 0 where all passes agree, as one does with itself


def check_classes(seen: Seen) -> str | None:
    """The model has as many outputs as the pool has class names."""
    if seen.classes is None or seen.likelihood == "gaussian":
        return None
    names, C = len(seen.classes), seen.answer.C
    if names == C or (seen.likelihood == "bernoulli" and C == 1 and names == 2):
        return None
    return (
        f"{seen.model} gives {C} outputs, and the pool has {names} class names: predictions would have wrong names, or "
        f"none. Give {C} names in the order of the outputs, `mcscore pool set POOL --classes ...`, or the model of these classes"
    )


def check_labels_fit(seen: Seen) -> str | None:
    """No label is the number of an output that the model lacks."""
    C = 2 if seen.likelihood == "bernoulli" and seen.answer.C == 1 else seen.answer.C
    top = int(seen.labels_B.max(initial=-1))
    if seen.likelihood == "gaussian" or top < C:
        return None
    return (
        f"an item has the label {seen.named(top)}, and {seen.model} gives {C} outputs, 0 to {C - 1}: labels and model belong to "
        "different lists of classes. Give the model of this pool, or label the pool anew with `mcscore pool label --overwrite`"
    )


def check_passes(seen: Seen) -> str | None:
    """There is more than one pass for scores that measure how passes differ."""
    zero = [name for name in seen.scores if name in SPREAD_SCORES]
    if seen.passes > 1 or not zero:
        return None
    return (
        f"with 1 pass {' and '.join(zero)} {'is' if len(zero) == 1 else 'are'} 0 for every item, as passes are compared with each "
        "other: give more passes (--passes 100), or scores that need one only, such as entropy"
    )


def check_units(seen: Seen) -> str | None:
    """Mean and std of uint8 and uint16 items are in units of [0, 1]."""
    top = {"uint8": 255, "uint16": 65535}.get(str(seen.items.dtype))
    if seen.mean_std is None or seen.transform or top is None:
        return None
    mean, std = seen.mean_std
    if min(mean) >= 0 and max(*mean, *std) <= 1:
        return None
    shown = ", ".join(f"{value:g}" for value in mean)
    return (
        f"{seen.items.dtype} items are normalized by the mean {shown}, and are divided by {top} before: the mean must lie in [0, 1]. "
        f"Divide mean and std by {top}"
    )


def check_weights(seen: Seen) -> str | None:
    """The model is the same one when it is built again."""
    if not seen.rebuilt_differs:
        return None
    return (
        f"{seen.model} has other parameters each time it is built, and no weights were given: they are random, so scores say nothing, "
        "and no later command can build this model again. Give --weights FILE, or load trained weights in the function that builds it"
    )
