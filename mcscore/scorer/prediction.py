"""Mean prediction of a batch, with the scores that come of the same passes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..jackknife import columns
from ..kernels.score import score_logits
from ..moments import Moments
from ..own_scores import holding
from .steps import Reduction

_ANY = {"categorical": ("entropy",), "bernoulli": ("entropy",), "gaussian": ("variance",)}


@dataclass(frozen=True)
class Prediction:
    """What the passes predict of B items, on the model's device. Items whose outputs are not finite have NaN.

    Attributes:
        mean: float64 mean probabilities (B, C), of dense outputs (B, C, *pixels); likelihood gaussian: means (B,), (B, *pixels).
        variance: likelihood gaussian: float64 variance of the mean over the passes (epistemic), shaped as ``mean``; else None.
        noise: likelihood gaussian: float64 mean variance that the model predicts (aleatoric), or the known ``noise_variance``, shaped as
            ``mean``; None where there is neither. The variance of a new observation is ``variance + noise``.
        scores: (B,) by name as calling the scorer gives them, up to rounding: scores, with ``errors`` their errors, "prediction".
    """

    mean: Tensor
    variance: Tensor | None
    noise: Tensor | None
    scores: dict[str, Tensor]


def predict_step(chunks: Iterable[Tensor], reduction: Reduction) -> Prediction:
    """The prediction of one step, from its logits_tBC."""
    held = holding(reduction.scores)
    streamed = tuple(name for name in reduction.scores if name not in held) or _ANY[reduction.likelihood]
    moments = Moments(streamed, **reduction.settings)
    kept = []
    for logits_tBC in chunks:
        moments.update(logits_tBC)
        if held:
            kept.append(logits_tBC)
    scores = moments.compute()
    if held:
        scores |= score_logits(torch.cat(kept), held, **reduction.settings)
    means = moments.means()
    mean = means["mu" if reduction.likelihood == "gaussian" else "p"]
    names = (*columns(reduction.scores, reduction.errors), "prediction")
    return Prediction(mean, means.get("var"), means.get("noise"), {name: scores[name] for name in names})


def joined(parts: list[Prediction]) -> Prediction:
    """The predictions of all steps as one."""

    def cat(tensors: list[Tensor | None]) -> Tensor | None:
        there = [each for each in tensors if each is not None]
        return torch.cat(there) if there else None

    return Prediction(
        torch.cat([part.mean for part in parts]),
        cat([part.variance for part in parts]),
        cat([part.noise for part in parts]),
        {name: torch.cat([part.scores[name] for part in parts]) for name in parts[0].scores},
    )
