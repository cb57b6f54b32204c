"""Reading ahead: one thread, a bounded number of elements."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def read_ahead(source: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yield the elements of ``source``, up to ``depth`` of them made ahead by one thread (0: none, no thread).

    An exception in the source is raised here, at its place in the order. Closing the iterator early stops the thread.

    >>> list(read_ahead(range(3), depth=2))
    [0, 1, 2]
    """
    if depth < 1:
        yield from source
        return
    ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(element: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(element, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for element in source:
                if not put(element):
                    return
            put(_END)
        except BaseException as error:
            put(_Failure(error))

    thread = threading.Thread(target=work, name="mcscore-read-ahead", daemon=True)
    thread.start()
    try:
        while (element := ready.get()) is not _END:
            if isinstance(element, _Failure):
                raise element.error
            yield element
    finally:
        stopped.set()
        thread.join()
