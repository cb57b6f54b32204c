"""The engine that is a crew of workers: spans are handed out, and those of a worker that died are handed out again.

A worker has two spans at a time, so that it reads the next one while it scores. Where no span is left, an idle worker gets
the oldest one that another still has, and the first result counts: so a worker that is slow, or hangs, delays nobody.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RunError
from ...text import duration
from ..identity.hardware import differences
from ..identity.match import first_difference
from ..schema import Hardware, Settings
from .crew import AHEAD, DEATHS, Crew, Hand
from .orders import Describe, Described, Ended, Failed, Moved, Prepare, Reply, Score, Scored, Variant
from .task import Admission, First, Reading, SpanError, SpanScores, SpanTask, Stop
from .task import Moved as OnMoved

if TYPE_CHECKING:
    from ...scorer.checks import Finding

# A worker with a span for so many seconds, and so many times the longest so far, hangs.
_PATIENCE, _TIMES_LONGEST = 600.0, 20


class Crewed:
    """The engine of a crew, for one copy of its scorer."""

    def __init__(self, crew: Crew, variant: Variant = (None, None)) -> None:
        self._crew, self._variant = crew, variant
        self._described: Described | None = None
        self._asked: Hand | None = None  # who described it
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

    def _employ(self, hand: Hand) -> None:
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
        while len(hand.flight) < AHEAD and (task := self._task_for(hand)) is not None:
            if not hand.flight:
                hand.since = self.crew.clock()
            hand.flight[task.span.index] = task
            self.crew.team.send(hand.number, Score(self.variant, self.number, self.reading, task))

    def _admits(self, hand: Hand) -> bool:
        """Whether a prepared worker fits the run; one that does not is sent away."""
        admission = self.admission
        if hand.hardware not in admission.hardware and not admission.mixed:
            assert hand.hardware is not None
            self.crew.refuse(hand, _other_hardware(admission.hardware[0], hand.hardware))
            return False
        hand.admitted.add(self.variant)
        return True

    def _task_for(self, hand: Hand) -> SpanTask | None:
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

    def _take(self, hand: Hand, reply: Reply) -> SpanScores | None:
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

    def _finish(self, hand: Hand, scores: SpanScores) -> SpanScores | None:
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

    def _bury(self, hand: Hand, why: str) -> None:
        """Hand out the spans of a worker that is gone again, unless the one that it was at has ended too many."""
        if not hand.place or hand.session != self.number:
            return
        flight = [task for index, task in hand.flight.items() if index not in self.done]
        if flight:
            index = flight[0].span.index
            self.deaths.setdefault(index, []).append(why)
            if len(self.deaths[index]) >= DEATHS:
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
            f"{DEATHS} workers ended at {'it' if len(spans) == 1 else 'each'} ({whys}); the other spans are done",
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
