"""The distribution of true scores behind measured ones: a deconvolution of a stream of scores by their standard errors.

A measured score x is the true one θ (at infinitely many passes) and a noise of standard deviation σ, which changes with θ. The items
at the top of the measured scores are there partly by luck, so that N(x, σ²) is not what is known of their θ: the density of θ
among all items counts, too. It is estimated from all items (empirical Bayes):

    items measured in cell x  =  Σ_θ items(θ) K(x | θ),    K(x | θ) = the probability of cell x under N(θ, σ(θ)²)

by expectation and maximization with a smoothing step (EMS: Silverman, Jones, Nychka and Wilson, JRSS B 1990). σ²(θ) is the mean of
se² over the items that are probably at θ: a standard error of few passes is too noisy to be believed item by item.

Only the surroundings of the top-th best score matter, so cells are there: their width is σ / 16 and they reach 16 σ to both sides; what
is beyond is in the two outer cells. All that is kept of the items are counts of cells, so that neither order nor size of
blocks matters and memory does not grow with the number of items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Block = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]
Stream = Callable[[], Iterable[Block]]

_REACH = 16  # in σ, to both sides of the top-th best score
_PER_SIGMA = 16  # cells
_INNER = 2 * _REACH * _PER_SIGMA
_ROUNDS, _STEPS = 6, 25  # of σ(θ), and of the mass in each
_OCTAVES, _PER_OCTAVE = 8, 4  # cells of se: from 2^-8 to 2^8 times the scale
_SIZES = 2 * _OCTAVES * _PER_OCTAVE + 1
_NEAR = 100  # items beside 2 top whose se gives the scale
_ENOUGH = 50.0  # items at a θ give σ²(θ) well enough; more do not outweigh their neighbors

_Z = np.arange(-9 * 256, 9 * 256 + 1) / 256
_CDF = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in _Z])


def normal_cdf(z: npt.ArrayLike) -> Floats:
    """The cumulative distribution of the standard normal, to 1e-6."""
    return np.interp(np.asarray(z, np.float64), _Z, _CDF)


def corrected_scores(score_B: npt.ArrayLike, se_B: npt.ArrayLike, bias_B: npt.ArrayLike) -> Floats:
    """(B,) score - bias as float64; NaN where one of the three is NaN or infinite.

    Raises:
        ValueError: the shapes differ.
    """
    score_B, se_B, bias_B = (np.asarray(part, np.float32) for part in (score_B, se_B, bias_B))
    if not score_B.shape == se_B.shape == bias_B.shape or score_B.ndim != 1:
        raise ValueError(
            f"scores {score_B.shape}, errors {se_B.shape} and biases {bias_B.shape} must be one-dimensional and equally long"
        )
    x_B = score_B.astype(np.float64) - bias_B
    return np.where(np.isfinite(x_B) & np.isfinite(se_B), x_B, np.nan)


_LEAST = float(np.finfo(np.float32).tiny)  # smaller errors count as none: the first half of their bits may be 0


@dataclass(frozen=True)
class Population:
    """The true scores behind the measured ones, in cells around the top-th best.

    Attributes:
        top: the number of items that are looked for.
        items: the number of items with a score.
        edges: (X - 1,) the borders between cells of measured scores, ascending; a score on a border is in the upper cell.
        theta: (M,) the true scores of the cells.
        sigma: (M,) the standard error of an item at theta, as measured.
        counts: (X,) items measured in each cell.
        joint: (X, M) expected number of items measured in a cell and truly at theta.
    """

    top: int
    items: int
    edges: Floats
    theta: Floats
    sigma: Floats
    counts: npt.NDArray[np.int64]
    joint: Floats

    @property
    def border(self) -> float:
        """The true score of the top-th best: the middle of its cell."""
        return float(self.theta[int(np.argmax(self.above(self.top) > 0))])

    @property
    def border_sigma(self) -> float:
        """The standard error of an item at the border."""
        return float(np.interp(self.border, self.theta, self.sigma))

    @property
    def ties(self) -> int:
        """The number of items in the cell of the top-th best as measured."""
        return int(self.counts[int(np.argmax(self.selected(self.top) > 0))])

    @property
    def attainable(self) -> int:
        """top, or the number of items if there are fewer; at least 1."""
        return max(1, min(self.top, self.items))

    def above(self, wanted: float) -> Floats:
        """(M,) the share of each theta cell that is among the ``wanted`` truly best items: 1 above the border, 0 below."""
        return best_share(self.joint.sum(0), wanted)

    def selected(self, wanted: float) -> Floats:
        """(X,) the share of each measured cell that is among the ``wanted`` best as measured."""
        return best_share(self.counts.astype(np.float64), wanted)


def measure(stream: Stream, top: int) -> Population:
    """Find the distribution of true scores around the top-th best from a stream of measured ones.

    Args:
        stream: starts the stream anew; it is read three times. Blocks (score_B, se_B, bias_B), float32; NaN in any of them: the item
            does not count. bias is 0 where a score has none.
        top: the number of items that are looked for.

    Raises:
        ValueError: top is not positive, or the parts of a block differ in shape.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    uppers = np.zeros(1 << 16, np.int64)
    for x_B, _ in _blocks(stream):
        uppers += np.bincount(_key(x_B) >> 16, minlength=len(uppers))
    upper, above = _of_rank(uppers, top)
    near, _ = _of_rank(uppers, 2 * top + _NEAR)
    lowers, sizes = np.zeros_like(uppers), np.zeros_like(uppers)
    for x_B, se_B in _blocks(stream):
        key_B = _key(x_B)
        lowers += np.bincount(key_B[key_B >> 16 == upper] & 0xFFFF, minlength=len(lowers))
        sizes += np.bincount(_key(se_B[(key_B >> 16 >= near) & (se_B >= _LEAST)]) >> 16, minlength=len(sizes))
    origin = _value(upper << 16 | _of_rank(lowers, top - above)[0]) if lowers.any() else 0.0
    # Where no item has an error, cells are so narrow that only equal scores share one.
    median, _ = _of_rank(sizes, int(sizes.sum()) // 2 + 1)
    scale = _value(median << 16) if sizes.any() else max(abs(origin), 1e-30) * 2.0**-20
    edges = origin + scale * np.arange(-_INNER // 2, _INNER // 2 + 1) / _PER_SIGMA
    counts_XS = np.zeros((len(edges) + 1, _SIZES), np.int64)
    for x_B, se_B in _blocks(stream):
        with np.errstate(divide="ignore"):
            octave_B = np.clip(np.log2(se_B / scale), -_OCTAVES, _OCTAVES)
        size_B = np.rint((octave_B + _OCTAVES) * _PER_OCTAVE).astype(np.int64)
        cell_B = np.searchsorted(edges, x_B, side="right") * _SIZES + size_B
        counts_XS += np.bincount(cell_B, minlength=counts_XS.size).reshape(counts_XS.shape)
    squares_S = (scale * 2.0 ** (np.arange(_SIZES) / _PER_OCTAVE - _OCTAVES)) ** 2
    squares_S[0] = 0  # se of 0, and all that is as good as 0
    counts_X = counts_XS.sum(1)
    theta = np.concatenate([edges[:1], edges]) + scale / _PER_SIGMA * np.r_[-0.5, np.full(_INNER, 0.5), 0.5]
    joint, sigma = _deconvolve(edges, theta, counts_X, counts_XS @ squares_S)
    return Population(top, int(counts_X.sum()), edges, theta, sigma, counts_X, joint)


def _deconvolve(edges: Floats, theta: Floats, counts: Any, squares: Floats) -> tuple[Floats, Floats]:
    """(joint (X, M), sigma (M,)) from the counts (X,) of measured cells and the sums (X,) of se² in them."""
    counts = counts.astype(np.float64)
    mass, joint, smoother = counts, np.diag(counts), _smoother(len(counts))
    seen = _ratio(squares, counts)
    square = np.ones_like(seen)  # of sigma
    for _ in range(_ROUNDS):
        # Items measured at x are at many θ, so that their se² is compared with the mean of σ² over these, not with σ²(x).
        square = square * _smooth_mean(_ratio(seen, _ratio(joint @ square, counts)) @ joint, joint.sum(0))
        sigma = np.sqrt(square)
        kernel = _kernel(edges, theta, sigma)
        for _ in range(_STEPS):
            mass = smoother @ (mass * (_ratio(counts, kernel @ mass) @ kernel))
        joint = kernel * mass
        joint *= _ratio(counts, joint.sum(1))[:, None]
    return joint, sigma


def _smooth_mean(sums: Floats, items: Floats) -> Floats:
    """(M,) the mean at each θ, smoothed over half a σ, and where there are no items, that of the next."""
    cell = np.arange(len(items))
    weight = np.exp(-np.abs(cell[:, None] - cell) * 2 / _PER_SIGMA) * np.minimum(items, _ENOUGH)
    return _ratio(weight @ _ratio(sums, items), weight.sum(1))


def _kernel(edges: Floats, theta: Floats, sigma: Floats) -> Floats:
    """(X, M) the probability that an item at theta is measured in a cell."""
    least = (edges[1] - edges[0]) / 16
    below = normal_cdf((edges[:, None] - theta) / np.maximum(sigma, least))
    return np.diff(below, axis=0, prepend=0.0, append=1.0)


def _smoother(cells: int) -> Floats:
    """(M, M) the step that smooths: inner cells give to those around, with a standard deviation of σ / 4; mass stays what it is."""
    inner = cells - 2
    once = np.diag(np.full(inner, 0.5)) + (np.eye(inner, k=1) + np.eye(inner, k=-1)) / 4
    once[0, 0] = once[-1, -1] = 0.75  # what would leave stays
    step = np.eye(cells)
    step[1:-1, 1:-1] = np.linalg.matrix_power(once, _PER_SIGMA**2 // 8)
    return step


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 1e-300)


def best_share(items: Floats, wanted: float) -> Floats:
    """The share of each cell that is needed, from the last cell down, for so many items."""
    above = np.cumsum(items[::-1])[::-1] - items
    return np.clip(_ratio(wanted - above, items), 0.0, 1.0)


def _blocks(stream: Stream) -> Iterator[tuple[Floats, Floats]]:
    """(corrected score, standard error) of the items of each block that have both."""
    for block in stream():
        x_B = corrected_scores(*block)
        known = ~np.isnan(x_B)
        yield x_B[known], np.asarray(block[1], np.float64)[known]


def _key(values: Floats) -> npt.NDArray[np.int64]:
    """The bits of each value as float32, in the order of the values: 0 to 2^32 - 1."""
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.int64)


def _value(key: int) -> float:
    """The value of a key."""
    bits = key ^ (1 << 31) if key >> 31 else ~key & 0xFFFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def _of_rank(counts: npt.NDArray[np.int64], rank: int) -> tuple[int, int]:
    """The cell of the rank-th item (from 1) from the last cell down, or of the last item if there are fewer; how many are above it."""
    at_least = np.cumsum(counts[::-1])
    place = int(np.searchsorted(at_least, min(rank, int(at_least[-1]))))
    return len(counts) - 1 - place, int(at_least[place] - counts[len(counts) - 1 - place])
