"""TopK: the result is the head of one full sort, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcscore.selection import TopK
from mcscore.selection.topk import best_first

SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, 0.5, 0.5000001]
SCORE = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32))


def full_sort(ids: list[int], scores: list[float], k: int) -> tuple[list[int], list[float]]:
    """The definition: score descending, id ascending, NaN left out."""
    known = {i: float(np.float32(s)) + 0.0 for i, s in zip(ids, scores, strict=True) if not np.isnan(s)}
    best = sorted(known, key=lambda i: (-known[i], i))[:k]
    return best, [known[i] for i in best]


def check(best: TopK, ids: list[int], scores: list[float]) -> None:
    got_ids, got_scores = best.result()
    want_ids, want_scores = full_sort(ids, scores, best.k)
    assert got_ids.dtype == np.int64
    assert got_scores.dtype == np.float32
    assert got_ids.tolist() == want_ids
    assert got_scores.tolist() == want_scores


@given(st.data())
def test_equals_full_sort_for_any_split_order_and_repetition(data: st.DataObject) -> None:
    scores = data.draw(st.lists(SCORE, max_size=60))
    # All within a range of 2^32, across its ends, in several of them, and up to the largest id.
    start, stride = data.draw(st.sampled_from([(0, 1), (2**32 - 30, 1), (2**33 - 7, 3), (5, 2**31), (2**63 - 60, 1)]))
    ids = [start + stride * i for i in range(len(scores))]
    k = data.draw(st.integers(0, 70))
    order = data.draw(st.permutations(range(len(ids))))
    order = list(order) + data.draw(st.lists(st.sampled_from(range(len(ids))), max_size=30) if ids else st.just([]))
    best, at = TopK(k), 0
    while at < len(order):
        some = order[at : at + data.draw(st.integers(1, 20))]
        best.update(np.array([ids[i] for i in some]), np.array([scores[i] for i in some], np.float32))
        at += len(some)
    check(best, ids, scores)


@given(st.data())
def test_merge_is_associative_commutative_and_idempotent(data: st.DataObject) -> None:
    scores = data.draw(st.lists(SCORE, min_size=3, max_size=60))
    first = data.draw(st.sampled_from([0, 2**32 - 9, 2**33 - 20]))
    ids, k = list(range(first, first + len(scores))), data.draw(st.integers(0, 20))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), min_size=2, max_size=2)))

    def part(number: int) -> TopK:
        a, b = ([0, *cuts][number], [*cuts, len(ids)][number])
        return TopK(k).update(np.array(ids[a:b], np.int64), np.array(scores[a:b], np.float32))

    check(part(0).merge(part(1).merge(part(2))), ids, scores)
    check(part(0).merge(part(1)).merge(part(2)), ids, scores)
    check(part(2).merge(part(0)).merge(part(1)).merge(part(0)), ids, scores)


@pytest.mark.parametrize("kind", ["random", "rounded", "equal", "ascending", "descending"])
@pytest.mark.parametrize("k", [1, 100, 5_000])
def test_does_not_depend_on_block_size_when_scores_tie(kind: str, k: int) -> None:
    n = 300_000
    scores = np.random.default_rng(0).random(n, dtype=np.float32)
    scores = {
        "random": scores,
        "rounded": np.round(scores * 256) / np.float32(256),
        "equal": np.zeros(n, np.float32),
        "ascending": np.sort(scores),
        "descending": np.sort(scores)[::-1],
    }[kind]
    ids = np.arange(n)
    want = ids[np.lexsort((ids, -scores))][:k]
    for size in (n, 64_000, 7_777):
        best = TopK(k)
        for at in reversed(range(0, n, size)):
            best.update(ids[at : at + size], scores[at : at + size])
        assert np.array_equal(best.result()[0], want), size


def test_repeating_every_block_changes_nothing() -> None:
    n, k = 200_000, 3_000
    scores = np.round(np.random.default_rng(1).random(n, dtype=np.float32) * 64)
    ids = np.arange(n)
    best = TopK(k)
    for at in range(0, n, 10_000):
        for _ in range(3):
            best.update(ids[at : at + 10_000], scores[at : at + 10_000])
    assert np.array_equal(best.result()[0], ids[np.lexsort((ids, -scores))][:k])


def test_repeats_within_a_block_do_not_push_others_out() -> None:
    ids, scores = np.array([1, 1, 1, 1, 1, 1, 2]), np.array([0.9] * 6 + [0.5], np.float32)
    assert TopK(2).update(ids, scores).result()[0].tolist() == [1, 2]


def test_result_may_be_read_between_updates() -> None:
    best = TopK(2).update([5, 6], [1.0, 2.0])
    assert best.result()[0].tolist() == [6, 5]
    assert best.update([4], [1.0]).result()[0].tolist() == [6, 4]


def test_nan_never_enters_even_when_nothing_else_is_there() -> None:
    ids, scores = TopK(3).update(np.arange(4), np.array([np.nan, -np.inf, np.nan, np.nan], np.float32)).result()
    assert ids.tolist() == [1]
    assert scores.tolist() == [-np.inf]


def test_minus_zero_ties_with_zero() -> None:
    ids, scores = TopK(3).update(np.array([9, 2, 5]), np.array([0.0, -0.0, 0.0], np.float32)).result()
    assert ids.tolist() == [2, 5, 9]
    assert not np.signbit(scores).any()


def test_excluded_items_never_enter() -> None:
    scores = np.arange(10, dtype=np.float32)
    ids, _ = TopK(3).update(np.arange(10), scores, exclude=scores >= 7).result()
    assert ids.tolist() == [6, 5, 4]


def test_k_zero_and_k_beyond_n() -> None:
    assert TopK(0).update([1, 2], [3.0, 4.0]).result()[0].tolist() == []
    assert TopK(9).update([1, 2], [3.0, 4.0]).result()[0].tolist() == [2, 1]
    assert TopK(5).result()[0].tolist() == []


@pytest.mark.parametrize("k", [-1, 1.5, True, "3"])
def test_a_k_that_is_no_count_is_an_error(k: object) -> None:
    with pytest.raises(ValueError, match="k must be a whole number"):
        TopK(k)  # type: ignore[arg-type]


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"ids \(2,\) and scores \(3,\)"):
        TopK(1).update([1, 2], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"exclude \(1,\)"):
        TopK(1).update([1, 2], [1.0, 2.0], exclude=[True])
    with pytest.raises(ValueError, match="found -7"):
        TopK(1).update([1, -7], [1.0, 2.0])
    with pytest.raises(ValueError, match="found -9223372036854775808"):
        TopK(1).update(np.array([1, 2**63], np.uint64), [1.0, 2.0])
    with pytest.raises(ValueError, match="found -1"):
        TopK(1).update(range(-1, 1), [1.0, 2.0])
    with pytest.raises(ValueError, match="integers, got float64"):
        TopK(1).update([1.0], [1.0])
    with pytest.raises(ValueError, match="best 2 into the best 1"):
        TopK(1).merge(TopK(2))


@pytest.mark.parametrize("k", [1, 700, 30_000])
@pytest.mark.parametrize("levels", [4, 5_000, 10**9])
def test_ids_on_both_sides_of_32_bits(k: int, levels: int) -> None:
    n, half = 100_000, 50_000
    rng = np.random.default_rng(levels)
    scores = np.floor(rng.random(n) * levels).astype(np.float32)
    ids = np.arange(2**32 - half, 2**32 + half) + np.repeat([0, 2**33], half)
    want = ids[np.lexsort((ids, -scores))][:k]
    rising, falling, ranged, shuffled = TopK(k), TopK(k), TopK(k), TopK(k)
    for at in range(0, n, 12_500):
        part = slice(at, at + 12_500)
        rising.update(ids[part], scores[part])
        falling.update(ids[n - at - 12_500 : n - at], scores[n - at - 12_500 : n - at])
        ranged.update(range(int(ids[at]), int(ids[at]) + 12_500), scores[part])
    shuffled.update(ids[order := rng.permutation(n)], scores[order])
    for best in (rising, falling, ranged, shuffled, TopK(k).merge(falling).merge(rising)):
        assert np.array_equal(best.result()[0], want)


def test_best_first_sorts_any_ids() -> None:
    ids = np.array([2**63 - 1, 2**33, 2**32, 7, 2**33 + 1])
    scores = np.array([0.5, 0.5, -0.0, 0.0, 0.9], np.float32)
    assert ids[best_first(ids, scores)].tolist() == [2**33 + 1, 2**33, 2**63 - 1, 7, 2**32]
    with pytest.raises(ValueError, match=r"found -3"):
        best_first(np.array([1, -3]), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="integers, not float64"):
        best_first(np.array([1.0]), np.zeros(1, np.float32))


def test_best_first_leaves_out_nan() -> None:
    order = best_first(np.array([4, 3, 2, 1]), np.array([0.5, np.nan, 0.5, 0.9], np.float32))
    assert order.tolist() == [3, 2, 0]
