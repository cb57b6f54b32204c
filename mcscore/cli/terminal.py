"""How the command line talks: one answer on stdout, progress on stderr, errors as one sentence and an exit code."""

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

FAILED, RESUMABLE = 1, 3  # 0 is done, 2 click's own for wrong usage
SECONDS_PER_LINE = 10.0  # of progress, where no bar can be drawn


class Group(click.Group):
    """Turns what a verb raises into one sentence on stderr and an exit code; MCSCORE_TRACEBACK=1 shows the rest."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; what it raises becomes a sentence and an exit code."""
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
    # What the library raises on purpose speaks for itself; anything else is a fault that someone will have to find.
    if isinstance(error, (ValueError, OSError, ImportError)):
        return text
    return f"{type(error).__name__}: {text} (MCSCORE_TRACEBACK=1 shows where)"


def echo(text: str, *, err: bool = False) -> None:
    """Print lines; a name in them neither drives the terminal nor fails to be encoded."""
    click.echo("\n".join(map(visible, text.split("\n"))), err=err)


def fail(ctx: click.Context, code: int, text: str, kind: str, **facts: Any) -> NoReturn:
    """Stop with a sentence on stderr and, with --json, the same as an object on stdout."""
    echo(f"mcscore: {text}", err=True)
    if ctx.meta.get("json"):
        click.echo(_object(ctx, {"error": kind, "message": text, "exit_code": code, **facts}))
    ctx.exit(code)


def remembered_flag(name: str, help: str) -> Callable[[Any], Any]:
    """A flag that is remembered in ctx.meta, where Group finds it too."""

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


@contextlib.contextmanager
def progress_line(passes: int | None, quiet: bool, unit: str = "items") -> Iterator[Callable[[int, int], None] | None]:
    """progress(done, total) on stderr: a bar on a terminal, a line every ten seconds elsewhere, nothing if quiet.

    passes: per item, to tell their rate; None where there are none.
    """
    if quiet:
        yield None
        return
    from tqdm import tqdm

    bar: Any = None
    first, said, begin = 0, 0.0, 0.0
    live = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        nonlocal bar, first, said, begin
        now = time.monotonic()
        if bar is None:  # the first call tells what an earlier attempt had done: that is not this one's speed
            first, said, begin = done, now, now
            bar = tqdm(total=total, initial=done, unit=unit, unit_scale=True, dynamic_ncols=True, disable=not live)
        rate = (done - first) / max(now - begin, 1e-9)
        if passes is not None:
            bar.set_postfix_str(f"{rate * passes:,.0f} passes/s", refresh=False)
        bar.update(done - bar.n)
        if not live and now - said >= SECONDS_PER_LINE:
            said = now
            left = f", {duration((total - done) / rate)} left" if rate > 0 else ""
            speed = f"{rate:,.0f} {unit}/s" + (f", {rate * passes:,.0f} passes/s" if passes is not None else "")
            click.echo(f"{done:,} of {total:,} {unit}, {speed}{left}", err=True)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
