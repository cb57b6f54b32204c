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
    assert label_from(pool, csv(tmp_path, "key,label", "007,dog", "011,2", "012,", "013,1.0")).changed == 3
    assert pool.labels[[7, 11, 12, 13]].tolist() == [1, 2, -1, 1]
    assert label_from(pool, csv(tmp_path, "label,id", "cat,20", "cat,20", "cat,0")).changed == 1, (
        "what is so already is no change"
    )
    assert pool.labels[20] == 0
    table = pyarrow.table({"id": [21, 22], "key": ["021", "022"], "rank": [1, 2], "label": [None, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert label_from(pool, tmp_path / "t.parquet").changed == 1
    assert pool.labels[[21, 22]].tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (
            ["key,label", "nobody,1", "008,1"],
            r"has 1 conflict, nothing was changed: line 2, column key: key 'nobody' is unknown",
        ),
        (["key,label", "twice,1"], "key 'twice' names several items: use ids"),
        (["id,label", "50,1"], "50 is not an id of this pool"),
        (["id,label", "-1,1"], "-1 is not an id of this pool"),
        (["id,label", "8,1", "8,cat"], "item 8 is given both 1 and 0|item 8 is given both 0 and 1"),
        (["id,label", "8,1", "0,1"], r"item 0 is labeled 0 and would become 1 \(--overwrite replaces\)"),
        (["id,label", "8,1", "0,-1"], "item 0 is labeled 0 and would become -1"),
        (["id,key,label", "8,009,1"], "item 8 has the key '008', not '009'"),
        (
            ["id,label", "8,bird"],
            r"csv, line 2, column label: 'bird' is neither a class \(cat, dog, 0\) nor the number",
        ),
        (["id,label", "8,3"], "line 2, column label: '3' is neither a class"),
        (["id,label", "8,1", "", "²,1"], "line 4, column id: ² is not an id of this pool"),
        (["id,label", "99999999999999999999,1"], "9 is not an id of this pool"),
        (["id,label", "8.5,1"], "line 2, column id: 8.5 is not an id"),
        (["id,label", "8,²"], "line 2, column label: '²' is neither a class"),
        (["id,label", "8," + "9" * 5000], "line 2, column label: '9"),
        (["id,label,x,label", "8,1,2,0"], r"csv, line 1: 2 columns are named 'label' \(columns 2, 4\)"),
        (["id,label", "8,1", "9,1,2"], "csv, line 3: 3 cells, where the header has 2"),
        (["id,label", '8,"1', "9,1"], "csv, after line 1: the row cannot be read as CSV"),
        (["id,name", "8,3"], r"no column 'label' \(--label-column names another\); it has id, name"),
        (["name,label", "8,dog"], "neither a column 'id' nor 'key'; it has name, label"),
    ],
)
def test_a_conflict_is_named_and_changes_nothing(tmp_path: Path, pool: Pool, lines: list[str], match: str) -> None:
    with pytest.raises(PoolError, match=match):
        label_from(pool, csv(tmp_path, *lines))
    assert pool.labels.tolist() == [0] + [-1] * 49


def test_overwrite_replaces_and_takes_away(tmp_path: Path, pool: Pool) -> None:
    assert label_from(pool, csv(tmp_path, "id,label", "0,dog", "1,cat"), overwrite=True).changed == 2
    assert pool.labels[:2].tolist() == [1, 0]
    assert label_from(pool, csv(tmp_path, "id,label", "0,-1"), overwrite=True).changed == 1
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
    assert items_from(pool, ",".join(map(str, range(50))) + ",0-49" * 100).tolist() == list(range(50))
    (tmp_path / "keys.txt").write_text("007\nzz\n")
    with pytest.raises(PoolError, match="key 'zz' is unknown"):
        items_from(pool, str(tmp_path / "keys.txt"))
    (tmp_path / "ids.txt").write_text("7\n\n9\n")
    assert items_from(pool, str(tmp_path / "ids.txt")).tolist() == [7, 9]
    assert items_from(pool, str(csv(tmp_path, "key", "009", "007"))).tolist() == [7, 9]
    for text in ("x", "3;4", "", "4-"):
        with pytest.raises(PoolError, match=r"neither a file nor a list|ids are outside"):
            pool.set_excluded(items_from(pool, text) if text != "4-" else np.array([99]))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("3-1", "the range 3-1 runs backwards and names no item: write 1-3"),
        ("5,3-1", "the range 3-1 runs backwards"),
        ("0-99999999999", r"0-99999999999 is outside .* has 50 items: ids 0\.\.49"),
        ("7-" + "9" * 5000, "is outside"),
        ("50", "50 is outside"),
        ("3²", "neither a file nor a list"),
        ("²", "neither a file nor a list"),
        ("4-", "neither a file nor a list"),
        ("-4", "neither a file nor a list"),
        ("1-2-3", "neither a file nor a list"),
    ],
)
def test_a_range_that_names_no_item_is_refused_at_once(pool: Pool, text: str, match: str) -> None:
    with pytest.raises(PoolError, match=match):
        items_from(pool, text)


def test_lines_that_may_be_ids_or_keys_are_refused(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", keys=[str(100 - i) for i in range(50)])
    (tmp_path / "lines.txt").write_text("7\n99\n")
    with pytest.raises(PoolError, match="numbers that may be ids, and some of them are keys"):
        items_from(pool, str(tmp_path / "lines.txt"))
    assert items_from(pool, str(csv(tmp_path, "key", "99"))).tolist() == [1]
    assert items_from(pool, str(csv(tmp_path, "id", "7"))).tolist() == [7]
    (tmp_path / "lines.txt").write_bytes(b"a\nb\xff\n")
    with pytest.raises(PoolError, match=r"lines\.txt, line 2: the text is not UTF-8"):
        items_from(pool, str(tmp_path / "lines.txt"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\ufeffid,label\n1,dog\n3,cat\n"),
        ("a.csv", "id;label\r\n1;dog\r\n3;cat\r\n"),
        ("a.tsv", "id\tlabel\n1\tdog\n3\tcat\n"),
        ("a.csv", 'x,"label","id"\n"a,b\nc",dog,1\n\n,cat,3\n'),
        ("a.csv", "id,key,label\n0,000,\n1.0,001,1.0\n3,003,0.0\n"),
        ("a.csv", "key, label\n001, dog\n 003 , cat\n"),
        ("a.csv", ",,id,label\n,,1,dog\n,,3,cat\n"),
    ],
)
def test_tables_as_spreadsheets_and_tools_write_them(tmp_path: Path, name: str, text: str) -> None:
    pool = small_pool(tmp_path / "p", keys=[f"{i:03d}" for i in range(50)], classes=["cat", "dog"])
    (tmp_path / name).write_bytes(text.encode())
    assert label_from(pool, tmp_path / name).changed == 2
    assert pool.labels[:5].tolist() == [-1, 1, -1, 0, -1]


def test_a_repeated_column_and_columns_with_gaps_of_a_parquet_file(tmp_path: Path, pool: Pool) -> None:
    twice = pyarrow.Table.from_arrays(
        [pyarrow.array([1]), pyarrow.array([1]), pyarrow.array([2])], ["id", "label", "id"]
    )
    pyarrow.parquet.write_table(twice, tmp_path / "t.parquet")
    with pytest.raises(PoolError, match=r"t\.parquet, the schema: 2 columns are named 'id' \(columns 1, 3\)"):
        label_from(pool, tmp_path / "t.parquet")
    gaps = {"id": [1, 2, 3], "label": pyarrow.array([1.0, float("nan"), None]), "other": [[1], [2], None]}
    pyarrow.parquet.write_table(pyarrow.table(gaps), tmp_path / "t.parquet")
    assert label_from(pool, tmp_path / "t.parquet").changed == 1
    assert pool.labels[:4].tolist() == [0, 1, -1, -1]


def test_a_pool_without_keys_says_so(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="has no keys: name them by id"):
        label_from(small_pool(tmp_path / "q"), csv(tmp_path, "key,label", "a,1"))
