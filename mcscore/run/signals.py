"""SIGINT, SIGTERM and SIGHUP as a request that is read between blocks, instead of an exception at any bytecode."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class StopRequest:
    """Whether a signal has come (``made``).

    A second signal has its usual effect: it stops the process at once, which a run survives like any kill.
    """

    def __init__(self) -> None:
        self.made = False
        self._former: dict[int, Any] = {}

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self.made = True
        self._release()

    def _release(self) -> None:
        while self._former:
            number, handler = self._former.popitem()
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch SIGINT, SIGTERM and SIGHUP (a closed terminal) inside the block.

    Outside the main thread, where Python delivers none, do nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        former = signal.getsignal(number)
        # None: a handler set by C code, which Python could not put back. Ignored signals (nohup) stay ignored.
        if former is not None and former != signal.SIG_IGN:
            request._former[number] = former
            signal.signal(number, request._on_signal)
    try:
        yield request
    finally:
        request._release()
