"""A Triton kernel call as a value: what is launched, over which grid, with which arguments.

The hosts of the Triton kernels build a ``Launch`` and run it. The tests compile the very same ``Launch`` for GPUs that
are not there, so what is checked ahead of time is what a user's machine will run.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ..backends import KERNEL_DTYPES


@dataclass(frozen=True)
class Launch:
    """A kernel, its grid and its arguments."""

    kernel: Any  # a @triton.jit function
    grid: tuple[int, ...]
    args: dict[str, Any]  # tensors and numbers known when it runs
    meta: dict[str, Any]  # tl.constexpr parameters: one compiled kernel per combination
    num_warps: int
    num_stages: int = 3  # loads in flight of a loop around tl.dot; other kernels have none to give

    @property
    def options(self) -> dict[str, Any]:
        """Of the compiler. Fused multiply-adds are asked for by name because their default changes with its version."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}

    def run(self) -> None:
        """Launch on the device of the first tensor argument. A grid with an empty axis launches nothing."""
        if 0 in self.grid:
            return
        device = next(arg.device for arg in self.args.values() if isinstance(arg, Tensor))
        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            self.kernel[self.grid](**self.args, **self.meta, **self.options)


def check_device(what: str, device: torch.device) -> None:
    """ValueError unless Triton can run on the device: CUDA, or the CPU in Triton's interpreter."""
    if device.type == "cuda" or (device.type == "cpu" and triton.knobs.runtime.interpret):
        return
    raise ValueError(
        f"{what}: the Triton kernel needs a CUDA tensor, got one on {device}; "
        "to run it on the CPU for testing, set TRITON_INTERPRET=1 before triton is first imported"
    )


def check_dtype(what: str, tensor: Tensor) -> None:
    """TypeError unless the tensor is float32, float16 or bfloat16."""
    if tensor.dtype not in KERNEL_DTYPES:
        raise TypeError(f"{what}: expected float32, float16 or bfloat16, got {tensor.dtype}")


def alignment(tensor: Tensor, *multiples: int) -> int:
    """The largest power of two of elements, at most 16 bytes, that divides the tensor's address and all ``multiples``.

    It is the widest load that is aligned for every row whose offset is a sum of those multiples.
    """
    vector = 16 // tensor.element_size()
    while vector > 1 and (tensor.data_ptr() % (vector * tensor.element_size()) or any(m % vector for m in multiples)):
        vector //= 2
    return vector
