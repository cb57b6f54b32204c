"""``python -m benchmarks.gpu`` without a GPU: each part on small models, when time runs out or a case breaks, and what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import gpu, gpu_jobs, gpu_kernels, gpu_pool, gpu_shared, gpu_tests
from benchmarks.gpu_shared import Budget, Case, Log, Row, Skipped
from mcscore.bench import cases
from mcscore.bench.clock import CpuClock

CPU = torch.device("cpu")
PLENTY = 1e9


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs, ceilings and turns that take milliseconds."""
    monkeypatch.setattr(cases, "CPU_BYTES", 1 << 16)
    monkeypatch.setattr(cases, "CPU_OUTPUT", 1 << 16)
    for part in (gpu_jobs, gpu_kernels, gpu_pool):
        monkeypatch.setattr(part, "clock_for", lambda _device: CpuClock(least=1e-4))
    monkeypatch.setattr(gpu_jobs, "SECONDS", 0.01)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "part.jsonl", {"device": "cpu"})


def clock(*times: float) -> Callable[[], float]:
    """The time at each look; then it stands still."""
    left = list(times)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


# ---- shared -------------------------------------------------------------------------------------------------------


def test_cases_that_no_time_is_left_for_are_listed_and_none_is_lost(log: Log) -> None:
    budget = Budget(100.0, clock(0.0, 0.0, 10.0, 50.0, 60.0, 95.0))  # at the start, then twice for each case that runs
    gpu_shared.measure([Case(name, 20.0, lambda: {"items": 3}) for name in "abcd"], log, budget)
    assert [row.get("skipped") for row in log.cases] == [None, None, "no time was left", "no time was left"]
    assert gpu_shared.good(log.rows)
    assert gpu_shared.ends(log.cases) == ["not measured, no time was left: c, d (2)"]


def test_a_case_that_breaks_stops_no_other_and_spoils_the_result(log: Log) -> None:
    def breaks() -> Row:
        raise RuntimeError("illegal memory access\nat 0x0")

    def skips() -> Row:
        raise Skipped("zarr is not installed")

    measured = [Case("a", 0.0, breaks), Case("b", 0.0, skips), Case("c", 0.0, lambda: {"items": 3})]
    gpu_shared.measure(measured, log, Budget(PLENTY))
    failed, skipped, good = log.cases
    assert failed["failed"] == "RuntimeError: illegal memory access"
    assert "in breaks" in failed["trace"]
    assert skipped["skipped"] == "zarr is not installed"
    assert good["items"] == 3
    assert not gpu_shared.good(log.rows)
    assert "FAILED a: RuntimeError: illegal memory access" in gpu_shared.ends(log.cases)


def test_a_run_goes_on_where_its_log_ends(log: Log) -> None:
    calls: list[str] = []

    def case(name: str) -> Case:
        return Case(name, 0.0, lambda: {"call": calls.append(name)})

    gpu_shared.measure([case("a")], log, Budget(PLENTY))
    with log.path.open("a") as file:
        file.write('{"case": "torn')  # a kill in the middle of a line
    again = Log(log.path, {}, resume=True)
    gpu_shared.measure([case("a"), case("b")], again, Budget(PLENTY))
    assert calls == ["a", "b"]
    assert [row["case"] for row in again.cases] == ["a", "b"]
    assert [row.get("case") for row in Log(log.path, {}).rows] == [None]  # another run, in the same file


def test_a_result_that_is_wrong_or_nothing_at_all_is_not_good() -> None:
    good = {"case": "a", "right": True, "error": 0.0}
    assert gpu_shared.good([good])
    assert not gpu_shared.good([good, {"case": "b", "right": False, "error": 1.0}])
    assert not gpu_shared.good([{"case": "a", "skipped": "no time was left"}])
    assert gpu_shared.ends([good, {"case": "b", "right": False, "error": 1.0}]) == ["WRONG b: error 1.0"]


def test_at_most_ten_failures_are_named_and_the_summary_fits(tmp_path: Path) -> None:
    rows: list[Row] = [{"case": f"case {i}", "failed": "RuntimeError: " + "x" * 900} for i in range(25)]
    lines = gpu_shared.ends(rows)
    assert sum(line.startswith("FAILED") for line in lines) == gpu_shared.NAMED
    assert lines[-1] == "and 15 more that failed or are wrong"
    text = gpu_shared.fitting(["first", *["y" * 200] * 200, *lines], tmp_path / "log")
    assert len(text) < 12_000
    assert text.startswith("first\n")
    assert "lines left out" in text
    assert text.endswith(f"all of it: {tmp_path / 'log'}")


def test_time_that_two_kernels_share_is_counted_once() -> None:
    assert gpu_shared.covered([(50, 60), (0, 10), (5, 20), (6, 8), (20, 25)]) == 35


def test_a_profile_has_the_fields_that_are_read() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(3) + 1
    events = gpu_shared.events_of(profiler)
    names = [event.name() for event in events]
    assert "aten::add" in names
    for event in events:
        assert event.device_type() == torch.autograd.DeviceType.CPU
        assert event.duration_ns() >= 0
        assert event.start_ns() > 0
        assert not event.is_user_annotation()


# ---- tests --------------------------------------------------------------------------------------------------------

TESTS = """
import time, pytest
pytestmark = pytest.mark.gpu
def test_passes(): pass
@pytest.mark.parametrize("n", range(12))
def test_fails(n): assert n == -1, "first line\\nsecond line"
def test_skips(): pytest.skip("no such thing here")
@pytest.fixture
def broken(): raise RuntimeError("in the fixture")
def test_errs(broken): pass
"""


def test_results_of_tests_in_two_processes_are_counted_and_failures_named(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_broken.py").write_text("from mcscore import nothing_of_this_name")
    monkeypatch.setattr(gpu_tests, "gpu_test_files", lambda: sorted(tmp_path.glob("test_*.py")))
    lines = gpu_tests.run(CPU, log, Budget(250.0), workers=2)
    text = "\n".join(lines)
    assert "1 passed, 14 failed, 1 skipped, of 15" in text, (log.rows, log.path.with_suffix(".txt").read_text())
    assert sum(line.startswith("FAILED") for line in lines) == gpu_shared.NAMED
    assert "test_some.py:6: AssertionError: first line" in text
    assert "skipped 1 x Skipped: no such thing here" in text
    assert any(row.get("error") == "test_some.py:9: RuntimeError: in the fixture" for row in log.rows)
    assert not gpu_tests.good(log.rows)
    assert any("cannot import name 'nothing_of_this_name'" in row["error"] for row in log.rows if "test" in row)
    assert log.rows[1]["right"]


def test_a_run_that_is_cut_off_has_its_failures_and_what_was_running(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = f"{TESTS}\ndef test_hangs():\n    (__import__('pathlib').Path(__file__).parent / 'hangs').touch()\n    time.sleep(60)\n"
    (tmp_path / "test_some.py").write_text(hangs)
    monkeypatch.setattr(gpu_tests, "gpu_test_files", lambda: [tmp_path / "test_some.py"])

    class UntilItHangs:
        def __init__(self, *args: object, **kwargs: object) -> None:
            self._process = real(*args, **kwargs)
            self.pid = self._process.pid

        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                return self._process.wait()
            while not (tmp_path / "hangs").exists():
                assert self._process.poll() is None
                time.sleep(0.05)
            raise subprocess.TimeoutExpired("pytest", timeout)

    real = subprocess.Popen
    monkeypatch.setattr(gpu_tests.subprocess, "Popen", UntilItHangs)
    gpu_tests.run_tests(log, Budget(100.0), 1, "gpu")
    log.rows.insert(1, {"smoke": "eager", "nvidia_smi": "", "versions": {}, "error": 0.0, "right": True, "took_s": 0.0})
    text = "\n".join(gpu_tests.summary(log.rows))
    assert "tests CUT OFF" in text
    assert "1 passed, 13 failed, 1 skipped, of 16" in text
    assert "running when the time was over: " in text
    assert "test_hangs" in text.split("running when the time was over: ")[1]
    assert not gpu_tests.good(log.rows)


def test_good_tests_have_passed_and_ended() -> None:
    passed = {"test": "a", "outcome": "passed", "seconds": 1.0, "error": ""}
    assert gpu_tests.good([passed, {"exit_code": 0}])
    assert not gpu_tests.good([passed, {"exit_code": None}])
    assert not gpu_tests.good([{**passed, "outcome": "skipped"}, {"exit_code": 0}])
    torn_down = {**passed, "outcome": "failed", "error": "in teardown"}
    assert not gpu_tests.good([passed, torn_down, {"exit_code": 0}])


def test_the_gpu_tests_are_all_in_the_files_that_it_runs(request: pytest.FixtureRequest) -> None:
    """Of all tests that this session has collected."""
    marked = {item.path for item in request.session.items if item.get_closest_marker("gpu")}
    assert marked <= set(gpu_tests.gpu_test_files())
    assert gpu_tests.ROOT / "tests" / "kernels" / "triton" / "test_head.py" in gpu_tests.gpu_test_files()


# ---- jobs ---------------------------------------------------------------------------------------------------------


def tiny() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 9), nn.ReLU()),
        *(nn.Dropout(0.5), nn.Linear(9, 5)),
    )


TINY = {"net": gpu_jobs.Job(tiny, (3, 8, 8), 64, batch=16)}
TINY_ORDER = "net loop-fp32 batched-fp32-cl mcscore-fp32 mcscore-fp32-256MiB mcscore-bf16-cl\nuploads pinned"


def test_models_are_compared_with_the_best_loop_of_their_dtype(log: Log) -> None:
    lines = gpu_jobs.run(CPU, log, Budget(PLENTY), jobs=TINY, order=TINY_ORDER)
    rows = {row["case"]: row for row in log.cases}
    assert gpu_shared.good(log.rows), lines
    assert rows["uploads pinned"]["skipped"] == "there is no CUDA device to copy to"
    once, item = 2 * (36 * 27 * 4 + 144 * 9), 2 * 45  # FLOPs of one item before and behind the dropout
    assert rows["net loop-fp32"]["flops_per_item"] == 100 * (once + item)
    assert rows["net mcscore-fp32"]["flops_per_item"] == once + 100 * item
    assert gpu_jobs.best_loop(rows["net mcscore-bf16-cl"], log.cases) is None
    best = gpu_jobs.best_loop(rows["net mcscore-fp32"], log.cases)
    assert best is not None
    assert best["items_per_s"] == max(rows[f"net {name}"]["items_per_s"] for name in ("loop-fp32", "batched-fp32-cl"))
    line = next(line for line in lines if line.startswith("net mcscore-fp32 "))
    assert f" {rows['net mcscore-fp32']['items_per_s'] / best['items_per_s']:.2f} " in line
    assert rows["net mcscore-fp32"]["plan"].startswith("head ")
    assert rows["net mcscore-fp32"]["prepare_s"] > 0


def test_jobs_and_configurations_can_be_chosen_and_what_is_unknown_is_refused() -> None:
    order = gpu_jobs.ORDER
    assert list(gpu_jobs.chosen(order, ["gal"], ["loop-fp32"])) == [("gal", "loop-fp32")]
    assert {job for job, _ in gpu_jobs.chosen(order, ["gal", "pool"], [])} == {"gal", "pool"}
    assert {job for job, _ in gpu_jobs.chosen(order, [], ["loop-fp32"])} == set(gpu_jobs.JOBS)
    with pytest.raises(ValueError, match="no job gall; there are resnet50-head, vit-b16, gal"):
        list(gpu_jobs.chosen(order, ["gall"], []))
    for wrong in ("mcscor-fp32", "loop-fp32-256MiB", "mcscore-fp64"):
        with pytest.raises(ValueError, match=f"configuration '{wrong}': one of mcscore, loop, batched, compiled"):
            gpu_jobs.Config.parse(wrong)


def test_every_listed_configuration_is_one() -> None:
    listed = [pair for pair in gpu_jobs.chosen(gpu_jobs.ORDER, [], []) if pair[0] in gpu_jobs.JOBS]
    assert len(set(listed)) == len(listed)
    for _, config in listed:
        gpu_jobs.Config.parse(config)
    assert gpu_jobs.Config.parse("mcscore-bf16-256MiB-cl").options == {"memory": 256 << 20, "channels_last": True}


def test_a_pool_is_killed_resumed_and_compared_bit_by_bit(tmp_path: Path) -> None:
    row = gpu_pool.killed_and_resumed(CPU, "gal", seed=3, folder=tmp_path)
    assert row["right"]
    assert 0 <= row["committed_spans"] < 1500 // 50
    assert row["killed_after_items"] < 1500
    assert min(row["pool_items_per_s"], row["scorer_alone_items_per_s"]) > 0
    assert not list(tmp_path.iterdir())


# ---- kernels ------------------------------------------------------------------------------------------------------


def test_kernels_are_checked_and_timed(log: Log) -> None:
    listed = "dropout_head float32 3,full T6xD70xC11xP0.5xerrors\nmoments float32 9 T7xC5\ndropout_linear bfloat16 3 T6xD70xC11"
    lines = gpu_kernels.run(CPU, log, Budget(PLENTY), listed=listed, seconds=1e-3)
    head, full, moments, refused = log.cases
    assert gpu_shared.good(log.rows), lines
    assert head["case"] == "dropout_head T6xB3xD70xC11xP0.5xerrors float32"
    assert (head["items"], moments["items"]) == (3, 9)
    assert full["items"] > 3
    assert head["host_s"] > 0
    facts = log.rows[1]["ceilings"]
    flops = 2 * 6 * 3 * 70 * 11
    assert head["call_matmul"] == pytest.approx(flops / head["call_s"] / 1e9 / facts["matmul_GFLOP_per_s"]["float32"])
    assert "has no kernel on cpu" in refused["skipped"]


def test_a_kernel_that_is_wrong_is_told(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    true = cases.score_logits
    monkeypatch.setattr(cases, "score_logits", lambda *args, **kw: {k: v + 0.01 for k, v in true(*args, **kw).items()})
    lines = gpu_kernels.run(CPU, log, Budget(PLENTY), listed="score_logits float32 9 T7xC5", seconds=1e-3)
    assert not gpu_shared.good(log.rows)
    assert any(line.startswith("WRONG score_logits T7xB9xC5 float32: error 0.0") for line in lines)


def test_every_listed_kernel_is_a_case_and_the_names_select() -> None:
    listed = list(gpu_kernels.listed_specs(gpu_kernels.CASES))
    assert len(set(map(str, listed))) == len(listed)
    assert {spec.kernel for spec in listed} == {"score_logits", "moments", "dropout", "dropout_linear", "dropout_head"}
    assert "dropout_head T100xB27xD2048xC1000xP0.5xshared bfloat16" in map(str, listed)


# ---- the command --------------------------------------------------------------------------------------------------


def test_the_command_writes_its_log_prints_the_summary_and_says_whether_all_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_jobs, "ORDER", TINY_ORDER)
    words = ["kernels", "--device", "cpu", "--out", str(tmp_path), "--budget", "0.001", "--only", "moments"]
    assert gpu.main(words) == 1  # nothing was measured
    said = capsys.readouterr().out
    assert said.startswith(f"benchmarks.gpu kernels on cpu, torch {torch.__version__}\n")
    assert "not measured, no time was left: moments T10xB27xC10 bfloat16" in said
    rows = [json.loads(line) for line in (tmp_path / "kernels.jsonl").read_text().splitlines()]
    assert rows[0]["part"] == "kernels"
    assert all("moments" in row["case"] for row in rows[2:])


def test_without_a_gpu_it_says_so_fails_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert gpu.main(["jobs", "--out", str(tmp_path / "results")]) == 2
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
import torch._dynamo  # looks for packages by names that the finder refuses
sys.meta_path.insert(0, Refusing())
from pathlib import Path
from benchmarks import gpu, gpu_jobs, gpu_kernels, gpu_shared, gpu_tests
import torch
from mcscore.kernels import native
assert not native.available()[0]
cpu, out = torch.device("cpu"), Path(sys.argv[1])
log = gpu_shared.Log(out / "kernels.jsonl", {})
gpu_kernels.run(cpu, log, gpu_shared.Budget(1e9), listed="score_logits float32 9 T7xC5", seconds=1e-3)
assert gpu_shared.good(log.rows), log.rows
jobs = {"gal": gpu_jobs.Job(gpu_jobs.GalCNN, (1, 28, 28), 8, batch=4)}
log = gpu_shared.Log(out / "jobs.jsonl", {})
gpu_jobs.SECONDS = 1e-3
gpu_jobs.run(cpu, log, gpu_shared.Budget(1e9), jobs=jobs, order="gal loop-fp32 mcscore-fp32")
assert gpu_shared.good(log.rows), log.rows
import importlib.util, pytest
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "zarr" else find_spec(name, *more)
files = gpu_tests.require_pools(gpu_tests.gpu_test_files(), log)
assert [row["error"] for row in log.rows if "test" in row] == ["zarr is not installed"]
importlib.util.find_spec = find_spec
sys.exit(pytest.main(["--collect-only", "-qq", "-m", "gpu", "-p", "no:cacheprovider", *map(str, files)]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=gpu_tests.ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # plugins of this environment need what is refused
    )
    assert done.returncode == 0, done.stdout + done.stderr
