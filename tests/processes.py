"""Processes that begin in hundredths of a second: forked from a server that has imported what they use and runs no threads."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["pytest", "torch", "mcscore.run", "mcscore.store.remote", "tests.run.fakes"])


class Child:
    """A process of its own that runs ``work(*args, say=...)`` in this one's environment; what it says is heard here."""

    def __init__(self, work: Callable[..., None], *args: Any) -> None:
        self._ear, mouth = _SERVER.Pipe(duplex=False)
        self._process = _SERVER.Process(target=_begin, args=(dict(os.environ), work, args, mouth.send), daemon=True)
        self._process.start()
        mouth.close()

    def hear(self) -> Any:
        """The next word; EOFError where the process has ended without one."""
        return self._ear.recv()

    def kill(self) -> list[Any]:
        """End it by SIGKILL; what it had said by then and was not heard comes out."""
        self._process.kill()
        self._process.join()
        rest = []
        while True:
            try:
                rest.append(self.hear())
            except EOFError:
                return rest

    def wait(self) -> int | None:
        """Its exit status."""
        self._process.join()
        return self._process.exitcode


def _begin(
    environment: dict[str, str], work: Callable[..., None], args: tuple[Any, ...], say: Callable[[Any], None]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    work(*args, say=say)
