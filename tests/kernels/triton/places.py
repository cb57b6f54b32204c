"""Where the tests run a Triton kernel: on a CUDA device (marked gpu), or in Triton's interpreter in a process of its own.

Triton decides when it is imported whether kernels are compiled or interpreted, so one process cannot do both. The
interpreter lives in a worker that is started with TRITON_INTERPRET=1; tests send it functions and CPU tensors. Its limits:
bfloat16 is rounded toward zero when stored, tl.dot on bfloat16 is wrong, and neither layouts nor races are exercised. Where it
cannot run a small kernel, as Triton 3.6 with NumPy 2.4, its tests are skipped with what it says.

A pytest plugin: a test module that says ``pytest_plugins = ("tests.kernels.triton.places",)`` gets the fixtures.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def triton_interpreter() -> Iterator[ProcessPoolExecutor]:
    with (
        pytest.MonkeyPatch.context() as patch,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as worker,
    ):
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setenv("PYTHONWARNINGS", "ignore")  # NumPy's own, about the infinities and NaN that the tests send
        worker.submit(torch.set_num_threads, 1).result()  # the process starts here, and keeps this environment
        patch.undo()
        if failure := worker.submit(_smoke).result():
            versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("triton", "numpy"))
            pytest.skip(f"Triton's interpreter runs no kernel here ({versions}): {failure}")
        yield worker


def _smoke() -> str:
    from mcscore.kernels.triton.smoke import smoke

    return smoke("cpu")


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_place(request: pytest.FixtureRequest) -> str:
    """Where the test runs. Tests that use it run in both places; the second needs a CUDA device."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture
def triton_call(triton_place: str, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """call(function, *args, **kwargs): the function's result, run at ``triton_place``; CPU tensors go in and come out."""
    if triton_place == "interpreter":
        worker = request.getfixturevalue("triton_interpreter")
        return lambda function, *args, **kwargs: worker.submit(function, *args, **kwargs).result()
    return lambda function, *args, **kwargs: _moved(function(*_moved(args, "cuda"), **_moved(kwargs, "cuda")), "cpu")


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):  # with its strides and offset, which ``to`` alone would tidy up
        flat = torch.empty(0, dtype=value.dtype, device=value.device).set_(value.untyped_storage())
        return flat.to(device).as_strided(value.shape, value.stride(), value.storage_offset())
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(v, device) for v in value)
    if isinstance(value, dict):
        return {k: _moved(v, device) for k, v in value.items()}
    return value
