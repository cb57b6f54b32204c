"""A device that works beside the host never waits for it: a block is launched before the scores of the one before are taken.

The device is a clock: whatever the host does takes its time, and scores are there when the device has computed them.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore.errors import RunError, Stopped
from mcscore.run import Run, score_pool, start
from mcscore.run.journal import Journal
from mcscore.run.schema import Hardware
from mcscore.run.scoring import here
from mcscore.run.scoring.transfer import Scores, Transfer
from mcscore.run.signals import StopRequest
from mcscore.run.spans import CPU

from .fakes import SPAN, Column, FakePool, FakeScorer, N, content, fail_at, said_records

BLOCKS = [0, 16, 32, 40, 56, 72, 80, 96]  # first items
READ, LAUNCH, COMMIT, SCORE = 3, 2, 30, 50  # ms


@dataclass
class Device:
    """Takes SCORE ms for every block, one after the other. A block that holds the item ``fault`` ruins all that is queued."""

    behind: int = 1
    fault: int | None = None
    now: int = 0
    free_at: int = 0
    idle: int = 0
    events: list[tuple[str, int]] = field(default_factory=list)
    queued: list[np.ndarray] = field(default_factory=list)

    def spend(self, what: str, at: int, ms: int) -> None:
        self.events.append((what, at))
        self.now += ms

    def launch(self, ids: np.ndarray) -> int:
        """Queue a block; returns when its scores are there."""
        self.spend("launch", int(ids[0]), LAUNCH)
        if self.queued:
            self.idle += max(0, self.now - self.free_at)
        self.queued.append(ids)
        self.free_at = max(self.now, self.free_at) + SCORE
        return self.free_at

    def wait(self, at: int, first: int) -> None:
        self.spend("wait", first, 0)
        self.now = max(self.now, at)
        if any(self.fault in ids for ids in self.queued):
            raise RuntimeError("CUDA error: device-side assert triggered")


class FakeTransfer(Transfer):
    """Reads nothing ahead, so that there is one clock; scores are nonsense until they are waited for."""

    ahead = 0

    def __init__(self, device: Device) -> None:
        self.device, self.behind = device, device.behind

    def download(self, scores: Mapping[str, Any]) -> Scores:
        given = {name: column.numpy() for name, column in scores.items()}
        columns = {name: np.full_like(values, 77) for name, values in given.items()}
        ids = self.device.queued[-1]
        at = self.device.free_at

        def wait() -> None:
            self.device.wait(at, int(ids[0]))
            for name, values in given.items():
                columns[name][...] = values

        return Scores(columns, wait)


class OnDevice(FakeScorer):
    device = "cuda:0"
    on: Device

    def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
        scores = super().__call__(items, ids)
        self.on.launch(ids)
        return scores


class TimedPool(FakePool):
    on: Device

    def read(self, start: int, stop: int) -> np.ndarray:
        self.on.spend("read", start, READ)
        return super().read(start, stop)


Score = Any


@pytest.fixture
def score(out: Path, monkeypatch: pytest.MonkeyPatch) -> Score:
    """Score the standard pool on a device."""
    monkeypatch.setattr(here, "hardware_of", lambda *_: Hardware(device="a GPU"))
    monkeypatch.setattr(start, "speed_of", lambda _device: CPU)  # the blocks of the undisturbed run
    commit = Journal.commit

    def run(device: Device, scorer: OnDevice | None = None, pool: TimedPool | None = None, **options: Any) -> Run:
        def timed(journal: Journal, span: Any, *args: Any, **facts: Any) -> Any:
            device.spend("commit", span.index, COMMIT)
            return commit(journal, span, *args, **facts)

        scorer, pool = scorer or OnDevice(), pool or TimedPool()
        scorer.on = pool.on = device
        monkeypatch.setattr(Journal, "commit", timed)
        monkeypatch.setattr(here, "CudaTransfer", lambda _name: FakeTransfer(device))
        return score_pool(pool, scorer, out, span=SPAN, check="off", **options)

    return run


def test_the_next_block_is_launched_before_the_scores_of_one_are_taken(score: Score, undisturbed: Any) -> None:
    device = Device()
    assert content(score(device)) == undisturbed
    first_read = device.events.index(("read", 0), 1)  # after that of the planning
    assert device.events[first_read:] == [
        *[("read", 0), ("launch", 0), ("read", 16), ("launch", 16), ("wait", 0)],
        *[("read", 32), ("launch", 32), ("wait", 16), ("read", 40), ("launch", 40), ("wait", 32), ("commit", 0)],
        *[("read", 56), ("launch", 56), ("wait", 40), ("read", 72), ("launch", 72), ("wait", 56)],
        *[("read", 80), ("launch", 80), ("wait", 72), ("commit", 1)],
        *[("read", 96), ("launch", 96), ("wait", 80), ("wait", 96), ("commit", 2)],
    ]


def test_the_device_is_never_idle_and_each_block_waited_for_once(score: Score) -> None:
    device = Device()
    score(device)
    assert device.idle == 0
    assert [first for what, first in device.events if what == "wait"] == BLOCKS


def test_without_the_lag_the_device_would_wait(score: Score, undisturbed: Any) -> None:
    """That the clock tells: reading, launching and two of the three commits show."""
    device = Device(behind=0)
    assert content(score(device)) == undisturbed
    assert device.idle == 7 * (READ + LAUNCH) + 2 * COMMIT


# -- errors keep their place -------------------------------------------------------------------------------------------


def finished(score: Score) -> dict[str, bytes]:
    return content(score(Device(), OnDevice(step=2)))


def test_a_block_that_cannot_be_launched_does_not_cost_the_span_before(
    score: Score, out: Path, undisturbed: Any
) -> None:
    device = Device()
    with pytest.raises(RunError, match=r"items 40\.\.55 in span 1 \(items 40\.\.79\) .* out of memory\. 40 of 100"):
        score(device, OnDevice(on_block=fail_at(40)))
    assert device.events[-2:] == [("wait", 32), ("commit", 0)]  # and no other block was read or launched
    assert Run.open(out).done == 40
    assert finished(score) == undisturbed


def test_a_chunk_that_cannot_be_read_does_not_cost_the_span_before(score: Score, out: Path, undisturbed: Any) -> None:
    pool = TimedPool()

    def spoil(_done: int, _total: int) -> None:
        pool.bad = [(40, 44)]  # once the planning has read it

    device = Device()
    with pytest.raises(RunError, match=r"items 40\.\.43 cannot be read.* 40 of 100 items are done"):
        score(device, pool=pool, progress=spoil)
    assert device.events[-2:] == [("wait", 32), ("commit", 0)]
    assert Run.open(out).done == 40
    assert finished(score) == undisturbed


def test_scores_of_the_wrong_kind_are_told_with_their_own_items(score: Score, out: Path) -> None:
    class Wrong(OnDevice):
        def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
            return super().__call__(items, ids) | {
                "entropy": Column(np.zeros(len(ids), np.float64 if 40 in ids else "f4"))
            }

    with pytest.raises(RunError, match=r"items 40\.\.55 in span 1 .*gave entropy as float64 .*\. 40 of 100"):
        score(Device(), Wrong())
    assert Run.open(out).done == 40


@pytest.mark.parametrize(
    ("fault", "says", "done"),
    [
        (20, r"items 0\.\.31 in span 0 \(items 0\.\.39\) of", 0),
        (35, r"items 16\.\.39 in span 0 \(items 0\.\.39\) of", 0),
        (45, r"items 32\.\.55 in span 0 \(items 0\.\.39\) or span 1 \(items 40\.\.79\) of", 0),
        (60, r"items 40\.\.71 in span 1 \(items 40\.\.79\) of", 40),
        (99, r"items 80\.\.99 in span 2 \(items 80\.\.99\) of", 80),
    ],
)
def test_an_error_that_the_device_reports_late_names_all_that_it_may_be_of(
    score: Score, out: Path, undisturbed: Any, fault: int, says: str, done: int
) -> None:
    with pytest.raises(RunError, match=f"{says} .*device-side assert.* {done} of 100 items are done"):
        score(Device(fault=fault))
    assert Run.open(out).done == done
    assert finished(score) == undisturbed


def test_a_span_that_cannot_be_committed_ends_the_run_with_none_after_it(
    score: Score, out: Path, undisturbed: Any
) -> None:
    class Full(Device):
        def spend(self, what: str, at: int, ms: int) -> None:
            super().spend(what, at, ms)
            if what == "commit":
                raise OSError(errno.ENOSPC, "No space left on device")

    device = Full()
    with pytest.raises(RunError, match=r"span 0 .* could not be written\. 0 of 100 .*No space left"):
        score(device)
    assert device.events[-2:] == [("wait", 32), ("commit", 0)]  # the block in flight is not waited for
    assert Run.open(out).done == 0
    assert finished(score) == undisturbed


# -- stops, plans, progress --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("id", "done"), [(3, 0), (20, 0), (39, 40), (41, 40), (72, 80), (80, 80), (99, 100)])
def test_a_stop_commits_the_spans_whose_last_block_was_launched(
    score: Score, out: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch, id: int, done: int
) -> None:
    requests: list[StopRequest] = []
    made = StopRequest.__init__

    def noted(request: StopRequest) -> None:
        made(request)
        requests.append(request)

    def stop(ids: np.ndarray) -> None:
        requests[-1].made |= id in ids

    monkeypatch.setattr(StopRequest, "__init__", noted)
    device = Device()
    with pytest.raises(Stopped, match=f"{done} of 100"):
        score(device, OnDevice(on_block=stop))
    assert id in device.queued[-1]
    assert Run.open(out).done == done
    assert finished(score) == undisturbed


def test_a_span_has_the_plan_that_it_was_scored_with(score: Score, out: Path) -> None:
    class Halving(OnDevice):
        def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
            if 40 in ids:  # launched before span 0 is committed
                self.plan = self.plan | {"items": 9}
            return super().__call__(items, ids)

    score(Device(), Halving())
    plans = [record.get("plan") and record["plan"]["items"] for record in said_records(out)]
    assert plans == [None, 9, 9]


def test_progress_follows_the_scores_that_were_taken(score: Score) -> None:
    told: list[tuple[int, int]] = []
    score(Device(), progress=lambda done, total: told.append((done, total)))
    assert told == [(0, N), *[(first, N) for first in BLOCKS[1:]], (N, N)]
