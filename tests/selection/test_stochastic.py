"""Ranked methods with noise: the law of the draw, and its independence of blocks, order and seeds of others."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcscore.masks import philox4x32
from mcscore.selection import Best, select, stochastic
from mcscore.selection.stochastic import Ranks, gumbel, power, softmax, softrank, uniform

METHODS = {"power": power, "softmax": softmax, "softrank": softrank}


def plackett_luce(weights: np.ndarray, k: int) -> dict[tuple[int, ...], float]:
    """The probability of each ordered draw of k without repetition, from the definition."""
    law = {}
    for draw in itertools.permutations(range(len(weights)), k):
        left, p = float(weights.sum()), 1.0
        for i in draw:
            p *= weights[i] / left
            left -= weights[i]
        law[draw] = p
    return law


SCORES = np.array([0.9, 0.2, 0.5, 0.7, 0.35], np.float32)


@pytest.mark.parametrize(
    ("method", "beta", "weights"),
    [
        ("power", 1.7, SCORES.astype(np.float64) ** 1.7),
        ("softmax", 3.0, np.exp(3.0 * SCORES.astype(np.float64))),
        ("softrank", 1.0, 1 / np.array([1.0, 5, 3, 2, 4])),
    ],
)
def test_draws_have_the_frequencies_of_plackett_and_luce(method: str, beta: float, weights: np.ndarray) -> None:
    draws, k = 40_000, 2
    # One call for all draws: the noise depends on the id alone, so each five ids are a draw of their own.
    values = METHODS[method](np.tile(SCORES, draws), np.arange(5 * draws), np.tile([1, 5, 3, 2, 4], draws), beta, 11)
    order = np.argsort(-values.reshape(draws, 5), axis=1)[:, :k]
    counted = {draw: int((order == draw).all(1).sum()) for draw in itertools.permutations(range(5), k)}
    law = plackett_luce(weights, k)
    chi2 = sum((counted[draw] - draws * p) ** 2 / (draws * p) for draw, p in law.items())
    freedom = len(law) - 1
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)  # beyond it by chance once in 3,000 laws


def test_uniforms_have_53_bits_of_philox_and_lie_inside() -> None:
    ids = np.array([0, 1, 2**32 + 5, 2**62], np.int64)
    words = philox4x32(np.array([[i & 0xFFFFFFFF, i >> 32, 0x67756D62, 0] for i in ids.tolist()], np.uint32), 2**63 + 1)
    want = [((int(w[0]) << 21 | int(w[1]) >> 11) + 0.5) * 2.0**-53 for w in words]
    assert uniform(ids, 2**63 + 1).tolist() == want
    many = uniform(np.arange(200_000), 3)
    assert 0 < many.min() < 1e-4
    assert 1 - 1e-4 < many.max() < 1
    assert abs(many.mean() - 0.5) < 3 / math.sqrt(12 * len(many))
    assert len(np.unique(many)) == len(many)  # of 32 bits, 4 or 5 of so many would be equal
    assert abs(gumbel(np.arange(200_000), 4).mean() - 0.5772157) < 3 * math.pi / math.sqrt(6 * len(many))


def test_without_the_extension_the_numbers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).integers(0, 2**63, 70_001)
    want = uniform(ids, 2**64 - 3)
    monkeypatch.setattr(stochastic, "native", None)
    np.testing.assert_array_equal(uniform(ids, 2**64 - 3), want)


@pytest.mark.parametrize(
    ("seed", "ids", "says"), [(-1, [0], "seed must"), (2**64, [0], "seed must"), (0, [-1], "ids must be >= 0")]
)
def test_seeds_and_ids_out_of_range_are_refused(seed: int, ids: list[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        uniform(ids, seed)


@given(
    st.sampled_from(sorted(METHODS)),
    st.lists(st.floats(0.015625, 8, width=16), min_size=1, max_size=40, unique=True),
    st.integers(0, 2**64 - 1),
)
def test_a_great_beta_is_top_k(method: str, scores: list[float], seed: int) -> None:
    k = (len(scores) + 1) // 2
    ids = np.arange(len(scores)) * 7
    greedy = select(ids, scores, k, diversity="none")
    assert select(ids, scores, k, diversity=method, beta=1e9, seed=seed).ids.tolist() == greedy.ids.tolist()


@given(st.sampled_from(sorted(METHODS)), st.integers(0, 10**6), st.integers(1, 300), st.integers(0, 3))
def test_neither_order_nor_blocks_nor_merging_change_a_draw(method: str, seed: int, n: int, ties: int) -> None:
    rng = np.random.default_rng(seed)
    ids, scores = rng.permutation(10 * n)[:n], np.round(rng.random(n), ties + 1).astype(np.float32)
    k = int(rng.integers(0, n + 1))
    want = select(ids, scores, k, diversity=method, seed=seed)
    mixed = rng.permutation(n)
    again = select(ids[mixed], scores[mixed], k, diversity=method, seed=seed)
    assert again.ids.tolist() == want.ids.tolist()
    assert again.rank.tolist() == want.rank.tolist()

    ranks = Ranks(1)
    cuts = np.sort(rng.integers(0, n + 1, 3))
    for part in np.split(np.arange(n), cuts):
        ranks.update(ids[part], scores[part])
    assert ranks.of(scores).tolist() == (1 + (scores[None] > scores[:, None]).sum(1)).tolist()
    streams = [Best(k), Best(k)]
    for at, part in enumerate(np.split(np.arange(n), cuts)):
        streams[at % 2].update(
            ids[part], METHODS[method](scores[part], ids[part], ranks.of(scores[part]), seed=seed), scores[part]
        )
    best = streams[1].merge(streams[0])
    beta = {"power": 4.0, "softmax": 8.0, "softrank": 1.0}[method]
    whole = METHODS[method](scores, ids, ranks.of(scores), beta, seed)
    assert best.ids.tolist() == ids[np.lexsort((ids, -whole))[:k]].tolist() == want.ids.tolist()


def test_an_item_is_drawn_or_not_whatever_else_is_dropped() -> None:
    ids, scores = np.arange(1000), np.random.default_rng(0).random(1000).astype(np.float32)
    all_of_them = select(ids, scores, 100, diversity="power", seed=5).ids
    rest = np.setdiff1d(ids, all_of_them[:30])
    assert select(rest, scores[rest], 70, diversity="power", seed=5).ids.tolist() == all_of_them[30:].tolist()
    assert select(ids, scores, 100, diversity="power", seed=6).ids.tolist() != all_of_them.tolist()


def test_power_takes_zeros_last_by_id_and_refuses_negative_scores() -> None:
    scores = np.array([0, 0.5, 0, 0.1, 0], np.float32)
    chosen = select([9, 8, 7, 6, 5], scores, 4, diversity="power", seed=3).ids.tolist()
    assert set(chosen[:2]) == {8, 6}
    assert chosen[2:] == [5, 7]
    with pytest.raises(ValueError, match=r"score of item 7 is -0.25, which is negative: choose diversity 'softmax'"):
        select([9, 8, 7], np.float32([1, 2, -0.25]), 1, diversity="power")
    assert len(select([9, 8, 7], np.float32([1, 2, -0.25]), 3, diversity="softmax").ids) == 3


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_a_beta_that_is_no_positive_number_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be a finite number > 0"):
        select([1], [1.0], 1, diversity="softmax", beta=beta)


def test_ranks_are_exact_at_the_top_and_close_below() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(200_000, np.float32) ** 2
    scores[::1000] = np.nan
    out = np.zeros(len(scores), bool)
    out[1::500] = True
    ranks = Ranks(10)
    for at in range(0, len(scores), 77_777):
        part = slice(at, at + 77_777)
        ranks.update(np.arange(len(scores))[part], scores[part], out[part])
    counted = np.sort(scores[~np.isnan(scores) & ~out])[::-1]
    exact = 1 + np.searchsorted(-counted, -scores[~np.isnan(scores)])
    found = ranks.of(scores[~np.isnan(scores)])
    top = exact <= 1 << 16
    assert np.array_equal(found[top], exact[top])
    assert (found <= exact)[~top].all()
    assert (np.log(exact / found)[~top] < 1e-3).all()


def test_best_keeps_o_of_k_items_and_the_quota_of_every_group() -> None:
    rng = np.random.default_rng(2)
    ids, values, groups = rng.permutation(300_000), np.round(rng.random(300_000), 4), rng.integers(0, 100_000, 300_000)
    best = Best(500, most=2)
    for at in range(0, len(ids), 9_999):
        part = slice(at, at + 9_999)
        best.update(ids[part], values[part], groups=groups[part])
        assert best._held <= 500 + (1 << 14) + 9_999
    seen: dict[int, int] = {}
    want = []
    for i in np.lexsort((ids, -values)):
        if seen.get(groups[i], 0) < 2 and len(want) < 500:
            want.append(int(ids[i]))
            seen[groups[i]] = seen.get(groups[i], 0) + 1
    assert best.ids.tolist() == want
    assert (np.bincount(best.groups).max() <= 2).all()
