"""Every width has a tile in the tables: sizes are never chosen by time, or two processes would give different last bits."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("triton")

from mcscore.kernels.triton import head as triton_head
from mcscore.kernels.triton.head import block_columns


@pytest.mark.parametrize(("itemsize", "tiles"), list(itertools.product((2, 4), (2, 5))))
def test_the_table_has_a_block_for_every_width(itemsize: int, tiles: int) -> None:
    for C in range(1, 300):
        columns = block_columns(C)
        assert columns >= min(C, 128)
        rows, *_ = triton_head._HEAD[itemsize, tiles][columns]
        assert rows * columns * tiles <= 128 * 256 * (1 if itemsize == 2 else 1.5)
        assert columns in triton_head._LINEAR[itemsize]
