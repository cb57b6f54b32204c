"""Quotas and budgets: what is open always leads to k items, and what cannot be met is an error with the number."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcscore.methods import DIVERSITY
from mcscore.selection import Limits, Room, select
from mcscore.selection.room import rank_in_group


def feasible(taken: list[int], k: int, groups: np.ndarray, most: int, costs: np.ndarray, budget: float) -> bool:
    """Whether some k items that contain those taken respect quota and budget, by trying all."""
    rest = [i for i in range(len(groups)) if i not in taken]
    for more in itertools.combinations(rest, k - len(taken)):
        chosen = [*taken, *more]
        if np.bincount(groups[chosen], minlength=1).max() <= most and costs[chosen].sum() <= budget:
            return True
    return False


@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 4), st.integers(1, 3), st.integers(1, 12))
def test_a_candidate_is_open_if_and_only_if_k_can_be_reached_with_it(
    seed: int, M: int, k: int, most: int, budget: int
) -> None:
    rng = np.random.default_rng(seed)
    groups, costs = rng.integers(0, 3, M), rng.integers(0, 5, M).astype(float)
    k = min(k, M)
    if not feasible([], k, groups, most, costs, budget):
        with pytest.raises(ValueError, match="k = "):
            Room(k, M, groups=groups, most=most, costs=costs, budget=budget)
        return
    room, taken = Room(k, M, groups=groups, most=most, costs=costs, budget=budget), list[int]()
    while len(taken) < k:
        want = [i not in taken and feasible([*taken, i], k, groups, most, costs, budget) for i in range(M)]
        assert room.open.tolist() == want
        at = int(rng.choice(np.flatnonzero(room.open)))
        room.take(at)
        taken.append(at)
    assert costs[taken].sum() <= budget
    assert room.facts["spent"] == pytest.approx(costs[taken].sum())


def test_what_a_budget_closed_is_counted_without_what_was_left_when_k_were_chosen() -> None:
    room = Room(2, 4, costs=[1, 1, 5, 9], budget=6)
    assert room.open.tolist() == [True, True, True, False]
    room.take(1)
    assert room.open.tolist() == [True, False, True, False]
    room.take(0)
    assert room.facts == {"budget": 6.0, "spent": 2.0, "closed_by_budget": 1}


def test_impossible_wishes_say_which_constraint_binds_and_by_how_much() -> None:
    groups = np.array([0, 0, 0, 0, 1, 1, 2])
    with pytest.raises(
        ValueError,
        match=r"k = 6, but the quota of 2 for each class allows 5 items, 1 too few: .* 3 different values of class. Raise the quota to 3",
    ):
        Room(6, 7, groups=groups, most=2, group_name="class")
    with pytest.raises(ValueError, match="any number: there are only 7 candidates, so choose a smaller k, too"):
        Room(9, 7, groups=groups, most=2)
    with pytest.raises(
        ValueError,
        match=r"k = 3, but the 3 cheapest candidates cost 9, 1.5 more than the budget of 7.5, which pays for 2 at most",
    ):
        Room(3, 5, costs=[5, 4, 2, 3, 8], budget=7.5)
    with pytest.raises(ValueError, match="cheapest candidates that the quota allows cost 9, 3 more"):
        Room(2, 4, costs=[1, 1, 8, 9], groups=[0, 0, 1, 1], most=1, budget=6)
    with pytest.raises(ValueError, match="costs must be finite and >= 0; 2 are not, the first is -1"):
        Room(1, 3, costs=[1, -1, np.nan], budget=6)
    with pytest.raises(ValueError, match=r"costs have shape \(2,\); \(3,\) is needed"):
        Room(1, 3, costs=[1, 1], budget=6)


def test_limits_that_do_not_fit_are_refused() -> None:
    for given_, says in (
        ({"groups": [0]}, "groups and per_group belong together"),
        ({"budget": 1.0}, "costs and budget belong together"),
        ({"per_class": 2, "per_group": 2, "groups": [0]}, "two quotas"),
        ({"per_class": 1.5}, "a whole number of items, or a share"),
        ({"labeled_distance": -1.0}, "labeled_distance must be finite and >= 0"),
    ):
        with pytest.raises(ValueError, match=says):
            Limits(**given_)  # type: ignore[arg-type]
    assert Limits(per_class=0.2).most(10) == 2
    assert Limits(per_class=0.29).most(10) == 2
    with pytest.raises(ValueError, match=r"a quota of 0.05 of 10 items is less than one item"):
        Limits(per_class=0.05).most(10)


@pytest.mark.parametrize("name", DIVERSITY)
def test_every_method_keeps_every_limit(name: str) -> None:
    rng = np.random.default_rng(7)
    M, k = 300, 24
    points = rng.normal(size=(M, 6)).astype(np.float32)
    labeled = rng.normal(size=(5, 6)).astype(np.float32)
    groups, costs = rng.integers(0, 6, M), rng.integers(1, 9, M).astype(float)
    scores = rng.random(M).astype(np.float32)
    arrays = {"embeddings": points, "labeled_embeddings": labeled}
    if "probabilities" in DIVERSITY[name].needs:
        arrays["probabilities"] = rng.dirichlet(np.ones(4), M)
    if "samples" in DIVERSITY[name].needs:
        arrays["samples"] = rng.dirichlet(np.ones(4), (M, 10))
    if "targets" in DIVERSITY[name].needs:
        arrays["targets"] = rng.dirichlet(np.ones(4), (7, 10))
    limits = Limits(per_group=5, groups=groups, costs=costs, budget=70, labeled_distance=2.0)
    chosen = select(np.arange(M), scores, k, diversity=name, limits=limits, **arrays)
    assert len(set(chosen.ids.tolist())) == k
    assert np.bincount(groups[chosen.ids]).max() <= 5
    assert costs[chosen.ids].sum() <= 70
    assert np.linalg.norm(points[chosen.ids][:, None] - labeled[None], axis=2).min() > 2
    near = int((np.linalg.norm(points[:, None] - labeled[None], axis=2).min(1) <= 2).sum())
    assert chosen.facts["near_labeled"] == near > 0
    assert chosen.facts["limits"]["spent"] == costs[chosen.ids].sum()
    mixed = rng.permutation(M)
    others = ("labeled_embeddings", "targets")
    arrays = {key: values if key in others else values[mixed] for key, values in arrays.items()}
    again = select(mixed, scores[mixed], k, diversity=name, limits=limits.at(mixed), **arrays)
    assert again.ids.tolist() == chosen.ids.tolist()


def test_distance_to_labeled_items_that_leaves_too_few_says_how_many() -> None:
    points = np.arange(6, dtype=np.float32)[:, None]
    with pytest.raises(
        ValueError, match=r"k = 3, but only 2 candidates, 1 too few, lie further than labeled_distance = 3 "
    ):
        select(
            np.arange(6), np.ones(6), 3, diversity="none", embeddings=points, labeled_embeddings=[[0.0]],
            limits=Limits(labeled_distance=3),
        )  # fmt: skip
    with pytest.raises(ValueError, match="labeled_distance needs embeddings"):
        select(np.arange(6), np.ones(6), 3, diversity="none", limits=Limits(labeled_distance=3))


def test_radius_and_a_budget_that_leave_too_few_name_the_budget() -> None:
    points = np.array([0, 0, 5, 5], np.float32)[:, None]
    with pytest.raises(ValueError, match=r"k = 2, but only 1 of 4 .* or the limits \(a budget of 4\) leave no room"):
        select(
            np.arange(4), [4.0, 3, 2, 1], 2, embeddings=points, radius=1.0, limits=Limits(costs=[2, 2, 3, 3], budget=4)
        )


@given(st.lists(st.integers(0, 4), max_size=30))
def test_ranks_in_groups(groups: list[int]) -> None:
    assert rank_in_group(np.array(groups, np.int64)).tolist() == [groups[:i].count(g) for i, g in enumerate(groups)]
