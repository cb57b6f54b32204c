"""The true scores behind measured ones: what is found does not depend on blocks, and fits what was put in."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcscore.selection.screening.overlap import expected_overlap
from mcscore.selection.screening.population import Block, Population, corrected_scores, measure, normal_cdf
from mcscore.selection.screening.screen import fix_cut

from .noisy import best, pool, shared

VALUE = st.one_of(st.sampled_from([0.0, -0.0, 0.5, math.nan, 1e-45, -2.0]), st.floats(-4, 4, width=32))
ERROR = st.one_of(st.sampled_from([0.0, 0.1, math.nan]), st.floats(0, 2, width=32))


def stream(*parts: np.ndarray, size: int | None = None) -> Callable[[], list[Block]]:
    n = len(parts[0])
    size = size or max(n, 1)
    return lambda: [tuple(part[i : i + size] for part in parts) for i in range(0, n, size)]


def same(a: Population, b: Population) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_order_and_size_of_blocks_do_not_matter(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(VALUE, ERROR, VALUE), max_size=40))
    columns = np.array(rows, np.float32).reshape(-1, 3).T
    top, size = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 9))
    order = np.array(data.draw(st.permutations(range(len(rows)))), np.int64)
    one = measure(stream(*columns), top)
    other = measure(stream(*columns[:, order], size=size), top)
    assert same(one, other)
    assert one.items == int((~np.isnan(columns).any(0)).sum())
    assert one.counts.sum() == one.items


def test_the_smallest_errors_count_as_none() -> None:
    scores, none = np.float32([0.0, 0.0, 0.5, 0.0]), np.zeros(4, np.float32)
    for least in (1e-45, 1e-38):
        found = measure(stream(scores, np.float32([0.0, 0.0, 0.0, least]), none), 1)
        assert found.items == 4
        assert abs(found.border - 0.5) < 1e-3


def test_memory_does_not_hold_the_items() -> None:
    few, many = (measure(stream(*pool(n).measured(16, 1), size=1000), 20) for n in (300, 30_000))
    for name in ("counts", "joint", "edges", "theta", "sigma"):
        assert getattr(few, name).shape == getattr(many, name).shape


def test_the_border_and_the_error_there_are_found() -> None:
    true = pool(50_000)
    for k in (50, 1000):
        found = measure(stream(*true.measured(16, 3)), k)
        i = true.best(k)[-1]
        assert found.border == pytest.approx(true.theta[i], abs=0.35 * true.sigma[i] / 4)
        assert found.border_sigma == pytest.approx(true.sigma[i] / 4, rel=0.1)
    # The measured 50-th best is luck, and lies above the truth by more than that.
    score, _, bias = true.measured(16, 3)
    i = true.best(50)[-1]
    assert np.sort(score - bias)[-50] > true.theta[i] + 0.5 * true.sigma[i] / 4


def test_every_item_is_somewhere() -> None:
    found = measure(stream(*pool(5000).measured(16, 0)), 100)
    np.testing.assert_allclose(found.joint.sum(1), found.counts, rtol=1e-9, atol=1e-9)
    assert found.above(100) @ found.joint.sum(0) == pytest.approx(100)
    assert found.selected(100) @ found.counts == pytest.approx(100)


def test_without_errors_measured_is_true() -> None:
    score = np.random.default_rng(0).normal(size=1001).astype(np.float32)
    zero = np.zeros_like(score)
    for k in (1, 17):
        found = measure(stream(score, zero, zero), k)
        assert found.border == pytest.approx(np.sort(score)[-k], rel=1e-6)
        assert found.border_sigma == 0
        assert found.ties == 1
        assert found.selected(k) @ found.joint @ found.above(k) == pytest.approx(k)


@pytest.mark.parametrize("passes", [16, 100, 400])
@pytest.mark.parametrize("k", [50, 200, 1000])
def test_expected_overlap_and_recall_are_those_of_two_seeds(passes: int, k: int) -> None:
    true = pool(20_000)
    tops = [best(true.measured(passes, seed)[0], k) for seed in range(10, 18)]
    overlap = np.mean([shared(a, b) for i, a in enumerate(tops) for b in tops[:i]])
    recall = np.mean([shared(true.best(k), top) for top in tops])
    # From one seed alone; five of them, as the first k items of one seed are few.
    expected = [expected_overlap(measure(stream(*true.measured(passes, seed)), k), passes) for seed in range(5)]
    tolerance = 0.06 if k == 50 else 0.03
    assert np.mean([e.overlap for e in expected]) == pytest.approx(overlap, abs=tolerance)
    assert np.mean([e.recall for e in expected]) == pytest.approx(recall, abs=tolerance)


def test_the_passes_that_are_enough_give_the_overlap() -> None:
    true = pool(20_000)
    k = 1000
    found = expected_overlap(measure(stream(*true.measured(100, 0)), k), 100, wanted=0.9)
    assert found.enough is not None
    tops = [best(true.measured(found.enough, seed)[0], k) for seed in (1, 2)]
    assert shared(*tops) == pytest.approx(0.9, abs=0.03)
    assert expected_overlap(measure(stream(*true.measured(100, 0)), k), 100, wanted=1.0).enough is None


def test_normal_cdf() -> None:
    z = np.linspace(-12, 12, 1001)
    exact = [0.5 * math.erfc(-v / math.sqrt(2)) for v in z]
    np.testing.assert_allclose(normal_cdf(z), exact, atol=1e-6)


def test_an_item_without_one_of_the_three_does_not_count() -> None:
    whole = np.array([0.5, math.nan, 0.5, 0.5, math.inf], np.float32)
    se = np.array([0.1, 0.1, math.nan, 0.1, 0.1], np.float32)
    bias = np.array([-0.25, 0.1, 0.1, math.nan, 0], np.float32)
    np.testing.assert_array_equal(corrected_scores(whole, se, bias), [0.75, math.nan, math.nan, math.nan, math.nan])


def test_wrong_arguments_are_named() -> None:
    v = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"top must be at least 1, got 0"):
        measure(stream(v, v, v), 0)
    with pytest.raises(ValueError, match=r"scores \(3,\), errors \(2,\) and biases \(3,\)"):
        measure(lambda: [(v, v[:2], v)], 1)
    with pytest.raises(ValueError, match=r"recall must lie in \(0, 1\], got 1.5"):
        fix_cut(measure(stream(v, v, v), 1), 1.5)
