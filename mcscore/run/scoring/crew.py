"""The engine that is a team of workers: spans are handed out, and those of a worker that died are handed out again.

A worker has two spans at a time, so that it reads the next one while it scores. Where no span is left, an idle worker gets
the oldest one that another still has, and the first result counts: so a worker that is slow, or hangs, delays nobody.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RunError
from ...text import duration
from ..identity.hardware import differences
from ..identity.match import first_difference
from ..schema import Hardware, Settings
from .orders import (
    Describe,
    Described,
    Embedded,
    Ended,
    Failed,
    Hello,
    Moved,
    Prepare,
    Reply,
    Score,
    Scored,
    Team,
    Variant,
)
from .task import Admission, First, Reading, SpanError, SpanScores, SpanTask, Stop
from .task import Moved as OnMoved

if TYPE_CHECKING:
    from ...scorer.checks import Finding

_AHEAD = 2  # spans that a worker has at a time
_DEATHS = 3  # of workers, at one span or before they say hello
_WAIT = 0.2  # seconds between two looks at whether a stop is asked for
# A worker with a span for so many seconds, and so many times the longest so far, hangs.
_PATIENCE, _TIMES_LONGEST = 600.0, 20


@dataclass
class _Hand:
    """A worker. ``flight``: the spans that it has, oldest first, and since when it may be at the first of them."""

    number: int
    place: str = ""
    prepared: set[Variant] = field(default_factory=set)
    admitted: set[Variant] = field(default_factory=set)
    hardware: Hardware | None = None
    flight: dict[int, SpanTask] = field(default_factory=dict)
    session: int = -1
    since: float = 0.0
    done: int = 0


class Crew:
    """The workers of a team, as many as are wanted: one that died is replaced.

    Args:
        team: starts and stops workers.
        n: how many there are to be.
        timeout: seconds that a span may take; default: 10 minutes, or 20 times the longest one so far.
        clock: seconds.

    Attributes:
        deaths: workers that ended by themselves so far.
    """

    def __init__(
        self, team: Team, n: int, timeout: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.team, self.n, self.timeout, self.clock = team, n, timeout, clock
        self.hands: dict[int, _Hand] = {}
        self.deaths = 0
        self.sessions = 0
        self._in_vain = 0  # deaths since a worker has done anything
        self._refused = 0

    def engine(self) -> Crewed:
        """The engine that scores with these workers."""
        return Crewed(self)

    def fill(self) -> None:
        """Start workers until there are as many as wanted. RunError if the last ones all ended before they had their scorer."""
        while len(self.hands) < self.n - self._refused:
            number = self.team.begin()
            self.hands[number] = _Hand(number)

    def next(self) -> list[tuple[_Hand, Reply]]:
        """What workers answered in the last moments. One that ended is not in ``hands`` any more.

        Raises:
            RunError: worker after worker ended, and none of them did anything.
            Exception: what kept a worker from making its scorer, if no worker has made it.
        """
        replies = []
        for worker, reply in self.team.wait(_WAIT):
            if (hand := self.hands.get(worker)) is None:
                continue
            replies.append((hand, reply))
            if isinstance(reply, Hello):
                hand.place = reply.place
            elif isinstance(reply, Failed) and not hand.place:
                self._not_begun(hand, reply)
            elif isinstance(reply, Ended):
                del self.hands[worker]
                self.deaths += 1
                self._in_vain += 1
                if self._in_vain >= _DEATHS * self.n:
                    raise RunError(
                        f"{self._in_vain} workers in a row ended before they had done anything (the last one: {reply.why}); what they "
                        "printed stands above"
                    )
            elif isinstance(reply, Described | Scored | Embedded):
                self._in_vain = 0
        return replies

    def _not_begun(self, hand: _Hand, failed: Failed) -> None:
        """Do without a worker that cannot make its scorer where others can; where none has, they will not either."""
        if not any(each.place for each in self.hands.values()):
            raise failed.error()
        self.refuse(hand, str(failed.error()))

    def end(self, hand: _Hand) -> None:
        """Stop a worker."""
        self.hands.pop(hand.number, None)
        self.team.end(hand.number)

    def refuse(self, hand: _Hand, why: str) -> None:
        """Do without a worker that does not fit the run. RunError if no other is left."""
        self.end(hand)
        self._refused += 1
        if self._refused >= self.n:
            raise RunError(f"no worker fits the run; the last one, {hand.place or hand.number}, does not: {why}")
        warnings.warn(f"the worker {hand.place or hand.number} is not used: {why}", stacklevel=2)

    def ask(self, order: Describe | Prepare) -> tuple[_Hand, Described]:
        """Let any one worker carry out an order. Raises what it raises."""
        while True:
            self.fill()
            if (hand := next((each for each in self.hands.values() if each.place), None)) is None:
                self.next()
                continue
            self.team.send(hand.number, order)
            if isinstance(reply := self._answer(hand), Described):
                return hand, reply

    def _answer(self, asked: _Hand) -> Described | Ended:
        while True:
            for hand, reply in self.next():
                if hand is asked and isinstance(reply, Failed):
                    raise reply.error()
                if hand is asked and isinstance(reply, Described | Ended):
                    return reply

    def close(self) -> None:
        """Stop all workers."""
        self.team.close()


class Crewed:
    """The engine of a crew, for one copy of its scorer."""

    def __init__(self, crew: Crew, variant: Variant = (None, None)) -> None:
        self._crew, self._variant = crew, variant
        self._described: Described | None = None
        self._asked: _Hand | None = None  # who described it
        self._first: First | None = None

    @property
    def device(self) -> str:
        """Name of the device of the worker that was asked first."""
        return self._described.device if self._described is not None else self._ask(Describe(self._variant)).device

    @property
    def size(self) -> int:
        """The number of workers."""
        return self._crew.n

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What did not look right to the worker that was asked to prepare."""
        return self._described.findings if self._described is not None else ()

    def staff(self) -> list[dict[str, Any]]:
        """The workers: what each is, the items that it has scored, and what it does."""
        return [
            {
                "what": hand.place or "a worker that starts",
                "done": hand.done,
                "state": f"at {next(iter(hand.flight.values())).span}" if hand.flight else "waits",
            }
            for hand in self._crew.hands.values()
        ]

    def copy(self, passes: int | None = None, errors: bool | None = None) -> Crewed:
        """The same workers, with another copy of their scorer."""
        own = self._variant
        return Crewed(self._crew, (own[0] if passes is None else passes, own[1] if errors is None else errors))

    def describe(self) -> Settings:
        """The settings of the scorer of a worker."""
        return (self._described or self._ask(Describe(self._variant))).settings

    def hardware(self, known: Sequence[Hardware] = ()) -> Hardware:
        """What a worker scores with: one of ``known``, if given; workers that have other hardware are not used. RunError if all have."""
        described = self._described or self._ask(Describe(self._variant))
        while known and described.hardware not in known:
            assert self._asked is not None
            self._crew.refuse(self._asked, _other_hardware(known[0], described.hardware))
            described = self._ask(Describe(self._variant))
        return described.hardware

    def prepare(self, first: First) -> bool:
        """Let a worker plan on the first items; the others adopt its plan."""
        self._first = first
        return self._ask(Prepare(self._variant, first)).prepared

    def _ask(self, order: Describe | Prepare) -> Described:
        self._asked, self._described = self._crew.ask(order)
        if isinstance(order, Prepare) and self._described.prepared:
            self._asked.prepared.add(self._variant)
            self._asked.hardware = self._described.hardware
        return self._described

    def score(
        self, tasks: Iterable[SpanTask], reading: Reading, admission: Admission, stop: Stop, moved: OnMoved
    ) -> Iterator[SpanScores]:
        """Score tasks in the order in which workers finish them.

        Raises:
            SpanError: a span could not be scored, or ended three workers; these spans come last.
            RunError: no worker fits the run.
        """
        assert self._first is not None
        first = dataclasses.replace(self._first, plan=admission.settings.plan, check=False)
        return _Session(self._crew, self._variant, first, tasks, reading, admission, moved).results(stop)


class _Session:
    """The spans of one call of ``score``, and who has them."""

    def __init__(
        self,
        crew: Crew,
        variant: Variant,
        first: First,
        tasks: Iterable[SpanTask],
        reading: Reading,
        admission: Admission,
        moved: OnMoved,
    ) -> None:
        crew.sessions += 1
        self.crew, self.variant, self.number = crew, variant, crew.sessions
        self.first, self.tasks, self.reading, self.admission, self.moved = first, iter(tasks), reading, admission, moved
        self.again: deque[SpanTask] = deque()  # of workers that died
        self.deaths: dict[int, list[str]] = {}  # by span
        self.given = 0
        self.aside: dict[int, SpanTask] = {}  # spans that ended too many workers
        self.done: set[int] = set()
        self.twice: dict[int, SpanScores] = {}  # first results of spans that two workers have
        self.drained = False
        self.longest = 0.0

    def results(self, stop: Stop) -> Iterator[SpanScores]:
        """Yield each span once."""
        crew = self.crew
        while not stop():
            crew.fill()
            for hand in list(crew.hands.values()):
                self._employ(hand)
            if self.drained and self.given == len(self.done) + len(self.aside):
                break
            for hand, reply in crew.next():
                if (scores := self._take(hand, reply)) is not None:
                    yield scores
            self._end_hanging()
        if self.aside and not stop():
            raise self._given_up()

    def _employ(self, hand: _Hand) -> None:
        """Give a worker what it is to do next."""
        if not hand.place:
            return
        if hand.session != self.number:
            hand.session, hand.flight = self.number, {}
            if self.variant not in hand.prepared:
                self.crew.team.send(hand.number, Prepare(self.variant, self.first))
        if self.variant not in hand.prepared:
            return
        if self.variant not in hand.admitted and not self._admits(hand):
            return
        while len(hand.flight) < _AHEAD and (task := self._task_for(hand)) is not None:
            if not hand.flight:
                hand.since = self.crew.clock()
            hand.flight[task.span.index] = task
            self.crew.team.send(hand.number, Score(self.variant, self.number, self.reading, task))

    def _admits(self, hand: _Hand) -> bool:
        """Whether a prepared worker fits the run; one that does not is sent away."""
        admission = self.admission
        if hand.hardware not in admission.hardware and not admission.mixed:
            assert hand.hardware is not None
            self.crew.refuse(hand, _other_hardware(admission.hardware[0], hand.hardware))
            return False
        hand.admitted.add(self.variant)
        return True

    def _task_for(self, hand: _Hand) -> SpanTask | None:
        if self.again:
            return self.again.popleft()
        if not self.drained:
            if (task := next(self.tasks, None)) is not None:
                self.given += 1
                return task
            self.drained = True
        return None if hand.flight else self._of_others()

    def _of_others(self) -> SpanTask | None:
        """A span that one other worker has: the first that has not begun, else the one that has been in work for longest."""
        others = sorted(
            (each for each in self.crew.hands.values() if each.session == self.number), key=lambda each: each.since
        )
        holders = Counter(index for each in others for index in each.flight)
        queued = [task for each in others for task in list(each.flight.values())[1:]]
        begun = [task for each in others for task in list(each.flight.values())[:1]]
        free = (
            task for task in (*queued, *begun) if task.span.index not in self.done and holders[task.span.index] == 1
        )
        return next(free, None)

    def _take(self, hand: _Hand, reply: Reply) -> SpanScores | None:
        """Take in a reply. Returns a span that is done now."""
        if isinstance(reply, Described) and reply.variant == self.variant:
            hand.hardware = reply.hardware
            if not reply.prepared:
                self.crew.refuse(hand, "it cannot read the first items of the pool, which another worker could")
            elif why := first_difference(self.admission.settings, reply.settings):
                self.crew.refuse(hand, f"it has {why}")
            else:
                hand.prepared.add(self.variant)
        elif isinstance(reply, Failed):
            raise reply.error()
        elif isinstance(reply, Ended):
            self._bury(hand, reply.why)
        elif isinstance(reply, Moved) and reply.session == self.number and reply.span.index not in self.done:
            self.moved(reply.span, reply.stop)
        elif isinstance(reply, Scored) and reply.session == self.number:
            return self._finish(hand, dataclasses.replace(reply.scores, hardware=hand.hardware))
        return None

    def _finish(self, hand: _Hand, scores: SpanScores) -> SpanScores | None:
        index, now = scores.span.index, self.crew.clock()
        self.longest, hand.since = max(self.longest, now - hand.since), now
        hand.flight.pop(index, None)
        hand.done += scores.scored
        if index in self.done:
            if (before := self.twice.pop(index, None)) is not None:
                _require_equal(before, scores)
            return None
        self.done.add(index)
        self.aside.pop(index, None)
        if any(index in other.flight for other in self.crew.hands.values()):
            self.twice[index] = scores
        return scores

    def _bury(self, hand: _Hand, why: str) -> None:
        """Hand out the spans of a worker that is gone again, unless the one that it was at has ended too many."""
        if not hand.place or hand.session != self.number:
            return
        flight = [task for index, task in hand.flight.items() if index not in self.done]
        if flight:
            index = flight[0].span.index
            self.deaths.setdefault(index, []).append(why)
            if len(self.deaths[index]) >= _DEATHS:
                self.aside[index] = flight.pop(0)
        held = {index for each in self.crew.hands.values() if each.session == self.number for index in each.flight}
        self.again.extend(task for task in flight if task.span.index not in held)
        warnings.warn(
            f"the worker {hand.place} has ended ({why}); another one takes its place and its spans", stacklevel=2
        )

    def _end_hanging(self) -> None:
        """Stop workers that have been at a span for too long."""
        limit = self.crew.timeout or max(_PATIENCE, _TIMES_LONGEST * self.longest)
        for hand in list(self.crew.hands.values()):
            if hand.session == self.number and hand.flight and self.crew.clock() - hand.since > limit:
                self.crew.end(hand)
                self._bury(hand, f"stopped after {duration(limit)} at one span")

    def _given_up(self) -> SpanError:
        spans = [task.span for task in self.aside.values()]
        whys = "; ".join(f"{self.aside[index].span}: {', '.join(self.deaths[index])}" for index in self.aside)
        return SpanError(
            " and ".join(map(str, spans)),
            f"{_DEATHS} workers ended at {'it' if len(spans) == 1 else 'each'} ({whys}); the other spans are done",
        )


def _other_hardware(runs: Hardware, workers: Hardware) -> str:
    differ = "; ".join(differences(runs, workers))
    return f"it has other hardware than the run: {differ}; mixed_hardware=True (--mixed-hardware) lets it score"


def _require_equal(before: SpanScores, now: SpanScores) -> None:
    """Compare the results of a span that two workers had. RunError if the same hardware gave other bits."""
    if now.hardware != before.hardware or now.plan != before.plan:
        return
    differ = [
        name
        for name, column in before.values.items()
        if not np.array_equal(column.view(np.uint32), now.values[name].view(np.uint32))
    ]
    if differ:
        raise RunError(
            f"{before.span} was scored by two workers under the same conditions, and they differ in {', '.join(differ)}: the model, the "
            "transform or the device is not deterministic"
        )
