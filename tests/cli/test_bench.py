"""mcscore bench: one row per case and one object with --json; wrong results and unequal work are failures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .conftest import MODEL, Command, answer

QUICK = ("--seconds", "0.001")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcscore.bench import cases

    monkeypatch.setattr(cases, "CPU_BYTES", 1 << 16)
    monkeypatch.setattr(cases, "CPU_OUTPUT", 1 << 16)


def test_kernels_tells_machine_roof_and_a_row_per_case(mcscore: Command) -> None:
    shapes = "T5xB70xC10,T5xB9xE64xP0.25,T5xB9xD64xC10,N3000xK10"
    result = mcscore("bench", "kernels", "--no-compile", "--shapes", shapes, *QUICK)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert f"torch {torch.__version__}" in lines[0]
    assert lines[1].startswith("roof, measured just now: copy ")
    for kernel, shape in (
        ("score_logits", "T5xB70xC10"),
        ("moments", "T5xB70xC10"),
        ("dropout", "T5xB9xE64xP0.25"),
        ("dropout_linear", "T5xB9xD64xC10xP0.5"),
        ("dropout_head", "T5xB9xD64xC10xP0.5"),
        ("top_k", "N3000xK10"),
    ):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{kernel}: "))
        assert lines[at + 1].split()[:3] == ["shape", "dtype", "items/s"]
        assert lines[at + 2].split()[:2] == [shape, "float32"]
    assert "x floor: mcscore's time over that of" in result.stdout


def test_kernels_json_is_one_object(mcscore: Command) -> None:
    words = (
        "--shapes",
        "T5xB70xC10",
        "--dtype",
        "float32,bfloat16",
        "--only",
        "score_logits",
        "--json",
        "--threads",
        1,
    )
    before = torch.get_num_threads()
    told = answer(mcscore("bench", "kernels", "--no-compile", *words, *QUICK))
    assert torch.get_num_threads() == before
    assert [(row["kernel"], row["dtype"], row["right"]) for row in told["rows"]] == [
        ("score_logits", "float32", True),
        ("score_logits", "bfloat16", True),
    ]
    assert told["ceilings"]["copy_GB_per_s"] > 0
    assert set(told["ceilings"]["matmul_GFLOP_per_s"]) == {"float32", "float16", "bfloat16"}
    assert told["machine"]["torch_threads"] == 1
    assert told["versions"]["torch"]


def test_where_nothing_compiles_it_says_why_and_leaves_the_ratio_out(
    mcscore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcscore.bench import measure

    monkeypatch.setattr(measure, "why_not_compile", lambda device: "InvalidCxxCompiler: no working C++ compiler found")
    result = mcscore("bench", "kernels", "--shapes", "T5xB70xC10", "--only", "moments", *QUICK)
    assert result.exit_code == 0
    assert "torch.compile does not work here, so there are no ratios to it: InvalidCxxCompiler" in result.stderr
    assert " - " in next(line for line in result.stdout.splitlines() if line.startswith("T5xB70xC10"))


def test_what_has_no_kernel_is_skipped_aloud(mcscore: Command) -> None:
    words = ("--shapes", "T5xB9xD64xC10", "--dtype", "bfloat16", "--only", "dropout_linear", "--json")
    result = mcscore("bench", "kernels", "--no-compile", *words, *QUICK)
    assert result.exit_code == 0
    told = answer(result)
    assert told["rows"] == []
    assert "has no kernel on cpu" in told["skipped"][0]["why"]
    assert "skipped: dropout_linear of bfloat16 features" in result.stderr


def test_wrong_results_are_a_failure(mcscore: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcscore.bench import cases

    true = cases.score_logits
    monkeypatch.setattr(cases, "score_logits", lambda *args, **kw: {k: v + 0.01 for k, v in true(*args, **kw).items()})
    words = ("bench", "kernels", "--no-compile", "--shapes", "T5xB70xC10", "--only", "score_logits", *QUICK)
    result = mcscore(*words)
    assert result.exit_code == 1
    assert "WRONG" in result.stdout
    assert "differ from float64 by more than rounding: score_logits T5xB70xC10 float32: 0.01 > 2e-05" in result.stderr
    told = answer(mcscore(*words, "--json"))
    assert (told["error"], told["rows"][0]["right"]) == ("WrongResults", False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("kernels", "--shapes", "T20xD3"), "fits no kernel; kernels take score_logits TxC[xB]"),
        (("kernels", "--shapes", "T20xC"), "'C' is neither a letter with a number"),
        (("kernels", "--only", "score"), "'score' is not one of score_logits"),
        (("kernels", "--dtype", "int8"), "'int8' is not one of float32"),
        (("kernels", "--device", "tpu"), "not a device that torch knows"),
        (("kernels", "--device", "meta"), "mcscore has kernels for cpu and cuda"),
        (("model", *MODEL), "give a POOL to take items from, or --item-shape"),
        (("model", "pool.zarr", *MODEL, "--item-shape", "8"), "give a POOL to take items from, or --item-shape"),
        (("model", *MODEL, "--item-shape", "3x"), "'3x' is not a shape such as 3x224x224"),
        (("pool",), "POOL"),
    ],
)
def test_wrong_usage_is_named(mcscore: Command, words: tuple[str, ...], says: str) -> None:
    result = mcscore("bench", *words)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_a_device_that_is_not_there_is_a_failure(mcscore: Command) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    result = mcscore("bench", "kernels", "--device", "cuda")
    assert result.exit_code == 1
    assert "torch sees no CUDA device" in result.stderr


def test_model_shows_the_plan_and_both_speeds(mcscore: Command, pool: Path) -> None:
    words = ("bench", "model", pool, *MODEL, "--passes", 20, "--device", "cpu", *QUICK)
    result = mcscore(*words)
    assert result.exit_code == 0, result.stderr
    for text in ("path: ", "mcscore ", "plain loop ", "items/s", "times as long", "same work: bald"):
        assert text in result.stdout
    told = answer(mcscore(*words, "--json"))
    assert told["same"] is True
    assert (told["items"], told["passes"]) == (32, 20)
    assert told["times_loop"] == pytest.approx(told["loop_seconds"] / told["seconds"])
    assert told["plan"]["path"] in ("vmap", "head")


def test_model_takes_random_items(mcscore: Command) -> None:
    words = (
        "--item-shape",
        "1x8x8",
        "--batch",
        16,
        "--passes",
        10,
        "--threads",
        1,
        "--device",
        "cpu",
        "--json",
        *QUICK,
    )
    told = answer(mcscore("bench", "model", *MODEL, *words))
    assert told["items"] == 16
    assert told["same"] is True


def test_a_model_that_the_loop_runs_otherwise_is_a_failure(mcscore: Command, pool: Path, project: Path) -> None:
    (project / "twofold.py").write_text(
        "import torch\nfrom net import build as other\n"
        "class Twofold(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = other()\n"
        "    def forward(self, x):\n        y = self.net(x)\n        return 4 * y if self.training else y\n"
        "def build():\n    torch.manual_seed(0)\n    return Twofold()\n"
    )
    words = ("--model", "twofold.py:build", "--passes", 40, "--device", "cpu", "--json", *QUICK)
    result = mcscore("bench", "model", pool, *words)
    assert result.exit_code == 1
    assert answer(result)["error"] == "DifferentWork"
    assert "mcscore and the loop do not do the same work" in result.stderr


def test_pool_tells_how_fast_it_is_read(mcscore: Command, pool: Path) -> None:
    result = mcscore("bench", "pool", pool, *QUICK)
    assert result.exit_code == 0, result.stderr
    for text in ("500 items of uint8 1x8x8", "memory-mapped copy", "% of the copy", "read ahead"):
        assert text in result.stdout
    told = answer(mcscore("bench", "pool", pool, "--json", *QUICK))
    assert (told["items"], told["bytes"]) == (500, 500 * 64)
    assert told["percent_of_copy"] > 0
    missing = mcscore("bench", "pool", "nowhere")
    assert missing.exit_code == 1
    assert "nowhere is not a pool" in missing.stderr


def test_help_imports_no_torch_and_is_listed() -> None:
    import subprocess
    import sys

    code = """
import sys
from click.testing import CliRunner
import mcscore.cli
assert "bench" in CliRunner().invoke(mcscore.cli.main, ["--help"]).output
for words in (["bench"], ["bench", "kernels"], ["bench", "model"], ["bench", "pool"]):
    result = CliRunner().invoke(mcscore.cli.main, [*words, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.output, (words, result.output)
print([name for name in ("torch", "zarr", "numpy", "triton") if name in sys.modules])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
