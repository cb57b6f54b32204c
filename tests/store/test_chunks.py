"""Chunks decoded several at a time give what they give one by one, errors included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import ChunkError
from mcscore.pool import Pool
from mcscore.store import chunks

from ..pool.helpers import chunk_files, flip_bit, images, small_pool

N = 50


@pytest.fixture(autouse=True)
def _small_chunks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_ALONE", 0)


@pytest.fixture(params=["none", "none sharded", "lz4 sharded", "zstd"])
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Pool:
    compression, *sharded = request.param.split()
    return small_pool(tmp_path / "p", compression, bool(sharded), N)


def test_every_range_is_read(pool: Pool) -> None:
    for start in range(N):
        for stop in range(start, N + 1, 3):
            assert np.array_equal(pool.read(start, stop), images(N)[start:stop])


def test_a_walk_in_any_step_gives_every_item(pool: Pool) -> None:
    for step in (1, 4, 9, 16, 33):
        ranges = [(at, min(at + step, N)) for at in range(0, N, step)]
        assert np.array_equal(np.concatenate([b.items.copy() for b in pool.blocks(ranges)]), images(N))


@pytest.mark.parametrize("sharded", [False, True])
def test_of_several_bad_chunks_the_first_is_named_and_all_are_skipped(tmp_path: Path, sharded: bool) -> None:
    pool = small_pool(tmp_path / "p", sharded=sharded)
    for chunk in (2, 5, 6):
        if sharded:
            flip_bit(chunk_files(pool)[chunk // 4], chunk % 4 * (4 * 30 + 4) + 7)
        else:
            flip_bit(chunk_files(pool)[chunk], 7)
    for _ in range(20):
        with pytest.raises(ChunkError, match=r"items 8\.\.11 cannot be read, chunk 2"):
            pool.read(0, N)
    (batch,) = pool.blocks([(0, N)], on_bad_chunk="skip")
    assert [(error.start, error.stop) for error in batch.bad] == [(8, 12), (20, 24), (24, 28)]
    expected = images(N)
    expected[8:12] = expected[20:28] = 0
    assert np.array_equal(batch.items, expected)
