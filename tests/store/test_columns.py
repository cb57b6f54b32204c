"""Labels, flags and keys can be read range by range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import PoolError
from mcscore.pool import create as creation
from mcscore.store.chunks import ChunkReader

from ..pool.helpers import small_pool

N = 50


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(creation, "COLUMN_CHUNK", 16)
    return small_pool(tmp_path / "p", labels=np.arange(N) - 1, keys=[f"ä{i}.png" for i in range(N)])


def test_any_range_of_a_column_is_what_the_whole_has_there(pool) -> None:
    pool.set_excluded([3, 17, 49])
    labels, excluded = pool.column("labels"), pool.column("excluded")
    assert len(labels) == N
    for start in range(0, N, 7):
        for stop in range(start, N + 1, 5):
            assert np.array_equal(labels[start:stop], pool.labels[start:stop])
            assert np.array_equal(excluded[start:stop], pool.excluded[start:stop])
    assert labels[40:99].tolist() == list(range(39, 49))
    assert labels.at(np.array([49, 0, 16, 49])).tolist() == [48, -1, 15, 48]


def test_a_walk_reads_each_chunk_of_a_column_once(pool, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = ChunkReader.decode
    monkeypatch.setattr(
        ChunkReader, "decode", lambda self, number, out: (decoded.append(number), decode(self, number, out))
    )
    labels = pool.column("labels")
    assert np.concatenate([labels[at : at + 3] for at in range(0, N, 3)]).tolist() == list(range(-1, N - 1))
    assert decoded == [0, 1, 2, 3]


def test_keys_of_some_items(pool) -> None:
    assert pool.keys_of([49, 0, 17]).tolist() == ["ä49.png", "ä0.png", "ä17.png"]
    assert pool.keys_of([]).tolist() == []
    with pytest.raises(PoolError, match="1 ids are outside the pool"):
        pool.keys_of([50])
    assert small_pool(pool.path.with_name("q")).keys_of([1]) is None
