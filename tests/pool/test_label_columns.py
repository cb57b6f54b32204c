"""Labels that are numbers, and several columns of labels: kept apart, durable, read by every later open."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import PoolError
from mcscore.ingest import append_blocks
from mcscore.ingest.compact import compact
from mcscore.pool import Pool, set_facts, with_label_column
from mcscore.pool.kinds import LabelColumn
from mcscore.pool.verify import verify
from mcscore.run.skipped import Skipped

from ..steps import at_step, killed_at
from .helpers import images, listing, small_pool

NAN = float("nan")


def same(got: np.ndarray, want: list[float]) -> bool:
    return bool(np.array_equal(got, np.array(want, got.dtype), equal_nan=got.dtype.kind == "f"))


def test_a_pool_of_numbers_is_labeled_where_it_has_one(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", n=5, labels=[0.5, NAN, -1, 0, NAN], label_kind="number")
    assert pool.labels.dtype == np.float32
    assert same(pool.labels, [0.5, NAN, -1, 0, NAN])
    assert pool.labeled.tolist() == [True, False, True, True, False], "-1 and 0 are numbers"
    assert Skipped(pool, labeled=False)[0:5].tolist() == pool.labeled.tolist()
    assert pool.set_labels([1, 2, 3], [7, NAN, 0]) == 2
    assert pool.set_labels([1, 4], [7, NAN]) == 0, "NaN is NaN"
    assert same(Pool.open(pool.path).labels, [0.5, 7, NAN, 0, NAN])
    assert listing(tmp_path / "p") == ["excluded", "items", "numbers", "zarr.json"]
    assert list(verify(pool)) == []


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1.5, np.inf], "label inf at position 1 is not finite"),
        ([1.5, 1e39], "label 1e+39 at position 1 is not finite in float32"),
        ([1.5], "labels have shape (1,) for 2 items; one number per item"),
        (["a", "b"], "they must be numbers (NaN: unlabeled)"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path: Path, labels: list[float], said: str) -> None:
    pool = small_pool(tmp_path / "p", label_kind="number")
    with pytest.raises(PoolError, match=re.escape(said)):
        pool.set_labels([3, 4], labels)
    assert not pool.labeled.any()


def test_floats_are_no_classes_unless_they_are_said_to_be_numbers(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=re.escape("unless they are numbers to be predicted: label_kind='number'")):
        small_pool(tmp_path / "p", labels=np.zeros(50))
    with pytest.raises(PoolError, match="numbers to be predicted have no class names"):
        small_pool(tmp_path / "p", label_kind="number", classes=["a"])
    with pytest.raises(PoolError, match="labels are of kind class or number, not 'float'"):
        small_pool(tmp_path / "p", label_kind="float")
    assert listing(tmp_path) == []


def test_a_column_is_made_beside_the_main_one_which_alone_says_what_is_labeled(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", n=5, classes=["cat", "dog"], labels=[1, -1, -1, -1, -1])
    print_before = pool.fingerprint
    pool = with_label_column(pool, "ann-2", kind="class")
    pool = with_label_column(pool, "look", kind="class", classes=["bad", "fair", "good"])
    pool = with_label_column(pool, "age", kind="number")
    pool.set_labels([2], [0], name="ann-2")
    pool.set_labels([2, 3], [2, 1], name="look")
    pool.set_labels([4], [0.25], name="age")
    again = Pool.open(pool.path)
    assert list(again.label_columns) == ["label", "ann-2", "look", "age"]
    assert again.label_columns["look"] == LabelColumn("look", "class", ("bad", "fair", "good"))
    assert same(again.labels, [1, -1, -1, -1, -1])
    assert same(again.labels_of("ann-2"), [-1, -1, 0, -1, -1])
    assert same(again.labels_of("look"), [-1, -1, 2, 1, -1])
    assert same(again.labels_of("age"), [NAN, NAN, NAN, NAN, 0.25])
    assert again.labeled.tolist() == [True, False, False, False, False]
    assert again.fingerprint == print_before, "labels are no part of it"
    with pytest.raises(PoolError, match=r"label 2 at position 0 is outside \[-1, 1\]"):
        pool.set_labels([2], [2], name="ann-2")
    with pytest.raises(PoolError, match="no column of labels 'nobody'; it has label, ann-2, look, age"):
        pool.labels_of("nobody")
    with pytest.raises(PoolError, match="item 0 has the label 1, and 1 class names give 0 to 0"):
        set_facts(pool, classes=["cat"])
    assert list(verify(again)) == []


def test_columns_grow_and_are_compacted_with_the_pool(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", n=5, labels=[NAN, 1, 2, 3, NAN], label_kind="number")
    pool = with_label_column(pool, "ann-2", kind="class")
    pool.set_labels([4], [3], name="ann-2")
    grown = append_blocks(pool.path, images(3), labels=[0.5, NAN, 9])
    assert same(grown.labels, [NAN, 1, 2, 3, NAN, 0.5, NAN, 9])
    assert same(grown.labels_of("ann-2"), [-1, -1, -1, -1, 3, -1, -1, -1])
    assert append_blocks(pool.path, images(1)).labels_of("ann-2")[8] == -1
    for done in (compact(pool.path, tmp_path / "q"), compact(pool.path)):
        assert same(done.pool.labels, [NAN, 1, 2, 3, NAN, 0.5, NAN, 9, NAN])
        assert same(done.pool.labels_of("ann-2"), [-1, -1, -1, -1, 3, -1, -1, -1, -1])
        assert list(verify(done.pool)) == []


def test_a_column_without_labels_changes_its_kind_and_one_with_labels_does_not(tmp_path: Path) -> None:
    pool = with_label_column(small_pool(tmp_path / "p"), kind="number")
    assert pool.label_columns == {"label": LabelColumn(kind="number")}
    assert listing(tmp_path / "p") == ["excluded", "items", "numbers", "zarr.json"]
    pool.set_labels([3], [1.5])
    with pytest.raises(PoolError, match=r"labels 'label' of .* are of kind number, and some items have one"):
        with_label_column(pool, kind="class")
    pool.set_labels([3], [NAN])
    stale, pool = pool, with_label_column(pool, kind="class")
    assert pool.labels.dtype == np.int32
    with pytest.raises(PoolError, match=r"numbers could not be changed|missing"):
        stale.set_labels([3], [1.5])  # opened before: no label is lost without a word


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("age", {}, "has no column of labels 'age'; it has label. --kind class or --kind number"),
        ("a/b", {"kind": "class"}, "'a/b' cannot name a column of labels"),
        ("", {"kind": "class"}, "'' cannot name a column"),
        (
            "Label",
            {"kind": "class"},
            "has a column of labels 'label': choose a name that differs by more than its case",
        ),
        ("age", {"kind": "float"}, "labels are of kind class or number, not 'float'"),
        (
            "age",
            {"kind": "number", "classes": ["a"]},
            "labels 'age' have class names, and numbers to be predicted have none",
        ),
        ("age", {"kind": "class", "classes": ["a", "a"]}, "class names must differ"),
        ("label", {"kind": "number"}, "labels 'label' have class names"),
        ("label", {"classes": ["a"]}, "mcscore pool set --classes"),
    ],
)
def test_a_column_that_cannot_be_is_refused(tmp_path: Path, name: str, more: dict[str, object], said: str) -> None:
    pool = small_pool(tmp_path / "p", classes=["cat", "dog"])
    before = listing(tmp_path / "p")
    with pytest.raises(PoolError, match=re.escape(said)):
        with_label_column(pool, name, **more)  # type: ignore[arg-type]
    assert listing(tmp_path / "p") == before


@pytest.mark.parametrize("name", ["label", "age"])
def test_a_kill_at_any_step_leaves_the_old_columns_or_the_new(tmp_path: Path, name: str) -> None:
    """And what is left is of no harm: the call again completes it, and an append removes it."""
    whole = small_pool(tmp_path / "whole")
    with at_step(10**6, lambda *_: None) as steps:
        with_label_column(whole, name, kind="number")
    arrays = {"label": ["numbers"], "age": ["labels", "numbers-age"]}[name]
    for n in sorted({*range(0, len(steps), 5), *range(len(steps) - 3, len(steps))}):
        pool = small_pool(tmp_path / f"p{n}")
        killed_at(n, lambda pool=pool: with_label_column(pool, name, kind="number"))
        between = Pool.open(pool.path)
        assert between.label_columns.get(name) in ({"label": LabelColumn()}.get(name), LabelColumn(name, "number")), n
        assert not between.labeled.any()
        done = with_label_column(between, name, kind="number")
        done.set_labels([4], [2.5], name=name)
        grown = append_blocks(pool.path, images(1))
        assert grown.labels_of(name)[4] == 2.5
        assert [each for each in listing(tmp_path / f"p{n}") if each[:6] in ("labels", "number")] == arrays


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([["age", "number", None]], "'label' first, is needed"),
        ([["label", "class", None], ["Age", "number", None], ["age", "class", None]], "a list of columns that differ"),
        ([["label", "text", None]], "with the kind class or number, is needed"),
        ([["label", "class", None], ["../x", "class", None]], "a name of letters and digits is needed"),
    ],
)
def test_damaged_attributes_are_refused(tmp_path: Path, columns: list[object], said: str) -> None:
    pool = small_pool(tmp_path / "p")
    meta = json.loads((tmp_path / "p" / "zarr.json").read_text())
    for name in ("checksum", "arrays", "rows", "keys", "appends", "known_as"):
        meta["attributes"].pop(name)
    meta["attributes"]["label_columns"] = columns
    (tmp_path / "p" / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(PoolError, match=re.escape(said)):
        Pool.open(pool.path)
