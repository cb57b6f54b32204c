"""The crew: every span comes once, whatever becomes of the workers. They are made up, and so is the time."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcscore.errors import ModelError, RunError
from mcscore.run.schema import Hardware, Model, Settings
from mcscore.run.scoring.crew import Crew
from mcscore.run.scoring.crewed import Crewed
from mcscore.run.scoring.orders import (
    Describe,
    Described,
    Ended,
    Failed,
    Hello,
    Moved,
    Order,
    Prepare,
    Reply,
    Score,
    Scored,
)
from mcscore.run.scoring.task import Admission, First, Reading, SpanError, SpanScores, SpanTask
from mcscore.run.spans import Span, cut

SETTINGS = Settings(model=Model(fingerprint="sha256:a"), passes=20, scores=("bald",), plan={"items": 8})
HERE = Hardware(device="CPU", instruction_set="avx2")
READING = Reading({"bald": np.dtype("f4"), "prediction": np.dtype("i4")}, 4, "raise")
SIZE = 10


@dataclass
class Team:
    """Workers that take ``seconds[worker % len]`` for a span. They end at the spans in ``deadly``, so many times; never answer for those in
    ``silent``, once; and are on ``hardware[worker]``, if that is given.
    """

    seconds: tuple[float, ...] = (1.0,)
    deadly: dict[int, int] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    hardware: dict[int, Hardware] = field(default_factory=dict)
    settings: dict[int, Settings] = field(default_factory=dict)
    stillborn: int = 0
    bits: dict[int, float] = field(default_factory=dict)
    now: float = 0.0
    begun: int = 0
    alive: set[int] = field(default_factory=set)
    free_at: dict[int, float] = field(default_factory=dict)
    scored: list[tuple[int, int]] = field(default_factory=list)
    events: list[tuple[float, int, int, Reply]] = field(default_factory=list)
    order: Iterator[int] = field(default_factory=itertools.count)
    closed: bool = False

    def clock(self) -> float:
        return self.now

    def tell(self, worker: int, reply: Reply, after: float) -> None:
        self.free_at[worker] = max(self.now, self.free_at.get(worker, 0.0)) + after
        heapq.heappush(self.events, (self.free_at[worker], next(self.order), worker, reply))

    def begin(self) -> int:
        self.begun += 1
        self.alive.add(self.begun)
        if self.stillborn:
            self.stillborn -= 1
            self.tell(self.begun, Ended("exit code 1"), 1.0)
        else:
            self.tell(self.begun, Hello(f"cpu:{self.begun}"), 1.0)
        return self.begun

    def send(self, worker: int, order: Order) -> None:
        if worker not in self.alive:
            return
        if isinstance(order, Describe | Prepare):
            settings = self.settings.get(worker, SETTINGS)
            if isinstance(order, Prepare):
                settings = dataclasses.replace(settings, plan=order.first.plan or SETTINGS.plan)
            hardware = self.hardware.get(worker, HERE)
            self.tell(worker, Described(order.variant, settings, hardware, "cpu"), 0.5)
            return
        span, seconds = order.task.span, self.seconds[worker % len(self.seconds)]
        if span.index in self.silent:
            self.silent.discard(span.index)
            self.free_at[worker] = float("inf")
        elif self.deadly.get(span.index, 0) and self.free_at[worker] < float("inf"):
            self.deadly[span.index] -= 1
            self.tell(worker, Ended("killed by SIGSEGV"), seconds / 2)
            self.free_at[worker] = float("inf")
        elif self.free_at[worker] < float("inf"):
            self.tell(worker, Moved(order.session, span, span.start + 4), seconds / 2)
            self.tell(worker, Scored(order.session, result(order, self.bits.get(worker, 0.0))), seconds / 2)

    def wait(self, seconds: float) -> list[tuple[int, Reply]]:
        until = self.now + seconds
        while self.events and self.events[0][0] <= until:
            self.now, _, worker, reply = heapq.heappop(self.events)
            if worker not in self.alive:
                continue
            if isinstance(reply, Ended):
                self.alive.discard(worker)
            if isinstance(reply, Scored):
                self.scored.append((worker, reply.scores.span.index))
            return [(worker, reply)]
        self.now = until
        return []

    def end(self, worker: int) -> None:
        self.alive.discard(worker)

    def close(self) -> None:
        self.closed = True


def result(order: Score, bits: float = 0.0) -> SpanScores:
    span = order.task.span
    bald = np.where(order.task.wanted, np.arange(span.start, span.stop, dtype=np.float32) + np.float32(bits), np.nan)
    values = {"bald": bald.astype(np.float32), "prediction": np.zeros(span.n, np.int32)}
    return SpanScores(span, values, int(order.task.wanted.sum()), (), (), 1.0, {"items": 8})


def tasks_of(n: int) -> list[SpanTask]:
    return [SpanTask(span, np.arange(span.n) % 3 > 0) for span in cut(n * SIZE, SIZE)]


def score(
    team: Team,
    spans: int,
    workers: int,
    mixed: bool = False,
    timeout: float | None = None,
    moved: Any = lambda _span, _stop: None,
) -> list[SpanScores]:
    crew = Crew(team, workers, timeout, team.clock)
    engine = Crewed(crew)
    assert engine.prepare(First(0, np.ones(3, bool), "raise"))
    admission = Admission(engine.describe(), (engine.hardware(),), mixed)
    return list(engine.score(tasks_of(spans), READING, admission, lambda: False, moved))


def each_once(found: list[SpanScores], spans: int) -> None:
    assert sorted(scores.span.index for scores in found) == list(range(spans))
    for scores in found:
        wanted = np.arange(scores.span.n) % 3 > 0
        assert np.array_equal(np.isfinite(scores.values["bald"]), wanted)
        assert np.array_equal(scores.values["bald"][wanted], np.arange(scores.span.start, scores.span.stop)[wanted])


@given(
    spans=st.integers(1, 30),
    workers=st.integers(1, 6),
    seconds=st.lists(st.sampled_from([0.1, 1.0, 1.3, 30.0]), min_size=1, max_size=4),
    deadly=st.dictionaries(st.integers(0, 29), st.integers(1, 2), max_size=4),
    silent=st.sets(st.integers(0, 29), max_size=2),
)
def test_every_span_comes_once_whatever_becomes_of_the_workers(
    spans: int, workers: int, seconds: list[float], deadly: dict[int, int], silent: set[int]
) -> None:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        found = score(Team(tuple(seconds), dict(deadly), silent - deadly.keys()), spans, workers, timeout=200.0)
    each_once(found, spans)


def test_workers_that_are_equal_share_the_spans() -> None:
    team = Team()
    each_once(score(team, 40, 4), 40)
    counts = np.bincount([worker for worker, _ in team.scored])[1:]
    assert counts.tolist() == [10, 10, 10, 10]
    assert team.now < 13.5  # 10 spans each, hello, prepare; no worker waited for another


def test_a_slow_worker_does_not_delay_the_end() -> None:
    team = Team(seconds=(1.0, 50.0))
    each_once(score(team, 20, 2), 20)
    assert (
        team.now < 30
    )  # the one span that it began was scored by the other as well, and so was the one that it had next


def test_a_worker_that_hangs_early_is_stopped_and_replaced() -> None:
    team = Team(silent={1})
    with pytest.warns(UserWarning, match=r"stopped after 20\.0 s at one span"):
        each_once(score(team, 60, 2, timeout=20.0), 60)
    assert team.begun == 3


def test_spans_of_a_worker_that_ended_are_scored_by_others() -> None:
    team = Team(deadly={3: 1})
    with pytest.warns(UserWarning, match=r"worker cpu:\d has ended \(killed by SIGSEGV\)"):
        each_once(score(team, 10, 2), 10)
    assert team.begun == 3


@pytest.mark.filterwarnings("ignore")
def test_a_span_that_ends_three_workers_is_named_and_the_others_are_finished() -> None:
    team = Team(deadly={3: 99})
    crew = Crew(team, 2, None, team.clock)
    engine = Crewed(crew)
    engine.prepare(First(0, np.ones(3, bool), "raise"))
    admission = Admission(engine.describe(), (HERE,), False)
    with pytest.raises(SpanError) as caught:
        list(engine.score(tasks_of(10), READING, admission, lambda: False, lambda _span, _stop: None))
    found = sorted({index for _, index in team.scored})
    assert found == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert caught.value.where == "span 3 (items 30..39)"
    assert caught.value.why.count("killed by SIGSEGV") == 3
    assert crew.deaths == 3


def test_workers_that_end_before_they_did_anything_are_an_error() -> None:
    with pytest.raises(RunError, match=r"6 workers in a row ended .*exit code 1"):
        score(Team(stillborn=99), 10, 2)
    each_once(score(Team(stillborn=5), 10, 2), 10)


def test_what_keeps_a_worker_from_its_model_is_raised_here() -> None:
    class Modelless(Team):
        def begin(self) -> int:
            number = super().begin()
            self.events.clear()
            self.tell(number, Failed.of(ModelError("net.py has no 'bild'")), 1.0)
            return number

    with pytest.raises(ModelError, match="has no 'bild'"):
        score(Modelless(), 3, 2)


def test_other_hardware_is_refused_unless_it_is_asked_for() -> None:
    other = Hardware(device="CPU", instruction_set="baseline")
    team = Team(hardware={2: other})
    with pytest.warns(UserWarning, match=r"worker cpu:2 is not used: .*instruction set avx2 then, baseline now"):
        found = score(team, 10, 3)
    each_once(found, 10)
    assert all(scores.hardware == HERE for scores in found)
    assert {worker for worker, _ in team.scored} == {1, 3}
    found = score(Team(hardware={2: other}), 10, 3, mixed=True)
    each_once(found, 10)
    assert HERE in [scores.hardware for scores in found]
    assert other in [scores.hardware for scores in found]


@pytest.mark.filterwarnings("ignore")
def test_a_run_for_which_no_worker_is_left_is_an_error() -> None:
    other = Hardware(device="CPU", instruction_set="baseline")
    team = Team(hardware={2: other, 3: other, 4: other}, deadly={0: 1})
    with pytest.raises(RunError, match="other hardware"):
        score(team, 10, 2)


def test_another_model_is_refused() -> None:
    other = dataclasses.replace(SETTINGS, model=Model(fingerprint="sha256:b"))
    with pytest.warns(UserWarning, match=r'worker cpu:2 is not used: it has another model.fingerprint="sha256:b"'):
        each_once(score(Team(settings={2: other}), 10, 2), 10)


def test_two_results_of_a_span_are_compared() -> None:
    with pytest.raises(RunError, match=r"scored by two workers .* differ in bald"):
        score(Team(seconds=(2.0, 1.0, 2.0), bits={2: 1.0}), 7, 3)
    each_once(score(Team(seconds=(2.0, 1.0, 2.0)), 7, 3), 7)


def test_an_error_of_the_scorer_ends_the_run_and_is_told_as_it_was() -> None:
    class Failing(Team):
        def send(self, worker: int, order: Order) -> None:
            if isinstance(order, Score) and order.task.span.index == 4:
                self.tell(worker, Failed.of(SpanError("items 40..43 in span 4", "MemoryError: no memory")), 1.0)
            else:
                super().send(worker, order)

    with pytest.raises(SpanError) as caught:
        score(Failing(), 10, 2)
    assert (caught.value.where, caught.value.why) == ("items 40..43 in span 4", "MemoryError: no memory")


def test_a_second_stage_uses_the_workers_that_are_there() -> None:
    team = Team(seconds=(1.0, 100.0))
    crew = Crew(team, 2, None, team.clock)
    for passes in (16, 100):  # a straggler of the first stage is still at its span when the second begins
        engine = Crewed(crew).copy(passes=passes)
        assert engine.prepare(First(0, np.ones(3, bool), "raise"))
        admission = Admission(engine.describe(), (HERE,), False)
        each_once(list(engine.score(tasks_of(6), READING, admission, lambda: False, lambda _span, _stop: None)), 6)
    assert team.begun == 2


def test_a_stop_leaves_what_is_not_done() -> None:
    team, stopped = Team(), []
    crew = Crew(team, 2, None, team.clock)
    engine = Crewed(crew)
    engine.prepare(First(0, np.ones(3, bool), "raise"))
    admission = Admission(engine.describe(), (HERE,), False)
    found = []
    for scores in engine.score(tasks_of(50), READING, admission, lambda: bool(stopped), lambda _span, _stop: None):
        found.append(scores)
        if len(found) == 7:
            stopped.append(True)
    assert len(found) == 7


def test_progress_is_told_once_per_block_and_not_of_what_is_done() -> None:
    told: list[tuple[Span, int]] = []
    score(Team(), 8, 2, moved=lambda span, stop: told.append((span, stop)))
    assert sorted((span.index, stop) for span, stop in told) == [(index, 10 * index + 4) for index in range(8)]
