"""Parquet files: the identity of a row, the columns of images and labels, and class names that are one order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mcscore.errors import PoolError
from mcscore.ingest.sources import open_source

from .helpers import bad_of, color, imported, reds


def test_parquet_with_an_image_column(tmp_path: Path, here: None) -> None:
    rows = [
        {"bytes": color(5), "path": "x.png"},
        {"bytes": None, "path": "/etc/hostname"},
        {"bytes": color(6), "path": None},
    ]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows, "label": [1, 1, 0]}), tmp_path / "d.parquet")
    pool, _ = imported(tmp_path / "*.parquet", tmp_path / "p", labels=True)
    assert pool.keys is not None
    assert pool.keys.tolist() == ["d.parquet:0:x.png", "d.parquet:2"]
    assert pool.labels.tolist() == [1, 0]
    assert pool.read(0, 2)[:, 0, 0, 0].tolist() == [5, 6]
    assert bad_of(tmp_path / "p") == {
        "d.parquet:1:/etc/hostname": "the row holds no bytes, and its path points outside the file's folder"
    }


def test_paths_of_rows_are_followed_within_the_folder_of_the_file_only(tmp_path: Path, here: None) -> None:
    """As the datasets library writes them: structs, class names in the schema, several row groups."""
    home = tmp_path / "set"
    (home / "img").mkdir(parents=True)
    (home / "img" / "a.png").write_bytes(color(8))
    (tmp_path / "secret.png").write_bytes(color(9))
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["img/a.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "img/none.png", None]
    rows = [{"bytes": None, "path": path} for path in paths] + [{"bytes": color(3), "path": "z.png"}]
    said = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pyarrow.table({"image": rows, "label": [1, 1, 1, 1, 1, 1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(said)})
    pyarrow.parquet.write_table(table, home / "d.parquet", row_group_size=2)
    pool, _ = imported(home / "d.parquet", tmp_path / "p", labels=True)
    assert pool.keys is not None
    assert pool.keys.tolist() == ["d.parquet:0:img/a.png", "d.parquet:6:z.png"]
    assert pool.labels.tolist() == [1, 0]
    assert pool.classes == ["cat", "dog"]
    assert pool.read(0, 2)[:, 0, 0, 0].tolist() == [8, 3]
    bad = {key.split(":", 2)[-1]: why for key, why in bad_of(tmp_path / "p").items()}
    assert {key for key, why in bad.items() if "points outside" in why} == set(paths[1:4])
    assert "No such file" in bad["img/none.png"]
    assert bad["5"] == "the row holds neither bytes nor a path"


def written(path: Path, columns: dict[str, Any], names: list[str] | None = None) -> Path:
    table = pyarrow.table(columns)
    if names is not None:
        said = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(said)})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


def rows(*values: int, path: str | None = "image.png") -> list[dict[str, Any]]:
    return [{"bytes": color(value), "path": path} for value in values]


def test_rows_whose_path_repeats_all_come_in(tmp_path: Path, here: None) -> None:
    for shard in range(2):
        written(tmp_path / f"{shard}.parquet", {"image": rows(10 * shard, 10 * shard + 1)})
    pool, counts = imported(tmp_path / "{0..1}.parquet", tmp_path / "p")
    assert reds(pool) == {f"{s}.parquet:{r}:image.png": 10 * s + r for s in range(2) for r in range(2)}
    assert counts.lines() == ["4 entries read: 4 stored, 0 refused"]


def test_class_names_of_the_data_follow_the_given_order(tmp_path: Path, here: None) -> None:
    written(tmp_path / "d.parquet", {"image": rows(1, 2, 3), "label": [0, 1, -1]}, ["cat", "dog"])
    pool, _ = imported(tmp_path / "d.parquet", tmp_path / "p", labels=True, classes=["dog", "bird", "cat"])
    assert pool.labels.tolist() == [2, 0, -1]
    with pytest.raises(PoolError, match="class 'dog', which is not among the given classes"):
        imported(tmp_path / "d.parquet", tmp_path / "q", labels=True, classes=["cat"])
    written(tmp_path / "e.parquet", {"image": rows(1), "label": [0]}, ["dog", "cat"])
    with pytest.raises(PoolError, match="have different class names"):
        open_source(tmp_path / "*.parquet", labels=True)


def test_labels_of_any_type_are_read_or_refused_by_row(tmp_path: Path, here: None) -> None:
    for name, labels, classes, want, bad in [
        ("text", ["dog", "cat", None], None, [1, 0, -1], []),
        ("text", ["dog", "cat", "emu"], ["dog", "cat"], [0, 1], ["label 'emu' is neither the name"]),
        ("digits", ["2", "0", ""], None, [2, 0, -1], []),
        ("floats", [1.0, float("nan"), 2.5], None, [1, -1], ["label '2.5' is not a class number"]),
        ("big", [2**40, -2, 1], None, [1], ["label '1099511627776'", "label '-2'"]),
        ("beyond", [2, 1, 0], ["a", "b"], [1, 0], ["label '2' is neither the name nor the number of one of the 2"]),
    ]:
        path = tmp_path / f"p{len(list(tmp_path.iterdir()))}"
        written(tmp_path / "d.parquet", {"image": rows(1, 2, 3), "label": labels})
        pool, counts = imported(tmp_path / "d.parquet", path, labels=True, classes=classes)
        assert pool.labels.tolist() == want, name
        assert sum(counts.refused.values()) == len(bad)
        for start in bad:
            assert any(why.startswith(start) for why in counts.refused), name


def test_columns_are_chosen_and_checked_in_every_file(tmp_path: Path, here: None) -> None:
    path = written(tmp_path / "d.parquet", {"a": rows(1), "b": rows(2), "n": [3], "raw": [color(4)]})
    with pytest.raises(PoolError, match=r"has 2 columns of images \(a, b\): choose one"):
        open_source(path)
    with pytest.raises(PoolError, match="column 'n' holds int64; images are bytes"):
        open_source(path, column="n")
    for column, red in (("b", 2), ("raw", 4)):
        pool, _ = imported(path, tmp_path / column, column=column)
        assert list(reds(pool).values()) == [red]
    written(tmp_path / "e.parquet", {"a": rows(1)})
    with pytest.raises(PoolError, match=r"e\.parquet has no columns 'b'"):
        open_source(tmp_path / "{d,e}.parquet", column="b")
    written(tmp_path / "only.parquet", {"x": [1]})
    with pytest.raises(PoolError, match=r"has 0 columns of images .its columns are x"):
        open_source(tmp_path / "only.parquet")


def test_keys_are_checked_as_they_come(tmp_path: Path, here: None) -> None:
    values = [{"bytes": color(i), "path": path} for i, path in enumerate(["a\0", "k" * 3_000_000, "ok"])]
    written(tmp_path / "d.parquet", {"image": values})
    pool, counts = imported(tmp_path / "d.parquet", tmp_path / "p")
    assert reds(pool) == {"d.parquet:2:ok": 2}
    assert counts.refused == {
        "the name holds a zero byte": 1,
        "the name has 3,000,012 bytes, more than a key may have (1,024)": 1,
    }
