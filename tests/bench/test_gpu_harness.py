"""``python -m benchmarks.gpu`` without a GPU: what it needs, what it does when time runs out or a case breaks, what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_errors
from mcscore.bench import table
from mcscore.bench.cases import NoKernel
from mcscore.bench.measure import Row
from mcscore.bench.shapes import Spec, default_specs, specs
from mcscore.kernels.roofline import Ceilings

GOOD = gpu.GpuTests(finished=True, passed=12, seconds=3.0)
ABOUT = {
    "date": "2026-11-24",
    "gpu": "NVIDIA H100 80GB HBM3",
    "line": "NVIDIA H100; torch 2.13.0",
    "roof": "roof: 3 GB/s",
}
CASES = default_specs("cuda")[:6]


def row(spec: Spec, error: float = 1e-7) -> Row:
    figures = (1000, 0.002, 5e5, 2500.0, 80.0, 87.5, 12.3, 4.56, None, 1 << 20, 1 << 30, error, 2e-5)
    return Row(spec.kernel, str(spec.shape), spec.dtype, *figures)


def clock(*times: float) -> Callable[[], float]:
    """The time at each look; then it stands still."""
    left = list(times)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_cases_that_no_time_is_left_for_are_listed_and_none_is_lost() -> None:
    results = gpu.measure(row, CASES, GOOD, end=100.0, now=clock(0.0, 50.0, 80.0, 81.0))
    assert [made.kernel for made in results.rows] == [spec.kernel for spec in CASES[:3]]
    assert results.not_measured == {str(spec): "no time was left" for spec in CASES[3:]}
    assert results.good


def test_a_case_that_breaks_stops_no_other_and_spoils_the_result() -> None:
    def one(spec: Spec) -> Row:
        if spec == CASES[1]:
            raise RuntimeError("an illegal memory access was encountered")
        if spec == CASES[2]:
            raise NoKernel("no kernel for this on cuda")
        return row(spec)

    results = gpu.measure(one, CASES, GOOD, end=1e9, now=clock(0.0))
    assert len(results.rows) == 4
    assert results.failed == {str(CASES[1]): "RuntimeError: an illegal memory access was encountered"}
    assert results.not_measured == {str(CASES[2]): "no kernel for this on cuda"}
    assert not results.good


@pytest.mark.parametrize(
    ("tests", "error", "good"),
    [
        (GOOD, 1e-7, True),
        (GOOD, 1e-3, False),
        (gpu.GpuTests(finished=False, seconds=200.0), 1e-7, False),
        (gpu.GpuTests(finished=True, skipped=4), 1e-7, False),
        (gpu.GpuTests(finished=True, passed=4, failed=("a::b",)), 1e-7, False),
    ],
)
def test_both_files_are_written_whole_and_the_exit_code_tells_whether_all_is_right(
    tests: gpu.GpuTests, error: float, good: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = gpu.Results(tests, [row(spec, error) for spec in CASES], {"left": "no time was left"})
    assert gpu.write(results, ABOUT, tmp_path / "results") == (0 if good else 1)
    stem = "2026-11-24-nvidia-h100-80gb-hbm3"
    assert sorted(file.name for file in (tmp_path / "results").iterdir()) == [f"{stem}.json", f"{stem}.md"]
    told = json.loads((tmp_path / "results" / f"{stem}.json").read_text())
    assert told["good"] == good
    assert [made["shape"] for made in told["rows"]] == [str(spec.shape) for spec in CASES]
    assert told["tests"]["passed"] == tests.passed
    assert told["not_measured"] == {"left": "no time was left"}
    page = (tmp_path / "results" / f"{stem}.md").read_text()
    assert page in capsys.readouterr().out
    assert str(tests) in page
    assert "- left: no time was left" in page
    for spec in CASES:
        cells = next(line for line in page.splitlines() if line.startswith(f"| {spec.shape} | {spec.dtype} |")).split(
            " | "
        )
        assert cells[2:4] == ["500k", "80.0" if spec.kernel == "dropout_head" else "2.50k"]
        assert cells[5:7] == ["12", "4.6"]
        assert ("WRONG" in cells[-1]) == (error > 2e-5)
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == [*(f"## {kernel}" for kernel in dict.fromkeys(spec.kernel for spec in CASES)), "## Not measured"]


@pytest.mark.parametrize(
    ("error", "same_bits", "verdict"), [(1e-6, True, ""), (1e-3, True, "WRONG"), (1e-6, False, "WRONG: other scores")]
)
def test_what_standard_errors_cost_is_told_and_a_wrong_one_spoils_the_result(
    error: float, same_bits: bool, verdict: str
) -> None:
    def one(T: int, B: int, C: int, D: int) -> gpu_errors.ErrorsRow:
        if D == 2048:
            raise RuntimeError("out of memory")
        return gpu_errors.ErrorsRow(f"T{T}xC{C}xD{D}", 0.002, 0.005, error, same_bits)

    errors, failed = gpu.measure_errors(one)
    assert [*failed.values()] == ["RuntimeError: out of memory"]
    assert len(errors) == len(gpu_errors.CASES) - 1
    results = gpu.Results(GOOD, [row(CASES[0])], errors=errors)
    assert results.good == (verdict == "")
    assert [made["right"] for made in json.loads(gpu.as_json(results, ABOUT))["errors"]] == [results.good] * len(errors)
    line = next(line for line in gpu.as_markdown(results, ABOUT).splitlines() if line.startswith("| T20xC1000xD0 |"))
    assert line.split(" | ")[1:4] == ["2", "5", "2.50"]
    assert line.endswith(f"| {verdict} |")


def test_markdown_tables_have_as_many_cells_in_every_line() -> None:
    lines = table.markdown([row(spec) for spec in default_specs("cuda")])
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_lines_fit_a_terminal_of_a_hundred_columns() -> None:
    cpu = {torch.float32: Ceilings(15.9e9, 82.7e9)}
    lines = [*table.LEGEND, table.roof_line(cpu)]
    for spec in default_specs("cpu"):
        lines += [*table.heading(spec.kernel), table.line(row(spec))]
    assert max(map(len, lines)) <= 100


def test_without_a_gpu_it_says_so_fails_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert gpu.main(["--out", str(tmp_path / "results")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "torch sees no CUDA device; nothing measured, nothing written" in said.err
    assert not (tmp_path / "results").exists()


def test_it_needs_only_torch_triton_numpy_and_pytest(tmp_path: Path) -> None:
    """A finder that refuses everything else that the package or its tests use, in a checkout that is not installed."""
    code = """
import sys
REFUSED = ("click", "zarr", "numcodecs", "faiss", "pyarrow", "safetensors", "hypothesis", "tqdm", "matplotlib", "PIL", "sklearn")
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED or name == "mcscore._native":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refusing())
from benchmarks import gpu, gpu_errors
import torch
from mcscore.bench.clock import CpuClock
from mcscore.bench.measure import Bench, measure_ceilings
from mcscore.bench.shapes import specs
from mcscore.kernels import native
assert not native.available()[0]
cpu, clock = torch.device("cpu"), CpuClock(least=1e-4)
bench = Bench(cpu, clock, measure_ceilings(cpu, clock), compile=False, seconds=0.01)
small = [*specs("T3xB5xC7"), *specs("T3xB5xE9xP0.3")]
results = gpu.measure(bench.measure, small, gpu.GpuTests(True, 1), end=1e18)
assert not results.failed and len(results.rows) == 3, results
about = gpu.facts(bench, cpu)
assert gpu.write(results, about, gpu.Path(sys.argv[1])) == 0
import pytest
sys.exit(pytest.main(["--collect-only", "-qq", "-m", "gpu", "-p", "no:cacheprovider", *map(str, gpu.gpu_test_files())]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=gpu.ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # plugins of this environment need what is refused
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.iterdir())) == 2


def test_the_gpu_tests_are_all_in_the_files_that_it_runs(request: pytest.FixtureRequest) -> None:
    """Of all tests that this session has collected."""
    marked = {item.path for item in request.session.items if item.get_closest_marker("gpu")}
    assert marked <= set(gpu.gpu_test_files())
    assert gpu.ROOT / "tests" / "kernels" / "triton" / "test_head.py" in gpu.gpu_test_files()


def test_where_every_gpu_test_is_skipped_nothing_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    monkeypatch.setattr(gpu, "gpu_test_files", lambda: [gpu.ROOT / "tests" / "kernels" / "triton" / "test_head.py"])
    found = gpu.run_tests(limit=250.0)
    assert found.finished
    assert found.failed == ()
    assert found.passed == 0
    assert found.skipped > 10
    assert not found.good


def test_tests_that_take_too_long_are_ended() -> None:
    found = gpu.run_tests(limit=0.3)
    assert not found.finished
    assert "their results are unknown" in str(found)


def test_failures_and_errors_are_named() -> None:
    report = ET.fromstring(
        "<testsuites><testsuite><testcase classname='a' name='x'/><testcase classname='a' name='y'><failure/></testcase>"
        "<testcase classname='b' name='z'><error/></testcase><testcase classname='b' name='w'><skipped/></testcase>"
        "</testsuite></testsuites>"
    )
    found = gpu.outcome(report, 2.0)
    assert (found.passed, found.failed, found.skipped) == (1, ("a::y", "b::z"), 1)
    assert not found.good


def test_the_cases_that_must_be_there_come_first() -> None:
    first = default_specs("cuda")[:3]
    assert specs("T20xC1000", ("bfloat16",), ("score_logits",))[0] in first
    assert specs("T20xB16384xD2048xC1000xshared", ("bfloat16",), ("dropout_head",))[0] in first
