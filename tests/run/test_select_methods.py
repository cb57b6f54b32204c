"""Methods and limits on a run: drawn from streams, gathered by whole chunks, and told in the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcscore import Pool, RunError, Scorer, Screen, score_pool
from mcscore.errors import PoolError
from mcscore.methods import DIVERSITY
from mcscore.run import Run
from mcscore.run.selecting.gather import gathered
from mcscore.run.selecting.item_columns import ItemColumn, costs_from, groups_from
from mcscore.selection import Limits, select
from mcscore.store.chunks import ChunkReader

N, K = 700, 13
RANKED = [name for name, row in DIVERSITY.items() if row.family == "ranked"]
SPREAD = [name for name, row in DIVERSITY.items() if row.family == "spread"]


def scorer(**settings: object) -> Scorer:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    return Scorer(model, passes=12, scores=("bald", "entropy"), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    items = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
    pool = Pool.create(
        tmp_path_factory.mktemp("pool") / "p", items, keys=[f"{i:03d}.png" for i in range(N)], chunk_items=32
    )
    pool.set_labels(np.arange(0, N, 50), np.zeros(N // 50, int))
    pool.set_excluded(np.arange(7, N, 100))
    return pool


@pytest.fixture(scope="module")
def run(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return score_pool(pool, scorer(), tmp_path_factory.mktemp("runs") / "run", span=128)


def told(run: Run) -> dict[str, object]:
    said = json.loads(pq.read_schema(run.selections()[-1].file).metadata[b"mcscore"])
    assert isinstance(said, dict)
    return said


@pytest.mark.parametrize("name", RANKED)
def test_a_ranked_method_draws_from_all_items_in_spans_as_from_one_array(run: Run, name: str, pool: Pool) -> None:
    scores = run.scores("bald")
    ids = np.flatnonzero(np.isfinite(scores))
    assert len(ids) == N - 14 - 7
    want = select(ids, scores[ids], K, diversity=name, seed=4)
    chosen = run.select(K, "bald", name, seed=4)
    assert chosen.ids.tolist() == want.ids.tolist()
    np.testing.assert_array_equal(chosen.scores, scores[chosen.ids])
    assert Run.open(run.path).select(K, "bald", name, seed=4, pool=pool).ids.tolist() == want.ids.tolist()  # no model
    assert told(run)["candidates"] == K
    assert told(run).get("facts", {}) == want.facts
    assert told(run)["left_out"] == {"labeled_or_excluded": 21}


def test_other_spans_give_the_same_draw(run: Run, pool: Pool, tmp_path: Path) -> None:
    other = score_pool(pool, scorer(), tmp_path / "run", span=64)
    for name in RANKED:
        assert other.select(K, "bald", name).ids.tolist() == run.select(K, "bald", name).ids.tolist()


def test_candidates_restrict_a_draw_to_the_best(run: Run) -> None:
    best = set(run.select(30, "bald", "none").ids.tolist())
    assert set(run.select(K, "bald", "softmax", beta=0.001, candidates=30).ids.tolist()) <= best
    assert not set(run.select(K, "bald", "softmax", beta=0.001).ids.tolist()) <= best


@pytest.mark.parametrize("name", DIVERSITY)
def test_a_method_is_reproducible_and_keeps_a_quota_of_predicted_classes(run: Run, name: str) -> None:
    limits = Limits(per_class=4)
    first = run.select(K, "bald", name, limits=limits, seed=2)
    assert run.select(K, "bald", name, limits=limits, seed=2).ids.tolist() == first.ids.tolist()
    assert np.bincount(run.prediction[first.ids]).max() <= 4
    with pytest.raises(
        ValueError, match=r"quota of 3 for each predicted class allows \d+ items, \d too few: .* Raise the quota to 4"
    ):
        run.select(K, "bald", name, limits=Limits(per_class=3))
    draws = run.select(K, "bald", name, seed=3).ids.tolist() != run.select(K, "bald", name, seed=2).ids.tolist()
    assert draws <= DIVERSITY[name].draws


def test_none_under_a_quota_is_the_walk_down_the_scores(run: Run) -> None:
    scores, classes = run.scores("bald"), run.prediction
    order = np.lexsort((np.arange(N), -np.nan_to_num(scores, nan=-1)))
    want, seen = list[int](), dict[int, int]()
    for i in order.tolist():
        if seen.get(int(classes[i]), 0) < 4 and len(want) < K:
            want.append(i)
            seen[int(classes[i])] = seen.get(int(classes[i]), 0) + 1
    assert run.select(K, "bald", "none", limits=Limits(per_class=4)).ids.tolist() == want


def test_items_are_left_out_and_counted(run: Run) -> None:
    first = run.select(K, "bald", "none").ids
    groups, costs = np.arange(N) % 5, np.ones(N)
    groups[first[4]], costs[first[6]] = -1, np.nan
    limits = Limits(groups=groups, per_group=4, costs=costs, budget=K, leave_out=[*first[:3], 0])
    chosen = run.select(K, "bald", "none", limits=limits).ids
    assert not set(chosen.tolist()) & set(first[[0, 1, 2, 4, 6]].tolist())
    assert told(run)["left_out"] == {"labeled_or_excluded": 21, "left_out": 3, "without_group": 1, "without_cost": 1}
    names = np.array(["odd" if i % 2 else "even" for i in range(N)])
    chosen = run.select(K, "bald", "none", limits=Limits(groups=names, per_group=7)).ids
    assert sorted(np.bincount(chosen % 2).tolist()) == [6, 7]
    with pytest.raises(RunError, match=r"680 items cannot be chosen: of 700 only 676 are left .* nor 3 left out"):
        run.select(680, "bald", "none", limits=Limits(leave_out=first[:3]))
    with pytest.raises(RunError, match="leave_out must be ids in"):
        run.select(3, "bald", "none", limits=Limits(leave_out=[N]))
    with pytest.raises(RunError, match=r"groups have shape \(5,\); \(700,\) is needed"):
        run.select(3, "bald", "none", limits=Limits(groups=groups[:5], per_group=4))
    with pytest.raises(
        ValueError, match="k = 13, but the 13 cheapest candidates cost 13, 2 more than the budget of 11"
    ):
        run.select(K, "bald", "none", limits=Limits(costs=np.ones(N), budget=11))


def test_badge_has_the_probabilities_of_the_run(run: Run, pool: Pool) -> None:
    chosen = run.select(K, "bald", "badge")
    own = scorer()
    ids = run.select(10 * K, "bald", "none").ids
    p = own.predict(pool.take(ids), ids).mean.numpy()
    want = select(
        ids, run.scores("bald")[ids], K, diversity="badge", embeddings=own.embed(pool.take(ids)), probabilities=p
    )
    assert chosen.ids.tolist() == want.ids.tolist()
    other = scorer(seed=1)
    with pytest.raises(RunError, match="was scored with seed=0, the scorer has 1: pass the scorer of the run"):
        run.select(K, "bald", "badge", scorer=other)


def test_a_screened_run_is_not_drawn_from(pool: Pool, tmp_path: Path) -> None:
    screened = score_pool(pool, scorer(), tmp_path / "run", span=128, screen=Screen(top=60, passes=4))
    with pytest.raises(
        RunError, match=r"is screened: diversity 'power' draws from all items .* Choose another diversity"
    ):
        screened.select(5, diversity="power")
    assert len(screened.select(5, diversity="k-center", limits=Limits(per_class=3)).ids) == 5


def test_a_chunk_is_decoded_once_and_rows_come_back_in_order(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(5).permutation(N)[:300]
    decoded, seen = list[int](), list[int]()
    decode = ChunkReader.decode

    def counted(self: ChunkReader, number: int, out: np.ndarray) -> None:
        decoded.append(number)
        decode(self, number, out)

    def compute(items: np.ndarray, part: np.ndarray) -> np.ndarray:
        assert (np.diff(part) > 0).all()
        seen.append(len(part))
        return items[:, 0] * 2

    monkeypatch.setattr(ChunkReader, "decode", counted)
    rows = gathered(pool, ids, 20, compute)
    assert sorted(decoded) == np.unique(ids // 32).tolist()
    assert len(seen) > 8
    assert min(seen[:-1]) >= 20
    np.testing.assert_array_equal(rows, pool.take(ids)[:, 0] * 2)


@given(st.data())
def test_a_column_of_a_table_reads_as_the_array_it_stands_for(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    named = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), np.int64)
    array = np.full(n, -1, np.int64)
    array[named] = named * 7
    first = data.draw(st.sampled_from([0, 2**33]))  # the same items, elsewhere in a larger pool
    column = ItemColumn(first + n, first + named, array[named], missing=-1)
    assert column.shape == (first + n,)
    start, stop = data.draw(st.integers(0, n)), data.draw(st.integers(0, n + 5))
    assert column[first + start : first + stop].tolist() == array[start:stop].tolist()
    some = np.array(data.draw(st.lists(st.integers(0, n - 1))), np.int64)
    assert column[first + some].tolist() == array[some].tolist()


def test_groups_and_costs_come_from_tables(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key,patient,price\n003.png,zoe,2.5\n001.png,abe,1\n005.png,zoe,\n")
    assert groups_from(pool, f"{tmp_path}/a.csv:patient")[:7].tolist() == [-1, 0, -1, 1, -1, 1, -1]
    np.testing.assert_array_equal(
        costs_from(pool, f"{tmp_path}/a.csv:price")[:6], [np.nan, 1, np.nan, 2.5, np.nan, np.nan]
    )
    pq.write_table(pyarrow.table({"id": [4, 4, 2], "g": ["x", "x", "y"], "h": ["x", "y", "y"]}), tmp_path / "b.parquet")
    assert groups_from(pool, f"{tmp_path}/b.parquet:g")[:5].tolist() == [-1, -1, 1, -1, 0]
    assert groups_from(pool, f"{tmp_path}/b.parquet:g", 3).shape == (3,)  # of a run that is older than the last items
    assert groups_from(pool, f"{tmp_path}/b.parquet:g", 3)[:9].tolist() == [-1, -1, 1]
    for text, read, says in (
        (f"{tmp_path}/b.parquet:h", groups_from, "has two different values of item 4: keep one"),
        (f"{tmp_path}/b.parquet:g", costs_from, "a cost must be a number"),
        (f"{tmp_path}/b.parquet:none", groups_from, "has no column 'none'"),
        ("patient", groups_from, "is not FILE:COLUMN"),
    ):
        with pytest.raises(PoolError, match=says):
            read(pool, text)
    (tmp_path / "c.csv").write_text("key,price\n003.png,-2\n")
    with pytest.raises(PoolError, match=r"must be finite and >= 0, item 3 has -2"):
        costs_from(pool, f"{tmp_path}/c.csv:price")
    (tmp_path / "d.csv").write_text("key,price\nnowhere.png,2\n")
    with pytest.raises(PoolError, match=r"nowhere.png"):
        costs_from(pool, f"{tmp_path}/d.csv:price")
