"""Shards for the tests: a pool, processes that score it together, and whether their run is that of one process."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mcscore.run import Run, Screen, score_pool
from mcscore.run.shards import Shard, ShardReport, score_shard
from mcscore.run.start import ScoreOptions

from .fakes import FakePool, FakeScorer, content, said_records

ITEMS, SPAN = 500, 16  # 32 spans, the last one of 4 items; a block each
SCREEN = Screen(top=20, passes=8)
fork = multiprocessing.get_context("fork")


def pool() -> FakePool:
    made = FakePool(ITEMS)
    made.labels[3:400:7] = 1
    made.excluded[48:64] = True  # a whole span
    return made


def slowly(_ids: np.ndarray) -> None:
    time.sleep(0.004)


def share(
    out: Path, index: int = 0, count: int = 2, on_block: Callable[[np.ndarray], None] = slowly, **options: Any
) -> ShardReport:
    """Be a shard. The scorer plans other steps than the one that made a local run, if it makes the run."""
    options = {"span": SPAN, **options}
    scorer = FakeScorer(step=options.pop("step", 1), on_block=on_block)
    items = options.pop("pool", None) or pool()
    return score_shard(items, scorer, out, Shard(index, count), ScoreOptions(**options))


def locally(out: Path, **options: Any) -> Run:
    return score_pool(options.pop("pool", None) or pool(), FakeScorer(), out, **{"span": SPAN, **options})


def together(out: Path, count: int, **options: Any) -> None:
    """Let so many processes score at the same time. All end well, and the last one finds the run complete."""

    def work(index: int) -> None:
        report = share(out, index, count, **options)
        os._exit(0 if report.run is not None else 4)

    children = [fork.Process(target=work, args=(index,)) for index in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    codes = {child.exitcode for child in children}
    assert codes <= {0, 4}, codes
    assert 0 in codes


def records(run: Path) -> list[dict[str, Any]]:
    return [{**record, "run": "", "seconds": 0} for record in said_records(run)]


def require_same(out: Path, other: Path) -> None:
    """All that the two runs hold is the same, and nothing else lies there."""
    one, two = Run.open(out), Run.open(other)
    assert one.complete
    assert content(one) == content(two)
    assert records(out) == records(other)
    if one.screen is not None and two.screen is not None:
        assert content(one.screen) == content(two.screen)  # type: ignore[arg-type]
        assert records(out / "screen") == records(other / "screen")
        assert one.meta["cuts"] == two.meta["cuts"]
        assert one.meta["certificate"] == two.meta["certificate"]
    names = sorted(str(path.relative_to(other)) for path in other.rglob("*"))
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == names
