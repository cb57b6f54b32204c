"""A selection: ranks, and its file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from mcscore.selection import Selection, select


@pytest.fixture
def chosen() -> Selection:
    return select([4, 8, 6, 2], [0.1, 0.3, 0.3, 0.9], 3, diversity="none")


def test_none_is_the_head_of_the_order(chosen: Selection) -> None:
    assert chosen.ids.tolist() == [2, 6, 8]
    assert chosen.scores.tolist() == np.float32([0.9, 0.3, 0.3]).tolist()
    assert chosen.rank.tolist() == [0, 1, 2]
    assert chosen.radius is None


def test_ranks_show_what_diversity_left_out() -> None:
    picked = select([1, 2, 3], [3.0, 2.0, 1.0], 2, embeddings=[[0.0], [0.1], [5.0]], radius=1)
    assert picked.ids.tolist() == [1, 3]
    assert picked.rank.tolist() == [0, 2]
    assert picked.radius == 1.0


def test_parquet_holds_columns_and_metadata(chosen: Selection, tmp_path: Path) -> None:
    path = chosen.write_parquet(
        tmp_path / "s.parquet", columns={"key": ["a", "b", "c"]}, metadata={"by": "bald", "pool": "sha256:1"}
    )
    table = pyarrow.parquet.read_table(path)
    assert table.column_names == ["id", "rank", "score", "key"]
    assert table["id"].to_pylist() == [2, 6, 8]
    assert table["key"].to_pylist() == ["a", "b", "c"]
    said = json.loads(table.schema.metadata[b"mcscore"])
    assert said == {"k": 3, "method": "none", "radius": None, "by": "bald", "pool": "sha256:1"}
    assert os.listdir(tmp_path) == ["s.parquet"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "s.parquet"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        chosen.write_parquet(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["s.parquet"]


def test_a_column_that_does_not_fit_is_an_error(chosen: Selection) -> None:
    with pytest.raises(ValueError, match="'key' has 2 values for 3"):
        chosen.to_table({"key": ["a", "b"]})
    with pytest.raises(ValueError, match="'score' is one of the selection's own"):
        chosen.to_table({"score": [1, 2, 3]})
