"""The steps of mcscore.atomic, so that a test can fail or kill any one of them."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from mcscore import atomic


@contextmanager
def at_step(n: int, act: Callable[[str, tuple[Any, ...]], None]) -> Iterator[list[str]]:
    """Call ``act`` in place of the n-th step on disk; the steps there were come out."""
    seen: list[str] = []

    def step(name: str, real: Callable[..., None], *args: Any) -> None:
        seen.append(name)
        if len(seen) == n + 1:
            act(name, args)
        else:
            real(*args)

    with pytest.MonkeyPatch.context() as patch:
        for name in atomic.STEPS:
            patch.setattr(atomic, name, partial(step, name, getattr(atomic, name)))
        yield seen


def killed_at(n: int, act: Callable[[], object]) -> None:
    """Do ``act`` in a process that is killed at the n-th step on disk; a write is cut off there.

    A process that ends by itself fails the test: with 0 it had no such step, with 1 ``act`` raised (its traceback is in the output).
    """

    def die(name: str, args: tuple[Any, ...]) -> None:
        half(name, args)
        os._exit(9)

    with at_step(n, die):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                act()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == 9, f"not killed at step {n}: exit code {ended}"


def half(name: str, args: tuple[Any, ...]) -> None:
    """A write that is cut off."""
    if name == "write":
        data = b"".join(bytes(part) for part in args[1:])
        args[0].write_bytes(data[: len(data) // 2])
