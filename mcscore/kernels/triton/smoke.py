"""A small kernel that shows whether Triton can compile, load and run kernels on this machine."""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.utils._python_dispatch import _disable_current_modes

from .launch import Launch

_SIZE = 64


@triton.jit
def _count(out, n, SIZE: tl.constexpr):
    """out[i] = n i. A loop of run-time length, because Triton 3.6 interprets none with NumPy 2.4."""
    i = tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.int32)
    for _ in range(n):
        total += i
    tl.store(out + i, total)


def smoke(device: torch.device | str) -> str:
    """Run the kernel. Returns why it does not work, or nothing.

    Whatever Triton raises is a reason: without a C compiler, for instance, it cannot build the launcher of a kernel.
    """
    try:
        with _disable_current_modes():  # fake tensors of a tracer have no memory
            out = torch.zeros(_SIZE, dtype=torch.int32, device=device)
            Launch(_count, (1,), {"out": out, "n": 3}, {"SIZE": _SIZE}, num_warps=1).run()
            right = out.tolist() == [3 * i for i in range(_SIZE)]
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return "" if right else "a kernel wrote wrong numbers"
