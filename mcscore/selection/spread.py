"""Methods that choose by distance alone, once the candidates are given: k-center, k-means++ and BADGE.

BADGE (Ash et al. 2020) samples by k-means++ from g = (p - onehot(argmax p)) ⊗ h, the gradient of the loss in the weights of the last
layer if the predicted class were the label: h (D,) is the embedding, p (C,) the probabilities. The inner product of two such gradients
is the product of those of their factors, so nothing is C·D wide: 10,000 candidates of 1,000 classes and 2,048 features take 122 MB
instead of 82 GB.
"""

from __future__ import annotations

import numpy as np

from .candidates import Candidates, Picks
from .lazy import Floats, Lazy, Space
from .room import Room
from .stochastic import exponential

_RACE = 0x72616365  # the counter word of these random numbers


def k_center(candidates: Candidates, k: int, room: Room, *, seed: int = 0) -> Picks:
    """Choose, each time, the candidate farthest from all chosen and labeled items; the first by score if none is labeled.

    The largest distance from a candidate to its nearest center is at most twice the least possible (Gonzalez 1985). Of
    equally far candidates the one of the higher score comes first. The seed is not used.
    """
    assert candidates.embeddings is not None
    return _choose(Space(candidates.embeddings), _labeled(candidates), 0, k, room, None)


def k_means_pp(candidates: Candidates, k: int, room: Room, *, seed: int = 0) -> Picks:
    """Draw, each time, in proportion to the squared distance from the nearest chosen or labeled item; first the best by score."""
    assert candidates.embeddings is not None
    noise_M = exponential(candidates.ids, seed, _RACE)
    return _choose(Space(candidates.embeddings), _labeled(candidates), 0, k, room, noise_M)


def badge(candidates: Candidates, k: int, room: Room, *, seed: int = 0) -> Picks:
    """k-means++ on the gradients of the last layer; first the longest of them. Labeled items play no part, as published."""
    assert candidates.embeddings is not None
    assert candidates.probabilities is not None
    residual_MC = candidates.probabilities.copy()
    residual_MC[np.arange(len(candidates)), residual_MC.argmax(axis=1)] -= 1
    space = Space(residual_MC, candidates.embeddings)
    norms = np.where(room.open, space.squared_norms, -1.0)
    first = int(np.argmax(norms >= norms.max(initial=0.0) * (1 - space.slack))) if len(norms) else 0
    return _choose(space, None, first, k, room, exponential(candidates.ids, seed, _RACE))


def _labeled(candidates: Candidates) -> Space | None:
    return None if candidates.labeled is None or not len(candidates.labeled) else Space(candidates.labeled)


def _choose(space: Space, centers: Space | None, first: int, k: int, room: Room, noise_M: Floats | None) -> Picks:
    """Choose k candidates; ``first`` is chosen at once, if it is open, unless there are centers."""
    chosen: list[int] = []
    if not k:
        return Picks(np.empty(0, np.int64))
    if centers is None:
        at = first if room.open[first] else int(np.argmax(room.open))
        room.take(at)
        chosen.append(at)
        centers = space.at(np.array(chosen))
    lazy = Lazy(space, centers, noise_M)
    lazy.close(~room.open)
    while len(chosen) < k:
        at = lazy.next()
        chosen.append(at)
        lazy.choose(at)
        room.take(at)
        if room.limited and len(chosen) < k:
            lazy.close(~room.open)
    return Picks(np.array(chosen, np.int64))
