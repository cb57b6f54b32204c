"""--metrics FILE: the state of a run for Prometheus, in the text format that node_exporter's textfile collector reads.

What is told comes from the events of the library (mcscore/events.py) and from nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .. import atomic
from .log import PROGRESS, listening
from .shared import Decorator

SECONDS = 5.0  # between two writes


@dataclass
class _State:
    """What is known of a run, or of a stage of a screened one."""

    path: str = ""
    items: float = 0
    done: float = 0
    per_second: float = 0
    scored: float = 0
    skipped: float = 0
    nonfinite: float = 0
    unreadable: float = 0
    spans: float = 0
    spans_done: float = 0
    last_commit: float = 0
    complete: float = 0


# Attribute of _State: name, help.
_GAUGES = {
    "items": ("mcscore_items", "Items in the pool."),
    "done": ("mcscore_items_done", "Items that are done, skipped ones too."),
    "per_second": ("mcscore_items_per_second", "Items done in a second, on average since this process began."),
    "scored": ("mcscore_items_scored", "Items that went through the model, of those committed."),
    "skipped": ("mcscore_items_skipped", "Items that were not scored: labeled or excluded, of those committed."),
    "nonfinite": ("mcscore_items_nonfinite", "Items without a finite score, of those committed."),
    "unreadable": ("mcscore_items_unreadable", "Items that could not be read from the pool, of those committed."),
    "spans": ("mcscore_spans", "Spans of the run."),
    "spans_done": ("mcscore_spans_committed", "Spans that are committed."),
    "last_commit": ("mcscore_last_commit_timestamp_seconds", "When this process last committed a span; 0: not yet."),
    "complete": ("mcscore_complete", "1 once the run is complete."),
}


class Metrics(logging.Handler):
    """Keeps a file of metrics up to date, by events."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file, self._written, self._failed = file, 0.0, False
        self._runs: dict[str, _State] = {}
        self._now = ""  # the run that is being scored
        self._workers: set[int] | None = None  # None: this process scores

    def emit(self, record: logging.LogRecord) -> None:
        """Take in an event, and write the file if that is some seconds ago."""
        fields = getattr(record, "fields", {})
        self._take(getattr(record, "event", ""), fields, record.created)
        if time.monotonic() - self._written >= SECONDS:
            self.write()

    def _take(self, what: str, fields: dict[str, Any], created: float) -> None:
        if what.startswith("worker "):
            known = self._workers = self._workers if self._workers is not None else set()
            (known.add if what == "worker started" else known.discard)(fields["worker"])
        if "run" in fields:
            self._now = fields["run"]
            self._runs.setdefault(self._now, _State(fields["path"]))
        run = self._runs.get(self._now)
        if run is None:
            return
        if what == PROGRESS:
            if fields["over"]:  # of a stage, where the next one may have begun
                return
            run.items, run.done, run.per_second = fields["total"], fields["done"], fields["per_second"]
        elif what == "span committed":
            run.last_commit = created
            if fields["again"]:  # a part of it is counted already; "run complete" tells all
                return
            run.spans_done += 1
            for name in ("scored", "nonfinite", "unreadable"):
                setattr(run, name, getattr(run, name) + fields[name])
            run.skipped += fields["items"] - fields["scored"] - fields["unreadable"]
        elif "spans_done" in fields:
            for name in ("items", "done", "scored", "nonfinite", "unreadable", "spans", "spans_done"):
                setattr(run, name, fields[name])
            run.skipped = fields["done"] - fields["scored"] - fields["unreadable"]
            run.complete = what == "run complete"

    def write(self, over: bool = False) -> None:
        """Write the file. What keeps it from being written is a warning, once: scoring goes on."""
        self._written = time.monotonic()
        try:
            atomic.show_file(self._file, self._text(over).encode())
        except OSError as error:
            if not self._failed:
                warnings.warn(f"{self._file}: the metrics cannot be written: {error.strerror}", stacklevel=2)
            self._failed = True

    def _text(self, over: bool) -> str:
        lines: list[str] = []
        for attribute, (name, text) in _GAUGES.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
            lines += [
                f"{name}{_labels(run, each.path)} {getattr(each, attribute):.15g}" for run, each in self._runs.items()
            ]
        workers = 0 if over else 1 if self._workers is None else len(self._workers)
        lines += ["# HELP mcscore_workers Processes, or actors, that score.", "# TYPE mcscore_workers gauge"]
        lines += [
            f"mcscore_workers{_labels(run, self._runs[run].path)} {workers}" for run in [self._now] if run in self._runs
        ]
        return "\n".join(lines) + "\n"


def _labels(run: str, path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{{run="{run}",path="{escaped}"}}'


@contextlib.contextmanager
def _kept(file: Path) -> Iterator[None]:
    metrics = Metrics(file)
    with listening(metrics):
        try:
            yield
        finally:
            metrics.write(over=True)


def _start(ctx: click.Context, param: click.Parameter, file: Path | None) -> None:
    if file is None:
        return
    if not file.absolute().parent.is_dir():  # found now, and not when somebody misses the metrics
        raise click.BadParameter(f"there is no directory {file.absolute().parent}", ctx, param)
    ctx.find_root().with_resource(_kept(file.absolute()))


def metrics(option: Callable[..., Decorator]) -> Decorator:
    """The option --metrics, made by ``option`` as click.option makes one."""
    told = (
        "File to keep metrics of the run in, for Prometheus: node_exporter's textfile collector reads it as NAME.prom."
    )
    return option(
        "--metrics", type=click.Path(path_type=Path), metavar="FILE", expose_value=False, callback=_start, help=told
    )
