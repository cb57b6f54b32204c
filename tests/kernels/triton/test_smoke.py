"""Triton is active where it ran a kernel; elsewhere the PyTorch path runs, and says why."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from mcscore.kernels import backends
from mcscore.kernels.triton import smoke
from mcscore.kernels.triton.launch import Launch

pytest_plugins = ("tests.kernels.triton.places",)

NO_COMPILER = "Failed to find C compiler. Please specify via CC environment variable."


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine with a CUDA device, except that nothing can run on it."""
    monkeypatch.setattr(backends, "_cuda", lambda: (True, "a GPU"))
    monkeypatch.setattr(backends, "_said", set())
    backends._triton.cache_clear()
    yield
    backends._triton.cache_clear()


def no_compiler(_launch: Launch) -> None:
    raise RuntimeError(f"{NO_COMPILER}\nand more")


def test_without_a_compiler_the_slower_path_runs_and_says_why_once(
    a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "zeros", lambda *size, device, **kwargs: torch.empty(*size, **kwargs))
    monkeypatch.setattr(Launch, "run", no_compiler)
    with pytest.warns(
        UserWarning, match=f"triton kernels are off .* runs no kernel here: RuntimeError: {NO_COMPILER}\\)"
    ):
        assert backends.select("cuda") == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.select(torch.device("cuda", 1)) == "eager"
    active, why = backends.status()["triton"]
    assert not active
    assert NO_COMPILER in why
    with pytest.raises(ValueError, match=f"backend 'triton' is not active: .*{NO_COMPILER}"):
        backends.require("triton", torch.device("cuda"))


def test_a_kernel_that_writes_wrong_numbers_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Launch, "run", lambda _launch: None)
    assert smoke.smoke("cpu") == "a kernel wrote wrong numbers"


def test_the_backend_is_active_after_a_launch(a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(smoke, "smoke", lambda device: asked.append(device) or "")
    assert [backends.select("cuda") for _ in range(3)] == ["triton"] * 3
    assert asked == ["cuda"]


def test_the_kernel_counts_in_the_interpreter_under_any_mode(triton_interpreter: ProcessPoolExecutor) -> None:
    assert triton_interpreter.submit(_smoke_under_fake_tensors).result() == ""


def _smoke_under_fake_tensors() -> str:
    with torch._subclasses.FakeTensorMode():
        return smoke.smoke("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_without_a_compiler_still_scores(tmp_path: Path) -> None:
    code = (
        "import torch, mcscore; x = torch.randn(5, 7, 3);"
        "a, b = (mcscore.score_logits(x.to(d), ('bald',), backend=k)['bald'].cpu() for d, k in (('cuda', None), ('cpu', 'eager')));"
        "torch.testing.assert_close(a, b, rtol=0, atol=1e-6)"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("CC", "PATH", "TRITON_INTERPRET")}
    env |= {"PATH": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "triton kernels are off" in done.stderr
