"""TopK: the result is the head of one full sort, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcscore.selection import TopK
from mcscore.selection.topk import MAX_ID, best_first, keys_of, split_keys

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
    start = data.draw(st.sampled_from([0, 1000, MAX_ID - 60]))
    ids = [start + i for i in range(len(scores))]
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
    ids, k = list(range(len(scores))), data.draw(st.integers(0, 20))
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
    with pytest.raises(ValueError, match="found 4294967296"):
        TopK(1).update([1, 2**32], [1.0, 2.0])
    with pytest.raises(ValueError, match="integers, got float64"):
        TopK(1).update([1.0], [1.0])
    with pytest.raises(ValueError, match="best 2 into the best 1"):
        TopK(1).merge(TopK(2))


@given(st.lists(st.tuples(st.integers(0, MAX_ID), st.floats(width=32, allow_nan=False)), min_size=1))
def test_keys_order_as_their_items_and_give_them_back(items: list[tuple[int, float]]) -> None:
    ids = np.array([i for i, _ in items])
    scores = np.array([s for _, s in items], np.float32)
    keys = keys_of(ids, scores)
    back_ids, back_scores = split_keys(keys)
    assert np.array_equal(back_ids, ids)
    assert np.array_equal(back_scores, scores + np.float32(0))
    by_key = np.argsort(keys, kind="stable")[::-1]
    assert [(-float(scores[i]), int(ids[i])) for i in by_key] == sorted((-float(s), i) for i, s in items)


def test_best_first_leaves_out_nan() -> None:
    order = best_first(np.array([4, 3, 2, 1]), np.array([0.5, np.nan, 0.5, 0.9], np.float32))
    assert order.tolist() == [3, 2, 0]
