"""Sizes and values at the edge: no item, one, a span more or less; NaN, infinities, -0.0, ties; a clock that goes back."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import RunError
from mcscore.pool import Pool
from mcscore.run import Run, score_pool

from .fakes import SPAN, Column, FakePool, FakeScorer, N, begin, content, go_on, unpacked


def test_no_items_are_nothing_to_score(out: Path) -> None:
    with pytest.raises(RunError, match="nothing to score: of the 0 items"):
        score_pool(FakePool(0), FakeScorer(), out)
    assert not out.exists()


@pytest.mark.parametrize("n", [1, 2, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN])
def test_pools_of_any_size_are_scored_and_read_back(out: Path, n: int) -> None:
    run = score_pool(FakePool(n), FakeScorer(), out, span=SPAN)
    assert (run.complete, run.done, run.scored) == (True, n, n)
    assert (out / "commits" / "packed.jsonl").read_bytes().count(b"\n") == -(-n // SPAN)
    np.testing.assert_array_equal(Run.open(out).prediction, np.arange(n) % 10)
    assert sorted(run.select(n, diversity="none", pool=FakePool(n)).ids) == list(range(n))  # type: ignore[arg-type]
    for k in (0, n + 1):
        with pytest.raises(
            RunError, match="k must be at least 1" if k == 0 else f"{k} items cannot be chosen: of {n} only {n}"
        ):
            run.select(k, diversity="none", pool=FakePool(n))  # type: ignore[arg-type]
    scorer = FakeScorer()
    assert content(score_pool(FakePool(n), scorer, out)) == content(run)
    assert scorer.seen == []


class Given(FakeScorer):
    """bald as it is given."""

    def __init__(self, bald: np.ndarray) -> None:
        super().__init__(scores=["bald"])
        self.bald = bald.astype(np.float32)

    def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
        return super().__call__(items, ids) | {"bald": Column(self.bald[ids])}


def test_values_that_are_no_numbers_never_enter_and_zeros_are_equal(out: Path) -> None:
    bald = np.linspace(0.1, 0.2, N)
    bald[[10, 50]], bald[20], bald[30], bald[[2, 90]], bald[3] = np.nan, np.inf, -np.inf, -0.0, 0.0
    pool = FakePool()
    with pytest.warns(UserWarning, match=r"4 of 100 items have no finite score \(ids 10, 20, 30, 50\)"):
        run = score_pool(pool, Given(bald), out, span=SPAN)
    assert run.nonfinite_ids.tolist() == [10, 20, 30, 50]
    chosen = run.select(96, diversity="none", pool=pool).ids.tolist()  # type: ignore[arg-type]
    assert set(range(N)) - set(chosen) == {10, 20, 30, 50}
    assert chosen[-3:] == [2, 3, 90]  # -0.0 equals 0.0: ids decide
    assert np.signbit(run.scores("bald")[[2, 90, 3]]).tolist() == [True, True, False]  # and is stored as it came
    with pytest.raises(RunError, match="only 96 are left"):
        run.select(97, diversity="none", pool=pool)  # type: ignore[arg-type]


@pytest.mark.parametrize("span", [1, 7, SPAN, N])
def test_equal_scores_are_chosen_by_id_whatever_the_span(out: Path, span: int) -> None:
    pool = FakePool()
    run = score_pool(pool, Given(np.full(N, 0.5)), out, span=span)
    assert run.select(13, diversity="none", pool=pool).ids.tolist() == list(range(13))  # type: ignore[arg-type]


def test_a_run_in_which_nothing_is_finite_has_nothing_to_choose(out: Path) -> None:
    pool = FakePool()
    with pytest.warns(UserWarning, match="100 of 100"):
        run = score_pool(pool, Given(np.full(N, np.nan)), out, span=SPAN)
    assert run.complete
    with pytest.raises(RunError, match="of 100 only 0 are left"):
        run.select(1, diversity="none", pool=pool)  # type: ignore[arg-type]


def test_a_clock_that_goes_back_changes_nothing(
    out: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked(begin(out))
    for path in out.rglob("*"):
        os.utime(path, (4e9, 4e9))  # a hundred years ahead
    (out / "commits" / "000001.json").unlink()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    run = go_on(out)
    assert content(run) == undisturbed
    assert 0 < run.seconds < 60


def test_the_newest_selection_stays_the_newest_when_the_clock_goes_back(tmp_path: Path, out: Path) -> None:
    pool = Pool.create(tmp_path / "pool", FakePool().read(0, N))
    run = score_pool(pool, FakeScorer(), out, span=SPAN)
    run.select(9, diversity="none")
    os.utime(out / "selection-0001.parquet", (4e9, 4e9))
    run.select(5, diversity="none")
    assert len(run.export("jsonl", selection="latest").read_text().splitlines()) == 5
    run.select(9, diversity="none")  # asked for again, it is the newest again
    assert len(run.export("jsonl", selection="latest").read_text().splitlines()) == 9
