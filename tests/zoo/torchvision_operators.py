"""Let torchvision be imported beside a build of torch that its compiled operators do not fit.

The registry's wheel of torchvision is compiled for CUDA; beside a CPU build of torch its library does not load, and the
import then fails where it describes ``nms``. Those operators serve detection, which the zoo does not have, so it is
enough that they are declared. Where the library loads, nothing is done.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_OPERATORS = ("nms", "qnms")
_declared: list[torch.library.Library] = []  # a declaration lives as long as its Library


def declare_missing() -> None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _declared:
        return
    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)
    except OSError:
        _declared.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in _OPERATORS:
            _declared[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
