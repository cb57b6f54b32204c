"""The output of every verb: one answer on stdout, progress on stderr, an error as one sentence and an exit code."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click

from ..text import duration, visible

FAILED, RESUMABLE = 1, 3  # 0 is done; click itself exits with 2 for wrong usage
SECONDS_PER_LINE = 10.0  # between lines of progress where no bar can be drawn


class Group(click.Group):
    """Turns an exception of a verb into one sentence on stderr and an exit code; MCSCORE_TRACEBACK=1 shows the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; an exception becomes a sentence and an exit code, a warning a line on stderr."""
        told: list[str] = ctx.meta.setdefault("warnings", [])

        def warn(message: Warning | str, *_where: object, **_more: object) -> None:
            told.append(str(message))
            echo(f"mcscore: warning: {message}", err=True)

        try:
            with warnings.catch_warnings():
                warnings.showwarning = warn
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            fail(ctx, FAILED, "interrupted", "Interrupted")
        except Exception as error:
            if ctx.meta.get("traceback") or os.environ.get("MCSCORE_TRACEBACK", "0") not in ("", "0"):
                traceback.print_exc()
            fail(ctx, FAILED, _sentence(error), type(error).__name__)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split()) or "no message"
    # These are what the library raises on purpose, with a message for the user; any other exception is a fault of the program.
    if isinstance(error, (ValueError, OSError, ImportError)):
        return text
    return f"{type(error).__name__}: {text} (MCSCORE_TRACEBACK=1 shows where)"


def echo(text: str, *, err: bool = False) -> None:
    """Print lines; a name in them neither drives the terminal nor fails to be encoded."""
    click.echo("\n".join(map(visible, text.split("\n"))), err=err)


def fail(ctx: click.Context, code: int, text: str, kind: str, **facts: Any) -> NoReturn:
    """Stop with a sentence on stderr; with --json, also with an object on stdout that holds the sentence."""
    echo(f"mcscore: {text}", err=True)
    if ctx.meta.get("json"):
        click.echo(_object(ctx, {"error": kind, "message": text, "exit_code": code, **facts}))
    ctx.exit(code)


def remembered_flag(name: str, help: str) -> Callable[[Any], Any]:
    """Return a flag whose value goes into ctx.meta, where Group and every verb read it."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        ctx.meta[name] = ctx.meta.get(name, False) or value

    return click.option(f"--{name}", is_flag=True, expose_value=False, callback=remember, help=help)


as_json = remembered_flag("json", "Print one JSON object on stdout, also on failure.")


def emit(facts: dict[str, Any], *lines: str) -> None:
    """Print a verb's answer on stdout: the object with --json, otherwise the lines."""
    ctx = click.get_current_context()
    echo(_object(ctx, facts) if ctx.meta.get("json") else "\n".join(lines))


def _object(ctx: click.Context, facts: dict[str, Any]) -> str:
    """The facts as JSON, with the warnings that stderr had, if there were any."""
    told = ctx.meta.get("warnings")
    return json.dumps({**facts, "warnings": told} if told else facts)


class ProgressLine:
    """Shows on stderr how far a verb is: a bar on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, passes: int | None, unit: str) -> None:
        self._passes, self._unit, self._what = passes, unit, ""
        self._bar: Any = None
        self._first, self._said, self._begin = 0, 0.0, 0.0
        self._live = sys.stderr.isatty()

    def stage(self, what: str, passes: int) -> None:
        """Begin to show another stage, of so many passes per item."""
        self.close()
        self._what, self._passes = f"{what}: ", passes

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done."""
        now = time.monotonic()
        if (
            self._bar is None
        ):  # the first call tells what an earlier attempt did, which is no part of this attempt's speed
            from tqdm import tqdm

            self._first, self._said, self._begin = done, now, now
            self._bar = tqdm(
                desc=self._what[:-2] or None,
                total=total,
                initial=done,
                unit=self._unit,
                unit_scale=True,
                dynamic_ncols=True,
                disable=not self._live,
            )
            if self._what and not self._live:
                click.echo(f"{self._what}{done:,} of {total:,} {self._unit}", err=True)
        rate = (done - self._first) / max(now - self._begin, 1e-9)
        if self._passes is not None:
            self._bar.set_postfix_str(f"{rate * self._passes:,.0f} passes/s", refresh=False)
        self._bar.update(done - self._bar.n)
        if not self._live and now - self._said >= SECONDS_PER_LINE:
            self._said = now
            left = f", {duration((total - done) / rate)} left" if rate > 0 else ""
            speed = f"{rate:,.0f} {self._unit}/s"
            speed += f", {rate * self._passes:,.0f} passes/s" if self._passes is not None else ""
            click.echo(f"{self._what}{done:,} of {total:,} {self._unit}, {speed}{left}", err=True)

    def close(self) -> None:
        """End what is shown."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextlib.contextmanager
def progress_line(passes: int | None, quiet: bool, unit: str = "items") -> Iterator[ProgressLine | None]:
    """Yield progress(done, total) for stderr; None if quiet.

    Args:
        passes: passes per item, to show their rate; None: there are none.
        quiet: show nothing.
        unit: what is counted.
    """
    if quiet:
        yield None
        return
    line = ProgressLine(passes, unit)
    try:
        yield line
    finally:
        line.close()
