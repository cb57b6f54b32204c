"""How far a verb is: --progress, --log-json and --quiet, which all verbs that take long have, and what they show."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import click

from ..events import event
from ..text import duration
from .lines import stamp
from .log import PROGRESS, Told, as_json_line, listening, stream
from .shared import together

SECONDS_PER_LINE = 10.0  # between events of progress
MODES = ("bar", "lines", "json", "none")


def _log_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["log_json"] = True
        ctx.find_root().with_resource(listening(Told(as_json_line, progress=False)))


def _progress(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta["progress"] = value


def _quiet(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["progress"] = "none"


reporting = together(
    click.option(
        "--progress",
        type=click.Choice(MODES),
        expose_value=False,
        callback=_progress,
        help="How progress is shown on stderr: a bar; a line with the time every ten seconds and at the end; the same as JSON; or not. "
        "Default: bar on a terminal, json with --log-json, else lines.",
    ),
    click.option("--quiet", is_flag=True, expose_value=False, callback=_quiet, help="No progress on stderr."),
    click.option(
        "--log-json",
        is_flag=True,
        expose_value=False,
        callback=_log_json,
        help="Log to stderr: a JSON object a line, with time, level and event, also of warnings and errors.",
    ),
)


def _mode() -> str:
    meta = click.get_current_context().meta if click.get_current_context(silent=True) else {}
    return meta.get("progress") or ("json" if meta.get("log_json") else "bar" if stream().isatty() else "lines")


class Progress:
    """Called as progress(done, total): draws a bar, if that is asked for, and logs an event every ten seconds and at the end."""

    def __init__(self, passes: int | None, unit: str, bar: bool) -> None:
        self._passes, self._unit, self._live, self._stage = passes, unit, bar, ""
        self._bar: Any = None
        self._begun = False
        self._first, self._done, self._total, self._said, self._begin = 0, 0, 0, 0.0, 0.0

    def stage(self, what: str, passes: int) -> None:
        """Begin to show another stage, of so many passes per item."""
        self.close()
        self._stage, self._passes = what, passes

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done."""
        now = time.monotonic()
        self._done, self._total = done, total
        if not self._begun:
            # The first call tells what an earlier attempt did, which is no part of this attempt's speed.
            self._begun, self._first, self._said, self._begin = True, done, now, now
            if self._live:
                self._bar = self._drawn(done, total)
            elif self._stage:
                self._tell(now)
        if self._bar is not None:
            if self._passes is not None:
                self._bar.set_postfix_str(f"{self._rate(now) * self._passes:,.0f} passes/s", refresh=False)
            self._bar.update(done - self._bar.n)
        if now - self._said >= SECONDS_PER_LINE:
            self._tell(now)

    def close(self) -> None:
        """End what is shown."""
        if self._begun:
            self._tell(time.monotonic(), over=True)
        if self._bar is not None:
            self._bar.close()
        self._bar, self._begun = None, False

    def _rate(self, now: float) -> float:
        return (self._done - self._first) / max(now - self._begin, 1e-9)

    def _tell(self, now: float, over: bool = False) -> None:
        self._said, rate = now, self._rate(now)
        facts: dict[str, Any] = {"stage": self._stage} if self._stage else {}
        facts |= {"done": self._done, "total": self._total, "unit": self._unit, "per_second": round(rate, 3)}
        if self._passes is not None:
            facts["passes_per_second"] = round(rate * self._passes, 3)
        facts["seconds_left"] = round((self._total - self._done) / rate, 1) if rate > 0 else None
        event(__name__, PROGRESS, **facts, seconds=round(now - self._begin, 3), over=over)

    def _drawn(self, done: int, total: int) -> Any:
        from tqdm import tqdm

        return tqdm(
            desc=self._stage or None,
            file=stream(),
            total=total,
            initial=done,
            unit=self._unit,
            unit_scale=True,
            dynamic_ncols=True,
        )


def _line(record: logging.LogRecord) -> str:
    """An event of progress as a line for people."""
    told = record.fields  # type: ignore[attr-defined]
    text = f"{stamp(record.created)} " + (f"{told['stage']}: " if "stage" in told else "")
    text += f"{told['done']:,} of {told['total']:,} {told['unit']}"
    if told["over"]:
        text += f" in {duration(told['seconds'])}"
    if told["per_second"]:
        text += f", {told['per_second']:,.0f} {told['unit']}/s"
        text += f", {told['passes_per_second']:,.0f} passes/s" if "passes_per_second" in told else ""
        text += "" if told["over"] else f", {duration(told['seconds_left'])} left"
    return text


@contextlib.contextmanager
def progress_line(passes: int | None, unit: str = "items", quiet: bool = False) -> Iterator[Progress]:
    """Yield progress(done, total), which shows on stderr what the options of ``reporting`` say.

    Args:
        passes: passes per item, to show their rate; None: there are none.
        unit: what is counted.
        quiet: show nothing, whatever the options say.
    """
    mode = "none" if quiet else _mode()
    with contextlib.ExitStack() as stack:
        if mode in ("lines", "json"):
            stack.enter_context(listening(Told(_line if mode == "lines" else as_json_line, progress=True)))
        progress = Progress(passes, unit, bar=mode == "bar")
        stack.callback(progress.close)
        yield progress
