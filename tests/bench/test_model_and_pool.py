"""A model is compared with a loop that does the same work, or not at all; a pool with a copy of its own bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mcscore import Pool, Scorer
from mcscore.bench import pool as reading
from mcscore.bench.clock import CpuClock
from mcscore.bench.model import compare


class Net(nn.Module):
    def __init__(self, gain: float = 1.0, outputs: int = 4) -> None:
        super().__init__()
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(8, 32),
            nn.BatchNorm1d(32),
            nn.Dropout(0.5),
            nn.Linear(32, outputs),
        )
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.drop(torch.relu(self.norm(self.first(x)))))
        return y * self.gain if self.training else y  # a loop in training mode would score another model


@pytest.mark.parametrize(
    ("likelihood", "score", "outputs"),
    [("categorical", "bald", 4), ("bernoulli", "bald", 3), ("gaussian", "variance", 1)],
)
def test_the_loop_and_mcscore_do_the_same_work(likelihood: str, score: str, outputs: int) -> None:
    scorer = Scorer(Net(outputs=outputs), passes=40, scores=(score,), likelihood=likelihood)
    found = compare(scorer, torch.randn(24, 8), CpuClock(least=1e-4), 0.01, lambda _: None)
    assert found.same
    assert found.seed_difference > 0
    facts = found.to_dict()
    assert facts["items_per_s"] == pytest.approx(24 / found.seconds)
    assert facts["times_loop"] == pytest.approx(found.loop_seconds / found.seconds)
    assert facts["forward_passes"] == pytest.approx(found.seconds / found.forward_seconds)
    assert scorer.seed == 0
    assert not scorer.model.training


def test_a_loop_that_does_other_work_is_seen() -> None:
    scorer = Scorer(Net(gain=3.0), passes=40, scores=("bald",))
    found = compare(scorer, torch.randn(24, 8), CpuClock(least=1e-4), 0.01, lambda _: None)
    assert not found.same


def test_reading_is_measured_on_the_pool_s_own_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = np.random.default_rng(0).integers(0, 256, (300, 3, 16, 16), dtype=np.uint8)
    pool = Pool.create(tmp_path / "pool", items, chunk_items=32)
    monkeypatch.setattr(reading, "SAMPLE", 200 * items[0].nbytes)
    monkeypatch.setattr(Pool, "block_items", 64)
    found = reading.read(pool, 0.01, lambda _: None)
    assert (found.items, found.bytes) == (200, 200 * items[0].nbytes)
    facts = found.to_dict()
    assert facts["read_GB_per_s"] == pytest.approx(found.bytes / found.read_seconds / 1e9)
    assert facts["percent_of_copy"] == pytest.approx(100 * found.copy_seconds / found.read_seconds)
    # Four blocks, each waited for as long as reading one takes: read ahead, or one after the other.
    assert found.waited_seconds > found.wait_seconds
    assert not list(tmp_path.glob("mcscore-bench-*"))


def test_an_empty_pool_is_refused(tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "pool", np.empty((0, 4), np.uint8))
    with pytest.raises(ValueError, match="has no items to read"):
        reading.read(pool, 0.01, lambda _: None)
