"""The figures behind the plots equal what NumPy says of the same numbers, however they are cut into parts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mcscore.report import stats

FLOATS = st.floats(-100, 100, width=32) | st.just(float("nan"))


def _parts(values: np.ndarray, size: int = 7) -> stats.Stream:
    return lambda: (values[start : start + size] for start in range(0, len(values), size))


@given(arrays(np.float32, st.integers(1, 80), elements=FLOATS), st.integers(1, 90))
def test_spread_is_that_of_the_finite_values_for_any_parts(values: np.ndarray, size: int) -> None:
    finite = values[np.isfinite(values)].astype(np.float64)
    spread = stats.spread(_parts(values, size))
    if not finite.size:
        assert spread is None
        return
    assert spread is not None
    assert (spread.n, spread.lo, spread.hi) == (finite.size, finite.min(), finite.max())
    assert spread.mean == pytest.approx(finite.mean(), abs=1e-4)
    assert spread.counts.sum() == finite.size
    assert spread.flat == (finite.size > 1 and finite.min() == finite.max())
    cell = (finite.max() - finite.min()) / stats.FINE
    for q, value in spread.quantiles.items():
        exact = np.quantile(finite, q, method="inverted_cdf")
        assert value == pytest.approx(exact, abs=cell + 1e-9)


def test_histogram_counts_are_numpys() -> None:
    values = np.random.default_rng(0).gamma(1.0, 1.0, 5000).astype(np.float32)
    spread = stats.spread(_parts(values, 999))
    assert spread is not None
    expected, edges = np.histogram(values.astype(np.float64), stats.BINS)
    np.testing.assert_allclose(spread.edges, edges)
    assert np.abs(spread.counts - expected).max() <= 1  # an item within rounding of an edge may fall on either side
    assert spread.counts.sum() == 5000


def test_a_cloud_of_few_items_is_its_points() -> None:
    x = np.array([0.0, 1.0, np.nan, 3.0])
    y = np.array([5.0, np.nan, 7.0, 8.0])
    cloud = stats.cloud(lambda: [(x[:2], y[:2]), (x[2:], y[2:])])
    assert cloud is not None
    assert (cloud.x.tolist(), cloud.y.tolist(), cloud.weights, cloud.n) == ([0.0, 3.0], [5.0, 8.0], None, 2)


def test_a_cloud_of_many_items_keeps_their_number_and_place() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3 * stats.MAX_POINTS))

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return zip(_parts(x, 1000)(), _parts(y, 1000)(), strict=True)

    cloud = stats.cloud(pairs)
    assert cloud is not None
    assert cloud.weights is not None
    assert cloud.weights.sum() == cloud.n == len(x)
    assert (cloud.x * cloud.weights).sum() / len(x) == pytest.approx(x.mean(), abs=np.ptp(x) / stats.GRID)
    assert (cloud.y * cloud.weights).sum() / len(x) == pytest.approx(y.mean(), abs=np.ptp(y) / stats.GRID)


def test_a_cloud_without_width_is_counted_too() -> None:
    flat = np.full(2 * stats.MAX_POINTS, 0.5)
    cloud = stats.cloud(lambda: [(flat, flat)])
    assert cloud is not None
    assert cloud.weights is not None
    assert cloud.weights.tolist() == [len(flat)]


def test_classes_are_counted_over_parts_and_nothing_is_not_a_class() -> None:
    predictions = np.array([0, 2, -1, 2, 5, 0, -1, 0], np.int32)
    assert stats.class_counts(_parts(predictions, 3)).tolist() == [3, 0, 2, 0, 0, 1]
    assert stats.class_counts(_parts(np.array([-1], np.int32))).tolist() == [0]


@given(st.integers(1, 40), st.integers(0, 2**64 - 1), st.integers(0, 2**32))
def test_random_items_are_distinct_scored_and_not_selected(k: int, seed: int, data_seed: int) -> None:
    n = 60
    rng = np.random.default_rng(data_seed)
    scored = rng.random(n) < rng.random()
    without = rng.permutation(n)[: rng.integers(0, 20)]
    left = np.setdiff1d(np.flatnonzero(scored), without)

    def draw() -> np.ndarray:
        return stats.random_ids(k, n, seed, without, lambda ids: scored[ids], lambda: [np.flatnonzero(scored)])

    ids = draw()
    assert len(set(ids.tolist())) == len(ids) == min(k, len(left))
    assert set(ids.tolist()) <= set(left.tolist())
    assert ids.tolist() == draw().tolist()


def test_random_items_are_drawn_evenly() -> None:
    counts = np.zeros(20)
    scored = np.ones(20, bool)
    for seed in range(2000):
        ids = stats.random_ids(5, 20, seed, np.array([0]), lambda ids: scored[ids], lambda: [np.arange(20)])
        counts[ids] += 1
    assert counts[0] == 0
    expected = 2000 * 5 / 19
    assert np.abs(counts[1:] - expected).max() < 5 * np.sqrt(expected)
