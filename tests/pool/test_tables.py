"""Labels and exclusions from tables: all or nothing, conflicts named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mcscore.errors import PoolError
from mcscore.pool import Pool, items_from, label_from

from .helpers import small_pool


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    keys = [f"{i:03d}" for i in range(48)] + ["twice", "twice"]
    return small_pool(tmp_path / "p", keys=keys, classes=["cat", "dog", "0"], labels=[0] + [-1] * 49)


def csv(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_labels_come_by_key_or_id_as_names_or_numbers(tmp_path: Path, pool: Pool) -> None:
    assert label_from(pool, csv(tmp_path, "key,label", "007,dog", "011,2", "012,", "013,0")) == 3
    assert pool.labels[[7, 11, 12, 13]].tolist() == [1, 2, -1, 2], "a name goes before a number"
    assert label_from(pool, csv(tmp_path, "label,id", "cat,20", "cat,20", "cat,0")) == 1, (
        "what is so already is no change"
    )
    assert pool.labels[20] == 0
    table = pyarrow.table({"id": [21, 22], "key": ["021", "022"], "rank": [1, 2], "label": [None, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert label_from(pool, tmp_path / "t.parquet") == 1
    assert pool.labels[[21, 22]].tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["key,label", "nobody,1", "008,1"], r"has 1 conflicts, nothing was changed: key 'nobody' is unknown"),
        (["key,label", "twice,1"], "key 'twice' names several items: use ids"),
        (["id,label", "50,1"], "50 is not an id of this pool"),
        (["id,label", "-1,1"], "-1 is not an id of this pool"),
        (["id,label", "8,1", "8,cat"], "item 8 is given both 1 and 0|item 8 is given both 0 and 1"),
        (["id,label", "8,1", "0,1"], r"item 0 is labeled 0 and would become 1 \(--overwrite replaces\)"),
        (["id,label", "8,1", "0,-1"], "item 0 is labeled 0 and would become -1"),
        (["id,key,label", "8,009,1"], "item 8 has the key '008', not '009'"),
        (["id,label", "8,bird"], r"label 'bird', which is not a class \(cat, dog, 0\) or its number, nor -1"),
        (["id,label", "8,3"], "label '3', which is not a class"),
        (["id,name", "8,3"], "no column 'label'; it has id, name"),
        (["name,label", "8,dog"], "neither a column 'id' nor 'key'; it has name, label"),
    ],
)
def test_a_conflict_is_named_and_changes_nothing(tmp_path: Path, pool: Pool, lines: list[str], match: str) -> None:
    with pytest.raises(PoolError, match=match):
        label_from(pool, csv(tmp_path, *lines))
    assert pool.labels.tolist() == [0] + [-1] * 49


def test_overwrite_replaces_and_takes_away(tmp_path: Path, pool: Pool) -> None:
    assert label_from(pool, csv(tmp_path, "id,label", "0,dog", "1,cat"), overwrite=True) == 2
    assert pool.labels[:2].tolist() == [1, 0]
    assert label_from(pool, csv(tmp_path, "id,label", "0,-1"), overwrite=True) == 1
    assert pool.labels[0] == -1


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", b""), ("a.parquet", b"PAR1"), ("a.txt", b"x"), ("none.csv", None)]
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, pool: Pool, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PoolError, match=name):
        label_from(pool, tmp_path / name)


def test_items_are_listed_or_come_from_a_file(tmp_path: Path, pool: Pool) -> None:
    assert items_from(pool, "3, 17,20-22,3").tolist() == [3, 17, 20, 21, 22]
    (tmp_path / "keys.txt").write_text("007\nzz\n")
    with pytest.raises(PoolError, match="key 'zz' is unknown"):
        items_from(pool, str(tmp_path / "keys.txt"))
    (tmp_path / "ids.txt").write_text("7\n\n9\n")
    assert items_from(pool, str(tmp_path / "ids.txt")).tolist() == [7, 9]
    assert items_from(pool, str(csv(tmp_path, "key", "009", "007"))).tolist() == [7, 9]
    for text in ("x", "3;4", "", "4-"):
        with pytest.raises(PoolError, match=r"neither a file nor a list|ids are outside"):
            pool.set_excluded(items_from(pool, text) if text != "4-" else np.array([99]))


def test_a_pool_without_keys_says_so(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="has no keys: name them by id"):
        label_from(small_pool(tmp_path / "q"), csv(tmp_path, "key,label", "a,1"))
