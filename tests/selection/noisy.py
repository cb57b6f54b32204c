"""Scores as Monte Carlo passes give them: a true score, a noise that grows with it, and a standard error that is itself noisy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pool:
    """True scores with a long upper tail, and the error of one pass at each of them."""

    theta: np.ndarray
    sigma: np.ndarray

    def measured(self, passes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(score, se, bias), each (n,) float32; the error of the error is that of min(passes, 32) groups, the bias -0.3 / passes."""
        random = np.random.default_rng(seed)
        n, groups = len(self.theta), min(passes, 32)
        sd = self.sigma / np.sqrt(passes)
        score = self.theta + sd * random.normal(size=n) - 0.3 / passes
        se = sd * np.sqrt(random.chisquare(groups - 1, n) / (groups - 1))
        return score.astype(np.float32), se.astype(np.float32), np.full(n, -0.3 / passes, np.float32)

    def best(self, k: int) -> np.ndarray:
        return np.argsort(-self.theta)[:k]


def pool(n: int, seed: int = 0) -> Pool:
    random = np.random.default_rng(seed)
    theta = np.where(random.random(n) < 0.7, random.exponential(0.04, n), random.gamma(3, 0.12, n))
    return Pool(theta, 0.6 * np.sqrt(np.minimum(theta, 1)))


def best(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[:k]


def shared(a: np.ndarray, b: np.ndarray) -> float:
    return len(np.intersect1d(a, b)) / len(a)
