"""The record of a scorer, as JSON, that a run stores, and compares when it is resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..own_scores import OF_SCORE, registered
from .identity import fingerprint, identity_of

if TYPE_CHECKING:
    from .scorer import Scorer


def describe(scorer: Scorer) -> dict[str, Any]:
    """Describe model, options, sites and plan of a scorer. Sites and plan are empty before ``prepare``."""
    model, steps, inputs = scorer.model, scorer.steps, scorer.inputs
    dropout, execution = scorer.dropout, scorer.execution
    own = registered(scorer.scores)
    identity, changing = identity_of(model, scorer.transform), scorer.changing
    scores = {score.name: identity_of(nn.Module(), score.finish or score.oracle) for score in own}
    code = {name: what for name, what in identity.code.items() if name not in changing}
    unseen = [*identity.unseen, *(f"{name}, which scoring changes" for name in sorted(changing))]
    for name, found in scores.items():
        code |= {
            OF_SCORE.format(name) + ("function" if part == "transform" else part): what
            for part, what in found.code.items()
        }
        unseen += [OF_SCORE.format(name) + part for part in found.unseen]
    sites = steps.passes.found.sites if steps is not None else ()
    return {
        "model": {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "fingerprint": fingerprint(model),
            "spec": scorer.spec,
            "weights": scorer.weights,
            "weights_part": scorer.weights_part,
            "spec_sha256": scorer.spec_sha256,
            "code": code,
            "unseen": unseen,
            "changing": sorted(changing),
        },
        "passes": scorer.passes,
        "seed": scorer.seed,
        "masks": dropout.masks,
        "scores": list(scorer.scores),
        "own_scores": {score.name: {"moments": list(score.moments), "smooth": score.smooth} for score in own},
        "likelihood": scorer.likelihood,
        "input": scorer.input,
        "noise_variance": scorer.noise_variance,
        "reduction": scorer.reduction,
        "errors": scorer.errors,
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
        "deterministic": execution.deterministic,
        "threads": torch.get_num_threads(),
        "normalize": [list(part) for part in inputs.mean_std] if inputs.mean_std else None,
        "plan": scorer.recorded_plan,
    }
