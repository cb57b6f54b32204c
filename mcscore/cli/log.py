"""Events of the library on stderr: as JSON with --log-json, those of progress as --progress says."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import click

from ..text import visible

PROGRESS = "progress"  # the event that --progress shows, and --log-json leaves to it


def json_line(level: str, event: str, created: float | None = None, **fields: Any) -> str:
    """One line of a log: an object with time, level, event and its fields."""
    return json.dumps({"time": stamp(created), "level": level, "event": event, **fields}, default=str)


def stamp(created: float | None = None) -> str:
    """A moment, by default now, as ISO 8601 with its zone."""
    return (
        (datetime.now() if created is None else datetime.fromtimestamp(created)).astimezone().isoformat("T", "seconds")
    )


def as_json_line(record: logging.LogRecord) -> str:
    """A record of a logger as one line of JSON."""
    level, fields = record.levelname.lower(), getattr(record, "fields", None)
    if fields is None:  # not by mcscore.events
        return json_line(level, "message", record.created, message=record.getMessage(), logger=record.name)
    return json_line(level, record.event, record.created, **fields)  # type: ignore[attr-defined]


class Told(logging.Handler):
    """Writes events to stderr, a line each: those of progress, or all the others."""

    def __init__(self, text: Callable[[logging.LogRecord], str], progress: bool) -> None:
        super().__init__()
        self._text, self._progress = text, progress

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if (getattr(record, "event", None) == PROGRESS) == self._progress:
            with contextlib.suppress(BrokenPipeError):  # who read the log is gone; scoring goes on
                click.echo(visible(self._text(record)), err=True)


@contextlib.contextmanager
def listening(handler: logging.Handler) -> Iterator[None]:
    """Let a handler have the events of the library."""
    logger = logging.getLogger("mcscore")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
