"""score_logits against the formulas written in PyTorch: every logit read once, against some ten sweeps over memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mcscore.kernels.score import roofline, score_logits

SHAPES = [(20, 8000, 2), (20, 8000, 10), (100, 4000, 10), (20, 2000, 100), (20, 400, 1000), (20, 20, 20_000)]


def plain(logits_TBC: Tensor) -> tuple[Tensor, Tensor]:
    p = logits_TBC.float().softmax(-1)
    entropy = torch.special.entr(p.mean(0)).sum(-1)
    return entropy, entropy - torch.special.entr(p).sum(-1).mean(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("T", "B", "C"), SHAPES)
def test_entropy_and_bald(compare, T, B, C, dtype):
    logits = torch.randn(T, B, C).to(dtype)
    compare(lambda: score_logits(logits), lambda: plain(logits), B, roofline(T, B, C, dtype))
