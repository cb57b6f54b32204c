"""Part 1 of ``benchmarks.gpu``: one kernel, then every test marked ``gpu``, each result written as its test ends.

This module is also a plugin of pytest, ``-p benchmarks.gpu_tests``, which appends a JSON line per test to the file that the
environment variable LOG names. So a run that is cut off still has its failures, and the tests that were running.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from mcscore import env
from mcscore.acquisition import oracle_scores
from mcscore.kernels import backends
from mcscore.kernels.score import score_logits

from .gpu_shared import NAMED, Budget, Log, Row, read, say

ROOT = Path(__file__).resolve().parent.parent
LOG = "MCSCORE_GPU_TESTS_LOG"
WORKERS = 12  # on a machine of 16 cores; most of a test's time is the compilation of its kernels, which the CPU does


def run(device: torch.device, log: Log, budget: Budget, workers: int = WORKERS, marker: str = "gpu") -> list[str]:
    """Smoke test and tests; returns the lines of the summary."""
    smoke(device, log)
    run_tests(log, budget, workers, marker)
    return summary(log.rows)


def smoke(device: torch.device, log: Log) -> None:
    """Score a few logits with one kernel, and log versions, backends and nvidia-smi."""
    facts: Row = {"versions": env.versions(), "backends": backends.status(), "nvidia_smi": nvidia_smi()}
    begin = time.perf_counter()
    logits_TBC = 3 * torch.randn(20, 33, 10, device=device)
    truth_B = oracle_scores(logits_TBC, ("bald",))["bald"]
    error = float((score_logits(logits_TBC, ("bald",))["bald"].double() - truth_B).abs().max())
    log.add(smoke=backends.select(device), error=error, right=error < 2e-5, took_s=time.perf_counter() - begin, **facts)


def nvidia_smi() -> str:
    fields = "name,driver_version,memory.total,clocks.sm,power.limit"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no nvidia-smi: {error}"
    return done.stdout.strip() or done.stderr.strip()


def gpu_test_files(root: Path = ROOT / "tests") -> list[Path]:
    """List the test modules with tests marked gpu; others may need packages besides torch and pytest."""
    marked = re.compile(r"mark\.gpu|triton\.places")
    return [file for file in sorted(root.rglob("test_*.py")) if marked.search(file.read_text())]


def require_pools(files: list[Path], log: Log) -> list[Path]:
    """Leave out the tests of runs if zarr is not installed, and log so: their conftest imports pools, which ends pytest itself."""
    if importlib.util.find_spec("zarr") is not None:
        return files
    left_out = [file for file in files if file.parent.name == "run"]
    for file in left_out:
        log.add(test=str(file.relative_to(ROOT)), outcome="skipped", seconds=0.0, error="zarr is not installed")
    return [file for file in files if file not in left_out]


def run_tests(log: Log, budget: Budget, workers: int, marker: str) -> None:
    """Run the tests in another process, until they end or no time is left."""
    parallel = workers > 1 and importlib.util.find_spec("xdist") is not None
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        marker,
        "-p",
        "no:cacheprovider",
        "-p",
        "benchmarks.gpu_tests",
    ]
    command += [
        "--tb=short",
        "--continue-on-collection-errors",
        *(("-n", str(workers), "--dist", "worksteal") if parallel else ()),
    ]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET" and not k.startswith("PYTEST_XDIST")}
    output, begin = log.path.with_suffix(".txt"), time.perf_counter()
    files = require_pools(gpu_test_files(), log)
    say(f"running the tests; their output goes to {output}")
    with output.open("w") as file:
        process = subprocess.Popen(
            [*command, *map(str, files)],
            cwd=ROOT,
            env={**environment, LOG: str(log.path.absolute()), "OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(max(1.0, budget.left))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the group includes its workers
            process.wait()
            code = None
    log.rows = read(log.path)
    tail = output.read_text(errors="replace")[-2000:] if code not in (0, 1, None) else ""
    log.add(exit_code=code, seconds=time.perf_counter() - begin, tail=tail)


# ---- report -------------------------------------------------------------------------------------------------------


def outcomes(rows: list[Row]) -> dict[str, Row]:
    """The result of each test: its failure, if its call or its setup or teardown failed."""
    found: dict[str, Row] = {}
    for row in rows:
        if "test" in row and found.get(row["test"], {}).get("outcome") != "failed":
            found[row["test"]] = row
    return found


def good(rows: list[Row]) -> bool:
    counts = Counter(row["outcome"] for row in outcomes(rows).values())
    return bool(counts["passed"]) and not counts["failed"] and rows[-1].get("exit_code") == 0


def summary(rows: list[Row]) -> list[str]:
    """Format the counts, the first failures with the line of their error, and what was running if the run was cut off."""
    smoked = next(row for row in rows if "smoke" in row)
    end = rows[-1]
    found = outcomes(rows)
    counts = Counter(row["outcome"] for row in found.values())
    collected = next((row["collected"] for row in rows if "collected" in row), None)
    finished = "ended" if end["exit_code"] is not None else "CUT OFF"
    lines = [
        smoked["nvidia_smi"],
        ", ".join(f"{name} {version}" for name, version in smoked["versions"].items() if version),
        f"smoke: {smoked['smoke']} kernel, error {smoked['error']:.1e} {'' if smoked['right'] else 'WRONG'}, {smoked['took_s']:.1f} s",
        f"tests {finished} after {end['seconds']:.0f} s: {counts['passed']} passed, {counts['failed']} failed, "
        f"{counts['skipped']} skipped, of {collected}",
    ]
    failed = [row for row in found.values() if row["outcome"] == "failed"]
    lines += [f"FAILED {row['test']}: {row['error'][:400]}" for row in failed[:NAMED]]
    if len(failed) > NAMED:
        lines.append(f"and {len(failed) - NAMED} more that failed; by their error:")
        kinds = Counter(row["error"][:120] for row in failed)
        lines += [f"  {number} x {error}" for error, number in kinds.most_common(NAMED)]
    skipped = Counter(row["error"][:120] for row in found.values() if row["outcome"] == "skipped")
    lines += [f"skipped {number} x {why}" for why, number in skipped.most_common(NAMED)]
    if end["exit_code"] is None:
        started = [row["started"] for row in rows if "started" in row and row["started"] not in found]
        lines += [f"running when the time was over: {name}" for name in started[:NAMED]]
    if end["tail"]:
        lines += [f"pytest ended with exit code {end['exit_code']}:", end["tail"]]
    slow = sorted(found.values(), key=lambda row: -row["seconds"])[:5]
    lines += [f"slowest: {row['seconds']:.1f} s {row['test']}" for row in slow]
    return lines


# ---- plugin -------------------------------------------------------------------------------------------------------


def _write(**row: Any) -> None:
    if path := os.environ.get(LOG):
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")


def _worker() -> str | None:
    return os.environ.get("PYTEST_XDIST_WORKER")


def pytest_collection_finish(session: pytest.Session) -> None:
    if _worker() in (None, "gw0") and session.items:  # the process that hands tests out collects none
        _write(collected=len(session.items))


def pytest_runtest_logstart(nodeid: str) -> None:
    if _worker() is None:
        _write(started=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Reports of workers arrive in the process that hands tests out, also that of a worker's crash."""
    if _worker() is None and (report.when == "call" or report.outcome != "passed"):
        _write(test=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 2), error=_error(report))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if _worker() is None and report.failed:
        _write(test=report.nodeid, outcome="failed", seconds=0.0, error=_error(report))


def _error(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The file, line and first line of the error, or why the test is skipped."""
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):  # skipped: path, line, reason
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return f"{Path(crash.path).name}:{crash.lineno}: {(crash.message.splitlines() or [''])[0]}"
    return (str(report.longrepr).strip().splitlines() or ["no message"])[-1]
