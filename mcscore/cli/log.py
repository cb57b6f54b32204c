"""Events of the library on stderr: as JSON with --log-json, those of progress as --progress says."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

import click

from ..text import visible
from .lines import json_line

PROGRESS = "progress"  # the event that --progress shows, and --log-json leaves to it


_stream: TextIO | None = None  # where the log goes while stderr is the user's code's


@contextlib.contextmanager
def to(stream: TextIO) -> Iterator[None]:
    """Write the log into a stream, and not to what is stderr now."""
    global _stream
    before, _stream = _stream, stream
    try:
        yield
    finally:
        _stream = before


def stream() -> TextIO:
    """Where the log and progress go."""
    return _stream or sys.stderr


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
                click.echo(visible(self._text(record)), file=stream())


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
