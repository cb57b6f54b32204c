"""Tables are read in parts, and their texts are no Python objects: what the parts say does not depend on where they end."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mcscore.cells import unguarded
from mcscore.errors import PoolError
from mcscore.pool import Labeled, Pool, items_from, keys, label_from, table_files, tables, text_columns
from mcscore.pool.class_names import whole_number
from mcscore.pool.table_files import read_lines, read_table

TEXTS = ["a", " a", "a\t", "", "  ", "'=1", "''-x", "'tis", "=1", "é", "a\u2003", "\x1ca", "'\t", "a\nb", "7", "'＝"]
NUMBERS = [
    "7",
    " 007",
    "-1",
    "3.",
    "3.00",
    "-0",
    "\u00b2",
    "\u0663",
    "9" * 18,
    "9" * 19,
    "",
    "1\n",
    "1e3",
    "+1",
    ".0",
    "2.5",
]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "PART", 3)
    monkeypatch.setattr(tables, "_COMPARED", 4)
    monkeypatch.setattr(keys, "_STEP_BYTES", 20)


def pool_of(path: Path, names: list[str]) -> Pool:
    return Pool.create(path, np.zeros((len(names), 1), np.uint8), keys=names, classes=["cat", "dog"])


def test_columns_read_as_python_reads_each_text() -> None:
    every = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    texts = [f"{one}a{one}" for one in every]
    assert text_columns.trimmed(text_columns.text_array(texts)).to_pylist() == [text.strip() for text in texts]
    guarded = TEXTS + [f"'{one}" for one in every[:300]]
    assert text_columns.unguarded_texts(text_columns.text_array(guarded)).to_pylist() == [*map(unguarded, guarded)]
    column = text_columns.text_column([text_columns.text_array(NUMBERS[:5]), text_columns.text_array(NUMBERS[5:])])
    values, are = text_columns.whole_numbers(column)
    want = [whole_number(text.strip()) for text in NUMBERS]
    assert [int(value) if is_one else None for value, is_one in zip(values, are, strict=True)] == want
    some = np.arange(len(NUMBERS)) % 3 > 0
    padded, bare = text_columns.without_blanks(column, some)
    assert padded.tolist() == [bool(one) and text != text.strip() for one, text in zip(some, NUMBERS, strict=True)]
    assert bare.to_pylist() == [NUMBERS[row].strip() for row in np.flatnonzero(padded)]


@pytest.mark.parametrize(
    "values",
    [
        [1, None, -3],
        [1.0, 1e16, None, float("nan"), 2.5],
        [True, False, None],
        ["a", None, " "],
        pyarrow.array(["x", None, "y", "x"]).dictionary_encode(),
        pyarrow.array([b"a", b"b", b"c"]),
        [[1], None],
    ],
)
def test_values_of_any_type_are_the_texts_that_python_makes_of_them(values: Any) -> None:
    array = pyarrow.array(values)
    want = ["" if value is None or value != value else str(value) for value in array.to_pylist()]
    assert text_columns.as_text(array).to_pylist() == want
    assert text_columns.as_text(array[1:]).to_pylist() == want[1:], "a part of an array"


@pytest.mark.usefixtures("small_parts")
def test_rows_of_all_parts_have_their_lines(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "p", [f"k{i}" for i in range(10)])
    rows = "".join(f'k{i},"{("cat", "", " dog")[i % 3]}","a\nb"\n\n' for i in range(10))
    (tmp_path / "t.csv").write_text(f"key,label,note\n{rows}")
    table = read_table(tmp_path / "t.csv", labeled=True)
    assert table.columns["key"].to_pylist() == [f"k{i}" for i in range(10) if i % 3 != 1]
    assert table.lines.tolist() == [2 + 3 * i for i in range(10) if i % 3 != 1]
    assert label_from(pool, tmp_path / "t.csv") == Labeled(7, rows=10, rows_without_label=3)
    assert pool.labels.tolist() == [(0, -1, 1)[i % 3] for i in range(10)]
    pyarrow.parquet.write_table(
        pyarrow.table({"id": list(range(11)), "label": [1, None] * 5 + [1]}), tmp_path / "t.parquet"
    )
    with pytest.raises(PoolError, match="has 3 conflicts, nothing was changed: row 11, column id: 10 is not an id of"):
        label_from(pool, tmp_path / "t.parquet")  # and items 0 and 6, which are cats
    (tmp_path / "t.csv").write_text(f"key,label,note\n{rows}x,y\n")
    with pytest.raises(PoolError, match=r"t\.csv, line 32: 2 cells, where the header has 3"):
        label_from(pool, tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text(f"key,label,note\n{rows}k1,bird,x\n")
    with pytest.raises(PoolError, match="line 32, column label: 'bird' is neither a class"):
        label_from(pool, tmp_path / "t.csv")


@pytest.mark.usefixtures("small_parts")
def test_keys_are_found_and_compared_in_parts(tmp_path: Path) -> None:
    names = [f"k{i}" for i in range(12)] + [" k3", "pad ", "two", "two", "", ""]
    pool = pool_of(tmp_path / "p", names)
    (tmp_path / "t.csv").write_text("key\nk11\n k3\n k4 \npad \nk0\n")
    assert items_from(pool, str(tmp_path / "t.csv")).tolist() == [0, 4, 11, 12, 13]
    (tmp_path / "t.csv").write_text('key\nk1\n two \nnone\n""\nk1\ntwo\nx\ny\nz\n')
    with pytest.raises(
        PoolError, match=r"7 conflicts.*line 3, column key: key 'two' names several.*; line 4, .* 'none' is unkn"
    ):
        items_from(pool, str(tmp_path / "t.csv"))
    order = [17, 3, 0, 12, 14, 15, 16, 13, 5]
    rows = [f"{i},{names[i]}" for i in order]
    (tmp_path / "t.csv").write_text("\n".join(["id,key", *rows, "4, k4"]) + "\n")
    assert items_from(pool, str(tmp_path / "t.csv")).tolist() == sorted([*order, 4])
    (tmp_path / "t.csv").write_text("\n".join(["id,key", *rows, "x,k1", "4,k5", "3, k3", "12,k3"]) + "\n")
    with pytest.raises(
        PoolError,
        match=r"3 conflicts.*: line 11, column id: x is not an id of this pool; line 12, column key: item 4 has the key "
        "'k4', not 'k5'; line 14, column key: item 12 has the key ' k3', not 'k3'$",
    ):
        items_from(pool, str(tmp_path / "t.csv"))


@pytest.mark.usefixtures("small_parts")
def test_lines_end_where_python_ends_them(tmp_path: Path) -> None:
    text = "a\r\n\n b\x0bc\rd\u2028e\n\x0c\n\u2003\nf"
    (tmp_path / "t.txt").write_bytes(text.encode())
    column, lines = read_lines(tmp_path / "t.txt")
    with (tmp_path / "t.txt").open() as file:
        want = [(n, line.strip()) for n, line in enumerate(file.read().splitlines(), 1) if line.strip()]
    assert list(zip(lines.tolist(), column.to_pylist(), strict=True)) == want


def test_texts_of_parquet_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    broken = pyarrow.array([b"a", b"\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"key": broken}), tmp_path / "t.parquet")
    with pytest.raises(PoolError, match=r"t\.parquet cannot be read as Parquet: .*UTF8"):
        read_table(tmp_path / "t.parquet")


def test_a_table_takes_little_more_memory_than_its_text(tmp_path: Path) -> None:
    names = [f"{i:084d}" for i in range(60_000)]
    pool = pool_of(tmp_path / "p", names)
    (tmp_path / "t.csv").write_text("key,label\n" + "".join(f"{name},cat\n" for name in reversed(names)))
    text_columns.distinct(text_columns.text_column([]))  # imports are none of the table's memory
    tracemalloc.start()
    try:
        assert label_from(pool, tmp_path / "t.csv").changed == len(names)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 25 << 20, "84 bytes a row, and the part that is read: 5 MB; strings of Python took 60 MB"
