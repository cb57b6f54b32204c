"""What the three parts of ``benchmarks.gpu`` share: the time left, a log of JSON lines, cases in order, and the summary."""

from __future__ import annotations

import gc
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mcscore.errors import first_line

Row = dict[str, Any]
SUMMARY = 11_500  # characters: a machine lent by the call may return the last 12,000 of the output
NAMED = 10  # failures that the summary names


class Skipped(Exception):
    """A case cannot run here; the message says why."""


class DeviceLost(Exception):
    """An error has left the CUDA context unusable: this process can measure nothing more."""


@dataclass(frozen=True)
class Budget:
    """Seconds for a whole part."""

    seconds: float
    now: Callable[[], float] = time.monotonic
    end: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "end", self.now() + self.seconds)

    @property
    def left(self) -> float:
        return self.end - self.now()


class Log:
    """A file of JSON lines, to which each row is appended as soon as it is known. ``rows``: those of this run.

    A run begins with a row that has "begin"; resume: this run goes on with the last one in the file.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], resume: bool = False) -> None:
        self.path, self.rows = path, list[Row]()
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and path.exists():
            self.rows = read(path)
        else:
            self.add(begin=time.strftime("%Y-%m-%d %H:%M:%S"), **about)

    def add(self, **row: Any) -> Row:
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row, default=str) + "\n")
        return row

    @property
    def cases(self) -> list[Row]:
        """The last row of each case."""
        return list({row["case"]: row for row in self.rows if "case" in row}.values())


def read(path: Path) -> list[Row]:
    """Read the rows of the last run in a log; a line that was cut off is left out."""
    rows: list[Row] = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows = [row] if "begin" in row else [*rows, row]
    return rows


@dataclass(frozen=True)
class Case:
    """A measurement: its name, the seconds that must be left for it to start, and the call that makes its row."""

    name: str
    seconds: float
    measure: Callable[[], Row]


def measure(cases: Iterable[Case], log: Log, budget: Budget) -> None:
    """Measure the cases in order, those in the log excepted. A case that fails stops no other.

    Raises:
        DeviceLost: the error of a case has left the device unusable; that case is in the log.
    """
    done = {row["case"] for row in log.cases}
    for case in cases:
        if case.name in done:
            continue
        if budget.left < case.seconds:
            log.add(case=case.name, skipped="no time was left")
            continue
        begin = time.perf_counter()
        try:
            row = case.measure()
        except Skipped as why:
            row = {"skipped": str(why)}
        except Exception as error:  # a compiler or driver may raise anything; the other cases are still measured
            row = {"failed": first_line(error, 300), "trace": traceback.format_exc()[-3000:]}
        row = log.add(case=case.name, **row, took_s=round(time.perf_counter() - begin, 2))
        say(f"{budget.left:4.0f} s left  {', '.join(f'{k} {_short(v)}' for k, v in row.items() if k != 'trace')}")
        if "failed" in row:
            _require_device()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _require_device() -> None:
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError as error:
        raise DeviceLost(first_line(error)) from error


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def allocated(device: torch.device) -> int:
    """Bytes that are allocated, from which ``peak`` counts."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak(device: torch.device, held: int) -> int | None:
    """Bytes beyond model and items at most, memory of CUDA graphs included."""
    return torch.cuda.max_memory_allocated(device) - held if device.type == "cuda" else None


def look_into(step: Callable[[], object], seconds: float, device: torch.device) -> Row:
    """Count a step's kernels and the host's launches, and the share of ``seconds``, its time without a profiler, the GPU works."""
    if device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    events = events_of(profiler)
    on_device = [e for e in events if e.device_type() == torch.autograd.DeviceType.CUDA and not e.is_user_annotation()]
    launches = sum("Launch" in e.name() and e.name().startswith("cu") for e in events)
    spans = [(e.start_ns(), e.start_ns() + e.duration_ns()) for e in on_device]
    return {"kernels": len(on_device), "launches": launches, "busy": covered(spans) / 1e9 / seconds}


def events_of(profiler: Any) -> list[Any]:
    """The events as recorded: ``profiler.events()`` makes Python objects of them, which takes seconds for 100,000."""
    events: list[Any] = profiler.profiler.kineto_results.events()
    return events


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """Add up the time that intervals cover, that of two at once counted once."""
    total, end = 0, 0
    for start, stop in sorted(spans):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


# ---- summary ------------------------------------------------------------------------------------------------------


def good(rows: Sequence[Row]) -> bool:
    """Whether something was measured, nothing failed, and all that was checked is right."""
    return any(measured(row) for row in rows) and not any("failed" in row or row.get("right") is False for row in rows)


def measured(row: Row) -> bool:
    return "case" in row and "failed" not in row and "skipped" not in row


def aligned(rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]) -> list[str]:
    """Format the rows that were measured; the first column is aligned left."""
    cells = [list(columns), *([cell(row) for cell in columns.values()] for row in rows if measured(row))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            f"{text:<{width}}" if not at else f"{text:>{width}}"
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def ends(rows: Sequence[Row]) -> list[str]:
    """Format what is wrong, failed or was skipped: the first failures with the line of their error, the others counted."""
    failed = [f"{row['case']}: {row['failed']}" for row in rows if "failed" in row]
    wrong = [f"{row['case']}: error {row.get('error')}" for row in rows if row.get("right") is False]
    lines = [f"FAILED {line[:300]}" for line in failed[:NAMED]] + [f"WRONG {line}" for line in wrong[:NAMED]]
    if more := len(failed[NAMED:]) + len(wrong[NAMED:]):
        lines.append(f"and {more} more that failed or are wrong")
    reasons = dict.fromkeys(row["skipped"] for row in rows if "skipped" in row)
    for why in reasons:
        names = [row["case"] for row in rows if row.get("skipped") == why]
        lines.append(f"not measured, {why}: {', '.join(names)[:600]} ({len(names)})")
    return lines


def fitting(lines: Sequence[str], path: Path) -> str:
    """Join the lines, without some in the middle if they are too long for SUMMARY; all that was measured is in ``path``."""
    lines, dropped = list(lines), 0
    while sum(map(len, lines)) + len(lines) > SUMMARY:
        del lines[len(lines) // 2]
        dropped += 1
    if dropped:
        lines.insert((len(lines) + 1) // 2, f"... {dropped} lines left out ...")
    return "\n".join([*lines, f"all of it: {path}"])


def say(text: str) -> None:
    print(re.sub(r"\s+", " ", text)[:400], file=sys.stderr, flush=True)
