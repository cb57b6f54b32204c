"""MNIST played as a contextual bandit: Thompson sampling by MC dropout.

A decision shows an image and asks for a digit; the reward is 1 if it is right, and nothing is seen of the other digits.
A network, trained anew every 100 decisions on what was rewarded so far, predicts the reward of each digit. Thompson
sampling plays the best digit of one sample of the weights (Gal and Ghahramani 2016, section 5.4): one pass with the
decision's number as the item's id, so that each decision has a mask of its own, and a hundred decisions in one call get
what a hundred calls would give.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcscore import Scorer

from . import curves
from .data import Images, mnist
from .experiment import Claim, Setting, above_zero
from .kept import kept
from .training import mlp, trained

QUESTION = "does Thompson sampling from MC dropout lose less than the usual rules?"
DATA = "mnist"
SEEDS, QUICK_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)
BLOCK, STEPS, RATE, EPSILON = 100, 300, 0.2, 0.1
Ints = npt.NDArray[np.int64]


def thompson(model: nn.Module, contexts: Tensor, decisions: Ints, rng: np.random.Generator) -> Ints:
    scorer = Scorer(model, passes=1, scores=("entropy",), likelihood="bernoulli", seed=int(rng.integers(2**32)))
    return scorer.samples(contexts, decisions)[0].argmax(1).numpy()


def greedy(model: nn.Module, contexts: Tensor, decisions: Ints, rng: np.random.Generator) -> Ints:
    with torch.no_grad():
        return model(contexts).argmax(1).numpy()


def uniform(model: nn.Module, contexts: Tensor, decisions: Ints, rng: np.random.Generator) -> Ints:
    return rng.integers(10, size=len(decisions))


def epsilon_greedy(model: nn.Module, contexts: Tensor, decisions: Ints, rng: np.random.Generator) -> Ints:
    explored = rng.random(len(decisions)) < EPSILON
    return np.where(explored, uniform(model, contexts, decisions, rng), greedy(model, contexts, decisions, rng))


POLICIES: dict[str, Callable[[nn.Module, Tensor, Ints, np.random.Generator], Ints]] = {
    "Thompson": thompson,
    f"{EPSILON}-greedy": epsilon_greedy,
    "greedy": greedy,
    "uniform": uniform,
}


def fit(contexts: Tensor, played: Tensor, reward: Tensor, seed: int) -> nn.Module:
    """A network that predicts the reward of each digit, trained on the digits that were played."""

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        logits_B = model(contexts[batch]).gather(1, played[batch, None])[:, 0]
        return F.binary_cross_entropy_with_logits(logits_B, reward[batch])

    return trained(lambda: mlp((784, 100, 100, 10), (RATE, RATE)), loss, len(played), seed, STEPS, 64, 1e-3, 0)


def run(setting: Setting) -> curves.JSON:
    data, decisions = mnist(setting.data), 800 if setting.quick else 10_000
    measures: dict[str, dict[str, list]] = {policy: {"regret": []} for policy in POLICIES}
    seconds = 0.0
    for seed in setting.seeds:
        for policy in POLICIES:
            setting.tell(f"seed {seed}, {policy}")
            played = kept(setting.work / f"{policy}-{seed}.json", lambda p=policy, s=seed: play(p, data, decisions, s))
            measures[policy]["regret"].append(played["regret"])
            seconds += played["seconds"]
    at = list(range(BLOCK, decisions + 1, BLOCK))
    return {"labels": at, "measures": measures, "minutes": seconds / 60}


def play(policy: str, data: Images, decisions: int, seed: int) -> curves.JSON:
    """All decisions of one policy; the images, their order and the first block, at random, are the same for all policies."""
    begin = time.process_time()
    order = np.random.default_rng(seed).permutation(len(data.pool))[:decisions]
    contexts = torch.from_numpy(data.pool[order].reshape(decisions, -1).astype(np.float32) / 255)
    answers, rng = data.pool_labels[order], np.random.default_rng([seed, 1])
    played = rng.integers(10, size=decisions)
    for start in range(BLOCK, decisions, BLOCK):
        block = np.arange(start, min(start + BLOCK, decisions))
        reward = torch.from_numpy((played[:start] == answers[:start]).astype(np.float32))
        if policy != "uniform":  # whose digits are drawn already
            model = fit(contexts[:start], torch.from_numpy(played[:start]), reward, seed * 1000 + start // BLOCK)
            played[block] = POLICIES[policy](model, contexts[block], block, rng)
    regret = np.cumsum(played != answers)[BLOCK - 1 :: BLOCK]
    return {"regret": regret.tolist(), "seconds": time.process_time() - begin}


def claims(results: curves.JSON) -> list[Claim]:
    """At the end, against uniform; with all decisions, against the other rules, too."""
    at_end = {policy: curves.values(results, policy, "regret")[:, -1] for policy in POLICIES}
    others = [p for p in POLICIES if p != "Thompson" and (p == "uniform" or results["size"] == "full")]
    return [above_zero(f"Thompson's regret is below that of {p}", at_end[p] - at_end["Thompson"], 0) for p in others]
