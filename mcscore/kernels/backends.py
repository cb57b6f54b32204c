"""Which implementation runs: what is active on this machine, and why the rest is not. The only place that decides.

A missing backend is never an ImportError: the call takes the slower path, and the first one says so once.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Callable
from importlib import metadata, util

import torch

BACKENDS = ("native", "triton", "eager")
KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # of the native and Triton kernels; all else is eager

_PACKAGES = {  # module: (distributions that may provide it, what is lost without it)
    "zarr": (("zarr",), "pools and runs cannot be opened"),
    "zarrs": (("zarrs",), "pools are read by zarr's own pipeline; pip install zarrs reads them faster"),
    "faiss": (("faiss-cpu", "faiss-gpu-cu12", "faiss-gpu"), "diverse selection is off"),
    "jinja2": (("jinja2",), "no reports; pip install mcscore[report]"),
}

_said: set[str] = set()
_said_lock = threading.Lock()


def warn_once(message: str) -> None:
    """Warn (UserWarning) with this message, the first time in this process only, whatever the warning filters say."""
    with _said_lock:
        if message in _said:
            return
        _said.add(message)
    warnings.warn(message, UserWarning, stacklevel=3)


def select(device: torch.device | str) -> str:
    """The backend for tensors on ``device``: "native" on the CPU, "triton" on CUDA, "eager" where neither is active.

    Falling back to "eager" on a CPU or CUDA device, where a faster backend exists, is announced once with the reason.
    """
    kind = getattr(device, "type", None) or str(device).partition(":")[0]
    if kind not in ("cpu", "cuda"):
        return "eager"
    wanted = "native" if kind == "cpu" else "triton"
    active, why = _native() if kind == "cpu" else _triton()
    if not active:
        warn_once(f"{wanted} kernels are off ({why}); mcscore takes the slower PyTorch path on {kind}")
        return "eager"
    return wanted


def require(backend: str, device: torch.device) -> None:
    """ValueError, with the reason, if the caller asked for a backend that cannot run on ``device`` here."""
    if backend == "native" and device.type != "cpu":
        raise ValueError(f"backend 'native' runs on the CPU, the tensor is on {device}")
    if backend == "triton" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError("backend 'triton' runs on CUDA (on the CPU only in its interpreter, TRITON_INTERPRET=1)")
    triton = _triton if device.type == "cuda" else _triton_installed
    checks: dict[str, Callable[[], tuple[bool, str]]] = {"native": _native, "triton": triton}
    active, why = checks[backend]() if backend in checks else (True, "")
    if not active:
        raise ValueError(f"backend {backend!r} is not active: {why}")


def status() -> dict[str, tuple[bool, str]]:
    """Everything optional: name -> (active, why). Imports torch; meant for ``mcscore env``."""
    answers = {
        "native": _native(),
        "triton": _triton(),
        "cuda": _cuda(),
        "torch": (True, f"{torch.__version__}, {torch.get_num_threads()} threads"),
    }
    for module, (distributions, loss) in _PACKAGES.items():
        version = _version(distributions)
        found = util.find_spec(module) is not None
        answers[module] = (found, (version or "version unknown") if found else f"not installed: {loss}")
    return answers


def _native() -> tuple[bool, str]:
    from . import native

    return native.available()


@functools.cache
def _triton() -> tuple[bool, str]:
    """Triton is active once a kernel ran: that it can be imported says nothing about the compiler and the driver."""
    installed, version = _triton_installed()
    present, why = _cuda()
    if not installed:
        return False, version if present else f"{version}; it is needed on a CUDA GPU only, and {why}"
    if not present:
        return False, f"{version} is installed, but {why}"
    from .triton.smoke import smoke

    failure = smoke("cuda")
    return (False, f"{version} runs no kernel here: {failure}") if failure else (True, f"{version} on {why}")


def _triton_installed() -> tuple[bool, str]:
    if util.find_spec("triton") is None:
        return False, "not installed: builds of torch for CUDA bring it, pip install mcscore[triton] adds it to others"
    return True, _version(("triton",)) or "version unknown"


@functools.cache
def _cuda() -> tuple[bool, str]:
    if torch.version.cuda is None:
        return False, f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return False, "torch sees no CUDA device"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return True, f"{', '.join(names)} (CUDA {torch.version.cuda})"


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
