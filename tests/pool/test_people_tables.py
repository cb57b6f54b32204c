"""Labels in the tables that people have: JSON in every form, any separator, gaps, numbers to be predicted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mcscore.errors import PoolError
from mcscore.pool import Labeled, Pool, items_from, label_from
from mcscore.pool.table import Columns
from mcscore.pool.table_json import table_of
from mcscore.pool.tables import set_labels_of

from .helpers import small_pool


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return small_pool(tmp_path / "p", n=6, keys=[f"k{i}" for i in range(6)], classes=["cat", "dog", "na"])


def labels(path: Path) -> list[float]:
    return list(Pool.open(path).labels.tolist())


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", [{"id": 1, "label": "dog"}, {"id": 3, "label": 0.0}, {"id": 4, "label": None}, {"id": 5}]),
        (
            "t.json",
            [
                {"key": "k1", "label": 1},
                {"key": "k3", "label": "0", "note": [1, 2]},
                {"key": "k4", "label": float("nan")},
            ],
        ),
        ("t.jsonl", '{"id": 1, "label": "dog"}\n\n{"id": 3.0, "label": "cat"}\n{"id": 0, "label": ""}'),
        ("t.ndjson", '{"item": 1, "id": 77, "label": 1}\n{"item": 3, "id": 78, "label": 0}\n'),
        ("t.json", '{"id": 1, "label": "dog"}\n{"id": 3, "label": "cat"}\n'),
        ("t.json", {"k1": "dog", "k3": 0}),
        ("t.JSON", {"1": "dog", "3": "cat", "4": None}),
        ("t.csv", "id|label\n1|dog\n3|0.0\n4|\n"),
        ("t.CSV", "id;label;\n1;1;\n3;0;\n"),
        ("t.csv", '"name of, me";"key";"label"\n"x";"k1";"dog"\n"y";"k3";"cat"\n'),
        ("t.tsv", "id\tlabel\tnote, or not\n1\tdog\ta;b\n3\tcat\t\n4\tNaN\t\n5\tnull\t\n"),
        ("t.csv", "id,label\n1,dog\n3,cat\n4,nan\n5,<NA>\n"),
    ],
)
def test_every_form_gives_the_same_labels(tmp_path: Path, pool: Pool, name: str, content: Any) -> None:
    assert label_from(pool, written(tmp_path, name, content)).changed == 2
    assert labels(tmp_path / "p") == [-1, 1, -1, 0, -1, -1]


def test_rows_without_a_label_are_counted_however_they_say_so(tmp_path: Path, pool: Pool) -> None:
    table = written(tmp_path, "t.csv", "id,label\n1,dog\n2,\n3,NaN\n4,null\n0,<na>\n")
    assert label_from(pool, table) == Labeled(changed=1, rows=5, rows_without_label=4)
    column = pyarrow.table({"id": [2, 3], "label": pyarrow.array([1.0, float("nan")])})
    pyarrow.parquet.write_table(column, tmp_path / "t.parquet")
    assert label_from(pool, tmp_path / "t.parquet") == Labeled(changed=1, rows=2, rows_without_label=1)


def test_a_class_that_is_named_as_a_gap_has_two_readings(tmp_path: Path, pool: Pool) -> None:
    table = written(tmp_path, "t.csv", "id,label\n1,na\n2,NaN\n")
    with pytest.raises(
        PoolError, match="label 'na' has two readings: it is the name of a class, and what tables say of a gap"
    ):
        label_from(pool, table)
    label_from(pool, table, reading="names")
    assert labels(tmp_path / "p") == [-1, 2, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.json", "[1, 2]", "t.json, row 1 is a number; an object with the names of the columns is needed"),
        ("t.json", '"text"', "holds a single text"),
        ("t.json", '{"id": {"0": 1}, "label": {"0": 2}}', "'id' is a object; a list of objects"),
        (
            "t.json",
            '{"id": 3, "label": "cat"}',
            "one object with 'id', 'label', which may be a row or labels by id or key",
        ),
        ("t.json", '{"k1": 1, "k1": 0}', "has an object with 'k1' twice"),
        ("t.json", '[{"id": 1,}]', "line 1: the file cannot be read as JSON"),
        ("t.jsonl", '{"id": 1, "label": 1}\n{"id": \n', "t.jsonl, line 2 cannot be read as JSON"),
        ("t.json", '[{"id": 1, "label": ["cat"]}]', "t.json, row 1, column label: a list is no value"),
        ("t.json", '[{"id": 1, "label": "bird"}]', "t.json, row 1, column label: 'bird' is neither a class"),
        ("t.json", '[{"label": "cat"}]', "has neither a column 'id' nor 'key'"),
        ("t.json", '[{"label": "cat"}, {"id": 2}]', "row 1, column id: an empty id is not an id"),
        ("t.json", '[{"id": 2, "label": "\\ud800"}]', "is half of a character"),
        ("t.json", "[" * 200_000, "nested too deeply"),
        ("t.json", '{"k9": "cat"}', "key 'k9' is unknown"),
        ("t.csv", "id,label;key\n1,2;3\n", "the header can be read with comma or semicolon between the columns"),
        ("t.txt", "id,label\n", "neither CSV (.csv, .tsv) nor Parquet (.parquet) nor JSON"),
        ("t.csv", "id,label\n1,3.7\n", "Numbers to be predicted (regression): --kind number"),
    ],
)
def test_what_cannot_be_read_in_one_way_is_refused(
    tmp_path: Path, pool: Pool, name: str, content: str, said: str
) -> None:
    with pytest.raises(PoolError, match=re.escape(said)):
        label_from(pool, written(tmp_path, name, content))
    assert not pool.labeled.any()


def test_names_for_a_pool_without_classes_say_what_to_do(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "q", n=3)
    with pytest.raises(
        PoolError, match=r"line 2, column label: 'deer' is not a number from 0 on, nor -1. Names need classes"
    ):
        label_from(pool, written(tmp_path, "t.csv", "id,label\n1,deer\n"))
    with pytest.raises(PoolError, match=r"'-7' is not a number from 0 on, nor -1$"):
        label_from(pool, written(tmp_path, "t.csv", "id,label\n1,-7\n"))


def test_a_separator_that_is_said_is_used(tmp_path: Path, pool: Pool) -> None:
    table = written(tmp_path, "t.csv", "id:label,key\n1:dog,k1\n")
    with pytest.raises(PoolError, match="has no column 'label'"):
        label_from(pool, table)
    written(tmp_path, "t.csv", "id:label\n1:dog\n")
    label_from(pool, table, columns=Columns(separator=":"))
    assert labels(tmp_path / "p")[1] == 1
    with pytest.raises(PoolError, match="has no separator: leave it out"):
        label_from(pool, written(tmp_path, "t.json", []), columns=Columns(separator=":"))


def test_an_object_of_digits_that_are_keys_too_is_refused(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "q", n=6, keys=["5", "4", "3", "2", "1", "0"])
    with pytest.raises(PoolError, match="numbers that may be ids, and some of them are keys"):
        label_from(pool, written(tmp_path, "t.json", {"5": 1}))


def test_numbers_to_be_predicted_come_from_every_table(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "q", n=6)
    table = written(tmp_path, "t.csv", "id,label\n0,3.7\n1,\n2,nan\n3,-1\n4, 1e3 \n")
    assert label_from(pool, table, kind="number") == Labeled(changed=3, rows=5, rows_without_label=2)
    pool = Pool.open(pool.path)
    want = np.array([3.7, np.nan, np.nan, -1, 1000, np.nan], np.float32)
    assert np.array_equal(pool.labels, want, equal_nan=True)
    assert label_from(pool, written(tmp_path, "t.json", {"0": 3.7, "5": 2})).changed == 1
    for content, said in (
        ("id,label\n0,4\n", "item 0 is labeled 3.7"),
        ("id,label\n1,4\n1,5\n", "item 1 is given both 4.0 and 5.0"),
        ("id;label\n1;3,7\n", "'3,7' is no finite number: write a decimal point"),
        ("id,label\n1,inf\n", "'inf' is no finite number"),
        ("id,label\n1,1e99\n", "'1e99' is no finite number"),
        ("id,label\n1,cat\n", "line 2, column label: 'cat' is no finite number"),
    ):
        with pytest.raises(PoolError, match=re.escape(said)):
            label_from(pool, written(tmp_path, "t.csv", content))
    with pytest.raises(PoolError, match="no names of classes: leave out --labels-are"):
        label_from(pool, table, reading="names")
    assert label_from(pool, written(tmp_path, "t.csv", "id,label\n0,4\n"), overwrite=True).changed == 1


def test_a_named_column_is_made_only_if_the_whole_table_fits(tmp_path: Path, pool: Pool) -> None:
    bad = written(tmp_path, "bad.csv", "id,label\n1,good\n99,bad\n")
    table = written(tmp_path, "t.csv", "id,label\n1,good\n2,bad\n")
    with pytest.raises(PoolError, match="99 is not an id"):
        label_from(pool, bad, name="look", kind="class", classes=["bad", "good"])
    assert list(Pool.open(pool.path).label_columns) == ["label"]
    with pytest.raises(PoolError, match="no column of labels 'look'"):
        label_from(pool, table, name="look")
    label_from(pool, table, name="look", kind="class", classes=["bad", "good"])
    now = Pool.open(pool.path)
    assert now.labels_of("look").tolist() == [-1, 1, 0, -1, -1, -1]
    assert not now.labeled.any()
    assert label_from(now, written(tmp_path, "u.csv", "id,label\n3,good\n"), name="look").changed == 1
    with pytest.raises(PoolError, match="item 1 is labeled 1 and would become 0"):
        label_from(now, written(tmp_path, "u.csv", "id,label\n1,bad\n"), name="look")


def test_rows_of_other_readers_become_labels(tmp_path: Path, pool: Pool) -> None:
    rows = ({"key": f"k{i}", "label": name} for i, name in enumerate(["cat", None, "dog"]))
    assert set_labels_of(pool, table_of(Path("export.json"), rows, labeled=True)) == Labeled(2, 3, 1)
    assert labels(tmp_path / "p")[:3] == [0, -1, 1]


def test_items_are_named_by_json_too(tmp_path: Path, pool: Pool) -> None:
    assert items_from(pool, str(written(tmp_path, "t.jsonl", '{"key": "k4"}\n{"key": "k2"}'))).tolist() == [2, 4]
