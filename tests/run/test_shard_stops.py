"""A shard that is stopped, refused or finds something else leaves what is there as it was, and the next one goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore.errors import RunError, Stopped
from mcscore.run import score_pool
from mcscore.run.glance import glance
from mcscore.run.presence import workers_of
from mcscore.run.shards import Shard, score_shard
from mcscore.run.start import ScoreOptions
from mcscore.store.lock import joined

from .fakes import FakeScorer, begin, fail_at, grown, said_records
from .sharing import ITEMS, SCREEN, SPAN, fork, pool, require_same, share


def test_a_signal_stops_a_shard_after_the_block_at_hand(out: Path, local: Path) -> None:
    def stop_at(ids: np.ndarray) -> None:
        if 100 in ids:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match=r"stopped; resumable: 112 of 500 items done") as stopped:
        share(out, 0, 1, on_block=stop_at)
    assert (stopped.value.done, stopped.value.total) == (112, 500)
    assert not list(out.rglob("*.tmp"))
    assert workers_of(out) == []
    share(out)
    require_same(out, local)


def test_who_waits_for_the_cut_can_be_stopped(out: Path) -> None:
    def first() -> None:
        def stuck(ids: np.ndarray) -> None:
            if len(list(out.glob("screen/commits/*.json"))) == 31:
                time.sleep(60)

        share(out, 0, 2, on_block=stuck, screen=SCREEN)

    child = fork.Process(target=first)
    child.start()
    while len(list(out.glob("screen/commits/*.json"))) < 31:
        time.sleep(0.01)

    def second() -> None:
        try:
            share(out, 1, 2, screen=SCREEN)
        except Stopped:
            os._exit(3)

    other = fork.Process(target=second)
    other.start()
    states: set[str] = set()
    while "waiting for the cut" not in states:
        states |= {worker.state for worker in workers_of(out)}
        time.sleep(0.01)
    assert glance(out).stage == "stage 1"
    assert glance(out).done == ITEMS
    os.kill(other.pid or 0, signal.SIGTERM)
    other.join(30)
    assert other.exitcode == 3
    child.kill()
    child.join()


def test_a_model_that_cannot_be_scored_leaves_no_run(out: Path, local: Path) -> None:
    class Broken(FakeScorer):
        def prepare(self, *_args: Any, **_more: Any) -> dict[str, Any]:
            raise ValueError("no dropout")

    with pytest.raises(ValueError, match="no dropout"):
        score_shard(pool(), Broken(), out, Shard(0, 2), ScoreOptions(span=SPAN))
    assert not out.exists() or os.listdir(out) == []
    share(out)
    require_same(out, local)


def test_another_model_is_refused_at_once(out: Path, local: Path) -> None:
    with pytest.raises(RunError):
        share(out, 0, 1, on_block=fail_at(170))
    with joined(out, RunError) as other:
        assert other.share()
        for options in ({}, {"span": 20}, {"labeled": True}):
            with pytest.raises(RunError, match=r"cannot be resumed: started with (model|span|labeled)"):
                score_shard(
                    pool(), FakeScorer(model="sha256:other" if not options else "sha256:model"), out, Shard(1, 2),
                    ScoreOptions(**{"span": SPAN, **options}),
                )  # fmt: skip
        with pytest.raises(RunError, match=r"started with screen=null"):
            share(out, screen=SCREEN)


def test_a_pool_that_grew_meanwhile_is_scored_as_it_was_by_those_who_share_and_grows_at_the_end(
    out: Path, tmp_path: Path
) -> None:
    begin(tmp_path / "one", step=1)
    score_pool(grown(300), FakeScorer(), tmp_path / "one", span=40)
    with pytest.raises(RunError):
        begin(out, on_block=fail_at(50), step=1)
    seen: list[int] = []
    other = grown(300)
    with joined(out, RunError) as first:
        assert first.share()
        scorer = FakeScorer(on_block=lambda ids: seen.extend(ids.tolist()))
        report = score_shard(other, scorer, out, Shard(0, 1), ScoreOptions(span=40))
    assert report.run is None  # the first one is still there
    assert max(seen) == 99
    assert share(out, 0, 1, pool=other, span=40).run is not None
    require_same(out, tmp_path / "one")


def test_edited_code_joins_nobody_at_work(out: Path) -> None:
    def scorer(code: str) -> FakeScorer:
        made = FakeScorer()
        made.described["model"] = {**made.described["model"], "code": {"source of Net": f"{code} net.py"}}
        return made

    first = scorer("a" * 8)
    first.on_block = fail_at(170)
    with pytest.raises(RunError):
        score_shard(pool(), first, out, Shard(0, 2), ScoreOptions(span=SPAN))
    options = ScoreOptions(span=SPAN, accept_edited_code=True)
    with joined(out, RunError) as other:
        assert other.share()
        with pytest.raises(RunError, match="being scored by other processes with the code as it was"):
            score_shard(pool(), scorer("b" * 8), out, Shard(1, 2), options)
    report = score_shard(pool(), scorer("b" * 8), out, Shard(1, 2), options)
    assert report.run is not None
    assert {record.get("code", 0) for record in said_records(out)} == {0, 1}


def test_a_new_cut_is_left_to_one_process(out: Path) -> None:
    with pytest.raises(RunError, match="a new cut is fixed by one process alone"):
        share(out, screen=SCREEN, new_cut=True)
    assert not out.exists()


def test_a_directory_that_is_something_else_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"holds thesis\.tex and is not a run"):
        share(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]
