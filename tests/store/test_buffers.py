"""Memory of blocks is used again, and never while somebody still looks at it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcscore.pool import Pool
from mcscore.store.buffers import KEPT, Buffers

from ..pool.helpers import images, small_pool

BYTE = np.dtype(np.uint8)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_that_was_let_go_is_lent_again() -> None:
    buffers = Buffers()
    first = buffers.lend((100, 3), BYTE)
    where = address(first)
    del first
    assert address(buffers.lend((100, 3), BYTE)) == where
    smaller = buffers.lend((10,), np.dtype(np.float32))
    assert (address(smaller), smaller.shape, smaller.dtype) == (where, (10,), np.float32)
    smaller[:] = 1.5  # writable


@pytest.mark.parametrize(
    "look",
    [
        lambda a: a,
        lambda a: a[5:],
        lambda a: a[1:3][0].T,
        lambda a: a.reshape(-1).view(np.uint16),
        lambda a: memoryview(a),
        lambda a: torch.from_numpy(a),
        lambda a: torch.from_numpy(a)[3:].flatten(1),
        lambda a: [a[i] for i in range(len(a))],
    ],
)
def test_whoever_looks_into_a_loan_keeps_it(look: Callable[[np.ndarray], Any]) -> None:
    buffers = Buffers()
    lent = buffers.lend((64, 4), BYTE)
    lent[:] = 7
    seen = look(lent)
    del lent
    gc.collect()
    others = [buffers.lend((64, 4), BYTE) for _ in range(3)]
    for other in others:
        other[:] = 9
    assert np.asarray(seen).view(np.uint8).max() == 7
    del seen
    gc.collect()
    assert np.asarray(buffers.lend((64, 4), BYTE)).max() == 7  # the very same memory


def test_no_more_is_kept_than_a_walk_needs() -> None:
    made: list[int] = []

    def allocate(size: int) -> np.ndarray:
        made.append(size)
        return np.empty(size, np.uint8)

    buffers = Buffers(allocate)
    held = [buffers.lend((8,), BYTE) for _ in range(10)]
    assert len(made) == 10
    held.clear()
    again = [buffers.lend((8,), BYTE) for _ in range(10)]
    assert len(made) == 10 + 10 - KEPT
    del again
    buffers.lend((100,), BYTE)  # more than what is idle can hold
    assert made[-1] == 100
    assert buffers.lend((0, 3), BYTE).shape == (0, 3)


def test_a_loan_may_end_in_any_thread() -> None:
    buffers = Buffers()
    box = [buffers.lend((8,), BYTE)]
    where = address(box[0])
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert address(buffers.lend((8,), BYTE)) == where


@pytest.mark.parametrize("depth", [0, 2])
def test_a_walk_needs_no_more_memory_than_its_depth(tmp_path: Path, depth: int) -> None:
    pool: Pool = small_pool(tmp_path / "p")
    made: list[int] = []

    def allocate(size: int) -> np.ndarray:
        made.append(size)
        return np.empty(size, np.uint8)

    ranges = [(at, at + 2) for at in range(0, 50, 2)]
    for batch in pool.blocks(ranges, prefetch=depth, allocate=allocate):
        assert np.array_equal(batch.items, images()[batch.ids])
    assert 1 <= len(made) <= depth + 2
