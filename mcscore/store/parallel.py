"""Many small pieces of work at a time, their results in order: requests to a server, reads of a slow disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # pieces per thread that are begun, or done and not taken: one that is tried again does not stop the others at once


def errors_kept(act: Callable[[T], R]) -> Callable[[T], R | OSError]:
    """The same function, which returns the OSError that it would raise."""

    def kept(piece: T) -> R | OSError:
        try:
            return act(piece)
        except OSError as error:
            return error

    return kept


def in_order(act: Callable[[T], R], pieces: Iterable[T], threads: int) -> Generator[R, None, None]:
    """Yield ``act(piece)`` of each piece, in their order; up to ``threads`` are in work, and 4 ``threads`` in memory.

    An exception is raised at its place in the order. Then, and when the iterator is closed, what is not begun is left, and what
    is begun is waited for; but not after Ctrl-C: a server that does not answer may take minutes.

    >>> list(in_order(lambda i: i * i, range(5), threads=2))
    [0, 1, 4, 9, 16]
    """
    if threads == 1:
        yield from map(act, pieces)
        return
    work: SimpleQueue[tuple[Future[R], T] | None] = SimpleQueue()
    waiting: deque[Future[R]] = deque()
    workers: list[threading.Thread] = []
    wait = True

    def serve() -> None:
        while (job := work.get()) is not None:
            future, piece = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(act(piece))
                except BaseException as error:
                    future.set_exception(error)
            del job, future, piece  # the result is not kept while the next job is waited for

    try:
        for piece in pieces:
            future: Future[R] = Future()
            work.put((future, piece))
            waiting.append(future)
            if len(workers) < threads:
                workers.append(threading.Thread(target=serve, name="mcscore-in-order", daemon=True))
                workers[-1].start()
            if len(waiting) == _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except KeyboardInterrupt:
        wait = False
        raise
    finally:
        for future in waiting:
            future.cancel()
        for _ in workers:
            work.put(None)
        for worker in workers if wait else ():
            worker.join()
