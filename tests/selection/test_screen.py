"""Screening: survivors, what is expected of them, and the passes of the second stage."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcscore.selection.screening.population import measure
from mcscore.selection.screening.screen import Cut, certify, choose_passes, fix_cut

from .noisy import best, pool, shared
from .test_screen_population import ERROR, VALUE, stream


def column(values: list[float] | float, n: int = 0) -> np.ndarray:
    return np.full(n, values, np.float32) if n else np.array(values, np.float32)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(VALUE, ERROR, VALUE), max_size=40), st.integers(1, 12))
def test_more_recall_is_a_superset_and_nan_never_survives(rows: list[tuple[float, float, float]], top: int) -> None:
    values = np.array(rows, np.float32).reshape(-1, 3).T
    population = measure(stream(*values), top)
    scored = ~np.isnan(values).any(0)
    before = np.zeros(len(rows), bool)
    for recall in (0.3, 0.8, 0.99, 1.0):
        cut = fix_cut(population, recall)
        survives = cut.survives(*values)
        assert survives.sum() == cut.survivors >= min(top, scored.sum())
        assert not (survives & ~scored).any()
        assert not (before & ~survives).any()
        assert cut.expected_recall >= recall - 1e-9
        assert bool(cut.reason) == (cut.survivors == cut.items) == (cut.threshold is None)
        before = survives


def test_survival_depends_on_the_item_alone_and_not_on_its_own_error() -> None:
    values = pool(5000).measured(16, 0)
    cut = fix_cut(measure(stream(*values), 50), 0.95)
    whole = cut.survives(*values)
    one_by_one = np.concatenate([cut.survives(*(part[i : i + 1] for part in values)) for i in range(500)])
    np.testing.assert_array_equal(one_by_one, whole[:500])
    # No pass of 16 disagreed: an error of 0 says nothing.
    np.testing.assert_array_equal(cut.survives(values[0], np.zeros_like(values[1]), values[2]), whole)


@pytest.mark.parametrize("k", [50, 200, 1000])
def test_expected_recall_is_calibrated(k: int) -> None:
    kept: dict[float, list[float]] = {0.8: [], 0.9: [], 0.97: [], 0.99: []}
    for seed in range(8):
        true = pool(20_000, seed)
        values = true.measured(16, 100 + seed)
        population = measure(stream(*values), k)
        for recall in kept:
            cut = fix_cut(population, recall)
            kept[recall].append(cut.survives(*values)[true.best(k)].mean() - cut.expected_recall)
    # 8 pools; the standard deviation of a share r of k items is sqrt(r (1 - r) / k).
    for recall, off in kept.items():
        assert abs(np.mean(off)) < 0.005 + 3 * math.sqrt(recall * (1 - recall) / k / 8), (recall, np.mean(off))


def test_survivors_are_as_few_as_if_the_truth_were_known() -> None:
    true = pool(60_000)
    values = true.measured(16, 1)
    k = 200
    cut = fix_cut(measure(stream(*values), k), 0.95)
    x = values[0] - values[2]
    needed = (x >= np.quantile(x[true.best(k)], 0.05)).sum()
    assert needed * 0.75 < cut.survivors < needed * 1.33


def test_a_cut_is_plain_json() -> None:
    cut = fix_cut(measure(stream(*pool(2000).measured(16, 0)), 20))
    assert Cut(**json.loads(json.dumps(asdict(cut), allow_nan=False))) == cut


@pytest.mark.parametrize(
    ("score", "se", "top", "reason"),
    [
        (column([0.3, 0.1]), column([0.1, 0.1]), 3, "only 2 items have a score, and the best 3 are wanted"),
        (column([0.3, 0.1]), column([0.1, 0.1]), 2, "only 2 items have a score, and the best 2 are wanted"),
        (column([0.4]), column([0.0]), 1, "only 1 items have a score, and the best 1 are wanted"),
        (column([]), column([]), 1, "only 0 items have a score, and the best 1 are wanted"),
        (column([math.nan] * 3), column([0.1] * 3), 1, "only 0 items have a score, and the best 1 are wanted"),
        (column(0.5, 100), column(0.0, 100), 10, "100 items share the score of the best 10: they cannot be told apart"),
        (column(0.5, 100), column(0.1, 100), 10, "100 items share the score of the best 10: they cannot be told apart"),
        (column(0.0, 100), column(0.0, 100), 10, "100 items share the score of the best 10: they cannot be told apart"),
    ],
)
def test_where_nothing_can_be_dropped_the_reason_is_given(
    score: np.ndarray, se: np.ndarray, top: int, reason: str
) -> None:
    population = measure(stream(score, se, np.zeros_like(score)), top)
    cut = fix_cut(population, 0.9)
    assert (cut.threshold, cut.reason, cut.expected_recall) == (None, reason, 1.0)
    np.testing.assert_array_equal(cut.survives(score, se, np.zeros_like(score)), ~np.isnan(score))
    assert math.isfinite(cut.border)
    assert choose_passes(population, 16).cut.survivors == cut.survivors


def test_ties_at_the_border_all_survive_and_what_is_below_does_not() -> None:
    score = np.concatenate([column(0.9, 3), column(0.5, 40), column(0.1, 57)])
    zero = np.zeros_like(score)
    cut = fix_cut(measure(stream(score, zero, zero), 10), 0.99)
    np.testing.assert_array_equal(cut.survives(score, zero, zero), score >= 0.5)


@pytest.mark.parametrize("k", [50, 1000])
def test_the_choice_keeps_what_it_promises(k: int) -> None:
    true = pool(20_000)
    off = []
    for seed in range(4):
        values = true.measured(16, seed)
        choice = choose_passes(measure(stream(*values), k), 16, budget=60)
        alive = choice.cut.survives(*values)
        assert choice.cost == pytest.approx(16 + alive.mean() * choice.passes)
        assert choice.cost <= 60
        final = np.where(alive, true.measured(choice.passes, 50 + seed)[0], -1)
        off.append(shared(best(final, k), true.best(k)) - choice.expected_recall)
        flat = shared(best(true.measured(60, 90 + seed)[0], k), true.best(k))
        assert choice.expected_recall > flat
    assert abs(np.mean(off)) < 0.03


def test_the_choice_spends_less_for_less_and_never_more_than_the_budget() -> None:
    population = measure(stream(*pool(20_000).measured(16, 0)), 200)
    choices = [choose_passes(population, 16, target=target) for target in (0.7, 0.8, 0.9)]
    assert [c.expected_recall >= t for c, t in zip(choices, (0.7, 0.8, 0.9), strict=True)] == [True] * 3
    assert choices[0].cost <= choices[1].cost <= choices[2].cost <= 100
    limited = [choose_passes(population, 16, target=1.0, budget=budget) for budget in (25, 40, 100)]
    assert [c.cost <= b for c, b in zip(limited, (25, 40, 100), strict=True)] == [True] * 3
    assert limited[0].expected_recall < limited[1].expected_recall < limited[2].expected_recall
    assert "the best recall within 40 passes an item" in limited[1].why
    assert "the cheapest of" in choices[0].why
    # A survivor pays for what runs once a second time.
    assert choose_passes(population, 16, prefix=50.0).cost <= 150
    over = choose_passes(population, 16, budget=16)
    assert over.cost == min(choice.cost for choice in (over, *choices, *limited))
    assert "yet more than 16 passes an item" in over.why
    with pytest.raises(ValueError, match="at most 50, is more than the 64 of the screen"):
        choose_passes(population, 64, passes=(50,))


@pytest.mark.parametrize("passes", [50, 200, 800])
def test_the_certificate_is_the_recall_of_the_final_selection(passes: int) -> None:
    true, k, off = pool(20_000), 200, []
    for seed in range(6):
        values = true.measured(16, seed)
        cut = fix_cut(measure(stream(*values), k), 0.9)
        alive = cut.survives(*values)
        final = true.measured(passes, 60 + seed)
        certificate = certify(cut, measure(stream(*(part[alive] for part in final)), k))
        found = shared(best(np.where(alive, final[0], -1), k), true.best(k))
        assert certificate.survived == cut.expected_recall
        assert certificate.expected_recall <= cut.expected_recall
        off.append(found - certificate.expected_recall)
    assert abs(np.mean(off)) < 0.03, off
