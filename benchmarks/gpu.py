"""Test and measure the Triton kernels on this machine's GPU, in under 8 minutes: ``python -m benchmarks.gpu``.

It needs torch, triton, numpy, pytest and a checkout, but neither an installed package nor the C++ extension. It runs each
test marked ``gpu``, measures the ceilings (a copy, matrix products) and what standard errors cost (``gpu_errors``), then checks
each case of ``mcscore.bench`` against float64 and times it in turns with eager PyTorch and torch.compile, in order of
importance. Cases for which no time is left are listed as not measured. The results are DATE-GPU.json and DATE-GPU.md in
benchmarks/results. Exit code 0: all tests passed and all results are right.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mcscore import env
from mcscore.bench import table
from mcscore.bench.cases import NoKernel
from mcscore.bench.measure import Bench, Row
from mcscore.bench.shapes import Spec, default_specs
from mcscore.kernels import backends

from . import gpu_errors

ROOT = Path(__file__).resolve().parent.parent
BUDGET = 450.0  # seconds of the 8 minutes; the rest is for the start, and for a case that runs when they end
TESTS_SHARE = 0.4  # greatest share of the budget for tests
LONGEST_CASE = 20.0  # seconds; no case starts if fewer are left


@dataclass(frozen=True)
class GpuTests:
    """Results of a pytest run. finished: whether it ended in time."""

    finished: bool
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.finished and self.passed > 0 and not self.failed

    def __str__(self) -> str:
        if not self.finished:
            return f"GPU tests: stopped after {self.seconds:.0f} s, so their results are unknown"
        bad = f"; FAILED: {', '.join(self.failed)}" if self.failed else ""
        return f"GPU tests: {self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped in {self.seconds:.0f} s{bad}"


@dataclass
class Results:
    """The results so far. Each case is in one of rows, errors, not_measured and failed."""

    tests: GpuTests
    rows: list[Row] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)  # case -> why
    failed: dict[str, str] = field(default_factory=dict)  # case -> the error it ended with
    errors: list[gpu_errors.ErrorsRow] = field(default_factory=list)

    @property
    def good(self) -> bool:
        right = all(row.right for row in (*self.rows, *self.errors))
        return self.tests.good and not self.failed and bool(self.rows) and right


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options.add_argument("--budget", type=float, default=BUDGET, help="seconds (default %(default)s)")
    given = options.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.gpu: torch sees no CUDA device; nothing measured, nothing written", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    if backends.select(device) != "triton":
        print(f"benchmarks.gpu: {backends.status()['triton'][1]}; nothing measured, nothing written", file=sys.stderr)
        return 2
    end = time.monotonic() + given.budget
    say("running the GPU tests")
    tests = run_tests(given.budget * TESTS_SHARE)
    say(str(tests))
    torch.manual_seed(0)
    bench = Bench.open(device)
    say(table.roof_line(bench.ceilings))
    errors, failed = measure_errors(lambda *sizes: gpu_errors.measure(*sizes, bench.clock, device))
    results = measure(bench.measure, default_specs("cuda"), tests, end)
    results.errors, results.failed = errors, {**failed, **results.failed}
    return write(results, facts(bench, device), given.out)


def measure(
    one: Callable[[Spec], Row],
    specs: Sequence[Spec],
    tests: GpuTests,
    end: float,
    now: Callable[[], float] = time.monotonic,
) -> Results:
    """Measure each case in order, until less than LONGEST_CASE seconds are left; a case that fails does not stop the others."""
    results = Results(tests)
    for spec in specs:
        if end - now() < LONGEST_CASE:
            results.not_measured[str(spec)] = "no time was left"
            continue
        say(str(spec))
        try:
            results.rows.append(one(spec))
        except NoKernel as error:
            results.not_measured[str(spec)] = str(error)
        except Exception as error:  # a compiler or driver may raise anything; the other cases are still measured
            results.failed[str(spec)] = f"{type(error).__name__}: {str(error).strip()[:500]}"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results


def measure_errors(
    one: Callable[[int, int, int, int], gpu_errors.ErrorsRow],
) -> tuple[list[gpu_errors.ErrorsRow], dict[str, str]]:
    """Measure what standard errors cost; returns the rows, and the cases that failed."""
    rows, failed = [], {}
    for sizes in gpu_errors.CASES:
        case = "errors T{}xB{}xC{}xD{}".format(*sizes)
        say(case)
        try:
            rows.append(one(*sizes))
        except Exception as error:  # as in ``measure``
            failed[case] = f"{type(error).__name__}: {str(error).strip()[:500]}"
    return rows, failed


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- tests --------------------------------------------------------------------------------------------------------


def gpu_test_files() -> list[Path]:
    """List the test modules with tests marked gpu; others may need packages besides torch and pytest."""
    marked = re.compile(r"mark\.gpu|triton.places")
    return [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if marked.search(file.read_text())]


def run_tests(limit: float, marker: str = "gpu") -> GpuTests:
    """Run the tests with this marker in another process, for at most ``limit`` seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", marker, "-p", "no:cacheprovider", f"--junitxml={report}"]
        process = subprocess.Popen(
            [*command, *map(str, gpu_test_files())],
            cwd=ROOT,
            env=environment,
            stdout=sys.stderr,
            start_new_session=True,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # the group includes its workers
            process.wait()
            return GpuTests(finished=False, seconds=time.monotonic() - begin)
        seconds = time.monotonic() - begin
        if not report.exists():
            return GpuTests(
                finished=True, failed=(f"pytest itself, with exit code {process.returncode}",), seconds=seconds
            )
        return outcome(ET.parse(report).getroot(), seconds)


def outcome(report: ET.Element, seconds: float) -> GpuTests:
    """Count the results in a JUnit report."""
    cases = list(report.iter("testcase"))
    failed = tuple(
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    )
    skipped = sum(case.find("skipped") is not None for case in cases)
    return GpuTests(True, len(cases) - len(failed) - skipped, failed, skipped, seconds)


# ---- report -------------------------------------------------------------------------------------------------------


def facts(bench: Bench, device: torch.device) -> dict[str, Any]:
    """Collect date, machine, versions and ceilings."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "line": table.machine_line(device, env.machine()),
        "roof": table.roof_line(bench.ceilings),
        "machine": env.machine(),
        "versions": env.versions(),
        "ceilings": table.ceilings_facts(bench.ceilings),
    }


def write(results: Results, about: dict[str, Any], folder: Path) -> int:
    """Write one JSON and one Markdown file, each whole or not at all. Returns the exit code."""
    stem = f"{about['date']}-{re.sub(r'[^a-z0-9]+', '-', about['gpu'].lower()).strip('-')}"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("json", as_json(results, about)), ("md", as_markdown(results, about))):
        unfinished = folder / f"{stem}.{suffix}.tmp"
        unfinished.write_text(text)
        unfinished.replace(folder / f"{stem}.{suffix}")
        say(f"wrote {folder / f'{stem}.{suffix}'}")
    print(as_markdown(results, about))
    return 0 if results.good else 1


def as_json(results: Results, about: dict[str, Any]) -> str:
    tests = {**vars(results.tests), "good": results.tests.good}
    found = {
        "good": results.good,
        "tests": tests,
        "rows": [row.to_dict() for row in results.rows],
        "errors": [row.to_dict() for row in results.errors],
        "not_measured": results.not_measured,
        "failed": results.failed,
    }
    kept = {name: value for name, value in about.items() if name not in ("line", "roof")}
    return json.dumps({**kept, **found}, indent=1, allow_nan=False) + "\n"


def as_markdown(results: Results, about: dict[str, Any]) -> str:
    lines = [
        f"# {about['gpu']}, {about['date']}",
        "",
        f"`python -m benchmarks.gpu`: {about['line']}; {about['roof']}.",
        "",
        f"{results.tests}.",
        "",
        " ".join(table.LEGEND),
        *table.markdown(results.rows),
        *(gpu_errors.markdown(results.errors) if results.errors else ()),
    ]
    for title, cases in (("Failed", results.failed), ("Not measured", results.not_measured)):
        if cases:
            lines += ["", f"## {title}", "", *(f"- {case}: {why}" for case, why in cases.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
