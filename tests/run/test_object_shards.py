"""Shards that have no contact but the URL of a run, in a store without locks."""

from __future__ import annotations

import os
import random
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore")
from mcscore.run import Screen, score_pool
from mcscore.run.run import Run
from mcscore.run.shards import Shard, ShardReport, score_shard
from mcscore.run.start import ScoreOptions
from mcscore.run.status import verify
from mcscore.store.place import any_path, place_at
from mcscore.store.place.objects import ObjectPlace

from ..processes import Child
from ..s3 import Fault, every, faulty, s3, s3_server
from .fakes import FakePool, FakeScorer, N, content, grown

__all__ = ["faulty", "s3", "s3_server"]  # fixtures

SPAN = 10  # of 100 items


def options(**changes: Any) -> ScoreOptions:
    return ScoreOptions(span=SPAN, labeled=False, on_bad_chunk="raise", mixed_hardware=False, **changes)


@pytest.fixture
def alone(tmp_path: Path) -> Run:
    return score_pool(FakePool(), FakeScorer(), tmp_path / "alone", span=SPAN)


def together(url: str, count: int, pool: Callable[[], FakePool] = FakePool, **how: Any) -> list[ShardReport]:
    """What ``count`` shards report that score at the same time."""
    reports, errors = list[ShardReport](), list[BaseException]()

    def work(index: int) -> None:
        try:
            scorer = FakeScorer(on_block=lambda _ids: time.sleep(0.005))
            reports.append(score_shard(pool(), scorer, url, Shard(index, count), options(**how)))
        except BaseException as error:
            errors.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    return reports


def require_whole(url: str, alone: Run) -> None:
    assert content(Run.open(url)) == content(alone)
    assert place_at(any_path(url)).names("commits") == ["packed.jsonl"]
    assert list(verify(url)) == []
    for own, other in zip(alone._records, Run.open(url)._records, strict=True):
        assert own._replace(run="", seconds=0) == other._replace(run="", seconds=0)


def test_shards_at_a_url_score_what_one_process_does(s3: str, alone: Run) -> None:
    reports = together(f"{s3}/run", 4)
    assert all(report.run is not None and report.run.complete for report in reports)
    assert sum(report.items for report in reports) >= N  # a span may be scored by two
    require_whole(f"{s3}/run", alone)


@pytest.mark.parametrize("kinds", [("500", "lost", "429"), ("dropped", "late", "503")])
def test_shards_on_a_bad_network(
    faulty: tuple[str, Callable[[Fault], None]], alone: Run, kinds: tuple[str, ...]
) -> None:
    url, fail = faulty
    fail(every(9, *kinds))
    together(f"{url}/run", 3)
    fail(lambda _method, _path: "")
    require_whole(f"{url}/run", alone)


def test_shards_at_a_url_screen(s3: str, tmp_path: Path) -> None:
    screen = Screen(top=5, passes=10)
    here = score_pool(FakePool(), FakeScorer(), tmp_path / "run", span=SPAN, screen=screen)
    together(f"{s3}/run", 3, screen=screen)
    there = Run.open(f"{s3}/run")
    assert content(there) == content(here)
    assert here.screen is not None
    assert there.screen is not None
    assert there.screen.scores("bald").tolist() == here.screen.scores("bald").tolist()
    assert there.meta["certificate"] == here.meta["certificate"]
    assert list(verify(f"{s3}/run")) == []


def test_shards_at_a_url_go_on_with_a_pool_that_has_grown(s3: str, tmp_path: Path) -> None:
    for where in (str(tmp_path / "run"), f"{s3}/run"):
        score_pool(FakePool(95), FakeScorer(), where, span=SPAN)

    def more() -> FakePool:
        pool = grown(130)
        pool.before[95] = "sha256:pool"
        return pool

    here = score_pool(more(), FakeScorer(step=2), tmp_path / "run")
    together(f"{s3}/run", 3, more)
    assert content(Run.open(f"{s3}/run")) == content(here)
    assert list(verify(f"{s3}/run")) == []


def test_a_run_that_another_shard_makes_while_one_looks_is_a_run(
    s3: str, alone: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ObjectPlace.names

    def late(place: ObjectPlace, folder: str = "") -> list[str]:
        monkeypatch.setattr(ObjectPlace, "names", names)
        score_shard(FakePool(), FakeScorer(), f"{s3}/run", Shard(1, 2), options())  # from start to end
        return names(place, folder)

    monkeypatch.setattr(ObjectPlace, "names", late)
    report = score_shard(FakePool(), FakeScorer(), f"{s3}/run", Shard(0, 2), options())
    assert report.run is not None
    require_whole(f"{s3}/run", alone)


def work_slowly(url: str, index: int, say: Callable[[str], None]) -> None:
    scorer = FakeScorer(on_block=lambda _ids: time.sleep(0.03))
    say("begin")
    score_shard(FakePool(), scorer, url, Shard(index, 3), options())


def test_shards_at_a_url_that_are_killed(s3: str, alone: Run) -> None:
    seed = int(os.environ.get("MCSCORE_KILL_SEED", random.randrange(10**6)))
    print(f"MCSCORE_KILL_SEED={seed}")  # pytest shows it when the test fails
    rng, url = random.Random(seed), f"{s3}/run"

    running = [Child(work_slowly, url, index) for index in range(3)]
    for _ in range(4):
        index = rng.randrange(3)
        assert running[index].hear() == "begin"
        time.sleep(rng.uniform(0, 0.5))
        running[index].kill()
        running[index] = Child(work_slowly, url, index)
    assert [child.wait() for child in running] == [0, 0, 0]
    require_whole(url, alone)
