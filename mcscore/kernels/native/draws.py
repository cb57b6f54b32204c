"""Random numbers, uniform or normal, and the Philox words that they are made of: csrc/draws.h, csrc/philox.h."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...masks import MaskSpec
from .extension import loaded
from .memory import DTYPES, NativeSpec
from .threads import split_passes


def draw(law: str, spec: MaskSpec, elements: int, dtype: torch.dtype) -> Tensor:
    """Random numbers (t, B, elements) of ``law`` "uniform" or "normal", float32, float16 or bfloat16; see ``masks``."""
    if law not in ("uniform", "normal"):
        raise ValueError(f"unknown law {law!r} of random numbers; the native kernel has uniform and normal")
    if dtype not in DTYPES:
        raise TypeError(f"random numbers must be float32, float16 or bfloat16 for the native kernels, not {dtype}")
    words = NativeSpec(spec, elements)
    out = torch.empty((words.t, words.B, elements), dtype=dtype)
    arrays = out.data_ptr(), DTYPES.index(dtype), law == "normal"
    cost = elements * (2 if law == "normal" else 1)  # 0.6 and 1.3 ns a number (Zen 3)
    split_passes(words.B, words.t, cost, lambda *part: loaded().draw(words.described, *arrays, *part))
    return out


def philox(counter_n4: Any, key: int) -> npt.NDArray[np.uint32]:
    """Philox4x32-7: counters (n, 4) uint32 and a 64-bit key -> (n, 4) uint32, as ``masks.philox4x32``."""
    counter = np.ascontiguousarray(counter_n4, dtype=np.uint32)
    if counter.ndim != 2 or counter.shape[1] != 4:
        raise ValueError(f"counters must have shape (n, 4), got {counter.shape}")
    out = np.empty_like(counter)
    loaded().philox(counter.ctypes.data, key, out.ctypes.data, len(counter))
    return out
