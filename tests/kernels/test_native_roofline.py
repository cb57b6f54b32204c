"""Shares of the roof follow from counted bytes and FLOPs and from ceilings measured on this machine."""

from __future__ import annotations

import pytest
import torch

from mcscore.kernels import roofline
from mcscore.kernels.roofline import Ceilings, Roofline


def test_the_slower_of_memory_and_arithmetic_sets_the_roof():
    ceilings = Ceilings(copy=10e9, matmul=100e9)
    assert Roofline(bytes=10**9, flops=10**9).seconds(ceilings) == pytest.approx(0.1)
    assert Roofline(bytes=10**9, flops=10**11).seconds(ceilings) == pytest.approx(1.0)
    assert roofline.percent_of_roof(Roofline(10**9, 0), 0.2, ceilings) == pytest.approx(50.0)


def test_counts_are_those_of_the_definition():
    assert roofline.dropout(10, 3, 5, 7, torch.bfloat16) == Roofline(bytes=11 * 3 * 5 * 7 * 2, flops=2 * 10 * 3 * 5 * 7)
    assert roofline.dropout_linear(10, 3, 8, 4) == Roofline(bytes=4 * (24 + 32 + 120), flops=2 * 10 * 3 * 8 * 4)
    assert roofline.dropout_head(10, 3, 8, 4) == Roofline(bytes=4 * (24 + 32 + 9), flops=2 * 10 * 3 * 8 * 4)


def test_ceilings_are_measured_once_and_leave_the_threads_as_they_were():
    before = torch.get_num_threads()
    ceilings = roofline.measured()
    assert torch.get_num_threads() == before
    assert roofline.measured() is ceilings
    assert 1e8 < ceilings.copy < 1e13
    assert 1e8 < ceilings.matmul < 1e14
