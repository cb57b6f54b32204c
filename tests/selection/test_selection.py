"""A selection: ranks, and its file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mcscore import Error, RunError
from mcscore.selection import SELECTION_VERSION, Selection, read_parquet, select


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
    assert said.pop("content").startswith("sha256:")
    assert said == {"version": 2, "k": 3, "method": "none", "radius": None, "by": "bald", "pool": "sha256:1"}
    assert os.listdir(tmp_path) == ["s.parquet"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = chosen.write_parquet(tmp_path / "s.parquet")
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        chosen.write_parquet(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["s.parquet"]


def test_a_column_that_does_not_fit_is_an_error(chosen: Selection) -> None:
    with pytest.raises(ValueError, match="'key' has 2 values for 3"):
        chosen.to_table({"key": ["a", "b"]})
    with pytest.raises(ValueError, match="'score' is one of the selection's own"):
        chosen.to_table({"score": [1, 2, 3]})
    with pytest.raises(ValueError, match="'method' is one of the selection's own"):
        chosen.to_table(metadata={"method": "mine"})


def test_what_was_written_is_read(chosen: Selection, tmp_path: Path) -> None:
    path = chosen.write_parquet(tmp_path / "s.parquet", {"key": ["a", "b", "c"]}, {"by": "bald"})
    table, metadata = read_parquet(path)
    assert table.equals(chosen.to_table({"key": ["a", "b", "c"]}))
    assert metadata == {"version": SELECTION_VERSION, "k": 3, "method": "none", "radius": None, "by": "bald"}


def rewrite(path: Path, table: pyarrow.Table, metadata: object) -> None:
    pyarrow.parquet.write_table(table.replace_schema_metadata({"mcscore": json.dumps(metadata)}), path)


def test_a_file_without_a_version_has_version_1(chosen: Selection, tmp_path: Path) -> None:
    rewrite(tmp_path / "s.parquet", chosen.to_table(), {"k": 3, "method": "radius", "radius": 1})
    assert read_parquet(tmp_path / "s.parquet")[1]["version"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "selection version 3, but this mcscore reads up to 2: install a newer mcscore"),
        ({"version": "2"}, "version must be a whole number >= 1, got '2'"),
        ({"version": 0}, "version must be a whole number >= 1, got 0"),
        ({"method": None}, "'method' has the wrong type: None"),
        ({"k": True}, "'k' has the wrong type: True"),
        ({"k": 4}, "k = 4, but the file has 3 rows"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(
    chosen: Selection, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    rewrite(
        tmp_path / "s.parquet", chosen.to_table(), {"version": 2, "k": 3, "method": "none", "radius": None} | change
    )
    with pytest.raises(RunError, match=message):
        read_parquet(tmp_path / "s.parquet")


def test_files_that_are_no_selection_are_refused(chosen: Selection, tmp_path: Path) -> None:
    path, table = tmp_path / "s.parquet", chosen.to_table()
    fields = {"version": 2, "k": 3, "method": "none", "radius": None}
    pyarrow.parquet.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(Error, match="not a selection of mcscore"):
        read_parquet(path)
    pyarrow.parquet.write_table(table.replace_schema_metadata({"mcscore": "{"}), path)
    with pytest.raises(Error, match="is not JSON"):
        read_parquet(path)
    rewrite(path, table, {"version": 2, "k": 3, "method": "none"})
    with pytest.raises(Error, match="'radius' is missing"):
        read_parquet(path)
    rewrite(path, table.drop_columns(["rank"]), fields)
    with pytest.raises(Error, match="column 'rank' must be int64, is missing"):
        read_parquet(path)
    rewrite(path, table.set_column(2, "score", table["score"].cast("float64")), fields)
    with pytest.raises(Error, match="column 'score' must be float32, is double"):
        read_parquet(path)
    path.write_bytes(b"PAR1, torn")
    with pytest.raises(Error, match="cannot be read as Parquet"):
        read_parquet(path)
