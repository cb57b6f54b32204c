"""The output of every verb: one answer on stdout, warnings on stderr, an error as one sentence and an exit code."""

from __future__ import annotations

import json
import os
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

from ..errors import Error
from ..text import visible
from .lines import json_line
from .log import stream

FAILED, RESUMABLE = 1, 3  # 0 is done; 2, wrong usage, is click's


class Group(click.Group):
    """Turns an exception of a verb into one sentence on stderr and an exit code; MCSCORE_TRACEBACK=1 shows the traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words of the command line, after a look at whether an error is to be an object."""
        # The verb's own --json comes too late for words that it cannot read.
        words = args[: args.index("--")] if "--" in args else args
        ctx.meta["json"] = "--json" in words
        ctx.meta["log_json"] = "--log-json" in words
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            _misused(ctx, error)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; an exception becomes a sentence and an exit code, a warning a line on stderr."""
        told: list[str] = ctx.meta.setdefault("warnings", [])

        def warn(message: Warning | str, *_where: object, **_more: object) -> None:
            told.append(str(message))
            _say(ctx, "warning", str(message), "mcscore: warning: ")

        try:
            with warnings.catch_warnings():
                warnings.showwarning = warn
                return super().invoke(ctx)
        except click.ClickException as error:
            _misused(ctx, error)
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            fail(ctx, FAILED, "interrupted", "Interrupted")
        except Exception as error:
            if ctx.meta.get("traceback") or os.environ.get("MCSCORE_TRACEBACK", "0") not in ("", "0"):
                traceback.print_exc()
            code = error.exit_code if isinstance(error, Error) else FAILED
            fail(ctx, code, _sentence(error), type(error).__name__)


def _misused(ctx: click.Context, error: click.ClickException) -> NoReturn:
    """Let click show wrong usage in its way, unless an object is asked for."""
    if not (ctx.meta.get("json") or ctx.meta.get("log_json")) or isinstance(error, click.exceptions.NoArgsIsHelpError):
        raise error
    fail(ctx, error.exit_code, error.format_message(), type(error).__name__)


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
    ctx = click.get_current_context(silent=True)
    if err and ctx is not None and ctx.meta.get("log_json"):
        _say(ctx, "message", text)
    else:
        click.echo("\n".join(map(visible, text.split("\n"))), file=stream() if err else None)


def _say(ctx: click.Context, what: str, text: str, before: str = "", **fields: Any) -> None:
    """Print a warning or an error on stderr: as a line of the log with --log-json."""
    if ctx.meta.get("log_json"):
        level = what if what in ("warning", "error") else "info"
        click.echo(json_line(level, what, message=text, **fields), file=stream())
    else:
        echo(f"{before}{text}", err=True)


def fail(ctx: click.Context, code: int, text: str, kind: str, **facts: Any) -> NoReturn:
    """Stop with a sentence on stderr; with --json, also with an object on stdout that holds the sentence."""
    _say(ctx, "error", text, "mcscore: ", kind=kind, exit_code=code)
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
