"""A pool that cannot be read everywhere: an error that names chunk and items, or these items without a score."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import ChunkError, RunError
from mcscore.pool import Pool
from mcscore.run import Run, score_pool, start
from mcscore.run.spans import ranges_of

from .fakes import SPAN, FakePool, FakeScorer, N, at_step, content


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """The fakes' pool on disk, in chunks of 10; of which the scorer is not shown everything before it starts."""
    monkeypatch.setattr(start, "FIRST_BLOCK", 16)
    return Pool.create(tmp_path / "pool", FakePool().read(0, N), chunk_items=10)


def file(pool: Pool, chunk: int) -> Path:
    return pool.path / "items" / f"c.{chunk}.0"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_bad_chunk_is_an_error_that_names_chunk_file_and_items(pool: Pool, out: Path, kind: str) -> None:
    DAMAGE[kind](file(pool, 5))
    names = r"items 50\.\.59 cannot be read, chunk 5 of .*items/c\.5\.0: "
    if kind == "deleted":  # seen before the first item is scored
        with pytest.raises(ChunkError, match=names + "the file is missing"):
            score_pool(Pool.open(pool.path), FakeScorer(), out, span=SPAN)
        assert not out.exists()
        return
    with pytest.raises(RunError, match=names + r".*--on-bad-chunk skip.*40 of 100 items are done"):
        score_pool(Pool.open(pool.path), FakeScorer(), out, span=SPAN)
    assert Run.open(out).done == 40


@pytest.mark.parametrize("kind", DAMAGE)
def test_skipped_chunks_cost_their_items_and_nothing_else(
    pool: Pool, out: Path, undisturbed: dict[str, bytes], kind: str
) -> None:
    for chunk in (0, 5):  # the first, which the scorer would be prepared with, too
        DAMAGE[kind](file(pool, chunk))
    damaged, scorer = Pool.open(pool.path), FakeScorer()
    with pytest.warns(UserWarning, match=r"20 of 100 items could not be read from the pool \(ids 0\.\.9, 50\.\.59\)"):
        run = score_pool(damaged, scorer, out, span=SPAN, on_bad_chunk="skip")
    bad = np.r_[0:10, 50:60]
    good = np.setdiff1d(np.arange(N), bad)
    assert scorer.seen == good.tolist()
    assert (run.complete, run.done, run.scored) == (True, N, N - 20)
    opened = Run.open(out)
    assert opened.unreadable_ids.tolist() == bad.tolist()
    assert len(opened.nonfinite_ids) == 0  # that is another thing
    for name in ("bald", "entropy"):
        assert np.flatnonzero(np.isnan(opened.scores(name))).tolist() == bad.tolist()
    assert np.flatnonzero(opened.prediction == -1).tolist() == bad.tolist()
    said = [json.loads(line)["record"] for line in (out / "commits" / "packed.jsonl").read_text().splitlines()]
    assert [record.get("unreadable") for record in said] == [[[0, 10]], [[50, 60]], None]
    assert set(opened.select(80, diversity="none", pool=damaged).ids) == set(good)
    with pytest.raises(RunError, match="only 80 are left"):
        opened.select(81, diversity="none", pool=damaged)


def test_a_pool_that_is_damaged_while_it_is_scored(pool: Pool, out: Path) -> None:
    flip(file(pool, 5))
    with pytest.raises(RunError, match="chunk 5"):
        score_pool(pool, FakeScorer(), out, span=SPAN)
    with pytest.warns(UserWarning, match="10 of 100 items could not be read"):
        run = score_pool(Pool.open(pool.path), FakeScorer(), out, on_bad_chunk="skip")
    assert run.unreadable_ids.tolist() == list(range(50, 60))


def test_what_was_skipped_is_scored_when_the_pool_is_whole_again(pool: Pool, out: Path) -> None:
    flip(file(pool, 5))
    with pytest.warns(UserWarning, match="could not be read"):
        before = score_pool(pool, FakeScorer(), out, span=SPAN, on_bad_chunk="skip")
    kept, scorer = before.scores("bald"), FakeScorer()
    with pytest.warns(UserWarning, match="could not be read"):  # skip: nothing to do
        score_pool(pool, scorer, out, on_bad_chunk="skip")
    assert scorer.seen == []
    with pytest.raises(RunError, match=r"chunk 5 .*--on-bad-chunk skip"):
        score_pool(pool, scorer, out)
    assert Run.open(out).unreadable_ids.tolist() == list(range(50, 60))  # what was committed is as it was
    flip(file(pool, 5))
    run = score_pool(pool, scorer, out)
    assert scorer.seen == list(range(50, 60))
    assert len(run.unreadable_ids) == 0
    assert (run.complete, run.scored) == (True, N)
    bald = run.scores("bald")
    assert np.isfinite(bald).all()
    others = np.setdiff1d(np.arange(N), np.arange(50, 60))
    assert bald[others].tobytes() == kept[others].tobytes()


@pytest.mark.filterwarnings("ignore:.*(took over the lock|could not be read)")
def test_a_failure_at_any_step_of_that_loses_nothing(pool: Pool, tmp_path: Path) -> None:
    """The shard is replaced before its record: in between the span does not hold, and is scored again as a whole."""

    def skipped(out: Path) -> None:
        flip(file(pool, 5))
        score_pool(pool, FakeScorer(), out, span=SPAN, on_bad_chunk="skip")
        flip(file(pool, 5))

    def fail(_name: str, args: tuple) -> None:
        raise OSError(5, "Input/output error", str(args[0]))

    skipped(tmp_path / "whole")
    with at_step(10**9, fail) as steps:
        score_pool(pool, FakeScorer(), tmp_path / "whole")
    for n in range(len(steps)):
        out = tmp_path / f"{n}"
        skipped(out)
        with at_step(n, fail):
            try:
                score_pool(pool, FakeScorer(), out)
            except RunError as error:
                assert "Input/output error" in str(error)  # noqa: PT017
        run = score_pool(pool, FakeScorer(), out)
        assert (run.complete, run.scored, len(run.unreadable_ids)) == (True, N, 0), n
        assert np.isfinite(run.scores("bald")).all()


def test_labeled_items_are_not_missed(pool: Pool, out: Path) -> None:
    pool.set_labels(np.arange(52, 57), np.zeros(5, int))
    flip(file(pool, 5))
    with pytest.warns(UserWarning, match=r"5 of 100 items could not be read from the pool \(ids 50\.\.51, 57\.\.59\)"):
        run = score_pool(pool, FakeScorer(), out, span=SPAN, on_bad_chunk="skip")
    assert run.scored == N - 10


def test_chunks_that_were_swapped_are_another_pool(pool: Pool, out: Path) -> None:
    score_pool(pool, FakeScorer(), out, span=SPAN)
    one, other = file(pool, 1).read_bytes(), file(pool, 2).read_bytes()
    file(pool, 1).write_bytes(other)
    file(pool, 2).write_bytes(one)
    for on_bad_chunk in ("raise", "skip"):
        with pytest.raises(RunError, match=r"started with pool\.fingerprint="):
            score_pool(Pool.open(pool.path), FakeScorer(), out, on_bad_chunk=on_bad_chunk)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="is not the pool that"):
        Run.open(out).select(3, diversity="none")


def test_a_file_that_is_lost_between_runs_is_named(pool: Pool, out: Path) -> None:
    score_pool(pool, FakeScorer(), out, span=SPAN)
    file(pool, 3).unlink()
    for go_on in (
        lambda: score_pool(Pool.open(pool.path), FakeScorer(), out),
        lambda: score_pool(Pool.open(pool.path), FakeScorer(), out, on_bad_chunk="skip"),
        lambda: Run.open(out).select(3, diversity="none"),
    ):
        with pytest.raises(
            ChunkError, match=r"items 30\.\.39 cannot be read, chunk 3 of .*c\.3\.0: the file is missing"
        ):
            go_on()


def test_a_pool_of_which_nothing_can_be_read_makes_no_run(out: Path) -> None:
    pool = FakePool()
    pool.bad = [(0, N)]
    with pytest.raises(RunError, match="no item of pool that is to be scored can be read"):
        score_pool(pool, FakeScorer(), out, on_bad_chunk="skip")
    assert not out.exists()
    with pytest.raises(RunError, match="on_bad_chunk must be one of raise, skip, not 'ignore'"):
        score_pool(pool, FakeScorer(), out, on_bad_chunk="ignore")  # type: ignore[arg-type]


def test_blocks_that_are_all_bad_are_no_work_for_the_model(out: Path, undisturbed: dict[str, bytes]) -> None:
    pool, scorer = FakePool(), FakeScorer()
    pool.bad = [(8, 20), (56, 72)]  # half a block and more of span 0, one block of span 1
    with pytest.warns(UserWarning, match="28 of 100"):
        run = score_pool(pool, scorer, out, span=SPAN, on_bad_chunk="skip")
    assert scorer.seen == [*range(8), *range(20, 56), *range(72, N)]
    whole, part = np.frombuffer(undisturbed["bald"], np.float32), run.scores("bald")
    assert part[72:].tobytes() == whole[72:].tobytes()  # blocks without a bad item give the same bits
    assert content(Run.open(out)) == content(run)


def test_runs_of_ids() -> None:
    assert ranges_of(np.array([], np.int64)) == []
    assert ranges_of(np.array([4])) == [(4, 5)]
    assert ranges_of(np.array([1, 2, 3, 7, 9, 10])) == [(1, 4), (7, 8), (9, 11)]
