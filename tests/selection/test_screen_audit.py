"""The audit of the dropped: a sample that depends on (seed, id) alone, and a bound that holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcscore.selection.screening.audit import AuditPlan, audit_plan, audit_result, audit_samples, most_in_all
from mcscore.selection.screening.population import measure
from mcscore.selection.screening.screen import fix_cut

from .noisy import best, pool
from .test_screen_population import stream


def plan(
    samples: int, seed: int = 0, recall: float = 0.8, k: int = 50, n: int = 20_000
) -> tuple[AuditPlan, tuple[np.ndarray, ...]]:
    values = pool(n).measured(16, 0)
    population = measure(stream(*values), k)
    return audit_plan(population, fix_cut(population, recall), samples, seed), values


def test_sample_does_not_depend_on_order_or_blocks() -> None:
    audit, values = plan(500)
    ids = np.arange(len(values[0])) + 2**40
    whole = audit.sampled(ids, *values)
    order = np.random.default_rng(0).permutation(len(ids))
    for part in np.array_split(order, 7):
        np.testing.assert_array_equal(audit.sampled(ids[part], *(v[part] for v in values)), whole[part])


def test_sample_is_of_the_dropped_by_stratum_at_its_rate() -> None:
    audit, values = plan(2000)
    x = values[0].astype(np.float64) - values[2]
    strata = audit.sampled(np.arange(len(x)), *values)
    stratum = np.select([x >= audit.threshold, x >= audit.borders[0], x >= audit.borders[1]], [-1, 0, 1], 2)
    for h in range(3):
        assert (stratum == h).sum() == audit.dropped[h]
        found = (strata == h).sum()
        assert ((strata == h) <= (stratum == h)).all()
        expected = audit.rates[h] * audit.dropped[h]
        assert abs(found - expected) < 4 * math.sqrt(expected) + 1
    assert audit.samples == pytest.approx(2000)
    assert audit.threshold - audit.borders[0] == pytest.approx((audit.threshold - audit.borders[1]) / 3, rel=0.1)
    assert audit.rates[0] > audit.rates[1] > audit.rates[2]
    # What was expected to be lost is somewhere below the cut.
    assert sum(audit.expected) == pytest.approx(50 * 0.2, rel=0.1)
    assert audit.expected[0] > audit.expected[1] > audit.expected[2]


def test_seeds_differ_and_items_without_a_score_are_not_sampled() -> None:
    audit, values = plan(1000)
    other, _ = plan(1000, seed=1)
    ids = np.arange(len(values[0]))
    a, b = audit.sampled(ids, *values) >= 0, other.sampled(ids, *values) >= 0
    assert (a & b).sum() < 0.3 * a.sum()
    assert not (audit.sampled(ids, np.full_like(values[0], math.nan), *values[1:]) >= 0).any()
    everything, _ = plan(10**6)
    assert everything.rates == (1.0, 1.0, 1.0)
    assert (plan(0)[0].sampled(ids, *values) == -1).all()


@pytest.mark.parametrize("samples", [200, 2000])
def test_the_bound_holds_in_95_of_100_audits(samples: int) -> None:
    k, n = 50, 20_000
    values = pool(n).measured(16, 0)
    population = measure(stream(*values), k)
    cut = fix_cut(population, 0.6)  # a bad cut: there is something to find
    alive = cut.survives(*values)
    full = pool(n).measured(400, 5)[0]
    kth = np.sort(full[alive])[-k]
    missed = int((full[~alive] > kth).sum())
    assert missed >= 10
    held, estimates = 0, []
    for seed in range(200):
        audit = audit_plan(population, cut, samples, seed)
        strata = audit.sampled(np.arange(n), *values)
        chosen = strata >= 0
        result = audit_result(audit, strata[chosen], full[chosen], float(kth), k)
        held += result.bound >= missed
        estimates.append(result.estimate)
        assert result.least_recall == max(0, 1 - result.bound / k)
        assert result.least_recall <= result.recall
    assert held >= 0.95 * 200
    assert np.mean(estimates) == pytest.approx(missed, rel=0.3)
    # Of the selection of a full run, those that were dropped are missing: no more than beat the k-th of the survivors.
    assert (~alive[best(full, k)]).sum() <= missed


def test_an_audit_of_all_knows() -> None:
    audit, values = plan(10**6)
    strata = audit.sampled(np.arange(len(values[0])), *values)
    full = pool(len(strata)).measured(400, 5)[0]
    dropped = strata >= 0
    kth = float(np.sort(full[~dropped])[-50])
    result = audit_result(audit, strata[dropped], full[dropped], kth, 50)
    assert result.bound == result.estimate == sum(result.entered) == (full[dropped] > kth).sum()
    assert result.expected == pytest.approx(sum(audit.expected))


@given(st.integers(0, 4), st.floats(0.02, 1), st.integers(0, 60), st.sampled_from([0.05, 0.5, 0.001]))
def test_most_in_all_is_the_greatest_that_fits(found: int, rate: float, more: int, chance: float) -> None:
    def at_most(total: int) -> float:
        return sum(math.comb(total, j) * rate**j * (1 - rate) ** (total - j) for j in range(found + 1))

    items = found + more
    fits = [total for total in range(found, items + 1) if total == found or at_most(total) >= chance * (1 - 1e-12)]
    assert most_in_all(found, rate, items, chance) == max(fits)


def test_nothing_sampled_bounds_nothing_and_nothing_dropped_is_complete() -> None:
    audit, _ = plan(0)
    result = audit_result(audit, [], [], 0.5, 50)
    assert result.bound == sum(audit.dropped)
    assert (result.recall, result.least_recall) == (1.0, 0.0)
    values = tuple(np.full(10, v, np.float32) for v in (0.5, 0.1, 0))
    population = measure(stream(*values), 20)
    none = audit_plan(population, fix_cut(population), 5)
    assert (none.sampled(np.arange(10), *values) == -1).all()
    assert audit_result(none, [], [], 0.5, 20).least_recall == 1.0


def test_samples_cost_the_share_of_the_passes() -> None:
    assert audit_samples(60_000 * 36, 400) == 54


def test_wrong_arguments_are_named() -> None:
    audit, values = plan(10)
    with pytest.raises(ValueError, match=r"ids \(2,\) must have the shape of the scores \(20000,\)"):
        audit.sampled([1, 2], *values)
    with pytest.raises(ValueError, match=r"strata must lie in \[0, 3\), got -1 to 1"):
        audit_result(audit, [-1, 1], [0.5, 0.5], 0.1, 5)
    with pytest.raises(ValueError, match=r"item ids must be >= 0, got -1"):
        audit.sampled([-1], *(v[:1] for v in values))
    with pytest.raises(ValueError, match=r"seed must satisfy 0 <= seed < 2\*\*64, got -1"):
        plan(10, seed=-1)
