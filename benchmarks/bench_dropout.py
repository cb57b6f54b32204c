"""Replicating dropout, dropout with Linear, and the whole head, against the PyTorch calls they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mcscore import masks
from mcscore.kernels import native, roofline

RATES = [0.5, 0.25, 0.3]  # 1, 8 and 16 random bits per element


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize(("B", "E", "I", "t"), [(4, 3872, 1, 100), (64, 128, 1, 100), (16, 32, 169, 20)])
def test_dropout(compare, B, E, I, t, p):
    x, rate = torch.randn(1, B, E, I), masks.rate(p)
    copies = x.expand(t, B, E, I).contiguous()
    compare(
        lambda: native.dropout(x, range(t), range(B), 0, 0, rate, (1 / rate.keep, 0.0, 0.0)),
        lambda: F.dropout(copies, p) if I == 1 else F.dropout2d(copies.flatten(0, 1), p),
        B,
        roofline.dropout(t, B, E, I, torch.float32),
    )


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("shared", [True, False], ids=["one-x", "x-per-pass"])
@pytest.mark.parametrize(("B", "D", "C", "t"), [(8, 3872, 128, 100), (8, 512, 10, 100)])
def test_dropout_linear(compare, B, D, C, t, shared, p):
    x, weight, bias = torch.randn(1 if shared else t, B, 1, D), torch.randn(C, D), torch.randn(C)
    rate, passes, ids = masks.rate(p), torch.arange(t), torch.arange(B)
    compare(
        lambda: native.dropout_linear(x, passes, ids, 0, 0, rate, weight, bias),
        lambda: [F.linear(F.dropout(x[0 if shared else k], p), weight, bias) for k in range(t)],
        B,
        roofline.dropout_linear(t, B, D, C, len(x)),
    )


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize(("B", "D", "C", "t"), [(64, 512, 10, 100), (16, 2048, 10, 100), (4, 768, 1000, 100)])
def test_dropout_head(compare, B, D, C, t, p):
    x, weight, bias = torch.randn(B, D), torch.randn(C, D) / D**0.5, torch.randn(C)
    rate, passes, ids = masks.rate(p), torch.arange(t), torch.arange(B)

    def plain() -> torch.Tensor:
        q = torch.stack([F.linear(F.dropout(x, p), weight, bias) for _ in range(t)]).softmax(-1)
        return torch.special.entr(q.mean(0)).sum(-1) - torch.special.entr(q).sum(-1).mean(0)

    compare(
        lambda: native.dropout_head(x, passes, ids, 0, 0, rate, weight, bias, ("bald",)),
        plain,
        B,
        roofline.dropout_head(t, B, D, C, results=2),
    )
