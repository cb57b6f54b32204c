"""Checks of the model's input: what another one would give, and how far it lies from what training saw."""

from __future__ import annotations

from .seen import MIN_ITEMS, MIN_LABELS, Seen
from .suspicion import FAR

_VERY_FAR = 2.0  # nats; other data than in training, such as drawings for a model of photographs, stay below


def check_input(seen: Seen) -> str | None:
    """No common mistake, undone, makes the input fit the model clearly better."""
    if seen.better is None:
        return None
    now, then, n = seen.answer, seen.better.answer, seen.spread
    facts = []
    at = seen.at_labels
    if seen.categorical and len(at) >= MIN_LABELS:
        right, better = (int((each.votes_B[at] == seen.labels_B[at]).sum()) for each in (now, then))
        facts.append(f"{better} of {len(at)} labels are predicted instead of {right}")
    if now.norm is not None and then.norm is not None and now.norm.distance >= FAR:
        facts.append(
            f"the input of BatchNorm {now.norm.name!r} lies {then.norm.distance:.2g} nats from its running statistics instead of "
            f"{now.norm.distance:.2g}"
        )
    if seen.categorical and now.C >= 3:
        (top, share), (_, other) = now.common(n), then.common(n)
        if share - other >= 0.2:
            facts.append(
                f"the most frequent class has {other:.0%} of the predictions instead of {share:.0%} for class {seen.named(top)}"
            )
    return (
        f"the input of {seen.model} has {seen.input}. {seen.better.made[0].upper()}{seen.better.made[1:]} it fits the model better: "
        f"{'; '.join(facts)}. If that is how the model was trained, {seen.better.advice}"
    )


def check_statistics(seen: Seen) -> str | None:
    """The input of the first BatchNorm is like what its running statistics were taken from."""
    norm = seen.answer.norm
    if norm is None or seen.better is not None or len(seen.answer.p_BC) < MIN_ITEMS:
        return None
    if norm.initial:
        return (
            f"BatchNorm {norm.name!r} of {seen.model} has the running statistics of a new one, mean 0 and variance 1: the model was "
            "not trained, or its weights were not loaded. Give --weights FILE"
        )
    if norm.distance < _VERY_FAR:
        return None
    return (
        f"the input of BatchNorm {norm.name!r} of {seen.model} lies {norm.distance:.2g} nats from its running statistics, and "
        f"{FAR} is much already: the pool is not like what the model was trained on, or is not scaled or normalized as "
        f"it was. The input has {seen.input or seen.items}; compare with how training reads an item"
    )
