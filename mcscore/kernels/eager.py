"""Sums over passes in PyTorch: what ``Moments`` keeps, how passes enter it on any device, how scores leave it.

State of B items (pixels, where the output is dense); only what the asked scores need is kept, nothing of size T exists:

    softmax, sigmoid   p (B, C), p2 (B, C), h (B,), votes (B, C) int32: sums over the passes of likelihoods.LIKELIHOOD_MOMENTS
    gaussian           n (B,) passes, mu (B,) their mean, var (B,) sum of squared deviations from it, noise (B,) sum
    all                bad (B,) bool: some pass was no distribution

The sums are float64, so that any split of the passes gives equal scores; one pass is computed in float32 (float64 for
float64 outputs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..acquisition import BALD_NOISE, SCORES, Means, needed_moments
from ..likelihoods import LIKELIHOOD_MOMENTS, ok_outputs, predict

State = dict[str, Tensor]

# Output values per step: temporaries of some 40 bytes each, 10 MB in all, stay in the caches. Measured, one AVX2 core,
# T = 20, C = 10 and 1000, million values a second: 65 and 73 with 2^14, 107 and 213 with 2^18, 79 and 150 with 2^20.
STEP = 1 << 18

# exp(-1000) is 0 in float64 too, so a log-probability clamped here still has p log p = 0 exactly, where -inf gives NaN.
_LOG_ZERO = -1000.0


def new_state(scores: Sequence[str], likelihood: str, items: int, C: int, device: torch.device) -> State:
    """Zero sums of everything that the scores and the prediction are finished from."""
    real = torch.float32 if device.type == "mps" else torch.float64  # Metal has no float64
    names = needed_moments(scores, likelihood)
    if likelihood == "gaussian":
        names = ("n", "mu", "var", "noise") if C == 2 else ("n", "mu", "var")
    state = {"bad": torch.zeros(items, dtype=torch.bool, device=device)}
    for name in names:
        shape = (items, C) if name in ("p", "p2", "votes") else (items,)
        state[name] = torch.zeros(shape, dtype=torch.int32 if name == "votes" else real, device=device)
    return state


def accumulate(outputs_tBC: Tensor, state: State, likelihood: str, input: str = "logits") -> None:
    """Add t passes to ``state`` in place, a step of items and passes at a time, so that temporaries stay near 10 MB."""
    t, B, C = outputs_tBC.shape
    passes = min(t, max(1, STEP // C))
    items = max(1, STEP // (C * passes))
    for b in range(0, B, items):
        part = {name: sums[b : b + items] for name, sums in state.items()}
        for first in range(0, t, passes):
            _add(outputs_tBC[first : first + passes, b : b + items], part, likelihood, input)


def _add(outputs_tBC: Tensor, state: State, likelihood: str, input: str) -> None:
    state["bad"] |= ~ok_outputs(outputs_tBC, likelihood, input)
    if likelihood == "gaussian":
        _add_gaussian(outputs_tBC, state)
        return
    x = outputs_tBC if outputs_tBC.dtype == torch.float64 else outputs_tBC.float()
    p, h_tB = _softmax(x) if likelihood == "categorical" else _sigmoid(x, input, state["p"].dtype)
    real = state["p"].dtype
    state["p"] += p.sum(0, dtype=real)
    if "p2" in state:
        state["p2"] += p.to(real).square().sum(0)  # squared in float32, p2 - p^2 of equal passes would not be 0
    if "h" in state:
        state["h"] += h_tB.sum(0, dtype=real)
    if "votes" in state and likelihood == "bernoulli":
        # Not p >= 1/2 for logits: the sigmoid of -1e-9 rounds to 1/2.
        state["votes"] += (x >= 0 if input == "logits" else p >= 0.5).sum(0, dtype=torch.int32)
    elif "votes" in state:
        winners_Bt = x.argmax(-1).T
        state["votes"].scatter_add_(1, winners_Bt, torch.ones_like(winners_Bt, dtype=torch.int32))


def _softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    """(p, H[p])."""
    # With e = exp(x - max x), u its sum over the others than the maximum and w = sum e (x - max x): H = log(1 + u) - w / (1 + u), all
    # of one sign, while 1 + u has lost what u is where one class has nearly all.
    peak, at = x.max(-1, keepdim=True)
    z = (x - peak).clamp_min_(_LOG_ZERO)  # NaN where nothing is finite
    e = z.exp().scatter_(-1, at, 0.0)
    u = e.sum(-1, keepdim=True)
    h = torch.log1p(u) - z.mul_(e).sum(-1, keepdim=True) / (1.0 + u)
    return e.scatter_(-1, at, 1.0).div_(1.0 + u), h[..., 0]


def _sigmoid(x: Tensor, input: str, real: torch.dtype) -> tuple[Tensor, Tensor]:
    """(p of each label, sum over the labels of their entropies as Bernoulli variables).

    p is of type ``real``: near 1 float32 has lost 1 - p.
    """
    if input == "logits":
        # With a = |x| and q = sigmoid(-a), the smaller probability, H = log(1 + e^-a) + a q: a sum of positive terms. The
        # usual softplus(x) - x p subtracts two numbers near x and loses log2(x / H) bits.
        a = x.abs().clamp_max_(-_LOG_ZERO)
        q = torch.sigmoid(-a)
        h = torch.log1p(torch.exp(-a)) + a * q
        q = q.to(real)
        return torch.where(x < 0, q, 1.0 - q), h.sum(-1)
    if input == "log_probs":
        log_p = x.clamp_max(0.0)
        p, q = log_p.exp(), -torch.expm1(log_p)
        h = torch.special.entr(q) - p * log_p.clamp_min(_LOG_ZERO)
        return torch.where(q < p, 1.0 - q.to(real), p.to(real)), h.sum(-1)
    p = x.clamp(0.0, 1.0)
    return p, (torch.special.entr(p) + torch.special.entr(1.0 - p)).sum(-1)


def _add_gaussian(outputs_tBC: Tensor, state: State) -> None:
    real = state["mu"].dtype
    means_tB = outputs_tBC[..., 0].to(real)
    mu = means_tB.mean(0)
    other = {"n": torch.full_like(mu, len(means_tB)), "mu": mu, "var": (means_tB - mu).square().sum(0)}
    if "noise" in state:
        other["noise"] = outputs_tBC[..., 1].to(real).exp().sum(0)
    merge(state, other, "gaussian")


def merge(state: State, other: State, likelihood: str) -> None:
    """Add the sums of other passes over the same items to ``state``, in place. ``other`` may leave out "bad"."""
    if likelihood == "gaussian":  # Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm, 1979
        n = state["n"] + other["n"]
        delta = other["mu"] - state["mu"]
        state["mu"] += delta * (other["n"] / n)
        state["var"] += delta.square() * (state["n"] * other["n"] / n) + other["var"]
        state["n"].copy_(n)
    for name in ("p", "p2", "h", "votes", "noise"):
        if name in state:
            state[name] += other[name]
    if "bad" in other:
        state["bad"] |= other["bad"]


def without(state: State, part: State, likelihood: str) -> State:
    """The sums of the passes of ``state`` that are not among those of ``part``. "bad" stays: one bad pass spoils an item."""
    left = {name: sums if name == "bad" else sums - part[name] for name, sums in state.items()}
    if likelihood == "gaussian":  # ``merge`` solved for the other
        delta = (part["mu"] - state["mu"]) * (part["n"] / left["n"])
        left["mu"] = state["mu"] - delta
        left["var"] = (left["var"] - delta * (part["mu"] - left["mu"]) * left["n"]).clamp_min_(0.0)
    for name in ("p", "p2", "h"):
        if name in left:
            left[name].clamp_min_(0.0)
    return left


def finish(
    state: State,
    scores: Sequence[str],
    likelihood: str,
    passes: int,
    noise_variance: float | None = None,
    bald_noise: float = BALD_NOISE,
) -> dict[str, Tensor]:
    """The scores (B,) float32 and "prediction" (B,), int32 or gaussian float32, of ``passes`` accumulated passes.

    bald_noise: the share of H[p̄] at and below which BALD is 0, see ``acquisition.bald_noise``.
    """
    values = finish_scores(state, scores, likelihood, passes, noise_variance, bald_noise)
    results = {name: value.float() for name, value in values.items()}
    prediction = predict(state["mu"] if likelihood == "gaussian" else state["p"] / passes, likelihood)
    results["prediction"] = torch.where(~state["bad"], prediction, math.nan if likelihood == "gaussian" else -1)
    return results


def finish_scores(
    state: State,
    scores: Sequence[str],
    likelihood: str,
    passes: int,
    noise_variance: float | None,
    bald_noise: float | None,
) -> dict[str, Tensor]:
    """The scores (B,) of ``finish``, in the precision of the sums. bald_noise: None for a BALD that is not clamped."""
    main = LIKELIHOOD_MOMENTS[likelihood][0]  # "p" or "mu"
    real = state[main].dtype
    means: Means = {name: state[name].to(real) / passes for name in LIKELIHOOD_MOMENTS[likelihood] if name in state}
    means["bald_noise"] = bald_noise
    if likelihood == "gaussian":
        means["mu"] = state["mu"]  # a mean already
        if "noise" not in means and noise_variance is not None:
            means["noise"] = torch.full_like(means["mu"], noise_variance)
    ok = ~state["bad"]
    results = {}
    for name in scores:
        finish = SCORES[name].finish
        assert finish is not None  # ``own_scores.require_finish``
        values = finish(means, likelihood)
        results[name] = torch.where(ok & values.isfinite(), values, math.nan)
    return results
