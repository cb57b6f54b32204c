"""The radius filter: its two properties for any points, its exactness at the boundary, its errors."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcscore.selection import Limits, Room, select
from mcscore.selection import cells as cells_module
from mcscore.selection import radius as filter_module
from mcscore.selection.candidates import Picks
from mcscore.selection.neighbors import Others, pairs_within, squared_distances
from mcscore.selection.radius import BLOCK


def radius(
    ids: np.ndarray,
    scores: np.ndarray,
    points: np.ndarray,
    k: int,
    r: float | None = None,
    labeled_embeddings: object = None,
) -> Picks:
    """The positions in the arrays, as the ids tell them, and the radius."""
    chosen = select(ids, scores, k, embeddings=points, radius=r, labeled_embeddings=labeled_embeddings)
    return Picks(np.array([ids.tolist().index(i) for i in chosen.ids.tolist()], np.int64), {"radius": chosen.radius})


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1))


def greedy(scores: np.ndarray, points: np.ndarray, k: int, r: float, labeled: np.ndarray | None = None) -> list[int]:
    """The definition, one point at a time; ids are positions."""
    close = distances(points, points) <= r
    blocked = np.zeros(len(points), bool) if labeled is None else (distances(points, labeled) <= r).any(1)
    kept: list[int] = []
    for i in np.lexsort((np.arange(len(scores)), -scores)):
        if not blocked[i] and len(kept) < k:
            kept.append(int(i))
            blocked |= close[i]
    return kept


def clouds(rng: np.random.Generator, groups: int, each: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    centers = rng.normal(size=(groups, width)) * 10
    points = (centers.repeat(each, 0) + rng.normal(size=(groups * each, width)) * 0.1).astype(np.float32)
    return rng.random(len(points)).astype(np.float32), points


@given(st.integers(0, 10**6), st.integers(1, 700), st.integers(1, 5), st.floats(0, 6), st.booleans())
def test_kept_are_apart_and_what_was_skipped_is_near_a_better_one(
    seed: int, n: int, width: int, r: float, with_labeled: bool
) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(-4, 5, (n, width)).astype(np.float32)  # a lattice: repeats and distances of exactly r abound
    scores = rng.integers(0, 20, n).astype(np.float32)
    labeled = rng.integers(-4, 5, (7, width)).astype(np.float32) if with_labeled else None
    want = greedy(scores, points, n, r, labeled)
    picks = radius(np.arange(n), scores, points, len(want), r, labeled)
    assert picks.positions.tolist() == want
    assert picks.facts["radius"] == r
    apart = distances(points[want], points[want])
    assert (apart[~np.eye(len(want), dtype=bool)] > r).all()
    near_better = (distances(points, points[want]) <= r) & (scores[want] >= scores[:, None])
    near_labeled = np.zeros(n, bool) if labeled is None else (distances(points, labeled) <= r).any(1)
    skipped = np.setdiff1d(np.arange(n), want)
    assert (near_better.any(1) | near_labeled)[skipped].all()


@pytest.mark.parametrize("width", [16, 600])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_distance_of_exactly_r_is_within_wherever_the_points_lie(offset: float, width: int) -> None:
    # 1e3 from the origin a float32 product |x|² + |y|² - 2xy is off by 0.1 and more; the decision must not be.
    n = 3 * BLOCK
    points = np.full((n, width), offset, np.float32)
    points[:, 0] += np.arange(n, dtype=np.float32) / 4
    scores = -np.arange(n, dtype=np.float32)
    picks = radius(np.arange(n), scores, points, n // 5, r=1.0)
    assert picks.positions.tolist() == list(range(0, n - 4, 5))[: n // 5]  # steps of 1/4: the 5th is the first beyond r


@pytest.mark.parametrize("width", [32, 600])  # FAISS 1.15 takes differences at 128, products at 512
def test_neighbor_decisions_equal_float64_ones(width: int) -> None:
    rng = np.random.default_rng(3)
    points = (rng.normal(size=(BLOCK, width)) * 1e-3 + 50).astype(np.float32)
    others = np.concatenate([points[::7], (rng.normal(size=(40, width)) * 1e-3 + 50).astype(np.float32)])
    for r in (0.0, 5e-3, float(distances(points[:1], points[1:2])[0, 0])):
        assert np.array_equal(Others.of(others).any_within(points, r), (distances(points, others) <= r).any(1))
        assert np.array_equal(pairs_within(points, r), distances(points, points) <= r)


def test_the_searched_radius_keeps_k_and_one_slightly_greater_does_not() -> None:
    scores, points = clouds(np.random.default_rng(0), groups=40, each=30, width=8)
    picks = radius(np.arange(len(scores)), scores, points, 60)
    assert len(picks.positions) == 60
    assert picks.facts["radius"] is not None
    apart = distances(points[picks.positions], points[picks.positions])
    assert apart[~np.eye(60, dtype=bool)].min() > picks.facts["radius"]
    assert greedy(scores, points, 60, picks.facts["radius"]) == picks.positions.tolist()
    assert len(greedy(scores, points, 60, picks.facts["radius"] * 1.002)) < 60


def test_near_duplicates_fall_out() -> None:
    scores, points = clouds(np.random.default_rng(1), groups=25, each=40, width=16)
    picks = radius(np.arange(len(scores)), scores, points, 25)
    assert sorted(picks.positions // 40) == list(range(25))  # one of every group
    at_three = radius(np.arange(len(scores)), scores, points, 25, r=3.0)
    best = [40 * g + int(np.argmax(scores[40 * g : 40 * g + 40])) for g in range(25)]
    assert sorted(at_three.positions.tolist()) == best  # groups are 30 apart and 1 wide: of each the best


def test_candidates_near_labeled_items_fall_out() -> None:
    scores, points = clouds(np.random.default_rng(2), groups=10, each=20, width=8)
    labeled = points[[0, 21, 42]]
    picks = radius(np.arange(len(scores)), scores, points, 7, r=3.0, labeled_embeddings=labeled)
    assert sorted(picks.positions // 20) == list(range(3, 10))
    searched = radius(np.arange(len(scores)), scores, points, 7, labeled_embeddings=labeled)
    assert sorted(searched.positions // 20) == list(range(3, 10))
    none_labeled = radius(np.arange(len(scores)), scores, points, 7, r=3.0, labeled_embeddings=labeled[:0])
    assert (
        none_labeled.positions.tolist() == radius(np.arange(len(scores)), scores, points, 7, r=3.0).positions.tolist()
    )


def test_the_choice_does_not_depend_on_the_order_of_candidates_or_on_faiss_threads() -> None:
    scores, points = clouds(np.random.default_rng(4), groups=50, each=20, width=64)
    scores = np.round(scores * 8) / np.float32(8)
    ids = np.arange(len(scores)) * 3 + 5
    want = select(ids, scores, 70, embeddings=points)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        mixed = np.random.default_rng(5).permutation(len(ids))
        got = select(ids[mixed], scores[mixed], 70, embeddings=points[mixed])
        assert faiss.omp_get_max_threads() == 2  # as it was, although FAISS ran on one
    finally:
        faiss.omp_set_num_threads(before)
    assert got.ids.tolist() == want.ids.tolist()
    assert got.radius == want.radius
    assert got.rank.tolist() == want.rank.tolist()


def test_k_zero_k_one_and_k_all() -> None:
    points = np.arange(5, dtype=np.float32)[:, None]
    scores = np.array([1, 5, 2, 3, 4], np.float32)
    assert radius(np.arange(5), scores, points, 0).positions.tolist() == []
    assert radius(np.arange(5), scores, points, 1).positions.tolist() == [1]
    everything = radius(np.arange(5), scores, points, 5)
    assert everything.positions.tolist() == [1, 4, 3, 2, 0]
    assert everything.facts["radius"] == pytest.approx(1.0, rel=2e-3)
    assert everything.facts["radius"] is not None
    assert everything.facts["radius"] < 1.0


def test_points_that_all_coincide_leave_one() -> None:
    points = np.ones((600, 8), np.float32)
    with pytest.raises(ValueError, match="k = 2, but only 1 of 600 candidates remain at radius 0"):
        radius(np.arange(600), np.ones(600), points, 2)
    assert radius(np.arange(600), np.ones(600), points, 1).positions.tolist() == [0]


def test_errors_say_what_remains_and_what_to_do() -> None:
    ids, scores = np.arange(10), np.arange(10, dtype=np.float32)
    points = np.arange(10, dtype=np.float32)[:, None]
    with pytest.raises(
        ValueError, match=r"k = 6, but only 5 of 10 candidates remain at radius 1: .*smaller k or radius"
    ):
        radius(ids, scores, points, 6, r=1.0)
    with pytest.raises(ValueError, match="k = 11, but only 10 candidates are left: ask for at most 10"):
        radius(ids, scores, points, 11)
    scores[3] = np.nan
    with pytest.raises(ValueError, match=r"only 9 candidates are left \(1 more have no score\)"):
        select(ids, scores, 10, diversity="none")
    points[4] = np.inf
    with pytest.raises(ValueError, match="embeddings must be finite; 1 are not, the first of id 4"):
        radius(ids, scores, points, 2)
    with pytest.raises(ValueError, match="needs embeddings"):
        select(ids, scores, 2)
    with pytest.raises(ValueError, match=r"embeddings have shape \(9, 1\); \(10, D\) is needed"):
        select(ids, scores, 2, embeddings=points[:9])
    with pytest.raises(ValueError, match="radius must be finite and >= 0, got -1"):
        select(ids, scores, 2, embeddings=np.ones((10, 2)), radius=-1)
    with pytest.raises(ValueError, match="differ in width"):
        select(ids, scores, 2, embeddings=np.ones((10, 2)), labeled_embeddings=np.ones((1, 3)))
    with pytest.raises(ValueError, match="id 7 is a candidate more than once"):
        select([7, 7], [1.0, 2.0], 1, diversity="none")
    with pytest.raises(ValueError, match="'farthest' is unknown; choose from radius, none, power"):
        select(ids, scores, 2, diversity="farthest")
    with pytest.raises(ValueError, match="has no radius"):
        select(ids, scores, 2, diversity="none", radius=1.0)


def test_squared_distances_are_sums_of_squared_differences() -> None:
    assert squared_distances(np.float32([1e4, 1]), np.float32([[1e4, 1], [1e4, 2], [0, 1]])).tolist() == [0, 1, 1e8]


def test_of_many_candidates_cells_find_nearly_all_near_ones_and_the_share_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, points = clouds(np.random.default_rng(7), groups=150, each=40, width=8)
    want = select(np.arange(6000), scores, 150, embeddings=points, radius=3.0)
    assert "apart" not in want.facts
    monkeypatch.setattr(filter_module, "CELLS_FROM", 1000)
    monkeypatch.setattr(cells_module, "CELLS", 64)
    found = select(np.arange(6000), scores, 150, embeddings=points, radius=3.0)
    assert found.ids.tolist() == want.ids.tolist()  # groups lie in few cells
    assert found.facts["apart"] == 1.0
    monkeypatch.setattr(cells_module, "PROBED", 1)
    cloud = np.random.default_rng(8).normal(size=(6000, 8)).astype(np.float32)
    some = select(np.arange(6000), scores, 500, embeddings=cloud, radius=2.2)
    apart = distances(cloud[some.ids], cloud[some.ids])
    np.fill_diagonal(apart, np.inf)
    assert some.facts["apart"] == (apart.min(1) > 2.2).mean() < 0.9


def test_a_radius_searched_again_does_not_depend_on_what_was_tried_before() -> None:
    scores, points = clouds(np.random.default_rng(9), groups=60, each=30, width=6)
    tried = filter_module._Filter(points[np.argsort(-scores)], None, Room(90, len(points)), 90)
    for r in (5.0, 0.3, 0.25, 0.27, 0.26, 0.9):
        fresh = filter_module._Filter(points[np.argsort(-scores)], None, Room(90, len(points)), 90)
        assert tried.at(r).kept.tolist() == fresh.at(r).kept.tolist()


@given(st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 4), st.booleans(), st.booleans())
def test_a_searched_radius_keeps_k_as_the_definition_does(
    seed: int, n: int, width: int, lattice: bool, limited: bool
) -> None:
    rng = np.random.default_rng(seed)
    points = (rng.integers(0, 30, (n, width)) if lattice else rng.normal(size=(n, width))).astype(np.float32)
    scores = rng.random(n).astype(np.float32)
    apart = greedy(scores, points, n, 0.0)  # repeats of a point are never kept
    k = int(rng.integers(0, len(apart) + 1))
    limits = Limits(groups=np.arange(n) % 3, per_group=n) if limited else Limits()  # which binds nothing
    chosen = select(np.arange(n), scores, k, embeddings=points, limits=limits)
    assert chosen.ids.tolist() == greedy(scores, points, k, chosen.radius or 0.0)
    assert len(chosen.ids) == k
