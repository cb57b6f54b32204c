"""A run by many workers, simulated: how long it takes, and what commits, slow workers and deaths cost.

Discrete events: the ends of spans, deaths, and workers that are back. There are two ways to divide a run:

    driver    One process hands spans out and commits what comes back, one after another. A worker has one span at work and one waiting.
              Once all are handed out, an idle worker repeats the oldest span that another has; the first result counts.
    shards    Each worker has an equal part of the spans and commits them itself. One that is through helps: it scores any span
              without a record, chosen at random; the first record counts.

Not simulated: reading, the network, and how many commits a second the storage can take.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Literal

Way = Literal["driver", "shards"]
WAYS: tuple[Way, ...] = ("driver", "shards")

COMMIT_SECONDS = 0.012  # of a shard of 0.5 MB and its record, fsynced, on a virtual machine's ext4; median of 200
# A span that takes a 60th of a worker's time costs that much where it is the last, and a death takes half of it.
SPANS_OF_A_WORKER = 60
# A driver should be idle half of the time, and a worker that commits its own spans spend 2 % of its time on that.
_DRIVER_SLACK, _SCORING_PER_COMMIT = 2, 50


def seconds_between_commits(workers: int, commit: float, driver: bool) -> float:
    """The least time that a worker should score on a span.

    >>> seconds_between_commits(1000, 0.012, driver=True), seconds_between_commits(1000, 0.012, driver=False)
    (24.0, 0.6)
    """
    return (_DRIVER_SLACK * workers if driver else _SCORING_PER_COMMIT) * commit


_NOBODY = -1  # the worker of a death, which is drawn when it comes
_NOTHING = -1  # no span
_SPAN_MIN = 256


@dataclass(frozen=True)
class Cluster:
    """What a run has to work with.

    Attributes:
        items: in the pool.
        workers: one for each device.
        rate: items that a worker scores in a second.
        commit: seconds of a durable commit, shard and record.
        call: seconds that the driver spends on a span beside its commit: one prototype on Ray took 1.7 ms.
        slow: share of the workers that are slow.
        slowdown: how many times slower these are.
        deaths: mean seconds from one death of any worker to the next.
        restart: seconds until a dead worker works again.

    Raises:
        ValueError: a number is out of its range.
    """

    items: int
    workers: int
    rate: float
    commit: float = COMMIT_SECONDS
    call: float = 0.0017
    slow: float = 0.0
    slowdown: float = 3.0
    deaths: float = math.inf
    restart: float = 60.0

    def __post_init__(self) -> None:
        for name in ("items", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("rate", "deaths"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("commit", "call", "restart"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and >= 0 seconds, got {getattr(self, name)}")
        if not 0 <= self.slow <= 1 or not 1 <= self.slowdown < math.inf:
            raise ValueError(
                f"slow must be a share in [0, 1] and slowdown at least 1, got {self.slow} and {self.slowdown}"
            )

    @property
    def shortest(self) -> float:
        """Seconds that the run would take if no worker ever waited, was slow or died."""
        return self.items / (self.workers * self.rate)

    def span(self, way: Way) -> int:
        """Items of a span, a power of two: 60 spans for each worker, but no more than leave time for their commits."""
        driver = way == "driver"
        between = seconds_between_commits(self.workers, self.commit + (self.call if driver else 0.0), driver)
        wanted = max(self.items / (SPANS_OF_A_WORKER * self.workers), self.rate * between, _SPAN_MIN)
        return min(2 ** round(math.log2(wanted)), self.items)


@dataclass(frozen=True)
class Outcome:
    """How a simulated run went.

    Attributes:
        way: how it was divided.
        span: items of a span.
        spans: how many spans.
        seconds: from the start until the last commit.
        efficiency: the shortest possible time over ``seconds``.
        commits: in a second, on average.
        driver: the share of the time in which the driver was busy; 0 of shards.
        repeated: spans that were scored and not committed, as another worker was first.
        lost: spans that a death took.
    """

    way: Way
    span: int
    spans: int
    seconds: float
    efficiency: float
    commits: float
    driver: float
    repeated: int
    lost: int


def simulate(cluster: Cluster, way: Way, span: int | None = None, help: bool = True, seed: int = 0) -> Outcome:
    """Run a cluster.

    Args:
        cluster: the cluster.
        way: "driver" or "shards".
        span: items of a span; default ``cluster.span(way)``.
        help: whether workers that have nothing left take over from others.
        seed: of which workers are slow, of deaths and of what helpers choose.

    Raises:
        ValueError: span is less than 1, there is no such way, or workers die so often that hardly a span is ever scored.

    >>> two = Cluster(items=1000, workers=2, rate=10.0, commit=0.0, call=0.0)
    >>> simulate(two, "shards", span=100).seconds
    50.0
    """
    if way not in WAYS:
        raise ValueError(f"no way {way!r}; choose from {', '.join(WAYS)}")
    span = cluster.span(way) if span is None else span
    if span < 1:
        raise ValueError(f"span must be at least 1, got {span}")
    run = (_Driver if way == "driver" else _Shards)(cluster, span, help, random.Random(seed))
    run.until_done()
    return Outcome(
        way=way,
        span=span,
        spans=run.spans,
        seconds=run.end,
        efficiency=cluster.shortest / run.end,
        commits=run.spans / run.end,
        driver=run.busy / run.end,
        repeated=run.repeated,
        lost=run.lost,
    )


class _Run:
    """What both ways share: the events, in order of time, and which spans are committed."""

    def __init__(self, cluster: Cluster, span: int, help: bool, draw: random.Random) -> None:
        self.cluster, self.help, self.draw = cluster, help, draw
        self.spans = -(-cluster.items // span)
        self._span, self._last = span, cluster.items - (self.spans - 1) * span
        W = cluster.workers
        self._pace = [1 / cluster.rate] * W  # seconds per item
        for worker in draw.sample(range(W), round(cluster.slow * W)):
            self._pace[worker] *= cluster.slowdown
        self.at_work = [_NOTHING] * W
        self.alive, self._life = [True] * W, [0] * W  # an event of a former life is void
        self._events: list[tuple[float, int, int]] = []
        self.done, self.open = bytearray(self.spans), self.spans
        self.end = self.busy = 0.0
        self.repeated = self.lost = 0

    def until_done(self) -> None:
        """Let all events happen until every span is committed."""
        self._await_death(0.0)
        self.begin()
        while self.open:
            now, worker, life = heapq.heappop(self._events)
            if worker == _NOBODY:
                self._die(now)
            elif life != self._life[worker]:
                continue
            elif self.alive[worker]:
                span, self.at_work[worker] = self.at_work[worker], _NOTHING
                if self.done[span]:
                    self.repeated += 1
                self.ended(worker, span, now)
            else:
                self.alive[worker] = True
                self.give(worker, now)

    def start(self, worker: int, span: int, now: float, extra: float = 0.0) -> None:
        """Let a worker score a span, which takes ``extra`` seconds more."""
        items = self._last if span == self.spans - 1 else self._span
        self.at_work[worker] = span
        heapq.heappush(self._events, (now + items * self._pace[worker] + extra, worker, self._life[worker]))

    def _await_death(self, now: float) -> None:
        if self.cluster.deaths < math.inf:
            heapq.heappush(self._events, (now + self.draw.expovariate(1 / self.cluster.deaths), _NOBODY, 0))

    def _die(self, now: float) -> None:
        self._await_death(now)
        worker = self.draw.randrange(self.cluster.workers)
        if self.alive[worker]:
            if self.lost > 10 * (self.spans + self.cluster.workers):
                raise ValueError(
                    f"with a death every {self.cluster.deaths:g} s hardly a span of {self._span:,} items is ever scored, as one takes "
                    f"{self._span * self._pace[worker]:.3g} s: choose a smaller span"
                )
            self.alive[worker] = False
            self._life[worker] += 1
            heapq.heappush(self._events, (now + self.cluster.restart, worker, self._life[worker]))
            self.lose(worker, now)

    def begin(self) -> None:
        """Give every worker its first spans."""
        raise NotImplementedError

    def give(self, worker: int, now: float) -> None:
        """Give a worker what is next, if there is anything."""
        raise NotImplementedError

    def ended(self, worker: int, span: int, now: float) -> None:
        """A worker has scored a span."""
        raise NotImplementedError

    def lose(self, worker: int, now: float) -> None:
        """A worker is dead."""
        raise NotImplementedError


class _Driver(_Run):
    def begin(self) -> None:
        W = self.cluster.workers
        self._free = 0.0  # when all that it was asked is done
        self._handed_out, self._again = 0, deque[int]()
        self._copies = bytearray(self.spans)  # at work or waiting anywhere
        self._alone: OrderedDict[int, None] = OrderedDict()  # handed out once, the oldest first
        self._waiting: list[tuple[int, float] | None] = [None] * W  # the span and when it has come
        self._idle: set[int] = set()
        for worker in range(W):
            self._give_one(worker, 0.0)
        for worker in range(W):
            self.give(worker, 0.0)

    def give(self, worker: int, now: float) -> None:
        while self._waiting[worker] is None and self._give_one(worker, now):
            pass

    def ended(self, worker: int, span: int, now: float) -> None:
        self._copies[span] -= 1
        if not self.done[span]:
            self.done[span] = True
            self.open -= 1
            self._alone.pop(span, None)
            self.end = self._work(self.cluster.commit, now)
        waiting, self._waiting[worker] = self._waiting[worker], None
        if waiting is not None:
            span, came = waiting
            if self.done[span]:
                self._copies[span] -= 1
            else:
                self.start(worker, span, max(now, came))
        self.give(worker, now)

    def lose(self, worker: int, now: float) -> None:
        waiting, self._waiting[worker] = self._waiting[worker], None
        for span in (self.at_work[worker], _NOTHING if waiting is None else waiting[0]):
            if span == _NOTHING:
                continue
            self.lost += 1
            self._copies[span] -= 1
            if not self.done[span]:
                self._alone.pop(span, None)
                if self._copies[span]:
                    self._alone[span] = None
                else:
                    self._again.append(span)
        self.at_work[worker] = _NOTHING
        self._idle.discard(worker)
        for idle in sorted(self._idle) if self._again or self._alone else ():
            self.give(idle, now)

    def _work(self, seconds: float, now: float) -> float:
        """When the driver has done something that takes so long, after all that it was asked before."""
        self.busy += seconds
        self._free = max(self._free, now) + seconds
        return self._free

    def _give_one(self, worker: int, now: float) -> bool:
        idle = self.at_work[worker] == _NOTHING
        span = self._next(idle)
        if span == _NOTHING:
            if idle:
                self._idle.add(worker)
            return False
        self._idle.discard(worker)
        self._copies[span] += 1
        comes = self._work(self.cluster.call, now)
        if idle:
            self.start(worker, span, comes)
        else:
            self._waiting[worker] = span, comes
        return True

    def _next(self, idle: bool) -> int:
        while self._again:
            if not self.done[span := self._again.popleft()]:
                self._alone[span] = None
                return span
        if self._handed_out < self.spans:
            self._alone[self._handed_out] = None
            self._handed_out += 1
            return self._handed_out - 1
        return self._alone.popitem(last=False)[0] if idle and self.help and self._alone else _NOTHING


class _Shards(_Run):
    def begin(self) -> None:
        W = self.cluster.workers
        bounds = [self.spans * worker // W for worker in range(W + 1)]
        self._next, self._stop = bounds[:-1], bounds[1:]
        self._left, self._place = (
            list(range(self.spans)),
            list(range(self.spans)),
        )  # without a record, and where in that list
        for worker in range(W):
            self.give(worker, 0.0)

    def give(self, worker: int, now: float) -> None:
        span = self._next[worker]
        while span < self._stop[worker] and self.done[span]:
            span += 1
        self._next[worker] = span
        if span == self._stop[worker]:
            if not self.help or not self._left:
                return
            span = self._left[int(self.draw.random() * len(self._left))]
        self.start(worker, span, now, self.cluster.commit)

    def ended(self, worker: int, span: int, now: float) -> None:
        if not self.done[span]:
            self.done[span] = True
            self.open -= 1
            self.end = now
            last, place = self._left.pop(), self._place[span]
            if last != span:
                self._left[place], self._place[last] = last, place
        self.give(worker, now)

    def lose(self, worker: int, now: float) -> None:
        self.lost += self.at_work[worker] != _NOTHING
        self.at_work[worker] = _NOTHING
