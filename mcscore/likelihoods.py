"""What outputs may be declared as: likelihoods, inputs, shapes; and what is read from any: validity, prediction, pixels.

Likelihoods: ``categorical``, one of C classes; ``bernoulli``, C labels that may each be present (one label: binary), every one a
Bernoulli variable with its 1 - p part, scores summed over the labels; ``gaussian``, a mean, or a mean and a log-variance.
An item with an output that is no distribution in any pass (``ok_outputs``) has NaN scores and prediction -1 (NaN if
gaussian). A logit of -inf is probability 0, which is legal. torch is imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

# Messages of two checks, one of the arguments and one of the outputs.
NO_NOISE = "score {!r} with likelihood 'gaussian' needs the noise: output (mean, log-variance), or pass noise_variance"
TWO_NOISES = "the model predicts its noise (C = 2: mean, log-variance), so noise_variance must not be given too"
LIKELIHOODS = ("categorical", "bernoulli", "gaussian")
INPUTS = ("logits", "log_probs", "probs")

LIKELIHOOD_MOMENTS = {
    "categorical": ("p", "p2", "h", "votes"),
    "bernoulli": ("p", "p2", "h", "votes"),
    "gaussian": ("mu", "var", "noise"),
}
"""Means over the passes that a likelihood can give, all float64:

p (B, C) mean probability; p2 (B, C) mean squared probability; h (B,) mean entropy of a pass; votes (B, C) share of the
passes whose most probable class is c (bernoulli: in which label c is present); mu (B,) mean of the predicted means; var
(B,) their mean squared deviation from mu (sums of squares would cancel where the mean is large); noise (B,) mean
aleatoric variance.
"""


class GaussianSamples(NamedTuple):
    """Per-pass outputs of a regression model: predicted means and variances (T, B), or one known noise variance."""

    mean_TB: Tensor
    variance_TB: Tensor | None
    noise_variance: float | None

    def noise_B(self) -> Tensor:
        """The mean aleatoric variance of each item, (B,)."""
        if self.variance_TB is not None:
            return self.variance_TB.mean(0)
        if self.noise_variance is None:
            raise ValueError(NO_NOISE.format("bald"))
        return self.mean_TB.new_full(self.mean_TB.shape[1:], self.noise_variance)


def check_input(input: str, likelihood: str) -> None:
    """ValueError unless outputs may be declared as ``input`` under this likelihood."""
    if input not in INPUTS:
        raise ValueError(f"unknown input {input!r}; choose from {', '.join(INPUTS)}")
    if likelihood == "gaussian" and input != "logits":
        raise ValueError(f"likelihood 'gaussian' has no probabilities: input must be 'logits', got {input!r}")


def check_shape(shape: Sequence[int], likelihood: str) -> None:
    """ValueError unless ``shape`` is (T, B, C) or dense (T, B, C, *pixels) with T >= 1 and a C that fits the likelihood."""
    got = tuple(shape)
    if len(got) < 3:
        raise ValueError(f"outputs must have shape (T, B, C) or (T, B, C, *pixels), got {got}")
    if got[0] == 0:
        raise ValueError(f"outputs hold no pass: shape {got} has T = 0")
    if 0 in got[2:]:
        raise ValueError(f"outputs hold no {'class' if got[2] == 0 else 'pixel'}: shape {got} is (T, B, C, *pixels)")
    if likelihood == "categorical" and got[2] == 1:
        raise ValueError(
            f"softmax over one class is always 1, shape {got}: use likelihood='bernoulli' for a binary model, 'gaussian' for regression"
        )
    if likelihood == "gaussian" and got[2] > 2:
        raise ValueError(
            f"likelihood 'gaussian' takes C = 1 (mean) or 2 (mean, log-variance), got C = {got[2]}, shape {got}"
        )


def check_noise(noisy: Sequence[str], likelihood: str, C: int, noise_variance: float | None) -> None:
    """ValueError unless a gaussian output of width ``C`` has exactly one source of noise where the scores ``noisy`` need it."""
    if likelihood == "gaussian" and C == 2 and noise_variance is not None:
        raise ValueError(TWO_NOISES)
    if likelihood == "gaussian" and C == 1 and noise_variance is None and noisy:
        raise ValueError(NO_NOISE.format(noisy[0]))


def ok_outputs(outputs_TBC: Tensor, likelihood: str, input: str = "logits") -> Tensor:
    """(B,) bool: the outputs of every pass make a distribution (see the module docstring)."""
    if likelihood == "gaussian" or input == "probs":
        return outputs_TBC.isfinite().all(-1).all(0)
    peak_TB = outputs_TBC.amax(-1)  # NaN if any is NaN
    return (peak_TB.isfinite() if likelihood == "categorical" else peak_TB < math.inf).all(0)


def predict(mean: Tensor, likelihood: str) -> Tensor:
    """(B, C) mean probability -> (B,) int32 class, ties to the smallest; one label: 1 if p̄ >= ½. gaussian: float32."""
    if likelihood == "gaussian":
        return mean.float()
    if likelihood == "bernoulli" and mean.shape[-1] == 1:
        return (mean[..., 0] >= 0.5).int()
    return mean.argmax(-1).int()


def reduction_share(reduction: str | float) -> float:
    """The share of an item's pixels, highest first, that is averaged: "mean" 1, "max" 0 (one pixel), else itself."""
    if reduction in ("mean", "max"):
        return 1.0 if reduction == "mean" else 0.0
    if not isinstance(reduction, (int, float)) or not 0.0 < reduction <= 1.0:
        raise ValueError(f"reduction must be 'mean', 'max' or a share of the pixels in (0, 1], got {reduction!r}")
    return float(reduction)


def reduce_pixels(scores_BS: Tensor, reduction: str | float) -> Tensor:
    """(B, S) pixel scores -> (B,): mean, max, or mean of the highest ceil(reduction * S) pixels. NaN if any is NaN."""
    share = reduction_share(reduction)
    S = scores_BS.shape[1]
    if share == 1.0:
        return scores_BS.mean(1)
    # topk ranks NaN above all numbers, so one NaN pixel makes its item NaN here too.
    return scores_BS.topk(max(1, math.ceil(share * S)), dim=1).values.mean(1)


def reduce_predictions(prediction_BS: Tensor, likelihood: str, C: int) -> Tensor:
    """(B, S) pixel predictions -> (B,): the majority class, ties to the smallest, -1 if any is. gaussian: the mean."""
    import torch

    if likelihood == "gaussian":
        return prediction_BS.mean(1)
    counts = prediction_BS.new_zeros((len(prediction_BS), max(C, 2)))
    counts.scatter_add_(1, prediction_BS.clamp_min(0).long(), torch.ones_like(prediction_BS))
    return torch.where((prediction_BS < 0).any(1), -1, counts.argmax(1).int())


def probabilities(outputs_TBC: Tensor, likelihood: str, input: str) -> Tensor:
    """Of every pass: class or label probabilities, (T, B, C); for likelihood gaussian the means (T, B)."""
    import torch

    if likelihood == "gaussian":
        return outputs_TBC[:, :, 0]
    if input == "probs":
        p_TBC = outputs_TBC.clamp(0.0, 1.0)
        return p_TBC / p_TBC.sum(2, keepdim=True) if likelihood == "categorical" else p_TBC
    if likelihood == "categorical":
        return torch.softmax(outputs_TBC, 2)
    return outputs_TBC.clamp_max(0.0).exp() if input == "log_probs" else torch.sigmoid(outputs_TBC)
