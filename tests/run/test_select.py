from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mcscore.errors import RunError
from mcscore.pool import Pool
from mcscore.run import Run, score_pool
from mcscore.run.selecting import select as choose

from .fakes import Column, FakeScorer, fail_at

N = 60


class Scorer(FakeScorer):
    """bald falls with the id (ties in pairs), entropy rises; items of one group of five lie close to each other."""

    def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
        self.on_block(ids)
        scores = {"bald": (N - ids // 2).astype(np.float32), "entropy": ids.astype(np.float32)}
        scores["bald"][ids == 8] = np.nan
        return {name: Column(values) for name, values in (scores | {"prediction": (ids % 10).astype(np.int32)}).items()}

    def embed(self, items: np.ndarray, ids: np.ndarray) -> np.ndarray:
        np.testing.assert_array_equal(items[:, 0], ids)
        assert (np.diff(ids) > 0).all()
        self.seen += ids.tolist()
        return np.stack([10 * (ids // 5), (ids % 5) * 0.1], 1).astype(np.float32)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    items = np.arange(N, dtype=np.float32)[:, None].repeat(3, 1)
    return Pool.create(tmp_path / "pool", items, keys=[f"img-{i}.png" for i in range(N)])


@pytest.fixture
def run(pool: Pool, out: Path) -> Run:
    with pytest.warns(UserWarning, match="ids 8"):
        return score_pool(pool, Scorer(), out, span=16)


def test_without_diversity_the_best_are_taken_in_total_order(run: Run) -> None:
    assert run.select(12, by="bald", diversity="none").ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12]
    assert Run.open(run.path).select(3, by="entropy", diversity="none").ids.tolist() == [59, 58, 57]
    assert run.select(2, diversity="none").ids.tolist() == [0, 1]  # by the first score


def test_a_radius_keeps_one_of_each_group(run: Run) -> None:
    chosen = run.select(4, by="bald", radius=1.0)
    assert chosen.ids.tolist() == [0, 5, 10, 15]
    assert chosen.radius == 1.0
    assert run.select(3, by="entropy", radius=1.0, candidates=13).ids.tolist() == [59, 54, 49]
    assert run.select(4, by="bald").radius > 1  # as large as it can be
    assert run.select(4, by="bald", candidates=4).ids.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="only 2 of 8 candidates remain at radius 1"):
        run.select(4, by="bald", radius=1.0, candidates=8)


def test_labeled_and_excluded_items_and_neighbors_of_labeled_ones_are_left_out(run: Run, pool: Pool) -> None:
    pool.set_labels(np.array([0, 12]), np.array([1, 1]))  # after scoring
    pool.set_excluded(np.array([5, 15]))
    assert run.select(6, by="bald", diversity="none").ids.tolist() == [1, 2, 3, 4, 6, 7]
    assert run.select(3, by="bald", radius=1.0).ids.tolist() == [6, 16, 20]
    assert run.select(3, by="bald", radius=1.0, pool=Pool.open(pool.path)).ids.tolist() == [6, 16, 20]


def test_the_selection_is_written_with_what_belongs_to_it(run: Run, pool: Pool) -> None:
    pool.set_labels(np.array([59]), np.array([1]))
    chosen = run.select(4, by="bald", radius=1.0)
    table = pq.read_table(run.path / "selection-0001.parquet")
    assert table.to_pydict() == {
        "id": [0, 5, 10, 15],
        "rank": chosen.rank.tolist(),
        "score": [60.0, 58.0, 55.0, 53.0],
        "key": ["img-0.png", "img-5.png", "img-10.png", "img-15.png"],
        "bald": [60.0, 58.0, 55.0, 53.0],
        "entropy": [0.0, 5.0, 10.0, 15.0],
        "prediction": [0, 5, 0, 5],
    }
    how = json.loads(table.schema.metadata[b"mcscore"])
    assert len(how.pop("content")) == len("sha256:") + 64
    assert datetime.fromisoformat(how.pop("created")).utcoffset() == timedelta(0)
    places = how.pop("map")
    assert [len(places[kind]) for kind in ("candidates", "labeled", "selected")] == [40, 1, 4]
    assert how == {
        "version": 2,
        "run": run.meta["id"],
        "pool": pool.fingerprint,
        "by": "bald",
        "asked": {
            **{"k": 4, "by": "bald", "diversity": "radius", "candidates": None, "seed": 0, "radius": 1.0},
            **{"map": "pca", "partial": False},
        },
        "k": 4,
        "method": "radius",
        "radius": 1.0,
        "candidates": 40,
        "labeled": 1,
        "labeled_compared": 1,
        "left_out": {"labeled_or_excluded": 1, "without_score": 1},
        "done": N,
        "n": N,
    }
    assert sorted(path.name for path in run.path.iterdir()) == [
        "commits",
        "run.json",
        "scores.zarr",
        "selection-0001.parquet",
        "skipped",
    ]


def test_more_labeled_items_than_can_be_compared_are_sampled_evenly(
    run: Run, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "LABELED_MAX", 3)
    pool.set_labels(np.arange(30, 60), np.zeros(30, int))
    scorer = Scorer()
    run.select(2, by="bald", scorer=scorer, candidates=5)
    assert scorer.seen == [0, 1, 2, 3, 4, 30, 40, 50]
    how = json.loads(pq.read_schema(run.path / "selection-0001.parquet").metadata[b"mcscore"])
    assert (how["labeled"], how["labeled_compared"]) == (30, 3)


def test_k_beyond_what_is_left_says_how_many(run: Run, pool: Pool) -> None:
    pool.set_labels(np.arange(50, 60), np.zeros(10, int))
    with pytest.raises(RunError, match=r"50 items cannot be chosen: of 60 only 49 are left .* \(10 are\)"):
        run.select(50, by="bald", diversity="none")
    assert len(run.select(49, by="bald", diversity="none").ids) == 49
    assert [each.k for each in run.selections()] == [49]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"k": 3, "by": "margin"}, "no score 'margin'; choose from bald, entropy"),
        ({"k": 3, "diversity": "magic"}, "no diversity method 'magic'; choose from radius, none, power"),
        ({"k": 0}, "k must be at least 1"),
        ({"k": 9, "candidates": 8}, "9 items cannot be chosen from 8 candidates"),
    ],
)
def test_what_cannot_be_asked_is_refused(run: Run, asked: dict[str, object], says: str) -> None:
    with pytest.raises(RunError, match=says):
        run.select(**asked)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="no score 'margin'"):
        run.scores("margin")


def test_diversity_needs_the_model_that_scored(run: Run) -> None:
    opened = Run.open(run.path)
    with pytest.raises(RunError, match=r"opened without a model .* pass scorer=.* or diversity='none'"):
        opened.select(3)
    with pytest.raises(
        RunError, match=r"not the model that scored .*: fingerprint sha256:later, recorded is sha256:model"
    ):
        opened.select(3, scorer=Scorer(model="sha256:later"))
    assert opened.select(4, radius=1.0, scorer=Scorer()).ids.tolist() == [0, 5, 10, 15]


def test_the_pool_must_be_the_one_that_was_scored(run: Run, pool: Pool, tmp_path: Path) -> None:
    opened = Run.open(run.path)
    pool.path.rename(tmp_path / "moved")
    with pytest.raises(RunError, match=r"the pool of .* is not where it was: .*Pass pool="):
        opened.select(3, diversity="none")
    assert opened.select(2, diversity="none", pool=Pool.open(tmp_path / "moved")).ids.tolist() == [0, 1]
    other = Pool.create(tmp_path / "other", np.zeros((N, 3), np.float32))
    with pytest.raises(RunError, match=r"is not the pool that .* scored"):
        opened.select(3, diversity="none", pool=other)


def test_an_incomplete_run_is_selected_from_only_if_told(pool: Pool, out: Path) -> None:
    with pytest.raises(RunError, match="could not be scored"):
        score_pool(pool, Scorer(on_block=fail_at(40)), out, span=16)
    run = Run.open(out)
    assert (run.done, run.complete) == (32, False)
    with pytest.raises(RunError, match=r"is incomplete: 28 of 60 items are not scored.*partial=True"):
        run.select(3, by="entropy", diversity="none")
    assert run.select(3, by="entropy", diversity="none", partial=True).ids.tolist() == [31, 30, 29]
