"""Where a span is scored: its hardware class, its plan, and what happens when the same span gets other bits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mcscore import Pool
from mcscore.cli import main
from mcscore.errors import RunError
from mcscore.kernels import native
from mcscore.run import Run, score_pool
from mcscore.run.identity import hardware
from mcscore.run.identity.hardware import differences, hardware_of
from mcscore.run.journal import Journal
from mcscore.run.schema import Hardware
from mcscore.run.scoring import here

from .fakes import SPAN, Column, FakePool, FakeScorer, N, begin, content, fail_at, go_on, unpacked

HERE = Hardware(device="Some CPU", instruction_set="avx2")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Score on another machine from now on."""

    def move(**changes: Any) -> None:
        monkeypatch.setattr(here, "hardware_of", lambda *_: dataclasses.replace(HERE, **changes))

    move()
    return move


def hardware_of_spans(out: Path) -> list[int]:
    return [record.hardware for record in Journal.open(out).survey().records]


def test_a_run_is_refused_on_other_hardware_and_mixed_where_that_is_asked_for(out: Path, on: Any) -> None:
    with pytest.raises(RunError):
        begin(out, on_block=fail_at(45))
    on(instruction_set="baseline", blas="openblas")
    before = (out / "run.json").read_bytes()
    with pytest.raises(
        RunError,
        match=r"cannot be resumed on other hardware.*: instruction set avx2 then, baseline now; blas none then, openblas now.*"
        r"mixed_hardware=True \(--mixed-hardware\)",
    ):
        go_on(out)
    assert (out / "run.json").read_bytes() == before
    with pytest.raises(RunError, match="out of memory"):
        score_pool(FakePool(), FakeScorer(on_block=fail_at(85)), out, mixed_hardware=True)
    on()  # back to where it was started, which is no other class
    assert go_on(out).complete
    assert hardware_of_spans(out) == [0, 1, 0]
    assert [each["instruction_set"] for each in Run.open(out).meta["hardware"]] == ["avx2", "baseline"]
    on(instruction_set="baseline", blas="openblas")  # known by now: nothing more is asked
    packed = out / "commits" / "packed.jsonl"
    packed.write_bytes(b"".join(packed.read_bytes().splitlines(keepends=True)[:2]))
    assert go_on(out).complete
    assert hardware_of_spans(out) == [0, 1, 1]
    assert len(Run.open(out).meta["hardware"]) == 2


def test_a_complete_run_is_the_same_anywhere(out: Path, on: Any, undisturbed: dict[str, bytes]) -> None:
    begin(out)
    on(device="Another CPU")
    assert content(go_on(out)) == undisturbed


def test_the_hardware_of_this_machine_is_named() -> None:
    here = hardware_of("cpu")
    assert here == hardware_of("cpu")
    assert here.device
    assert here.torch_instruction_set
    assert here.instruction_set == (native.isa() if native.available()[0] else "none (no C++ kernels)")
    assert (here.cuda, here.driver, here.capability) == ("", "", "")
    assert differences(here, here) == []
    assert here.matmul_precision == "highest"


def test_a_gpu_is_named_with_its_libraries_and_modes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: f"Some GPU {at.index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _at: (9, 0))
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 2024\n")
    monkeypatch.setattr(hardware, "_DRIVER", tmp_path / "version")
    gpu = hardware_of("cuda:1")
    assert (gpu.device, gpu.capability, gpu.driver) == ("Some GPU 1", "9.0", "550.54.15")
    assert (gpu.instruction_set, gpu.blas) == ("", "")  # of the CPU, which computes nothing
    assert gpu.tf32 == {"matmul": "ieee", "convolution": "ieee"}
    assert gpu.deterministic == "off, cudnn deterministic"
    assert not gpu.reduced_precision
    (precision, tf32) = differences(gpu, hardware_of("cuda:1", "tf32"))
    assert precision == "matmul precision highest then, high now"
    assert tf32 == "tf32 matmul ieee, convolution ieee then, matmul tf32, convolution tf32 now"
    monkeypatch.setattr(hardware, "_DRIVER", tmp_path / "none")
    assert hardware_of("cuda:1").driver == ""


def test_the_class_is_that_of_scoring_whatever_the_process_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: f"Some GPU {at.index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _at: (9, 0))
    before = {device: hardware_of(device) for device in ("cpu", "cuda:0")}
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        assert {device: hardware_of(device) for device in before} == before
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "tf32"  # now the old interface cannot be read
        assert {device: hardware_of(device) for device in before} == before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True


def test_conditions_depend_on_all_that_decides_bits() -> None:
    base: dict[str, Any] = {"hardware": HERE, "versions": {"torch": "2.10"}, "threads": 1, "plan": {"items": 2}}
    changes: list[dict[str, Any]] = [
        {"hardware": dataclasses.replace(HERE, tf32={"matmul": "tf32"})},
        {"versions": {"torch": "2.11"}},
        {"threads": 2},
        {"plan": {"items": 1}},
    ]
    assert len({hardware.conditions(**base | change) for change in [{}, {}, *changes]}) == 5


# The same span, scored twice.


def orphaned(out: Path, span: int) -> Path:
    """A run that was killed between a shard and its record."""
    unpacked(Run.open(out))
    (out / "commits" / f"{span:06d}.json").unlink()
    return out / "scores.zarr" / "c" / "0" / str(span)


class Unsteady(FakeScorer):
    """Gives item 50 another score each time."""

    turn = 0

    def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
        scores = super().__call__(items, ids)
        scores["bald"].values[ids == 50] += np.float32(1e-3) * Unsteady.turn
        return scores


def test_a_shard_that_was_left_behind_is_kept_if_its_bits_are_the_same(
    out: Path, undisturbed: dict[str, bytes]
) -> None:
    begin(out)
    shard = orphaned(out, 1)
    before = shard.stat()
    scorer = FakeScorer(step=2)
    assert content(score_pool(FakePool(), scorer, out)) == undisturbed
    assert scorer.seen == list(range(SPAN, 2 * SPAN))
    assert (shard.stat().st_ino, shard.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_bits_under_the_same_conditions_are_an_error_that_says_how_to_go_on(out: Path) -> None:
    score_pool(FakePool(), Unsteady(), out, span=SPAN)
    shard = orphaned(out, 1)
    Unsteady.turn = 1
    try:
        with pytest.raises(
            RunError, match=r"span 1 .* scored twice under the same conditions, and 1 of its items got other bits"
        ):
            score_pool(FakePool(), Unsteady(), out)
        shard.unlink()
        assert score_pool(FakePool(), Unsteady(), out).complete
    finally:
        Unsteady.turn = 0


def test_a_span_that_another_process_committed_meanwhile_is_left_as_it_is(out: Path) -> None:
    begin(out)
    unpacked(Run.open(out))
    journal = Journal.open(out)
    (record, *_) = journal.survey().records
    values = {name: journal.read(record, name) for name in journal.rows}
    shard = out / "scores.zarr" / "c" / "0" / "0"
    before, said = shard.read_bytes(), int.from_bytes(shard.read_bytes()[40:44], "little")
    again = journal.commit(record.span, values, held=None, conditions=said, scored=SPAN, seconds=1e6)
    assert again == record  # of equal scores the first record stays
    other = {**values, "bald": values["bald"] + 1}
    for conditions in (said, said ^ 1):
        with pytest.raises(
            RunError, match=r"span 0 \(items 0\.\.39\) of .* was committed by another process meanwhile"
        ):
            journal.commit(record.span, other, held=None, conditions=conditions, scored=SPAN)
    assert shard.read_bytes() == before
    assert Journal.open(out).survey().records[0] == record


@pytest.mark.parametrize("why", ["hardware", "torn", "another span"])
def test_a_shard_of_other_conditions_is_replaced(out: Path, on: Any, why: str) -> None:
    score_pool(FakePool(), Unsteady(), out, span=SPAN)
    shard, pool = orphaned(out, 1), FakePool()
    if why == "hardware":
        on(device="Another CPU")
    elif why == "torn":
        shard.write_bytes(shard.read_bytes()[:100])
    else:
        shard.write_bytes((out / "scores.zarr" / "c" / "0" / "0").read_bytes())
    Unsteady.turn = 1
    try:
        run = score_pool(pool, Unsteady(), out, mixed_hardware=True)
    finally:
        Unsteady.turn = 0
    assert run.complete
    plain = float(np.float32(np.sin(np.int64(50)) + 2 + np.float32(1e-3 + 1.6e-3)))
    assert run.scores("bald")[50] == pytest.approx(plain + 1e-3, abs=2e-4)


def test_class_numbers_that_float32_does_not_hold_are_refused(out: Path) -> None:
    class Many(FakeScorer):
        def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
            prediction = np.where(ids == 50, top, 2**24 - 1).astype(np.int32)
            return super().__call__(items, ids) | {"prediction": Column(prediction)}

    top = 2**24
    run = score_pool(FakePool(), Many(), out, span=SPAN)
    assert run.prediction.tolist() == [2**24 if id == 50 else 2**24 - 1 for id in range(N)]
    top += 1
    with pytest.raises(RunError, match=r"class 16777217 in span 1 .* cannot be stored: the largest is 16777216"):
        score_pool(FakePool(), Many(), out.with_name("other"), span=SPAN)


# The plan.


def test_a_plan_that_changed_on_the_way_is_in_the_records_of_its_spans(out: Path) -> None:
    class Shrinking(FakeScorer):
        """Runs out of memory at item 60, and goes on with smaller steps."""

        def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
            if 60 in ids:
                self.plan = {**self.plan, "items": 1}
            return super().__call__(items, ids)

    run = score_pool(FakePool(), Shrinking(step=4), out, span=SPAN)
    assert run.meta["plan"]["items"] == 4
    plans = [record.plan for record in Journal.open(out).survey().records]
    assert plans[0] is None
    for plan in plans[1:]:
        assert plan == {**run.meta["plan"], "items": 1}


# A real change of the instruction set.

MODEL = """
import torch
from torch import nn
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
"""


@pytest.mark.skipif(
    not native.available()[0] or len(native.available_isas()) < 2, reason="needs C++ kernels with two instruction sets"
)
def test_a_run_resumed_with_another_instruction_set_is_refused_without_mixed_hardware(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pool.create(tmp_path / "pool", np.random.default_rng(0).random((300, 8), np.float32))
    (tmp_path / "net.py").write_text(MODEL)

    def score(isa: str, *more: str) -> Result:
        command = "score pool --model net.py:build --out run --passes 10 --span 100 --quiet --device cpu"
        with native.use_isa(isa):
            return CliRunner().invoke(main, [*command.split(), *more], prog_name="mcscore")

    monkeypatch.chdir(tmp_path)
    best = native.available_isas()[0]
    first = score(best)
    assert first.exit_code == 0, first.output
    packed = tmp_path / "run" / "commits" / "packed.jsonl"
    packed.write_bytes(b"".join(packed.read_bytes().splitlines(keepends=True)[:2]))
    refused = score("baseline")
    assert refused.exit_code == 1
    assert f"instruction set {best} then, baseline now" in refused.stderr
    assert "--mixed-hardware" in refused.stderr
    mixed = score("baseline", "--mixed-hardware")
    assert mixed.exit_code == 0, mixed.output
    said = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert [each["instruction_set"] for each in said["hardware"]] == [best, "baseline"]
    assert hardware_of_spans(tmp_path / "run") == [0, 0, 1]
