"""The record of a scorer, as JSON, that a run stores, and compares when it is resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .fingerprint import fingerprint

if TYPE_CHECKING:
    from .scorer import Scorer


def describe(scorer: Scorer) -> dict[str, Any]:
    """Describe model, options, sites and plan of a scorer. Sites and plan are empty before ``prepare``."""
    model, steps, inputs = scorer.model, scorer.steps, scorer.inputs
    dropout, execution = scorer.dropout, scorer.execution
    sites = steps.passes.found.sites if steps is not None else ()
    return {
        "model": {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "fingerprint": fingerprint(model),
            "spec": scorer.spec,
            "weights": scorer.weights,
            "weights_part": scorer.weights_part,
        },
        "passes": scorer.passes,
        "seed": scorer.seed,
        "masks": dropout.masks,
        "scores": list(scorer.scores),
        "likelihood": scorer.likelihood,
        "input": scorer.input,
        "noise_variance": scorer.noise_variance,
        "reduction": scorer.reduction,
        "weight_dropout": dropout.weights,
        "sites": [
            {"index": s.index, "name": s.name, "kind": s.kind, "p": s.p, "shape": list(s.shape), "active": s.active}
            for s in sites
        ],
        "device": scorer.device,
        "dtype": str(inputs.dtype).removeprefix("torch."),
        "precision": execution.dtype,
        "channels_last": execution.channels_last,
        "compile": execution.compile,
        "threads": torch.get_num_threads(),
        "normalize": [list(part) for part in inputs.mean_std] if inputs.mean_std else None,
        "plan": scorer.recorded_plan,
    }
