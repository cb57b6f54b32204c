"""The table of checks, and how they are asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...fence import user_code
from .inputs import check_input, check_statistics
from .mistakes import undone
from .observe import observe, values_of
from .predictions import check_agreement, check_collapse, check_finite
from .seen import Finding, Sample, Seen, Trial
from .settings import check_classes, check_labels_fit, check_passes, check_units, check_weights
from .suspicion import fits_better, suspicious

if TYPE_CHECKING:
    from ..scorer import Scorer

_TWICE = 4 << 30  # bytes of a model that is built a second time, beside itself
Check = Callable[[Seen], str | None]

CHECKS: Mapping[str, Check] = {
    "weights": check_weights,
    "passes": check_passes,
    "classes": check_classes,
    "labels": check_labels_fit,
    "units": check_units,
    "finite": check_finite,
    "input": check_input,
    "statistics": check_statistics,
    "collapse": check_collapse,
    "agreement": check_agreement,
}


def look(scorer: Scorer, sample: Sample) -> tuple[Finding, ...]:
    """Show a scorer that is prepared a sample of the pool, and return what does not look right.

    It takes one forward pass of the sample, and up to 15 if the first one is suspicious. The scorer stays as it was.
    """
    with user_code(scorer.named):
        seen = _seen(scorer, sample)
    said = ((name, check(seen)) for name, check in CHECKS.items())
    return tuple(Finding(name, text) for name, text in said if text is not None)


def _seen(scorer: Scorer, sample: Sample) -> Seen:
    assert scorer.steps is not None
    B = len(sample.items_B)
    inputs = scorer.inputs(sample.items_B)
    alone = inputs if isinstance(inputs, Tensor) and len(inputs) == B else None
    seen = Seen(
        model=type(scorer.model).__name__,
        likelihood=scorer.likelihood,
        passes=scorer.passes,
        scores=scorer.scores,
        answer=observe(scorer.steps, inputs, B),
        items=values_of(sample.items_B),
        input=None if alone is None else values_of(alone),
        labels_B=sample.labels_B,
        spread=sample.spread,
        classes=sample.classes,
        transform=scorer.transform is not None,
        mean_std=scorer.normalization,
        rebuilt_differs=_rebuilt_differs(scorer),
    )
    return (
        seen
        if alone is None or not suspicious(seen)
        else dataclasses.replace(seen, better=_better(scorer, seen, alone))
    )


def _better(scorer: Scorer, seen: Seen, x_B: Tensor) -> Trial | None:
    """The input without a mistake that fits the model best, if one fits clearly better than the input as it is."""
    assert scorer.steps is not None
    best, most = None, 0.0
    for undo in undone(x_B, seen.mean_std, seen.transform):
        try:
            answer = observe(scorer.steps, undo.x_B, len(x_B))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # the model cannot take an input of that shape, in whatever way it says so
            continue
        if (evidence := fits_better(seen, answer, undo.fitted)) > most:
            best, most = Trial(undo.made, undo.advice, answer), evidence
    return best


def _bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def _rebuilt_differs(scorer: Scorer) -> bool | None:
    """Whether a model that was built without weights has other parameters when it is built again."""
    if scorer.spec is None or scorer.weights is not None or _bytes(scorer.model) > _TWICE:
        return None
    from ..identity import fingerprint
    from ..model_spec import build_again

    again: Any = build_again(scorer.spec)
    if again is None:
        return None
    return fingerprint(again.to(scorer.inputs.device)) != scorer.fingerprint
