"""Blocks reach the GPU as they were read: from pinned memory, on a stream of their own, which the scoring waits for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mcscore.run.scoring.transfer import CudaTransfer

pytestmark = pytest.mark.gpu
IDS = np.array([3, 2**40 + 7, 0], np.int64)
LONG = 200_000_000  # clock cycles: some 0.1 s


def content(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)


def filled(transfer: CudaTransfer, size: int) -> np.ndarray:
    memory = transfer.allocate(size)
    memory[:] = content(size)
    return memory


@pytest.mark.parametrize("size", [1, 4097, 3_000_001])
def test_what_arrives_is_what_was_sent(size: int) -> None:
    transfer = CudaTransfer("cuda")
    memory = filled(transfer, size)
    assert torch.from_numpy(memory).is_pinned()
    items, ids = transfer.arrived(transfer.upload(memory, IDS))
    assert (items.device.type, ids.device.type) == ("cuda", "cuda")
    assert np.array_equal(items.cpu().numpy(), content(size))
    assert np.array_equal(ids.cpu().numpy(), IDS)


def test_a_copy_does_not_wait_for_what_is_being_scored() -> None:
    transfer = CudaTransfer("cuda")
    memory = filled(transfer, 1 << 20)
    scored = torch.cuda.Event()
    torch.cuda._sleep(5 * LONG)
    scored.record()
    (items, _ids), event = transfer.upload(memory, IDS)
    event.synchronize()
    assert not scored.query()
    torch.cuda.synchronize()
    assert np.array_equal(items.cpu().numpy(), memory)


def test_scoring_waits_for_its_copy() -> None:
    transfer = CudaTransfer("cuda")
    memory = filled(transfer, 1 << 20)
    total = int(memory.sum(dtype=np.int64))
    for _ in range(3):
        with torch.cuda.stream(transfer._stream):
            torch.cuda._sleep(LONG)  # the copy is late
        items, ids = transfer.arrived(transfer.upload(memory, IDS))
        assert int(items.sum(dtype=torch.int64)) == total
        assert ids.tolist() == IDS.tolist()
        items.zero_()  # its memory is likely to be that of the next copy
        del items


def test_memory_is_used_again_and_not_before_its_copy_is_done(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    from mcscore import Pool
    from mcscore.run.scoring.prefetch import prefetch_blocks
    from mcscore.run.scoring.task import SpanTask
    from mcscore.run.spans import cut

    made: list[int] = []

    class Late(CudaTransfer):
        def allocate(self, size: int) -> np.ndarray:
            made.append(size)
            return super().allocate(size)

        def upload(self, items: np.ndarray, ids: np.ndarray) -> object:
            with torch.cuda.stream(self._stream):
                torch.cuda._sleep(LONG // 10)
            return super().upload(items, ids)

    items = np.stack([content(5000, seed) for seed in range(300)])
    pool = Pool.create(tmp_path / "pool", items, chunk_items=8)
    tasks = [SpanTask(span, np.ones(span.n, bool)) for span in cut(300, 100)]
    seen: list[int] = []
    for block in prefetch_blocks(pool, tasks, 10, "raise", Late("cuda")):
        arrived, ids = block.inputs
        assert np.array_equal(arrived.cpu().numpy(), items[block.ids])
        seen += ids.tolist()
    assert seen == list(range(300))
    assert len(made) <= 6  # of 30 blocks: one or two wait, one is read, one is in use, and one or two change hands
