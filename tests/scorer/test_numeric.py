"""Scoring computes in numeric modes of its own, and leaves those of the process as they were."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from mcscore import Execution, Scorer
from mcscore.errors import PrecisionError
from mcscore.scorer.inputs import ModelInputs
from mcscore.scorer.numeric import numeric_modes
from mcscore.scorer.prepare import require_tf32

backends: Any = torch.backends

WANTED = {
    "matmul": "highest",
    "old matmul": False,
    "old convolution": False,
    "fp32": ["ieee"] * 6,  # products, convolutions and recurrent layers of CUDA, then of oneDNN
    "sums": (False, False, False),
    "cudnn": (False, True),
}
WITH_TF32 = WANTED | {
    "matmul": "high",
    "old matmul": True,
    "old convolution": True,
    "fp32": ["tf32"] * 4 + ["ieee"] * 2,
}


def modes() -> dict[str, Any]:
    """The modes as PyTorch reads them, by both interfaces."""
    kinds = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn
    onednn = backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn
    sums = backends.cuda.matmul
    return {
        "matmul": torch.get_float32_matmul_precision(),
        "old matmul": backends.cuda.matmul.allow_tf32,
        "old convolution": backends.cudnn.allow_tf32,
        "fp32": [kind.fp32_precision for kind in (*kinds, *onednn)],
        "sums": (
            sums.allow_fp16_reduced_precision_reduction,
            sums.allow_bf16_reduced_precision_reduction,
            sums.allow_fp16_accumulation,
        ),
        "cudnn": (backends.cudnn.benchmark, backends.cudnn.deterministic),
    }


def everything() -> list[Any]:
    """What each node says once those above it say something else; and the old interface where it can be read."""
    seen: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: backends.cudnn.allow_tf32):
        try:
            seen.append(read())
        except RuntimeError:
            seen.append("mixed")
    nodes = [backends, backends.cudnn, backends.mkldnn]
    leaves = [
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    ]
    before = [node.fp32_precision for node in nodes]
    for other in ("ieee", "tf32"):
        backends.fp32_precision = other
        seen += [node.fp32_precision for node in (*nodes, *leaves)]
        backends.fp32_precision = before[0]
    return [*seen, *modes_of_flags()]


def modes_of_flags() -> list[Any]:
    names = "cublas_allow_fp16_reduced_precision_reduction", "cublas_allow_bf16_reduced_precision_reduction"
    others = "cublas_allow_fp16_accumulation", "cudnn_benchmark", "cudnn_deterministic"
    return [getattr(torch._C, f"_get_{name}")() for name in (*names, *others)]


def old() -> None:
    torch.set_float32_matmul_precision("medium")
    backends.cudnn.allow_tf32 = False
    backends.cudnn.benchmark = True


def new() -> None:
    backends.cuda.matmul.fp32_precision = "tf32"  # torch.get_float32_matmul_precision() raises from now on
    backends.cudnn.conv.fp32_precision = "ieee"
    backends.cuda.matmul.allow_fp16_accumulation = True


def whole() -> None:
    backends.fp32_precision = "tf32"
    backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False)


def bfloat16_on_the_cpu() -> None:
    backends.mkldnn.fp32_precision = "bf16"
    backends.cudnn.fp32_precision = "tf32"
    backends.cudnn.deterministic = True


SETTINGS = {"default": lambda: None, "old": old, "new": new, "whole": whole, "mkldnn": bfloat16_on_the_cpu}


@pytest.fixture(params=SETTINGS)
def users(request: pytest.FixtureRequest) -> Iterator[Callable[[], list[Any]]]:
    """A function that reads the user's settings, which are in force."""
    backends.cudnn.allow_tf32 = True  # as it is, but set: nodes that nobody has set have a test of their own
    SETTINGS[request.param]()
    yield everything
    for node in (backends, backends.cudnn, backends.mkldnn, backends.mkldnn.conv, backends.mkldnn.rnn):
        node.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for node in (backends.cuda.matmul, backends.mkldnn.matmul):
        node.fp32_precision = "none"
    backends.cudnn.allow_tf32 = True
    backends.cudnn.benchmark = backends.cudnn.deterministic = False
    backends.cuda.matmul.allow_fp16_accumulation = False
    backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True


@pytest.mark.parametrize(("tf32", "wanted"), [(False, WANTED), (True, WITH_TF32)])
def test_modes_are_those_of_scoring_inside_and_the_users_again_behind(
    users: Callable[[], list[Any]], tf32: bool, wanted: dict[str, Any]
) -> None:
    before = users()
    with numeric_modes(tf32):
        inside = modes()
        with numeric_modes(tf32):  # a model that scores
            assert modes() == inside
        assert modes() == inside
    assert inside == wanted
    assert users() == before


@pytest.mark.parametrize("first", ["", "torch.backends.cudnn.conv.fp32_precision = 'tf32'; "])
def test_convolutions_that_nobody_has_set_still_follow_their_parents(first: str) -> None:
    """As PyTorch starts, in a process in which no test has set anything."""
    program = (
        "import torch\nfrom mcscore.scorer.numeric import numeric_modes\n"
        "kinds = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul\n"
        "def seen():\n    return [kind.fp32_precision for kind in kinds]\n"
        f"{first}seen_before = seen()\n"
        "for tf32 in (False, True):\n    with numeric_modes(tf32):\n        print(seen())\n"
        "print(seen() == seen_before)\ntorch.backends.fp32_precision = 'ieee'\nprint(seen())\n"
    )
    untouched = program.replace("for tf32 in (False, True)", "for tf32 in ()")
    ours, theirs = (
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout.splitlines()
        for text in (program, untouched)
    )
    assert ours[:2] == [str(["ieee"] * 3), str(["tf32"] * 3)]
    assert ours[2:] == theirs
    assert ours[2] == "True"


class Reads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.out, self.fails = nn.Dropout(0.5), nn.Linear(4, 3), False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        SEEN.append(modes())
        if self.fails:
            raise KeyError("no such thing")
        return self.out(self.drop(x))


SEEN: list[dict[str, Any]] = []


def test_a_scorers_forward_passes_see_its_modes_and_exceptions_leave_the_users(users: Callable[[], list[Any]]) -> None:
    SEEN.clear()
    before, x = users(), torch.randn(5, 4)
    scorer = Scorer(Reads(), 10)
    for call in (scorer, scorer.samples, scorer.predict, scorer.embed):
        call(x)
        assert users() == before
    scorer.model.fails = True
    with pytest.raises(KeyError):
        scorer(x)
    assert users() == before
    assert len(SEEN) > 8
    assert all(seen["fp32"][:4] == ["ieee"] * 4 and seen["cudnn"] == (False, True) for seen in SEEN)


def test_tf32_is_refused_where_there_is_none_and_for_other_types(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)), torch.randn(5, 4)
    scorer = Scorer(model, 10, execution=Execution(dtype="tf32"))
    with pytest.raises(PrecisionError, match="device cpu has no TF32, which NVIDIA GPUs have from Ampere on"):
        scorer(x)
    plan = Scorer(model, 10).prepare(x)
    with pytest.raises(PrecisionError, match="device cpu has no TF32"):
        scorer.prepare(x, plan=plan)
    a100 = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 0))
    require_tf32(ModelInputs(a100, torch.float32))
    with pytest.raises(PrecisionError, match="rounds float32 products, and the model computes in bfloat16"):
        require_tf32(ModelInputs(a100, torch.bfloat16))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla T4")
    with pytest.raises(PrecisionError, match="Tesla T4 has no TF32"):
        require_tf32(ModelInputs(a100, torch.float32))


def test_one_who_needs_other_modes_waits_and_is_refused_inside(users: Callable[[], list[Any]]) -> None:
    before, order = users(), []
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with numeric_modes():
            inside.set()
            go_on.wait(20)
            order.append(("float32", modes()["matmul"]))

    def second(tf32: bool) -> None:
        with numeric_modes(tf32):
            order.append((f"tf32 {tf32}", modes()["matmul"]))

    threads = [
        threading.Thread(target=first),
        *(threading.Thread(target=second, args=(tf32,)) for tf32 in (True, False)),
    ]
    threads[0].start()
    assert inside.wait(20)
    with (
        numeric_modes(),
        pytest.raises(PrecisionError, match="a Scorer with dtype='tf32' is called inside"),
        numeric_modes(True),
    ):
        pass
    for thread, waiting in zip(threads[1:], itertools.count(1), strict=False):
        thread.start()
        thread.join(0.1)
        assert thread.is_alive(), waiting
    assert order == []
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert order == [("float32", "highest"), ("tf32 True", "high"), ("tf32 False", "highest")]
    assert users() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_meanwhile_has_the_users_modes(users: Callable[[], list[Any]]) -> None:
    before = users()
    inside, go_on = threading.Event(), threading.Event()

    def score() -> None:
        with numeric_modes(True):
            inside.set()
            go_on.wait(20)

    thread = threading.Thread(target=score)
    thread.start()
    assert inside.wait(20)
    child = os.fork()
    if child == 0:
        os._exit(0 if users() == before else 1)
    try:
        assert os.waitpid(child, 0)[1] == 0
    finally:
        go_on.set()
        thread.join(20)
    assert users() == before
