"""Ranked selection: each item gets one value, and the k highest are chosen. With noise, a sample without repetition.

With G standard Gumbel noise, the k highest of log w + G are k draws in proportion to the weights w, without repetition (the Gumbel-top-k
trick: Yellott 1977; Kool, van Hoof and Welling 2019). Kirsch et al. (2023) take

    power      w = score^β       value = β log score + G
    softmax    w = exp(β score)  value = β score + G
    softrank   w = rank^-β       value = -β log rank + G

The noise is a pure function of (seed, id), from 53 random bits: so the choice does not depend on blocks, order, workers or on which other
items there are. A score of 0 has the power value -inf: such items come last, in the order of their ids.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..kernels.native import philox as native_philox
from ..kernels.native.extension import native
from ..masks import philox4x32
from .topk import TopK

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_STREAM = 0x67756D62  # a counter word of our own: no number is drawn twice for two purposes
_BLOCK = 1 << 15  # items whose random words are in memory at a time


def uniform(ids_B: npt.ArrayLike, seed: int, stream: int = _STREAM) -> Floats:
    """(B,) numbers in (0, 1) that depend on (seed, id) alone, in steps of 2^-53.

    Args:
        ids_B: int, 0 <= id < 2^63.
        seed: 0 <= seed < 2^64.
        stream: a counter word that keeps the numbers of one purpose from those of others.

    Raises:
        ValueError: seed or an id is out of its range.
    """
    ids = np.asarray(ids_B, np.int64)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must satisfy 0 <= seed < 2**64, got {seed}")
    if ids.size and ids.min() < 0:
        raise ValueError(f"item ids must be >= 0, got {ids.min()}")
    numbers = np.empty(len(ids))
    for at in range(0, len(ids), _BLOCK):
        bits = ids[at : at + _BLOCK].view(np.uint64)
        counter = np.zeros((len(bits), 4), np.uint32)
        counter[:, 0], counter[:, 1] = bits & np.uint64(0xFFFFFFFF), bits >> np.uint64(32)
        counter[:, 2] = stream
        words = _philox(counter, seed)
        # 53 bits and half a step: neither 0 nor 1, whose logarithms are not finite.
        numbers[at : at + len(bits)] = (words[:, 0] * 2.0**21 + (words[:, 1] >> np.uint32(11)) + 0.5) * 2.0**-53
    return numbers


def _philox(counter_n4: npt.NDArray[np.uint32], seed: int) -> npt.NDArray[np.uint32]:
    """``philox4x32`` by the extension, which takes a tenth of the time, where there is one; the same words."""
    return philox4x32(counter_n4, seed) if native is None else native_philox(counter_n4, seed)


def exponential(ids_B: npt.ArrayLike, seed: int, stream: int = _STREAM) -> Floats:
    """(B,) exponential noise of mean 1. Small values, which decide who is chosen, have full relative precision."""
    return -np.log1p(-uniform(ids_B, seed, stream))


def gumbel(ids_B: npt.ArrayLike, seed: int) -> Floats:
    """(B,) standard Gumbel noise, -log of exponential noise; at most 37.4."""
    return -np.log(exponential(ids_B, seed))


def none(
    scores_B: npt.NDArray[np.floating], ids_B: Ints, ranks_B: Ints | None = None, beta: float = 1.0, seed: int = 0
) -> Floats:
    """The scores as they are."""
    return scores_B.astype(np.float64)


def power(
    scores_B: npt.NDArray[np.floating], ids_B: Ints, ranks_B: Ints | None = None, beta: float = 4.0, seed: int = 0
) -> Floats:
    """β log score + G; -inf where the score is 0.

    Raises:
        ValueError: a score is negative, which has no power; names the item.
    """
    scores = scores_B.astype(np.float64)
    if (scores < 0).any():
        worst = int(np.nanargmin(scores))
        raise ValueError(
            f"diversity 'power' takes powers of scores, but the score of item {ids_B[worst]} is {scores[worst]:g}, which is negative: "
            "choose diversity 'softmax' or 'softrank'"
        )
    with np.errstate(divide="ignore"):
        return np.asarray(_checked(beta) * np.log(scores) + gumbel(ids_B, seed))


def softmax(
    scores_B: npt.NDArray[np.floating], ids_B: Ints, ranks_B: Ints | None = None, beta: float = 8.0, seed: int = 0
) -> Floats:
    """β score + G."""
    return np.asarray(_checked(beta) * scores_B.astype(np.float64) + gumbel(ids_B, seed))


def softrank(
    scores_B: npt.NDArray[np.floating], ids_B: Ints, ranks_B: Ints | None = None, beta: float = 1.0, seed: int = 0
) -> Floats:
    """-β log rank + G; of items at hand all ranks are known, of a stream ``Ranks`` tells them."""
    if ranks_B is None:
        ranks_B = 1 + np.searchsorted(np.sort(-scores_B), -scores_B)
    return np.asarray(gumbel(ids_B, seed) - _checked(beta) * np.log(ranks_B))


def _checked(beta: float) -> float:
    if not 0 < beta < np.inf:
        raise ValueError(f"beta must be a finite number > 0, got {beta}")
    return beta


class Ranks:
    """The rank of every score of a stream: 1 + how many scores are higher, so that equal scores share a rank.

    Exact for the best max(``exact``, 65,536) items. Below, scores that agree in their first 24 bits, to 2^-15 of their value, share a
    rank: these ranks are large, and their logarithms differ little. Memory is 128 MB + O(exact).

    >>> ranks = Ranks(2).update(np.arange(4), np.float32([0.1, 0.3, 0.3, 0.2]))
    >>> ranks.of(np.float32([0.1, 0.2, 0.3])).tolist()
    [4, 3, 1]
    """

    def __init__(self, exact: int) -> None:
        self._top = TopK(max(exact, 1 << 16))
        self._counts = np.zeros(1 << 24, np.int64)
        self._above: Ints | None = None

    def update(
        self, ids_B: Ints, scores_B: npt.NDArray[np.float32], exclude: npt.NDArray[np.bool_] | None = None
    ) -> Ranks:
        """Count a block; items with NaN and those that ``exclude`` flags have no rank. Returns self."""
        self._top.update(ids_B, scores_B, exclude)
        counted = ~np.isnan(scores_B) if exclude is None else ~np.isnan(scores_B) & ~exclude
        np.add.at(self._counts, _bins(scores_B[counted]), 1)
        self._above = None
        return self

    def of(self, scores_B: npt.NDArray[np.float32]) -> Ints:
        """(B,) the ranks of scores of the stream; of NaN none that means anything."""
        if self._above is None:
            total = np.cumsum(self._counts)
            self._above = total[-1] - total  # in greater bins
            self._best = -self._top.result()[1]  # ascending
        above: Ints = np.maximum(self._above[_bins(scores_B)], np.searchsorted(self._best, -scores_B, side="left"))
        if len(self._best):
            exact = -scores_B <= self._best[-1]
            above[exact] = np.searchsorted(self._best, -scores_B[exact], side="left")
        return 1 + above


def _bins(scores_B: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The first 24 bits of float32 as unsigned integers of the same order, as in every radix sort; -0.0 equals 0.0.

    >>> _bins(np.float32([-1.0, -0.0, 0.0, 1.0])) >> 20
    array([ 4,  8,  8, 11])
    """
    bits = (scores_B.astype(np.float32, copy=False) + np.float32(0)).view(np.int32)
    bits ^= (bits >> 31) | np.int32(-(2**31))  # all bits flipped when negative, else the sign bit set
    return bits.view(np.uint32).astype(np.int64) >> 8
