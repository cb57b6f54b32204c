"""A screened run: both stages are durable, the cut is fixed once, and survivors have the scores of a run of all items."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore import Screen
from mcscore.errors import RunError, Stopped
from mcscore.run import Run, score_pool
from mcscore.run.screening import cut
from mcscore.run.status import verify
from mcscore.selection.screening import population
from mcscore.selection.screening.population import Population, Stream

from .fakes import SPAN, FakePool, FakeScorer, N, at_step, content, grown, killed_at

TOP = 10
SCREEN = Screen(top=TOP, passes=20, recall=0.9, audit=0.1)


def screened(out: Path, pool: FakePool | None = None, step: int = 1, **more: Any) -> Run:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*took over the lock")
        return score_pool(pool or FakePool(), FakeScorer(step=step), out, span=SPAN, screen=SCREEN, **more)


def both(run: Run) -> dict[str, bytes]:
    """What both stages and run.json say."""
    assert run.screen is not None
    first = {f"screen_{name}": run.screen.scores(name).tobytes() for name in run.screen.meta["scores"]}
    return (
        content(run)
        | first
        | {"cuts": repr(run.meta["cuts"]).encode(), "certificate": repr(run.meta["certificate"]).encode()}
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return both(screened(tmp_path_factory.mktemp("screened") / "run"))


def test_some_survive_and_the_rest_have_scores_of_the_first_stage_alone(out: Path) -> None:
    stages: list[tuple[str, int]] = []
    run = screened(out, on_stage=lambda what, passes: stages.append((what, passes)))
    assert [passes for _, passes in stages] == [20, 100]
    assert run.complete
    assert run.screen is not None
    assert run.screen.complete
    assert np.isfinite(run.screen.scores("bald")).all()
    full = np.isfinite(run.scores("bald"))
    assert TOP <= full.sum() < N
    assert set(np.argsort(-run.screen.scores("bald"))[:3]) <= set(np.flatnonzero(full))
    np.testing.assert_array_equal(run.passes, np.where(full, 100, 20))
    assert run.scored == full.sum()
    assert run.passes_spent == 20 * N + 100 * full.sum()
    again = Run.open(out)
    assert both(again) == both(run)
    assert not verify(out)


def test_each_stage_sees_only_its_items(out: Path) -> None:
    scorer = FakeScorer()
    run = score_pool(FakePool(), scorer, out, span=SPAN, screen=SCREEN)
    assert scorer.seen == [*range(N), *np.flatnonzero(np.isfinite(run.scores("bald")))]


@pytest.fixture
def _measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal scores have one population, which takes most of the time of a run and is kept here, also for forked processes."""
    known: dict[bytes, Population] = {}

    def measure(stream: Stream, top: int) -> Population:
        key = b"".join(part.tobytes() for columns in stream() for part in columns) + bytes([top])
        if key not in known:
            known[key] = population.measure(stream, top)
        return known[key]

    monkeypatch.setattr(cut, "measure", measure)


@pytest.mark.usefixtures("_measured_once")
def test_a_kill_may_come_at_any_step(tmp_path: Path, expected: dict[str, bytes]) -> None:
    with at_step(10**9, lambda *_: None) as steps:
        screened(tmp_path / "steps")

    for n, step in enumerate(steps):
        out = tmp_path / f"{n}"
        killed_at(n, partial(screened, out))
        # Only a stage that had begun has a plan to adopt: a first stage that had not plans in its own way.
        begun = (out / "run.json").exists()
        run = screened(out, step=2 if begun and (out / "screen" / "run.json").exists() else 1)
        if not begun or (out / "screen" / "run.json").exists():
            assert both(run) == expected, (n, step)
        assert not list(out.rglob("*.tmp")), (n, step)


@pytest.mark.parametrize("stop_after", [SPAN, N, N + SPAN])
def test_a_stop_in_either_stage_is_resumed(out: Path, expected: dict[str, bytes], stop_after: int) -> None:
    calls = [0]

    def progress(done: int, _total: int) -> None:
        calls[0] += 1
        if calls[0] == stop_after // SPAN * 3 + 2:
            os.kill(os.getpid(), 2)

    with pytest.raises(Stopped, match="of 100 items"):
        screened(out, progress=progress)
    assert both(screened(out)) == expected


def test_a_damaged_first_stage_is_scored_again(out: Path, expected: dict[str, bytes]) -> None:
    screened(out)
    shard = out / "screen" / "scores.zarr" / "c" / "0" / "1"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    assert [damage.file for damage in verify(out)] == [shard]
    with pytest.warns(UserWarning, match="damaged"):
        run = screened(out)
    assert both(run) == expected


def test_another_screen_is_refused_by_name(out: Path) -> None:
    screened(out)
    for other in (None, Screen(top=TOP + 1, passes=20, recall=0.9, audit=0.1)):
        with pytest.raises(RunError, match="cannot be resumed: started with screen="):
            score_pool(FakePool(), FakeScorer(), out, span=SPAN, screen=other)


def test_select_refuses_what_the_screen_was_not_made_for(out: Path) -> None:
    run = screened(out)
    with pytest.raises(RunError, match=r"screened for the top 10: .* k cannot be 11"):
        run.select(11, diversity="none", pool=FakePool())
    with pytest.raises(RunError, match="screened by bald: which items are best by entropy is not known"):
        run.select(5, by="entropy", diversity="none", pool=FakePool())
    with pytest.raises(RunError, match="candidates cannot be 50"):
        run.select(5, diversity="none", candidates=50, pool=FakePool())
    chosen = run.select(TOP, diversity="none", pool=FakePool())
    assert len(chosen) == TOP
    assert np.isfinite(chosen.scores).all()


def test_appended_items_are_cut_as_before_and_anew_if_asked(out: Path) -> None:
    before = screened(out)
    more = grown(150)
    scorer = FakeScorer()
    run = score_pool(more, scorer, out, span=SPAN, screen=SCREEN)
    assert run.meta["cuts"] == before.meta["cuts"]
    np.testing.assert_array_equal(run.scores("bald")[:N], before.scores("bald"))
    full = np.isfinite(run.scores("bald"))
    assert scorer.seen == [*range(N, 150), *(N + np.flatnonzero(full[N:]))]
    anew = screened(out, more, new_cut=True)
    fresh = screened(out.parent / "fresh", more)
    # The first stage of the fake depends on its blocks in the last bits.
    assert anew.meta["cuts"][-1]["cut"]["threshold"] == pytest.approx(
        fresh.meta["cuts"][0]["cut"]["threshold"], abs=1e-2
    )
    # What was scored keeps its scores; what survives by either cut has all passes.
    assert set(np.flatnonzero(np.isfinite(anew.scores("bald")))) >= set(np.flatnonzero(full))
    assert set(np.flatnonzero(np.isfinite(anew.scores("bald")))) >= set(
        np.flatnonzero(np.isfinite(fresh.scores("bald")))
    )
    assert anew.complete
    assert not verify(out)


def test_items_without_a_score_in_the_first_stage_do_not_survive_and_are_told(out: Path) -> None:
    pool = FakePool()
    pool.bad = [(3, 5)]
    with pytest.warns(UserWarning, match=r"2 of 100 items could not be read"):
        run = screened(out, pool, on_bad_chunk="skip")
    assert run.unreadable_ids.tolist() == [3, 4]
    assert not np.isfinite(run.scores("bald")[3:5]).any()


@pytest.mark.parametrize(
    ("screen", "message"),
    [
        ({"top": 0}, "at least 1 item as top"),
        ({"top": 1, "passes": 1}, "2 to 65,535 passes"),
        ({"top": 1, "recall": 0.0}, "a share"),
        ({"top": 1, "by": "margin"}, "by 'margin', but the scorer computes bald, entropy"),
        ({"top": 1, "passes": 100}, "saves nothing"),
        ({"top": 1, "budget": 16}, "more than 16 passes as budget"),
    ],
)
def test_a_screen_that_makes_no_sense_is_refused(out: Path, screen: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        score_pool(FakePool(), FakeScorer(), out, screen=Screen(**screen))
    assert not out.exists()


def test_a_model_whose_passes_are_nearly_free_is_not_screened_unless_asked(out: Path) -> None:
    # The fake plan has 10^9 FLOPs before the first dropout and none after it.
    run = score_pool(FakePool(), FakeScorer(), out, screen=Screen(top=TOP, budget=100.0))
    assert "passes cost little" in run.meta["not_screened"]
    assert run.screen is None
    assert np.isfinite(run.scores("bald")).all()
    assert screened(out.parent / "asked").screen is not None
