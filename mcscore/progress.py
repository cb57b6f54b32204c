"""How far a call is: a bar where somebody looks on, a callable of the caller's, or nothing.

None        a bar on stderr if that is a terminal, or in a notebook; else nothing
False       nothing
callable    called as progress(done, total): before the first, and whenever more are done
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

Progress = Callable[[int, int], None]
Shown = Progress | Literal[False] | None


class Bar:
    """A bar of tqdm, made at the first call: what was done before is no part of the speed."""

    def __init__(self, unit: str) -> None:
        self._unit, self._stage = unit, ""
        self._bar: Any = None

    def stage(self, what: str, _passes: int) -> None:
        """Begin to show another stage."""
        self.close()
        self._stage = what

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done; a total that is ``done`` or less is not known."""
        if self._bar is None:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", "IProgress not found"
                )  # a notebook without ipywidgets gets a bar of text
                from tqdm.auto import tqdm

            self._bar = tqdm(
                desc=self._stage or None,
                total=total if total > done or done == 0 else None,
                initial=done,
                unit=self._unit,
                unit_scale=True,
                dynamic_ncols=True,
            )
        if total > done or self._bar.total:
            self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End what is shown."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextlib.contextmanager
def shown(progress: Shown, unit: str = "items") -> Iterator[Progress]:
    """Yield what is to be called as progress(done, total).

    Raises:
        TypeError: ``progress`` is none of the three.
    """
    if progress is not None and progress is not False and not callable(progress):
        raise TypeError(
            f"progress={progress!r}: give a function (done, total), False for nothing, or None for a bar where somebody looks on"
        )
    if progress is None and looked_on():
        bar = Bar(unit)
        try:
            yield bar
        finally:
            bar.close()
        return
    yield progress or _nothing


def stage_of(progress: Progress) -> Callable[[str, int], None]:
    """What tells a bar that another stage begins; of any other progress, nothing."""
    return progress.stage if isinstance(progress, Bar) else _nothing


def looked_on() -> bool:
    """Whether stderr is a terminal, or this is a notebook."""
    return _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")


def _nothing(_what: object, _number: int) -> None:
    pass
