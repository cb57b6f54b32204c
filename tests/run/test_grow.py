"""A pool that has been appended to: its run goes on with the items that were added, and with nothing else."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from mcscore.errors import RunError
from mcscore.ingest import append_blocks
from mcscore.pool import Pool
from mcscore.run import Run, score_pool
from mcscore.run.status import verify

from ..power import Disk, lay_out
from .fakes import SPAN, FakePool, FakeScorer, N, at_step, begin, content, fail_at, grown, half

MORE = 150  # the last span of three becomes whole, a fourth one partial


def score(out: Path, n: int = MORE, *before: int, scorer: FakeScorer | None = None, **more: Any) -> Run:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*took over the lock")
        return score_pool(grown(n, *before), scorer or FakeScorer(step=2), out, **more)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the run of the grown pool holds when nothing happens to it."""
    out = tmp_path_factory.mktemp("grown") / "run"
    begin(out)
    return content(score(out))


@pytest.mark.parametrize("stopped_at", [None, 0, 45, 85])
def test_only_the_added_items_are_scored(
    out: Path, undisturbed: dict[str, bytes], expected: dict[str, bytes], stopped_at: int | None
) -> None:
    done = N
    if stopped_at is None:
        begin(out)
    else:
        with pytest.raises(RunError, match="out of memory"):
            begin(out, on_block=fail_at(stopped_at))
        done = stopped_at // SPAN * SPAN
    calls: list[int] = []
    scorer = FakeScorer(step=2)
    run = score(out, scorer=scorer, progress=lambda done, _total: calls.append(done))
    assert scorer.seen == list(range(done, MORE))
    assert scorer.plan["items"] == 1  # as recorded
    assert calls[0] == done
    assert calls == sorted(calls)
    assert calls[-1] == MORE
    assert (run.n, run.done, run.scored, run.complete) == (MORE, MORE, MORE, True)
    assert content(Run.open(out)) == content(run)
    if done in (0, N):  # from 85 the old and the new items of the last span were scored together, in other blocks
        assert content(run)["prediction"] == expected["prediction"]
    if done == N:
        assert content(run) == expected
        assert run.scores("bald")[:N].tobytes() == undisturbed["bald"]
    np.testing.assert_array_equal(run.prediction, np.arange(MORE) % 10)


def test_run_json_and_the_arrays_say_what_the_pool_has_become(out: Path) -> None:
    begin(out)
    score(out)
    said = json.loads((out / "run.json").read_bytes())
    assert (said["pool"]["n"], said["pool"]["fingerprint"]) == (MORE, "sha256:pool of 150")
    assert said["grown"] == [{"fingerprint": "sha256:pool", "n": N, "path": "", "identity": "sha256:pool"}]
    array = zarr.open_array(out / "scores.zarr", mode="r")
    assert array.shape == (3, MORE)
    np.testing.assert_array_equal(array[0], Run.open(out).scores("bald"))


def test_a_pool_may_grow_again_and_again(out: Path) -> None:
    begin(out)
    scorer = FakeScorer(step=2)
    sizes = (101, 119, 120, 121, 200)
    for at, n in enumerate(sizes):
        run = score(out, n, *sizes[:at], scorer=scorer, span=SPAN)
        assert (run.n, run.complete) == (n, True)
    assert scorer.seen == list(range(N, 200))  # each once
    assert [state["n"] for state in run.meta["grown"]] == [N, *sizes[:-1]]
    assert np.isfinite(run.scores("entropy")).all()
    assert score(out, 200, *sizes[:-1], scorer=FakeScorer()).complete  # and nothing is left to do


def test_labeled_and_lost_items_of_the_old_part_stay_as_they_were(out: Path) -> None:
    pool = grown(N)
    pool.fingerprint, pool.bad = "sha256:pool", [(84, 88)]
    pool.labels[90] = 1
    with pytest.warns(UserWarning, match="4 of 100"):
        score_pool(pool, FakeScorer(), out, span=SPAN, on_bad_chunk="skip")
    more, scorer = grown(MORE), FakeScorer()
    more.bad, more.labels[130] = pool.bad, 1
    with pytest.warns(UserWarning, match="4 of 150"):
        run = score_pool(more, scorer, out, on_bad_chunk="skip")
    assert scorer.seen == [i for i in range(N, MORE) if i != 130]
    assert np.flatnonzero(np.isnan(run.scores("bald"))).tolist() == [84, 85, 86, 87, 90, 130]
    assert run.unreadable_ids.tolist() == [84, 85, 86, 87]
    assert run.scored == MORE - 6


def test_a_pool_that_shrank_or_is_another_is_refused(out: Path) -> None:
    begin(out)
    other = grown(MORE)
    other.before = {N: "sha256:other"}
    unrelated = grown(MORE)
    unrelated.before = {}
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for pool in (other, unrelated):
        with pytest.raises(RunError, match=r"started with pool\.fingerprint="):
            score_pool(pool, FakeScorer(), out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    score(out)
    with pytest.raises(RunError, match=r"started with pool\.fingerprint="):
        score_pool(grown(N), FakeScorer(), out)


def test_another_span_than_the_run_was_begun_with_is_refused_as_ever(out: Path) -> None:
    score_pool(grown(N), FakeScorer(), out, span=1000)  # as many as there are: 100
    pool = grown(MORE)
    pool.before = {N: grown(N).fingerprint}
    assert score_pool(pool, FakeScorer(), out, span=1000).meta["span"] == N
    with pytest.raises(RunError, match="started with span=100, now 50"):
        score_pool(pool, FakeScorer(), out, span=50)


def test_before_the_added_items_are_scored_a_selection_must_be_told_so(out: Path) -> None:
    run = begin(out)
    with pytest.raises(RunError, match=r"50 of 150 items are not scored \(50 were appended to the pool since\)"):
        run.select(3, diversity="none", pool=grown(MORE))
    early = run.select(100, diversity="none", pool=grown(MORE), partial=True)
    assert sorted(early.ids) == list(range(N))
    score(out)
    later = Run.open(out).select(150, diversity="none", pool=grown(MORE))
    assert sorted(later.ids) == list(range(MORE))


def test_a_reader_of_before_reads_on(out: Path, undisturbed: dict[str, bytes]) -> None:
    before = begin(out)
    score(out)
    assert content(before) == undisturbed


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def each(tmp_path: Path) -> Callable[[object], Path]:
    """A copy of the run as it is before the pool grows."""
    begin(tmp_path / "old")
    return lambda name: Path(shutil.copytree(tmp_path / "old", tmp_path / f"{name}"))


def held(out: Path) -> set[int]:
    """Items that are committed, whatever run.json says by now."""
    run = Run.open(out)
    return set(np.flatnonzero(np.isfinite(run.scores("bald"))).tolist())


@pytest.mark.parametrize("kill", [False, True])
def test_growing_may_fail_or_be_killed_at_any_step(
    each: Callable[[object], Path], expected: dict[str, bytes], undisturbed: dict[str, bytes], kill: bool
) -> None:
    with at_step(10**9, lambda *_: None) as steps:
        score(each("count"))
    assert len(steps) > 30
    for n, step in enumerate(steps):
        out = each(n)

        def act(name: str, args: tuple[Any, ...]) -> None:
            half(name, args)
            if kill:
                os._exit(9)
            raise OSError(errno.EIO, "Input/output error", str(args[0]))

        child = os.fork() if kill else -1
        if child <= 0:
            try:
                with at_step(n, act):
                    score(out)
            except RunError as error:
                assert "Input/output error" in str(error)  # noqa: PT017
            finally:
                if child == 0:
                    os._exit(0)
        if kill:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, (n, step)
        assert held(out) >= set(range(N)), (n, step)  # no committed item is ever lost
        assert Run.open(out).scores("bald")[:N].tobytes() == undisturbed["bald"]
        scorer = FakeScorer(step=2)
        assert content(score(out, scorer=scorer)) == expected, (n, step)
        assert min(scorer.seen, default=N) >= N, (n, step)  # and none is scored again
        assert not list(out.rglob("*.tmp")), (n, step)


@pytest.mark.filterwarnings("ignore:.*took over the lock")
def test_a_power_cut_while_growing_loses_no_committed_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes]
) -> None:
    outcomes = set()
    root = tmp_path / "disk"
    root.mkdir()
    with monkeypatch.context() as patch:
        following = Disk(root, patch)
        score_pool(FakePool(), FakeScorer(), root / "run", span=SPAN)

        def note() -> None:
            for names_kept in (False, True):
                outcomes.add(tuple(sorted(following.after_cut(names_kept=names_kept).items())))

        following.after_step = note  # type: ignore[method-assign]
        score(root / "run")
    assert len(outcomes) > 15
    for number, tree in enumerate(outcomes):
        where = tmp_path / f"after-{number}"
        lay_out(dict(tree), where)
        assert held(where / "run") >= set(range(N))
        scorer = FakeScorer(step=2)
        assert content(score(where / "run", scorer=scorer)) == expected
        assert min(scorer.seen, default=N) >= N


# -- a real pool -------------------------------------------------------------------------------------------------------


def test_a_pool_on_disk_grows_under_its_run(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "pool"
    Pool.create(path, FakePool().read(0, N), chunk_items=16, keys=[f"{i}.png" for i in range(N)])
    score_pool(Pool.open(path), FakeScorer(), out, span=SPAN)
    Run.open(out).select(5, diversity="none")
    append_blocks(path, grown(MORE).read(N, MORE))
    more = Pool.open(path)
    assert (more.n, more.fingerprint_at(N)) == (
        MORE,
        json.loads((out / "run.json").read_bytes())["pool"]["fingerprint"],
    )
    with pytest.raises(RunError, match=r"50 of 150 items are not scored \(50 were appended"):
        Run.open(out).select(5, diversity="none")
    scorer = FakeScorer()
    run = score_pool(more, scorer, out)
    assert scorer.seen == list(range(N, MORE))
    assert verify(out) == []
    assert len(run.select(MORE, diversity="none").ids) == MORE
    # The added items have no keys: a table says nothing there, a tool that needs them is not given wrong ones.
    rows = [json.loads(line) for line in run.export("jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [f"{i}.png" for i in range(N)] + [None] * (MORE - N)
    with pytest.raises(RunError, match="item 100 has no key"):
        run.export("label-studio")
    assert not list(out.glob("*.tmp"))
    append_blocks(path, grown(MORE).read(0, 3), identity="again")
    assert Run.open(out).export("csv", partial=True).read_text().count("\n") == MORE + 1
