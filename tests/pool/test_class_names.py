"""Labels and ids in tables have one reading: what could be two things is refused until the user says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcscore.cli import pixel_options, pool_label
from mcscore.errors import PoolError
from mcscore.pool import Pool, class_names, kinds, label_from
from mcscore.pool.class_names import ClassReader, whole_number
from mcscore.pool.pictures import pixel_format
from mcscore.pool.table import Columns

from .helpers import images

CLASSES = sorted(map(str, range(12)))  # 0, 1, 10, 11, 2, ...: class number 2 has the name 10


def pool_of(path: Path, classes: list[str] | None) -> Pool:
    return Pool.create(path, images(6), keys=[f"k{i}" for i in range(6)], classes=classes)


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_digits_that_are_a_name_and_a_number_are_refused_until_one_is_said(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "p", CLASSES)
    file = table(tmp_path / "t.csv", "id,label", "0,2", "1,10", "2,0", "3,-1")
    with pytest.raises(
        PoolError, match="label '2' has two readings: as a name it is class number 4, as a number class '10'"
    ):
        label_from(pool, file)
    assert pool.labels.tolist() == [-1] * 6
    label_from(pool, file, reading="names")
    assert pool.labels.tolist() == [4, 2, 0, -1, -1, -1]
    label_from(pool, file, reading="numbers", overwrite=True)
    assert pool.labels.tolist() == [2, 10, 0, -1, -1, -1]
    assert label_from(pool, table(tmp_path / "t.csv", "id,label", "4,0", "5,1")).changed == 2, (
        "both readings are the same"
    )


def test_names_of_digits_beyond_the_numbers_are_names(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "p", ["10", "20", "30"])
    label_from(pool, table(tmp_path / "t.csv", "id,label", "0,30", "1,10"))
    assert pool.labels.tolist()[:2] == [2, 0]
    with pytest.raises(
        PoolError, match="label '30' has two readings: as a name it is class number 2, is the number of no"
    ):
        label_from(pool, table(tmp_path / "t.csv", "id,label", "2,30", "3,1"))
    with pytest.raises(PoolError, match="neither a class"):
        label_from(pool, table(tmp_path / "t.csv", "id,label", "2,1"), reading="names")


def test_a_reading_needs_class_names_and_is_one_of_two() -> None:
    with pytest.raises(PoolError, match="the pool has no class names"):
        ClassReader(None, "names")
    with pytest.raises(PoolError, match="names or numbers, not as 'both'"):
        ClassReader(["a"], "both")
    assert [whole_number(text) for text in ("7", "007", "-1", "3.", "\u00b2", "\u0663", "9" * 19, "")] == [
        7, 7, -1, 3, None, None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize("other", ["annotation_id", "Annotator", "lead_time", "task_id", "External ID", "updated_at"])
def test_ids_of_a_labeling_tool_are_not_taken_for_those_of_items(tmp_path: Path, other: str) -> None:
    pool = pool_of(tmp_path / "p", ["cat", "dog"])
    file = table(tmp_path / "t.csv", f"{other},id,image,choice", "9,1,k3,dog", "8,2,k4,cat")
    with pytest.raises(PoolError, match=f"a column 'id' beside {other}: it may hold the ids of a labeling tool"):
        label_from(pool, file, columns=Columns(label="choice"))
    label_from(pool, file, columns=Columns(key="image", label="choice"))
    assert pool.labels.tolist() == [-1, -1, -1, 1, 0, -1]
    label_from(pool, file, columns=Columns(id="id", label="choice"))
    assert pool.labels.tolist() == [-1, 1, 0, 1, 0, -1]


def test_the_item_that_was_exported_comes_back_beside_a_task_id(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "p", ["cat", "dog"])
    label_from(pool, table(tmp_path / "t.csv", "annotation_id,id,item,label", "1,101,5,dog", "2,102,0,cat"))
    assert pool.labels.tolist() == [0, -1, -1, -1, -1, 1]


def test_a_chosen_column_is_the_one_that_is_read(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "p", ["cat", "dog"])
    file = table(tmp_path / "t.csv", "id;key;label;second;name", "0;k0;dog;cat;k5")
    label_from(pool, file, columns=Columns(label="second"))
    assert pool.labels.tolist() == [0, -1, -1, -1, -1, -1]
    label_from(pool, file, columns=Columns(key="name"))
    assert pool.labels.tolist() == [0, -1, -1, -1, -1, 1], "and the columns id and key are not"
    with pytest.raises(PoolError, match="has no column 'nmae'; it has id, key, label, second, name"):
        label_from(pool, file, columns=Columns(key="nmae"))


def test_the_choices_of_the_command_are_those_of_the_library() -> None:
    """They stand twice, so that --help needs no numpy."""
    assert pixel_options.FITS == pixel_format.FITS
    assert tuple(map(str, pixel_format.DEPTHS)) == pixel_options.DEPTHS
    assert pool_label.READINGS == class_names.READINGS
    assert pool_label.KINDS == kinds.KINDS
