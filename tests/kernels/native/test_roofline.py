"""Shares of the roof follow from counted bytes and FLOPs."""

from __future__ import annotations

import pytest
import torch

from mcscore.kernels import roofline
from mcscore.kernels.roofline import Ceilings, Roofline


def test_the_slower_of_memory_and_arithmetic_sets_the_roof():
    ceilings = Ceilings(copy=10e9, matmul=100e9)
    assert Roofline(bytes=10**9, flops=10**9).seconds(ceilings) == pytest.approx(0.1)
    assert Roofline(bytes=10**9, flops=10**11).seconds(ceilings) == pytest.approx(1.0)
    assert Roofline(10**9, 0).percent(0.2, ceilings) == pytest.approx(50.0)


def test_counts_are_those_of_the_definition():
    half = torch.bfloat16
    assert roofline.score_logits(20, 1000, 10, half) == Roofline(20 * 1000 * 10 * 2 + 4 * 1000 * 3, 8 * 20 * 1000 * 10)
    with_errors = roofline.score_logits(100, 1000, 10, half, 7, errors=True)
    assert with_errors == Roofline(100 * 1000 * 10 * 2 + 4 * 1000 * 7, (8 * 100 + 16 * 25) * 1000 * 10)
    assert roofline.moments(5, 3, 10, half) == Roofline(5 * 3 * 10 * 2 + 2 * 8 * 3 * (10 + 1), 8 * 5 * 3 * 10)
    assert roofline.dropout(10, 3, 5, 7, half) == Roofline(bytes=11 * 3 * 5 * 7 * 2, flops=2 * 10 * 3 * 5 * 7)
    assert roofline.draw(10, 3, 8, half, "uniform") == Roofline(bytes=10 * 3 * 8 * 2, flops=10 * 3 * 8)
    assert roofline.draw(10, 3, 8, half, "normal") == Roofline(bytes=10 * 3 * 8 * 2, flops=25 * 10 * 3 * 4)
    assert roofline.dropout_linear(10, 3, 8, 4) == Roofline(bytes=4 * (24 + 32 + 120), flops=2 * 10 * 3 * 8 * 4)
    assert roofline.dropout_linear(10, 3, 8, 4, 10, half) == Roofline(2 * (240 + 32 + 120), 2 * 10 * 3 * 8 * 4)
    assert roofline.dropout_head(10, 3, 8, 4) == Roofline(bytes=4 * (24 + 32 + 9), flops=2 * 10 * 3 * 8 * 4)
    assert roofline.dropout_head(10, 3, 8, 4, dtype=half) == Roofline(2 * (24 + 32) + 4 * 9, 2 * 10 * 3 * 8 * 4)
    assert roofline.top_k(100) == Roofline(bytes=400, flops=100)
