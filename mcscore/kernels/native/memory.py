"""Tensors and specs as the C++ kernels take them: addresses and sizes of arrays that stay alive while kernels read them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...masks import MaskSpec
from .extension import loaded

DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # enum class Type of csrc/kernels.h


def on_cpu(x: Tensor, what: str) -> Tensor:
    """The tensor without its gradient. ValueError or TypeError unless the kernels can read it."""
    if x.device.type != "cpu":
        raise ValueError(f"{what} must be on the CPU for the native kernels, is on {x.device}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{what} must be float32, float16 or bfloat16 for the native kernels, is {x.dtype}")
    return x.detach()


class NativeSpec:
    """A MaskSpec for items of so many elements as the kernels take it: passes and ids on the CPU, alive while kernels read them."""

    def __init__(self, spec: MaskSpec, elements: int) -> None:
        loaded()  # or says why it is missing, even where there is nothing to compute
        self.passes_t = torch.as_tensor(spec.passes, dtype=torch.int64, device="cpu").contiguous()
        self.ids_B = torch.as_tensor(spec.ids, dtype=torch.int64, device="cpu").contiguous()
        # The kernels check the values themselves, which takes 12 us less per call than Python does.
        if self.passes_t.ndim != 1 or self.ids_B.ndim != 1:
            spec.check_values()
        self.t, self.B = len(self.passes_t), len(self.ids_B)
        passes, ids = self.passes_t.data_ptr(), self.ids_B.data_ptr()
        bits, threshold = (32, 0) if spec.rate is None else (spec.rate.bits, spec.rate.threshold)
        self.described = spec.seed, spec.site, passes, self.t, ids, self.B, elements, bits, threshold
