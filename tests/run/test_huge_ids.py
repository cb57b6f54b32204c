"""Selections from a run of more than 2^33 items, of which a few spans on both sides of 2^32 and 2^33 are scored."""

from __future__ import annotations

import numpy as np
import pytest

from mcscore import Pool, RunError
from mcscore.run import Run
from mcscore.run.identity.match import state_of
from mcscore.run.journal import Journal
from mcscore.run.schema import Model, RunHeader, Settings
from mcscore.run.selecting.item_columns import ItemColumn
from mcscore.run.selecting.kept import read_selection
from mcscore.selection import Limits
from mcscore.selection.stochastic import power, softmax, softrank

from .made_up import EXCLUDED, made_up_pool

N, SPAN = 2**33 + 99, 1 << 16
SCORED = [0, 2**16 - 1, 2**16, 2**17 - 1, 2**17]  # spans; the last holds 99 items
CLASSES = 4


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    pool = made_up_pool(tmp_path_factory.mktemp("pool"), N)
    vars(pool)["fingerprint"] = "sha256:huge"  # that of 131,073 chunks takes a while
    return pool


@pytest.fixture(scope="module")
def run(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("runs") / "run"
    path.mkdir()
    settings = Settings(model=Model(fingerprint="sha256:none"), passes=10, scores=("bald", "entropy"))
    journal = Journal.create(
        path,
        RunHeader(id="0" * 32, pool=state_of(pool), settings=settings, span=SPAN, block_items=SPAN, labeled=True),
    )
    rng = np.random.default_rng(0)
    for span in (journal.spans[index] for index in SCORED):
        values = {name: np.floor(rng.random(span.n) * 5000).astype(np.float32) / 5000 for name in ("bald", "entropy")}
        values["prediction"] = (np.arange(span.start, span.stop) % CLASSES).astype(np.int32)
        journal.commit(span, values, held=None, conditions=0, scored=span.n, seconds=1.0)
    return Run.open(path)


@pytest.fixture(scope="module")
def choosable(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The ids and scores of all items that may be chosen."""
    ids, scores = (np.concatenate(column) for column in zip(*run.spans("bald"), strict=True))
    left = ids % EXCLUDED != 0
    return ids[left], scores[left]


def test_the_best_are_those_of_one_sort(run: Run, pool: Pool, choosable: tuple[np.ndarray, np.ndarray]) -> None:
    ids, scores = choosable
    best = np.lexsort((ids, -scores))[:3000]
    chosen = run.select(3000, "bald", "none", pool=pool, partial=True)
    assert chosen.ids.tolist() == ids[best].tolist()
    assert chosen.scores.tolist() == scores[best].tolist()
    assert {int(id) >> 32 for id in chosen.ids} == {0, 1, 2}
    assert run.values("bald", chosen.ids).tolist() == chosen.scores.tolist()
    _, table, how = read_selection(run, pool=pool)
    assert table["id"].to_pylist() == chosen.ids.tolist()
    assert how["n"] == N


@pytest.mark.parametrize(("name", "function"), [("power", power), ("softmax", softmax), ("softrank", softrank)])
def test_draws_are_those_of_one_sort(
    run: Run, pool: Pool, choosable: tuple[np.ndarray, np.ndarray], name: str, function: object
) -> None:
    ids, scores = choosable
    ranks = 1 + np.searchsorted(np.sort(-scores), -scores)
    values = function(scores, ids, ranks, seed=5)  # type: ignore[operator]
    best = np.lexsort((ids, -values))[:200]
    chosen = run.select(200, "bald", name, pool=pool, partial=True, seed=5)
    if name != "softrank":  # of which far ranks are rounded
        assert chosen.ids.tolist() == ids[best].tolist()
    assert len(np.intersect1d(chosen.ids, ids[best])) >= 190


def test_limits_know_ids_of_any_size(run: Run, pool: Pool, choosable: tuple[np.ndarray, np.ndarray]) -> None:
    ids, _ = choosable
    first = run.select(40, "bald", "none", pool=pool, partial=True).ids
    quota = run.select(40, "bald", "none", pool=pool, partial=True, limits=Limits(per_class=10, leave_out=first[:7]))
    assert np.bincount(quota.ids % CLASSES).tolist() == [10] * CLASSES
    assert not np.isin(first[:7], quota.ids).any()
    # Groups and costs of half of the items: those from 2^32 on.
    named = ids[ids >= 2**32]
    limits = Limits(
        per_group=2,
        groups=ItemColumn(N, named, named % 31, missing=-1),
        costs=ItemColumn(N, named, 1.0 + named % 3, missing=np.nan),
        budget=70.0,
    )
    chosen = run.select(50, "bald", "none", pool=pool, partial=True, limits=limits)
    assert chosen.ids.min() >= 2**32
    assert np.bincount(chosen.ids % 31).max() == 2
    assert (1 + chosen.ids % 3).sum() <= 70
    with pytest.raises(RunError, match=f"leave_out must be ids in \\[0, {N}\\)"):
        run.select(1, "bald", "none", pool=pool, partial=True, limits=Limits(leave_out=[N]))


def test_values_of_any_items_are_looked_up(run: Run) -> None:
    ids = np.array([N - 1, 5, 2**32, 2**32 - 1, 2**31, N - 1, 2**33])
    every, scores = (np.concatenate(column) for column in zip(*run.spans("entropy"), strict=True))
    expected = [scores[every == id][0] if (every == id).any() else np.nan for id in ids]
    np.testing.assert_array_equal(run.values("entropy", ids), expected)
    assert run.values("prediction", ids).tolist() == [(N - 1) % 4, 1, 0, 3, -1, (N - 1) % 4, 0]
    assert len(run.values("bald", ids[:0])) == 0
