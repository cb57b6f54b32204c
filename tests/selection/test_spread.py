"""k-center, k-means++, badge and cluster against their definitions, one candidate at a time, and on hostile points."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcscore.methods import DIVERSITY, as_markdown
from mcscore.selection import Selection, select
from mcscore.selection.lazy import Lazy, Space
from mcscore.selection.spread import _RACE
from mcscore.selection.stochastic import exponential

SPREAD = [name for name, row in DIVERSITY.items() if row.family == "spread"]


def farthest_first(points: np.ndarray, k: int, labeled: np.ndarray | None = None) -> list[int]:
    """The definition in float64; of equally far ones the first."""
    x = points.astype(np.float64)
    if labeled is None:
        chosen, d = [0], ((x - x[0]) ** 2).sum(1)
    else:
        chosen, d = [], ((x[:, None] - labeled[None].astype(np.float64)) ** 2).sum(2).min(1)
    while len(chosen) < k:
        left = np.setdiff1d(np.arange(len(x)), chosen)
        at = int(left[np.argmax(d[left] >= d[left].max() * (1 - 1e-12))])
        chosen.append(at)
        d = np.minimum(d, ((x - x[at]) ** 2).sum(1))
    return chosen


def ordered(points: np.ndarray, k: int, method: str, **more: object) -> Selection:
    """The choice from candidates whose scores fall with their ids."""
    return select(
        np.arange(len(points)),
        -np.arange(len(points), dtype=np.float32),
        k,
        diversity=method,
        embeddings=points,
        **more,
    )


@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(1, 5), st.booleans(), st.booleans())
def test_k_center_is_farthest_first(seed: int, M: int, D: int, lattice: bool, with_labeled: bool) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(-3, 4, (M, D)).astype(np.float32) if lattice else rng.normal(size=(M, D)).astype(np.float32)
    labeled = rng.integers(-3, 4, (9, D)).astype(np.float32) if with_labeled else None
    k = int(rng.integers(1, M + 1))
    assert ordered(points, k, "k-center", labeled_embeddings=labeled).ids.tolist() == farthest_first(points, k, labeled)


def test_k_center_compares_few_candidates_with_most_centers() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20_000, 16)).astype(np.float32)
    lazy, k = Lazy(Space(points), Space(points[:1])), 150
    lazy.close(np.arange(len(points)) == 0)
    chosen = [0]
    while len(chosen) < k:
        chosen.append(lazy.next())
        lazy.choose(chosen[-1])
    assert chosen == farthest_first(points, k)
    assert lazy.compared < 0.3 * k * len(points)


def test_many_labeled_items_are_bounded_first_and_compared_with_few() -> None:
    rng = np.random.default_rng(9)
    groups = 30 * rng.normal(size=(40, 8)).astype(np.float32)
    points = groups[rng.integers(0, 40, 3000)] + rng.normal(size=(3000, 8)).astype(np.float32)
    labeled = groups[rng.integers(0, 35, 700)] + rng.normal(size=(700, 8)).astype(np.float32)
    labeled[350:360] = labeled[0]
    chosen = ordered(points, 60, "k-center", labeled_embeddings=labeled)
    assert chosen.ids.tolist() == farthest_first(points, 60, labeled)
    lazy = Lazy(Space(points), Space(labeled))
    while len(left := np.flatnonzero(~lazy._gone)) > 2940:
        lazy.choose(lazy.next())
    assert len(left) == 2940
    assert lazy.compared < 0.7 * 3000 * 700
    noise = exponential(np.arange(3000), 5, _RACE)
    d = ((points[:, None].astype(float) - labeled[None]) ** 2).sum(2).min(1)
    first = int((noise / d).argmin())
    assert ordered(points, 1, "k-means++", labeled_embeddings=labeled, seed=5).ids.tolist() == [first]


def test_thousands_of_equally_far_candidates_come_in_score_order() -> None:
    assert ordered(np.eye(1500, dtype=np.float32), 40, "k-center").ids.tolist() == list(range(40))
    corners = (
        np.random.default_rng(0).integers(0, 2, (3000, 12)).astype(np.float32)
    )  # distances of few values, many repeats
    assert ordered(corners, 500, "k-center").ids.tolist() == farthest_first(corners, 500)


def race(noise: np.ndarray, first: int, squared: np.ndarray, k: int) -> list[int]:
    """D² sampling by hazards, in steps: who runs out first at the present rates is next."""
    left, nearest, chosen = noise.astype(np.float64).copy(), squared[first].copy(), [first]
    while len(chosen) < k:
        with np.errstate(divide="ignore", invalid="ignore"):
            wait = np.where(nearest > 0, left / nearest, np.inf)
        wait[chosen] = np.inf
        if np.isinf(wait).all():
            return chosen + [i for i in range(len(left)) if i not in chosen][: k - len(chosen)]
        at = int(wait.argmin())
        left -= nearest * wait[at]
        nearest = np.minimum(nearest, squared[at])
        chosen.append(at)
    return chosen


@given(st.integers(0, 10**6), st.integers(1, 120), st.integers(1, 5), st.booleans())
def test_k_means_pp_is_the_race_of_all_candidates(seed: int, M: int, D: int, repeats: bool) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(M, D)).astype(np.float32)
    points = points[rng.integers(0, max(1, M // 3), M)] if repeats else points
    k = int(rng.integers(1, M + 1))
    squared = ((points[:, None].astype(np.float64) - points[None]) ** 2).sum(2)
    want = race(exponential(np.arange(M), seed, _RACE), 0, squared, k)
    assert ordered(points, k, "k-means++", seed=seed).ids.tolist() == want


def test_k_means_pp_draws_in_proportion_to_the_squared_distance() -> None:
    points = np.array([[0.0], [1], [2.5], [4], [4.5]], np.float32)
    k, draws = 3, 1500
    law: dict[tuple[int, ...], float] = {}
    for draw in itertools.permutations(range(1, 5), k - 1):
        chosen, p = [0], 1.0
        for at in draw:
            d = ((points[:, 0, None].astype(float) - points[chosen, 0]) ** 2).min(1)
            p *= d[at] / d.sum()
            chosen.append(at)
        law[draw] = p
    counted = dict.fromkeys(law, 0)
    for seed in range(draws):
        counted[tuple(ordered(points, k, "k-means++", seed=seed).ids[1:].tolist())] += 1
    chi2 = sum((counted[draw] - draws * p) ** 2 / (draws * p) for draw, p in law.items())
    assert chi2 < (len(law) - 1) + 4 * math.sqrt(2 * (len(law) - 1))


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 7), st.integers(1, 6))
def test_badge_is_k_means_pp_on_the_outer_products(seed: int, M: int, C: int, D: int) -> None:
    rng = np.random.default_rng(seed)
    points, p = rng.normal(size=(M, D)).astype(np.float32), rng.dirichlet(np.ones(C), M).astype(np.float32)
    residual = p.astype(np.float64)
    residual[np.arange(M), p.argmax(1)] -= 1
    gradients = (residual[:, :, None] * points[:, None, :]).reshape(M, -1)
    squared = ((gradients[:, None] - gradients[None]) ** 2).sum(2)
    k = int(rng.integers(1, M + 1))
    want = race(exponential(np.arange(M), seed, _RACE), int((gradients**2).sum(1).argmax()), squared, k)
    assert ordered(points, k, "badge", probabilities=p, seed=seed).ids.tolist() == want


def test_distances_of_factors_are_those_of_the_products() -> None:
    rng = np.random.default_rng(1)
    a, h, b, g = (rng.normal(size=shape) for shape in ((7, 3), (7, 5), (4, 3), (4, 5)))
    x, y = (np.einsum("nc,nd->ncd", *pair).reshape(len(pair[0]), -1) for pair in ((a, h), (b, g)))
    np.testing.assert_allclose(
        Space(a, h).squared_distances(Space(b, g)), ((x[:, None] - y[None]) ** 2).sum(2), rtol=1e-12
    )


def test_clusters_take_turns_and_give_their_best() -> None:
    rng = np.random.default_rng(3)
    centers = 20 * np.eye(6, dtype=np.float32)
    group = np.concatenate([[0, 0, 0], rng.integers(0, 6, 97), [5]])
    points = centers[group] + 0.1 * rng.normal(size=(101, 6)).astype(np.float32)
    chosen = ordered(points, 6, "cluster")
    assert chosen.ids.tolist() == [
        int(np.flatnonzero(group == g)[0]) for g in sorted(range(6), key=lambda g: np.flatnonzero(group == g)[0])
    ]
    assert chosen.facts["cells"] == 6
    assert chosen.ids.tolist() == ordered(points, 6, "cluster").ids.tolist()


def probabilities(M: int) -> dict[str, object]:
    return {"probabilities": np.random.default_rng(M).dirichlet(np.ones(3), M)}


@pytest.mark.parametrize("name", SPREAD)
def test_k_of_all_sizes(name: str) -> None:
    points = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)
    more = probabilities(40) if name == "badge" else {}
    assert len(ordered(points, 0, name, **more).ids) == 0
    assert len(ordered(points, 1, name, **more).ids) == 1
    assert sorted(ordered(points, 40, name, **more).ids.tolist()) == list(range(40))
    with pytest.raises(ValueError, match="k = 41, but only 40 candidates are left"):
        ordered(points, 41, name, **more)


@pytest.mark.parametrize("name", [name for name in SPREAD if name != "radius"])
@pytest.mark.parametrize("point", [np.zeros(5), np.ones(5), 1e18 * np.ones(5)])
def test_candidates_that_all_coincide_come_in_score_order(name: str, point: np.ndarray) -> None:
    M = 3000  # more than are looked at together
    more = {"probabilities": np.full((M, 3), [0.5, 0.3, 0.2])} if name == "badge" else {}
    chosen = ordered(np.tile(point, (M, 1)).astype(np.float32), 20, name, **more)
    if name != "cluster":  # whose cells are of equal points, and any of them may be empty
        assert chosen.ids.tolist() == list(range(20))
    assert len(set(chosen.ids.tolist())) == 20


@pytest.mark.parametrize("name", [name for name in SPREAD if name != "radius"])
def test_one_class_a_few_zero_vectors_and_equal_scores(name: str) -> None:
    points = np.random.default_rng(4).normal(size=(200, 4)).astype(np.float32)
    points[::3] = 0
    more = {"probabilities": np.ones((200, 1))} if name == "badge" else {}
    chosen = select(np.arange(200), np.ones(200), 150, diversity=name, embeddings=points, **more)
    assert len(set(chosen.ids.tolist())) == 150


@pytest.mark.parametrize("name", SPREAD)
def test_embeddings_that_are_not_finite_are_refused_by_id(name: str) -> None:
    points = np.ones((9, 2), np.float32)
    points[[2, 5]] = np.nan
    more = probabilities(9) if name == "badge" else {}
    with pytest.raises(ValueError, match="embeddings must be finite; 2 are not, the first of id 102, 105"):
        select(np.arange(9) + 100, np.ones(9), 3, diversity=name, embeddings=points, **more)
    if name == "badge":
        with pytest.raises(ValueError, match="probabilities must be finite; 1 are not, the first of id 0"):
            select([0, 1], [1.0, 1.0], 1, diversity=name, embeddings=points[:2], probabilities=[[np.nan, 1], [0, 1]])


@pytest.mark.parametrize("name", DIVERSITY)
def test_every_row_of_the_table_selects_tells_and_names_what_it_needs(name: str) -> None:
    row = DIVERSITY[name]
    assert row.text
    assert row.cost
    assert not row.text.endswith(".")
    rng = np.random.default_rng(6)
    scores = rng.random(50).astype(np.float32)
    scores[::5] = np.nan
    arrays = {
        "embeddings": rng.normal(size=(50, 4)),
        "probabilities": rng.dirichlet(np.ones(3), 50),
        "samples": rng.dirichlet(np.ones(3), (50, 8)),
        "targets": rng.dirichlet(np.ones(3), (4, 8)),
    }
    arrays = {key: values for key, values in arrays.items() if key in row.needs}
    chosen = select(np.arange(50), scores, 8, diversity=name, **arrays)
    assert len(set(chosen.ids.tolist())) == 8
    assert np.isfinite(chosen.scores).all()
    assert chosen.method == name
    assert ("seed" in chosen.facts) == row.draws
    assert (np.diff(chosen.scores) <= 0).all() or not row.has_cut
    for need in arrays:
        with pytest.raises(ValueError, match=f"diversity '{name.replace('+', '.')}' needs {need}"):
            select(
                np.arange(50),
                scores,
                8,
                diversity=name,
                **{key: values for key, values in arrays.items() if key != need},
            )
    for parameter in {"radius", "beta"} - set(row.parameters):
        with pytest.raises(
            ValueError, match=f"has no {parameter}, got {parameter}=1.0: leave {parameter} out, or choose diversity '"
        ):
            select(np.arange(50), scores, 8, diversity=name, **arrays, **{parameter: 1.0})


def test_the_guide_has_the_table_of_methods() -> None:
    assert as_markdown() in (Path(__file__).parents[2] / "docs" / "selection.md").read_text()
