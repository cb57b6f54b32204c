"""What goes to a CUDA device and back is what was given, and nothing but the wait for scores waits for the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mcscore.run.scoring.transfer import CudaTransfer, Transfer

IDS = np.array([3, 2**40 + 7, 5, 0, 12], np.int64)


def test_on_the_host_nothing_is_copied() -> None:
    items = np.arange(15, dtype=np.float32).reshape(5, 3)
    transfer = Transfer()
    got_items, got_ids = transfer.arrived(transfer.upload(items, IDS))
    assert got_items is items
    assert got_ids is IDS
    values = torch.arange(5, dtype=torch.int32)
    scores = transfer.download({"prediction": values})
    assert np.shares_memory(scores.columns["prediction"], values.numpy())
    assert scores.columns["prediction"].dtype == np.int32


@pytest.fixture
def no_sync() -> Iterator[None]:
    """Any operation of PyTorch that waits for the device is an error."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_blocks_go_up_and_scores_come_back_without_a_wait_but_one(no_sync: None) -> None:
    transfer = CudaTransfer("cuda")
    torch.cuda.set_sync_debug_mode("default")
    for _ in range(2):  # the first time code is loaded and page-locked memory allocated, which waits for the device
        warm, _ids = transfer.arrived(transfer.upload(np.zeros((5, 3), np.float32), IDS))
        transfer.download({"bald": warm.sum(1), "id": _ids + 1}).wait()
    torch.cuda.set_sync_debug_mode("error")
    memory = transfer.allocate(5 * 3 * 4)
    items = memory.view(np.float32).reshape(5, 3)
    items[:] = np.arange(15, dtype=np.float32).reshape(5, 3)
    got_items, got_ids = transfer.arrived(transfer.upload(items, IDS))
    torch.cuda._sleep(200_000_000)  # cycles: about 0.1 s
    given = {"bald": got_items.sum(1), "id": got_ids + 1}
    end = torch.cuda.Event()
    end.record()
    scores = transfer.download(given)
    assert not end.query()  # the device has not come there yet, and the host is here
    assert {name: (column.dtype, column.shape) for name, column in scores.columns.items()} == {
        "bald": (np.dtype(np.float32), (5,)),
        "id": (np.dtype(np.int64), (5,)),
    }
    scores.wait()
    np.testing.assert_array_equal(scores.columns["bald"], [3, 12, 21, 30, 39])
    np.testing.assert_array_equal(scores.columns["id"], IDS + 1)


@pytest.mark.gpu
def test_a_block_without_items_goes_up_too(no_sync: None) -> None:
    transfer = CudaTransfer("cuda")
    items, ids = transfer.arrived(transfer.upload(np.empty((0, 3, 2), np.uint8), np.empty(0, np.int64)))
    assert (items.shape, items.dtype, ids.shape, ids.dtype) == ((0, 3, 2), torch.uint8, (0,), torch.int64)
