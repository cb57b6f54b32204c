"""The workers of a team, as many as are wanted: one that died is replaced, one that does not fit is sent away."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from ...errors import RunError
from ...events import event
from ..schema import Hardware
from .orders import Describe, Described, Embedded, Ended, Failed, Hello, Prepare, Reply, Scored, Team, Variant
from .task import SpanTask

AHEAD = 2  # orders that a worker has at a time, so that it reads for the next one while it works at the first
DEATHS = 3  # of workers, at one order; and for each that is wanted, before one has done anything
_WAIT = 0.2  # seconds between two looks at whether a stop is asked for


@dataclass
class Hand:
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
    """The workers of a team.

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
        self.hands: dict[int, Hand] = {}
        self.deaths = 0
        self.sessions = 0
        self._in_vain = 0  # deaths since a worker has done anything
        self._refused = 0

    def fill(self) -> None:
        """Start workers until there are as many as wanted."""
        while len(self.hands) < self.n - self._refused:
            number = self.team.begin()
            self.hands[number] = Hand(number)

    def next(self) -> list[tuple[Hand, Reply]]:
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
                event(__name__, "worker started", worker=hand.number, place=hand.place)
            elif isinstance(reply, Failed) and not hand.place:
                self._not_begun(hand, reply)
            elif isinstance(reply, Ended):
                del self.hands[worker]
                self.deaths += 1
                event(__name__, "worker ended", logging.WARNING, worker=hand.number, place=hand.place, why=reply.why)
                self._in_vain += 1
                if self._in_vain >= DEATHS * self.n:
                    raise RunError(
                        f"{self._in_vain} workers in a row ended before they had done anything (the last one: {reply.why}); what they "
                        "printed stands above"
                    )
            elif isinstance(reply, Described | Scored | Embedded):
                self._in_vain = 0
        return replies

    def _not_begun(self, hand: Hand, failed: Failed) -> None:
        """Do without a worker that cannot make its scorer where others can; where none has, they will not either."""
        if not any(each.place for each in self.hands.values()):
            raise failed.error()
        self.refuse(hand, str(failed.error()))

    def end(self, hand: Hand) -> None:
        """Stop a worker."""
        self.hands.pop(hand.number, None)
        self.team.end(hand.number)
        event(__name__, "worker stopped", logging.WARNING, worker=hand.number, place=hand.place)

    def refuse(self, hand: Hand, why: str) -> None:
        """Do without a worker that does not fit the run. RunError if no other is left."""
        self.end(hand)
        self._refused += 1
        if self._refused >= self.n:
            raise RunError(f"no worker fits the run; the last one, {hand.place or hand.number}, does not: {why}")
        warnings.warn(f"the worker {hand.place or hand.number} is not used: {why}", stacklevel=2)

    def ask(self, order: Describe | Prepare) -> tuple[Hand, Described]:
        """Let any one worker carry out an order. Raises what it raises."""
        while True:
            self.fill()
            if (hand := next((each for each in self.hands.values() if each.place), None)) is None:
                self.next()
                continue
            self.team.send(hand.number, order)
            if isinstance(reply := self._answer(hand), Described):
                return hand, reply

    def _answer(self, asked: Hand) -> Described | Ended:
        while True:
            for hand, reply in self.next():
                if hand is asked and isinstance(reply, Failed):
                    raise reply.error()
                if hand is asked and isinstance(reply, Described | Ended):
                    return reply

    def close(self) -> None:
        """Stop all workers."""
        self.team.close()
