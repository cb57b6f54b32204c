"""What is fed to the scorer: every item that is to be scored, once, in order, in memory that nobody overwrites."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcscore.errors import ChunkError, RunError
from mcscore.pool import Pool
from mcscore.run import score_pool, start
from mcscore.run.schema import Hardware
from mcscore.run.scoring import here
from mcscore.run.scoring.prefetch import prefetch_blocks
from mcscore.run.scoring.task import SpanTask
from mcscore.run.scoring.transfer import Transfer
from mcscore.run.skipped import Skipped
from mcscore.run.spans import CPU, cut

from .fakes import SPAN, FakePool, FakeScorer, N, content, fail_at

M = 200


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    items = np.random.default_rng(0).integers(0, 256, (M, 5), np.uint8)
    return Pool.create(tmp_path_factory.mktemp("prefetch") / "pool", items, chunk_items=8)


def tasks_of(n: int, size: int, skip: np.ndarray | None = None) -> list[SpanTask]:
    wanted = np.ones(n, bool) if skip is None else ~skip
    return [SpanTask(span, wanted[span.start : span.stop]) for span in cut(n, size)]


@given(
    data=st.data(),
    size=st.integers(1, 90),
    block=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    seed=st.integers(0, 99),
    fill=st.booleans(),
)
def test_every_wanted_item_comes_once_in_its_span(
    pool: Pool, data: Any, size: int, block: int, share: float, seed: int, fill: bool
) -> None:
    skip = np.random.default_rng(seed).random(M) < share
    runs = data.draw(st.lists(st.tuples(st.integers(0, M), st.integers(0, 60)), max_size=3))
    for first, length in runs:
        skip[first : first + length] = True

    everything = pool.read(0, M)
    tasks, seen, stops = tasks_of(M, size, skip), [], []
    for got in prefetch_blocks(pool, tasks, block, "raise", Transfer(), fill):
        items, ids = got.inputs
        assert np.array_equal(items, everything[got.ids])
        assert np.array_equal(ids, got.ids)
        assert ((got.ids >= got.task.span.start) & (got.ids < got.stop)).all()
        assert got.stop <= got.task.span.stop
        seen += got.ids.tolist()
        if got.last:
            stops.append(got.task)
    assert seen == np.flatnonzero(~skip).tolist()
    assert [id(task) for task in stops] == [
        id(task) for task in tasks
    ]  # each once, in order, also those without anything to score


def test_labels_flags_and_what_is_committed_are_left_out(tmp_path: Path) -> None:
    pool = FakePool()
    pool.labels[[3, 50]] = 1
    pool.excluded[4] = True
    without, with_labeled = Skipped(pool, labeled=False), Skipped(pool, labeled=True)
    assert np.flatnonzero(without[0:100]).tolist() == [3, 4, 50]
    assert np.flatnonzero(with_labeled[0:100]).tolist() == [4]
    assert (without.count(100), without.count(50), with_labeled.count(100)) == (3, 2, 1)
    assert without.first_kept() == 0
    pool.excluded[:77] = True
    assert without.first_kept() == 77
    pool.excluded[:] = True
    assert without.first_kept() is None


def test_a_chunk_that_cannot_be_read_is_told_in_its_place(pool: Pool, tmp_path: Path) -> None:
    items = pool.read(0, M)
    broken = Pool.create(tmp_path / "p", items, chunk_items=8)
    (broken.path / "items" / "c.5.0").write_bytes(b"")
    blocks = prefetch_blocks(broken, tasks_of(M, 100), 20, "raise", Transfer())
    assert [next(blocks).stop for _ in range(2)] == [20, 40]
    with pytest.raises(ChunkError, match=r"items 40\.\.47 cannot be read"):
        next(blocks)
    got = list(prefetch_blocks(broken, tasks_of(M, 100), 20, "skip", Transfer()))
    assert np.concatenate([block.unreadable for block in got]).tolist() == list(range(40, 48))
    assert np.concatenate([block.ids for block in got]).tolist() == [*range(40), *range(48, M)]


def test_leaving_early_ends_the_thread_and_closes_the_reader() -> None:
    pool, before = FakePool(), threading.active_count()
    blocks = prefetch_blocks(pool, tasks_of(N, SPAN), 5, "raise", Transfer())
    next(blocks)
    assert threading.active_count() == before + 1
    blocks.close()
    assert threading.active_count() == before
    assert pool.closed == 1


# -- copies to a device ------------------------------------------------------------------------------------------------


@dataclass
class LateCopies(Transfer):
    """In place of a device: what is copied is looked at as late as a device may, when the copy is waited for."""

    device: str = "cuda"
    made: list[int] = field(default_factory=list)
    begun: int = 0
    ahead, behind = 1, 1

    def allocate(self, size: int) -> np.ndarray:
        self.made.append(size)
        return np.empty(size, np.uint8)

    def upload(self, items: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.begun += 1
        return items, ids

    def arrived(self, uploaded: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(0.002)  # the reader goes on meanwhile
        items, ids = uploaded
        return items.copy(), ids.copy()


@pytest.mark.parametrize("fill", [False, True])
def test_memory_is_not_used_again_before_its_copy_has_arrived(pool: Pool, fill: bool) -> None:
    everything, transfer = pool.read(0, M), LateCopies()
    before = None
    for block in prefetch_blocks(pool, tasks_of(M, 50), 10, "raise", transfer, fill):
        assert np.array_equal(block.inputs[0], everything[block.ids])
        time.sleep(0.002)
        for each in (before or block, block):  # the one before is with the scorer, too
            assert np.array_equal(each.items, everything[each.ids])  # while a block is in use it may still be copied
        before = block
    assert transfer.begun == M // 10
    assert len(transfer.made) <= (11 if fill else 5)  # one waits, one is read, two are in use, and one changes hands


def test_a_run_on_a_device_gives_what_it_gives_without(
    out: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnDevice(FakeScorer):
        device = "cuda:0"

    monkeypatch.setattr(here, "CudaTransfer", LateCopies)
    monkeypatch.setattr(here, "hardware_of", lambda *_: Hardware(device="a GPU"))
    monkeypatch.setattr(start, "speed_of", lambda _device: CPU)  # the same blocks
    assert content(score_pool(FakePool(), OnDevice(), out, span=SPAN)) == undisturbed


def test_a_run_on_a_device_that_fails_goes_on(
    out: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnDevice(FakeScorer):
        device = "cuda:0"

    monkeypatch.setattr(here, "CudaTransfer", LateCopies)
    monkeypatch.setattr(here, "hardware_of", lambda *_: Hardware(device="a GPU"))
    monkeypatch.setattr(start, "speed_of", lambda _device: CPU)  # the same blocks
    with pytest.raises(RunError, match="CUDA out of memory"):
        score_pool(FakePool(), OnDevice(on_block=fail_at(60)), out, span=SPAN)
    assert content(score_pool(FakePool(), OnDevice(step=2), out, span=SPAN)) == undisturbed


def test_a_run_on_a_device_keeps_four_blocks_in_memory(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnDevice(FakeScorer):
        device = "cuda:0"

    transfers: list[LateCopies] = []
    monkeypatch.setattr(here, "CudaTransfer", lambda device: transfers.append(LateCopies(device)) or transfers[-1])
    monkeypatch.setattr(here, "hardware_of", lambda *_: Hardware(device="a GPU"))
    monkeypatch.setattr(start, "speed_of", lambda _device: CPU)
    pool = Pool.create(tmp_path / "pool", FakePool().read(0, N), chunk_items=8)
    assert score_pool(pool, OnDevice(on_block=lambda _ids: time.sleep(0.05)), out, span=48).complete
    assert transfers[0].begun == 7
    assert len(transfers[0].made) == 4  # one waits, one is read, two are with the scorer
