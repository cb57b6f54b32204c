"""The running sums that the native kernel adds passes to."""

from __future__ import annotations

import torch
from torch import Tensor


def new_state(B: int, C: int) -> dict[str, Tensor]:
    return {
        "p": torch.zeros(B, C, dtype=torch.float64),
        "p2": torch.zeros(B, C, dtype=torch.float64),
        "h": torch.zeros(B, dtype=torch.float64),
        "votes": torch.zeros(B, C, dtype=torch.int32),
        "bad": torch.zeros(B, dtype=torch.bool),
    }
