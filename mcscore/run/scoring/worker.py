"""A worker: it has a scorer and the pool, and carries out orders. It writes nothing to disk and knows nothing of the run."""

from __future__ import annotations

import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from ..identity.pool_watch import PoolWatch
from ..spans import Span
from .here import Here
from .orders import (
    Described,
    Embed,
    Embedded,
    Failed,
    Hello,
    Moved,
    Order,
    Outfit,
    Prepare,
    Reply,
    Score,
    Scored,
    Variant,
)
from .task import LiveTasks, SpanTask

Inbox = queue.SimpleQueue[Order | None]
_POLL = 0.1  # seconds after which a reader that waits for a task sees that nobody wants it any more


class Worker:
    """A scorer and the pool of a run. Raises what loading the model and opening the pool raise."""

    def __init__(self, outfit: Outfit, device: str) -> None:
        import torch

        from ...pool import Pool

        # As the plan was made with: the number of threads decides how a matrix product is split, and so its last bits.
        torch.set_num_threads(outfit.threads)
        pool = Pool.open(outfit.pool.path)
        self.watch = PoolWatch(pool, outfit.pool)
        self.watch.require_same("nothing is scored by a worker that reads another pool")
        self._own = Here(pool, outfit.recipe.build(device))
        self._copies: dict[Variant, Here] = {}
        self.hello = Hello(f"{device} on {socket.gethostname()}")

    def engine(self, variant: Variant) -> Here:
        """The engine of a copy of the scorer, always the same one."""
        if variant not in self._copies:
            self._copies[variant] = self._own.copy(*variant)
        return self._copies[variant]

    def embeddings(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Compute the embeddings (n, D) of items of the pool."""
        return self._own.scorer.embed(self._own.pool.take(ids))

    def described(self, variant: Variant, prepared: bool = True) -> Described:
        """Describe a copy of the scorer."""
        engine = self.engine(variant)
        return Described(variant, engine.describe(), engine.hardware(), engine.device, prepared, engine.findings)


def serve(worker: Worker, inbox: Inbox, reply: Callable[[Reply], None]) -> None:
    """Carry out orders one after the other until a None comes; what goes wrong is a reply, too.

    While a span is scored the items of the next one are read, as far as its order has come.
    """
    waiting: deque[Order | None] = deque()
    while (order := waiting.popleft() if waiting else inbox.get()) is not None:
        try:
            if isinstance(order, Score):
                _score(worker, order, inbox, waiting, reply)
            elif isinstance(order, Prepare):
                prepared = worker.engine(order.variant).prepare(order.first)
                reply(worker.described(order.variant, prepared))
            elif isinstance(order, Embed):
                reply(Embedded(order.part, worker.embeddings(order.ids)))
            else:
                reply(worker.described(order.variant))
        except Exception as error:
            reply(Failed.of(error))


def _score(
    worker: Worker, first: Score, inbox: Inbox, waiting: deque[Order | None], reply: Callable[[Reply], None]
) -> None:
    """Score spans as they come, until another order does, which is left in ``waiting``."""
    engine, session = worker.engine(first.variant), first.session
    tasks = _Tasks(first, inbox, waiting)

    def moved(span: Span, stop: int) -> None:
        reply(Moved(session, span, stop))

    for scores in engine.spans(tasks, first.reading, lambda: False, moved):
        worker.watch.require_same(f"{scores.span} is not committed")
        reply(Scored(session, scores))


class _Tasks(LiveTasks):
    """The spans that are asked for, one after the other; None where none is there yet."""

    def __init__(self, first: Score, inbox: Inbox, waiting: deque[Order | None]) -> None:
        self._next: Score | None = first
        self._like, self._inbox, self._waiting = first, inbox, waiting
        self._over = threading.Event()

    def end(self) -> None:
        """Nobody wants more; what has come is left to others."""
        self._over.set()

    def __iter__(self) -> Iterator[SpanTask | None]:
        told = False
        while not self._over.is_set():
            if self._next is not None:
                told, task, self._next = False, self._next.task, None
                yield task
            try:
                order = self._inbox.get(timeout=_POLL if told else 0.0)
            except queue.Empty:
                if not told:
                    told = True
                    yield None
                continue
            if isinstance(order, Score) and (order.variant, order.session) == (self._like.variant, self._like.session):
                self._next = order
            else:
                self._waiting.append(order)
                return
        if self._next is not None:
            self._waiting.append(self._next)
