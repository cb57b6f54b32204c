"""``score_logits`` names what it cannot score, and says which backend serves a call and why."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator

import pytest
import torch

from mcscore.kernels import backends, native
from mcscore.kernels.score import score_logits


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((4, 5), {}, r"outputs must have shape \(T, B, C\).* got \(4, 5\)"),
        ((0, 5, 3), {}, r"no pass: shape \(0, 5, 3\)"),
        ((4, 5, 1), {}, "use likelihood='bernoulli'"),
        ((4, 5, 3), {"likelihood": "probit"}, "unknown likelihood 'probit'"),
        ((4, 5, 3), {"scores": ("bold",)}, "unknown score 'bold'"),
        ((4, 5, 3), {"scores": ("variance",)}, "'variance' is not defined for likelihood 'categorical'"),
        ((4, 5, 3), {"input": "odds"}, "unknown input 'odds'"),
        ((4, 5, 3), {"reduction": "median"}, "reduction must be .* got 'median'"),
        ((4, 5, 3), {"backend": "cobol"}, "unknown backend 'cobol'; choose from native, triton, eager"),
        ((4, 5, 3), {"likelihood": "gaussian", "scores": ("variance",)}, "got C = 3"),
        (
            (4, 5, 1),
            {"likelihood": "gaussian", "scores": ("bald",)},
            "'bald' with likelihood 'gaussian' needs the noise",
        ),
        ((4, 5, 2), {"likelihood": "gaussian", "scores": ("bald",), "noise_variance": 1.0}, "must not be given too"),
    ],
)
def test_what_does_not_fit_is_named(shape: tuple[int, ...], settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_logits(torch.zeros(shape), **settings)


@pytest.mark.parametrize("outputs", [torch.zeros(4, 5, 3, dtype=torch.int64), [[[0.0, 1.0]]]])
def test_only_float_tensors_are_scored(outputs: object) -> None:
    with pytest.raises(ValueError, match=r"float64, got (torch\.int64|list)"):
        score_logits(outputs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "likelihood", "input", "message"),
    [
        ([0.5, 0.7], "categorical", "probs", "pass 1 of item 2 sums to 1.2, not 1"),
        ([-0.5, 1.5], "categorical", "probs", r"pass 1, item 2, class 0 holds -0\.5: a probability lies in \[0, 1\]"),
        ([3.0, 0.2], "bernoulli", "probs", r"class 0 holds 3: a probability lies in \[0, 1\]"),
        ([-3.0, 0.2], "bernoulli", "log_probs", r"class 1 holds 0\.2: a log-probability is at most 0"),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_misdeclared_probabilities_are_refused(
    row: list, likelihood: str, input: str, message: str, dense: bool
) -> None:
    outputs = torch.full((2, 3, 2), 0.5 if input == "probs" else math.log(0.5))
    outputs[1, 2] = torch.tensor(row)
    if dense:
        outputs = outputs[..., None].repeat(1, 1, 1, 6)
    with pytest.raises(ValueError, match=message):
        score_logits(outputs, likelihood=likelihood, input=input)


@pytest.mark.parametrize(
    ("dtype", "settings", "message"),
    [
        (torch.float64, {}, "torch.float64 outputs have no kernel"),
        (torch.float32, {"likelihood": "bernoulli", "input": "probs"}, "input='probs' has no kernel"),
        (torch.float32, {"likelihood": "gaussian", "scores": ("variance",)}, "likelihood 'gaussian' has no kernel"),
    ],
)
def test_a_backend_that_cannot_serve_says_why(dtype: torch.dtype, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"backend 'native' cannot serve this call: .*{message}"):
        score_logits(torch.zeros(2, 2, 2, dtype=dtype), backend="native", **settings)


def test_a_backend_that_is_not_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="'triton' runs on CUDA"):
        score_logits(torch.zeros(2, 2, 2), backend="triton")
    monkeypatch.setattr(native, "available", lambda: (False, "no compiler was found"))
    with pytest.raises(ValueError, match="'native' is not active: no compiler was found"):
        score_logits(torch.zeros(2, 2, 2), backend="native")
    with pytest.raises(ValueError, match="'native' runs on the CPU, the tensor is on meta"):
        score_logits(torch.zeros(2, 2, 2, device="meta"), backend="native")


def test_a_slower_path_is_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_said", set())
    with pytest.warns(UserWarning, match=r"torch\.float64 outputs have no kernel.*slower PyTorch path"):
        score_logits(torch.zeros(2, 2, 2, dtype=torch.float64))
    monkeypatch.setattr(native, "available", lambda: (False, "no compiler was found"))
    with pytest.warns(UserWarning, match=r"native kernels are off \(no compiler was found\)"):
        got = score_logits(torch.zeros(2, 2, 2))
    assert got["entropy"].tolist() == pytest.approx([math.log(2)] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_logits(torch.zeros(2, 2, 2))
        score_logits(torch.zeros(2, 2, 2, dtype=torch.float64))
        score_logits(torch.zeros(2, 2, 2), ("variance",), likelihood="gaussian")  # has no faster path to miss


@pytest.fixture
def no_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    find_spec = backends.util.find_spec
    monkeypatch.setattr(backends.util, "find_spec", lambda name: None if name == "triton" else find_spec(name))
    monkeypatch.setattr(backends, "_said", set())
    backends._triton.cache_clear()
    yield
    backends._triton.cache_clear()


def test_without_triton_a_machine_without_a_gpu_is_told_that_it_needs_none(
    no_triton: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_cuda", lambda: (False, "torch sees no CUDA device"))
    active, why = backends.status()["triton"]
    assert not active
    assert "mcscore[triton]" in why
    assert why.endswith("needed on a CUDA GPU only, and torch sees no CUDA device")


def test_without_triton_a_gpu_takes_the_slower_path_and_says_once_how_to_get_it(
    no_triton: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_cuda", lambda: (True, "a GPU"))
    with pytest.warns(UserWarning, match=r"triton kernels are off \(not installed: .*mcscore\[triton\]"):
        assert backends.select("cuda") == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.select("cuda") == "eager"
    assert "a CUDA GPU only" not in backends.status()["triton"][1]


def test_status_says_what_is_active_and_why() -> None:
    status = backends.status()
    assert {"native", "triton", "cuda", "torch", "zarr", "zarrs", "faiss"} <= set(status)
    for name, (active, why) in status.items():
        assert isinstance(active, bool)
        assert why, name
    assert re.search(r"\d+ threads", status["torch"][1])
    assert status["cuda"][0] == torch.cuda.is_available()
    assert backends.select("mps") == "eager"
    assert backends.select(torch.device("cpu")) == ("native" if status["native"][0] else "eager")


def test_scoring_imports_only_what_it_uses() -> None:
    code = (
        "import sys, mcscore.kernels.score, mcscore.moments;"
        "print([m for m in ('triton', 'zarr', 'faiss', 'matplotlib', 'click', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_model_is_scored_without_a_compiler() -> None:
    """Its import takes as long as that of torch."""
    code = """
        import sys, torch, mcscore
        from torch import nn
        layers = nn.LayerNorm(4), nn.Dropout(0.5), nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
        mcscore.Scorer(nn.Sequential(*layers), 4)(torch.ones(2, 4))
        print([m for m in ("torch._dynamo", "torch._inductor", "sympy") if m in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
