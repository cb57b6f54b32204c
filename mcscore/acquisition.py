"""The acquisition catalog: one table, ``SCORES``, of every score by its float64 formula; kernels, CLI and docs read it.

Notation: p_t = likelihood(output of pass t), p̄ = mean of p_t over the T passes, H[p] = -Σ_c p_c log p_c in nats, 0 log 0 = 0.
A score is higher where a label would tell the model more. Each is written twice: ``oracle`` straight from the p_t (the
truth in tests) and ``finish`` from means over the passes (what the kernels and ``Moments`` keep).

Likelihoods, shapes and what is no distribution: ``likelihoods``. torch is imported on first use: naming scores needs none.

Sources: Shannon, A mathematical theory of communication, 1948. Houlsby et al., Bayesian active learning for
classification and preference learning, 2011. Gal, Islam and Ghahramani, Deep Bayesian active learning with image data,
2017. Kampffmeyer, Salberg and Jenssen, Semantic segmentation of small objects, 2016. Freeman, Elementary applied
statistics, 1965. Scheffer, Decomain and Wrobel, Active hidden Markov models for information extraction, 2001. Culotta
and McCallum, Reducing labeling effort for structured prediction tasks, 2005. Kendall and Gal, What uncertainties do we
need in Bayesian deep learning, 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .likelihoods import (
    LIKELIHOOD_MOMENTS,
    LIKELIHOODS,
    TWO_NOISES,
    GaussianSamples,
    check_input,
    check_shape,
    ok_outputs,
    predict,
    probabilities,
    reduce_pixels,
    reduce_predictions,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BALD_NOISE = 2.0**-20
"""The noise floor of BALD as a share of the entropy H[p̄], for likelihoods categorical and bernoulli: a smaller BALD is stored as 0, so such
items are ties, broken by id.

BALD is the difference of H[p̄] and mean_t H[p_t]. Every backend computes both to a few float32 roundings of themselves, however
small they are, so below this share of H[p̄] what is left of the difference is noise: 7e-7 nats where two classes are equally
probable, 1e-11 where one class has all but 6e-7. Outputs in float64 are computed in float64: ``bald_noise``.

The Triton kernels sum in float32 throughout: there the floor is (1 + T / 32) times the sum of this share and TRITON_BALD_NOISE,
nats per label (categorical: in all). In the interpreter equal passes gave up to 3.6e-6 at C = 10, T = 100, where the floor is 1.3e-5.
"""
# Nats per label, beside BALD_NOISE: where float64 sums keep p near 1 of a bernoulli label, 1 - p ends at 1e-15.
LABEL_BALD_NOISE = 2.0**-42
TRITON_BALD_NOISE = {"categorical": 2.0**-20, "bernoulli": 2.0**-18}

Samples = Any  # p_TBC float64 for categorical and bernoulli, GaussianSamples for gaussian
Means = dict[
    str, Any
]  # LIKELIHOOD_MOMENTS name -> Tensor; "bald_noise" -> float where it is not BALD_NOISE, None: no floor
Oracle = Callable[[Samples, str], "Tensor"]
Finish = Callable[[Means, str], "Tensor"]


@dataclass(frozen=True)
class Score:
    """One row of the catalog.

    likelihoods: where it is defined. moments: names from LIKELIHOOD_MOMENTS, over all its likelihoods. bounds(C, likelihood): closed range.
    oracle(samples, likelihood): (B,) float64 from per-pass p_TBC or GaussianSamples. finish(moments, likelihood): (B,) from means.
    smooth: whether it is a smooth function of the means, so that its bias can be estimated (``jackknife``).
    A registered score without ``finish`` is computed by its oracle, which takes the outputs of all passes at once.
    """

    name: str
    likelihoods: tuple[str, ...]
    moments: tuple[str, ...]
    bounds: Callable[[int, str], tuple[float, float]]
    oracle: Oracle
    finish: Finish | None
    text: str
    smooth: bool = True


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _classes(p: Tensor, likelihood: str) -> Tensor:
    """(..., C) -> (..., L, K): L independent variables of K outcomes. categorical: L = 1, K = C. bernoulli: L = C, K = 2."""
    import torch

    return p.unsqueeze(-2) if likelihood == "categorical" else torch.stack((p, 1.0 - p), dim=-1)


def _entropy(p: Tensor, likelihood: str) -> Tensor:
    import torch

    k = _classes(p, likelihood)
    best, at = k.max(-1, keepdim=True)
    others = k.scatter(-1, at, 0.0)
    # Where one class has 1 - 1e-9, log p has lost as much of the 1e-9 as p: it is computed as log1p of the other classes.
    rest = others.sum(-1, keepdim=True)
    log_best = torch.where(rest < 0.5, torch.log1p(-rest.clamp_max(0.5)), best.log())
    entropy: Tensor = (torch.special.entr(others).sum(-1, keepdim=True) - best * log_best).sum((-1, -2)).clamp_min(0.0)
    return entropy


def _bald_oracle(samples: Samples, likelihood: str) -> Tensor:
    """mean_t KL(p_t || p̄): equal to H[p̄] - mean_t H[p_t], but keeps its digits where the two are nearly equal."""
    import torch

    if likelihood == "gaussian":
        return 0.5 * torch.log1p(samples.mean_TB.var(0, correction=0) / samples.noise_B())
    p = _classes(samples, likelihood)
    mean = p.mean(0)
    # As r log r - r + 1 >= 0 with r = p / p̄, which no rounding of the sums of p can make negative. 0 where p̄ is.
    excess = torch.where(mean > 0, (p - mean) / mean.clamp_min(torch.finfo(mean.dtype).tiny), 0.0)
    return (mean * _divergence(excess)).sum((-1, -2)).mean(0)


def _divergence(x: Tensor) -> Tensor:
    """(1 + x) log(1 + x) - x for x >= -1, to its last digits also where x is small and it is x² / 2."""
    import torch

    series = x * x * (1 / 2 - x * (1 / 6 - x * (1 / 12 - x * (1 / 20 - x * (1 / 30 - x / 42)))))
    return torch.where(x.abs() < 2e-3, series, torch.xlogy(1 + x, 1 + x) - x)


def _bald_finish(m: Means, likelihood: str) -> Tensor:
    import torch

    if likelihood == "gaussian":
        return 0.5 * torch.log1p(m["var"] / m["noise"])
    entropy = _entropy(m["p"], likelihood)
    bald = entropy - m["h"]
    share = m.get("bald_noise", BALD_NOISE)
    if share is None:
        return bald
    noise = share * entropy
    if likelihood == "bernoulli":
        noise = noise + m["p"].shape[-1] * LABEL_BALD_NOISE
    return torch.where(bald > noise, bald, 0.0)


def _least_confidence(p_BC: Tensor, likelihood: str) -> Tensor:
    return (1.0 - _classes(p_BC, likelihood).amax(-1)).sum(-1).clamp_min(0.0)


def _margin(p_BC: Tensor, likelihood: str) -> Tensor:
    top = _classes(p_BC, likelihood).topk(2, dim=-1).values
    return (1.0 - (top[..., 0] - top[..., 1])).sum(-1)


def _votes(p_TBC: Tensor, likelihood: str) -> Tensor:
    import torch

    if likelihood == "bernoulli":
        return (p_TBC >= 0.5).double().mean(0)
    return torch.nn.functional.one_hot(p_TBC.argmax(-1), p_TBC.shape[-1]).double().mean(0)


def _mean_std(m: Means, likelihood: str) -> Tensor:
    std: Tensor = (m["p2"] - m["p"].square()).clamp_min(0.0).sqrt().mean(-1)
    return std


def _of_mean(f: Callable[[Tensor, str], Tensor]) -> tuple[Oracle, Finish]:
    """(oracle, finish) of a score that is a function of p̄ alone."""
    return lambda p, likelihood: f(p.mean(0), likelihood), lambda m, likelihood: f(m["p"], likelihood)


def _outcomes(C: int, likelihood: str) -> tuple[int, int]:
    """(L, K) of ``_classes``."""
    return (1, C) if likelihood == "categorical" else (C, 2)


def _entropy_bounds(C: int, likelihood: str) -> tuple[float, float]:
    L, K = _outcomes(C, likelihood)
    return 0.0, math.inf if likelihood == "gaussian" else L * math.log(K)


def _confidence_bounds(C: int, likelihood: str) -> tuple[float, float]:
    L, K = _outcomes(C, likelihood)
    return 0.0, L * (1.0 - 1.0 / K)


# ---- the table -------------------------------------------------------------------------------------------------------

_DISCRETE = ("categorical", "bernoulli")

SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score(
            "entropy",
            _DISCRETE,
            ("p",),
            _entropy_bounds,
            *_of_mean(_entropy),
            "H[p̄], total predictive uncertainty (Shannon 1948)",
        ),
        Score(
            "expected_entropy",
            _DISCRETE,
            ("h",),
            _entropy_bounds,
            lambda p, likelihood: _entropy(p, likelihood).mean(0),
            lambda m, likelihood: m["h"].clamp_min(0.0),
            "mean_t H[p_t], the aleatoric part of the entropy (Houlsby 2011, second term)",
        ),
        Score(
            "bald",
            LIKELIHOODS,
            ("p", "h", "var", "noise"),
            _entropy_bounds,
            _bald_oracle,
            _bald_finish,
            "H[p̄] - mean_t H[p_t], the epistemic part; gaussian: ½ log(1 + variance / mean noise) (Houlsby 2011)",
        ),
        Score(
            "least_confidence",
            _DISCRETE,
            ("p",),
            _confidence_bounds,
            *_of_mean(_least_confidence),
            "1 - max_c p̄_c (Culotta 2005; 'variation ratio' in Gal 2017)",
            smooth=False,
        ),
        Score(
            "margin",
            _DISCRETE,
            ("p",),
            lambda C, likelihood: (0.0, float(_outcomes(C, likelihood)[0])),
            *_of_mean(_margin),
            "1 - (p̄_(1) - p̄_(2)), closeness of the two best classes (Scheffer 2001)",
            smooth=False,
        ),
        Score(
            "variation_ratio",
            _DISCRETE,
            ("votes",),
            _confidence_bounds,
            lambda p, likelihood: _least_confidence(_votes(p, likelihood), likelihood),
            lambda m, likelihood: _least_confidence(m["votes"], likelihood),
            "1 - share of the passes that vote for the modal class (Freeman 1965)",
            smooth=False,
        ),
        Score(
            "mean_std",
            _DISCRETE,
            ("p", "p2"),
            lambda C, likelihood: (0.0, 0.5),
            lambda p, likelihood: p.std(0, correction=0).mean(-1),
            _mean_std,
            "mean_c of the standard deviation of p_tc over the passes (Kampffmeyer 2016)",
        ),
        Score(
            "variance",
            ("gaussian",),
            ("var",),
            lambda C, likelihood: (0.0, math.inf),
            lambda samples, likelihood: samples.mean_TB.var(0, correction=0),
            lambda m, likelihood: m["var"],
            "variance over the passes of the predicted mean, the epistemic part (Kendall 2017)",
        ),
    )
}
"""The catalog: name -> Score.

>>> SCORES["bald"].likelihoods
('categorical', 'bernoulli', 'gaussian')
>>> SCORES["least_confidence"].bounds(4, "categorical")
(0.0, 0.75)
"""

BUILT_IN = frozenset(SCORES)
"""The scores of this module; the catalog may get more (``own_scores.register_score``)."""

KERNEL_SCORES = tuple(name for name, score in SCORES.items() if set(_DISCRETE) <= set(score.likelihoods))
"""The scores that kernels compute, in the order in which C++ and Triton keep them."""

KERNEL_SUMS = (*LIKELIHOOD_MOMENTS["categorical"], "bad")
"""The sums over passes that kernels add to, in the order of struct State of csrc/kernels.h."""


# ---- what may be asked, and of what ----------------------------------------------------------------------------------


def check_scores(scores: Sequence[str], likelihood: str, noise_variance: float | None = None) -> tuple[str, ...]:
    """Check names of scores against the catalog and return them as a tuple, in the order given.

    >>> check_scores(["bald", "entropy"], "categorical")
    ('bald', 'entropy')

    ``noise_variance`` is the known variance of the observation noise, > 0 and finite; only with likelihood "gaussian".

    Raises:
        ValueError: a name that is unknown, does not fit the likelihood or stands twice; a noise variance that does not fit.
    """
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"unknown likelihood {likelihood!r}; choose from {', '.join(LIKELIHOODS)}")
    if isinstance(scores, str) or not scores:
        raise ValueError(f"scores must be a sequence of names such as ('bald', 'entropy'), got {scores!r}")
    names = tuple(scores)
    fitting = [name for name, score in SCORES.items() if likelihood in score.likelihoods]
    for name in names:
        if name not in SCORES:
            raise ValueError(
                f"unknown score {name!r}; choose from {', '.join(fitting)}, or add one: mcscore.register_score"
            )
        if name not in fitting:
            raise ValueError(
                f"score {name!r} is not defined for likelihood {likelihood!r}; choose from {', '.join(fitting)}"
            )
        if names.count(name) > 1:
            raise ValueError(f"score {name!r} is asked for twice")
    if noise_variance is not None:
        if likelihood != "gaussian":
            raise ValueError(f"noise_variance belongs to likelihood 'gaussian', not {likelihood!r}")
        if not 0.0 < noise_variance < math.inf:
            raise ValueError(f"noise_variance must be positive and finite, got {noise_variance!r}")
    return names


def needed_moments(scores: Sequence[str], likelihood: str) -> tuple[str, ...]:
    """Return the moments that the scores and the prediction need, in the order of LIKELIHOOD_MOMENTS."""
    asked = {"p", "mu"}.union(*(SCORES[name].moments for name in scores))
    return tuple(name for name in LIKELIHOOD_MOMENTS[likelihood] if name in asked)


def check_kernel_call(what: str, scores: Sequence[str], likelihood: str, shape: Sequence[int]) -> tuple[str, ...]:
    """Check the arguments of a kernel for outputs of this shape (T, B, C), and return the names of the scores as a tuple.

    ``what`` is the kernel, which begins the messages; no scores: only the prediction, or sums, are asked for.

    Raises:
        ValueError: a likelihood without a kernel, a score that is unknown, a shape that does not fit.
    """
    if likelihood not in _DISCRETE:
        raise ValueError(f"{what}: likelihood must be one of {', '.join(_DISCRETE)} for a kernel, got {likelihood!r}")
    if len(shape) != 3:
        raise ValueError(f"{what}: outputs must have shape (T, B, C), got {tuple(shape)}")
    check_shape(shape, likelihood)
    return check_scores(scores, likelihood) if len(scores) else ()


def bald_noise(dtype: torch.dtype) -> float:
    """The noise floor of BALD as a share of H[p̄], of outputs of this type: BALD_NOISE, of float64 as much finer as its digits."""
    import torch

    return BALD_NOISE * 2.0**-29 if dtype == torch.float64 else BALD_NOISE


# ---- the oracle ------------------------------------------------------------------------------------------------------


def oracle_scores(
    logits: Tensor,
    scores: Sequence[str],
    likelihood: str = "categorical",
    input: str = "logits",
    noise_variance: float | None = None,
    reduction: str | float = "mean",
) -> dict[str, Tensor]:
    """The scores by their definitions, in float64 and all at once: {name: (B,) float64} and "prediction". For tests.

    logits: (T, B, C) or (T, B, C, *pixels), any float dtype, holding what ``input`` declares.
    """
    import torch

    names = check_scores(scores, likelihood, noise_variance)
    check_input(input, likelihood)
    check_shape(logits.shape, likelihood)
    B, C = logits.shape[1:3]
    outputs = logits.detach().movedim(2, -1).flatten(1, -2)  # (T, B * pixels, C)
    ok = ok_outputs(outputs, likelihood, input)
    samples = samples_of(outputs.double(), likelihood, input, noise_variance)
    results = {name: SCORES[name].oracle(samples, likelihood) for name in names}
    results = {name: torch.where(ok & values.isfinite(), values, math.nan) for name, values in results.items()}
    mean = samples.mean_TB.mean(0) if likelihood == "gaussian" else samples.mean(0)
    prediction = torch.where(ok, predict(mean, likelihood), math.nan if likelihood == "gaussian" else -1)
    if logits.ndim > 3:
        S = math.prod(logits.shape[3:])
        results = {name: reduce_pixels(values.view(B, S), reduction) for name, values in results.items()}
        prediction = reduce_predictions(prediction.view(B, S), likelihood, C)
    return {**results, "prediction": prediction}


def samples_of(outputs_TBC: Tensor, likelihood: str, input: str, noise_variance: float | None) -> Samples:
    """What an oracle takes, of float64 outputs."""
    if likelihood == "gaussian":
        if outputs_TBC.shape[-1] == 1:
            return GaussianSamples(outputs_TBC[..., 0], None, noise_variance)
        if noise_variance is not None:
            raise ValueError(TWO_NOISES)
        return GaussianSamples(outputs_TBC[..., 0], outputs_TBC[..., 1].exp(), None)
    return probabilities(outputs_TBC, likelihood, input)
