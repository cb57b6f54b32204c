"""The verbs of a pool: import, append, label, exclude, verify."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from .conftest import Command, answer


def test_images_are_imported_and_appended_with_the_same_options(mcscore: Command, project: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("cat/0.png", "dog/1.png"):
        (project / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (9, 7)).save(project / "images" / name)
    words = ("--source-labels", "--workers", "1", "--quiet", "--json")
    made = answer(mcscore("pool", "import", "images", "images.zarr", "--size", "4", "--gray", *words))
    assert (made["items"], made["item_shape"], made["labeled"], made["classes"]) == (2, [1, 4, 4], 2, ["cat", "dog"])
    image.new("RGB", (9, 7)).save(project / "images" / "dog" / "2.png")
    (project / "images" / "dog" / "3.png").write_bytes(b"x")
    refused = mcscore("pool", "append", "images.zarr", "images", "--max-bad", "0", *words)
    assert refused.exit_code == 1
    assert "more than max_bad=0" in refused.stderr
    grown = answer(mcscore("pool", "append", "images.zarr", "images", "--max-bad", "3", *words))
    assert (grown["added"], grown["items"], grown["labeled"]) == (1, 3, 3)
    for wrong, says in [
        (("import", "images", "x.zarr", "--size", "4", "--layout", "hw"), "--layout belongs to arrays"),
        (("import", "digits.npy", "x.zarr", "--workers", "1"), "options for images need --size"),
        (("import", "digits.npy", "x.zarr", "--gray"), "options for images need --size"),
        (("append", "images.zarr", "images", "--key", "x"), "--key belongs to arrays, and images holds images"),
        (("append", "images.zarr", "digits.npy", "--max-bad", "0"), "options for images do not apply to the array"),
    ]:
        result = mcscore("pool", *wrong)
        assert result.exit_code == 2
        assert says in result.stderr


def test_a_pool_is_labeled_excluded_appended_to_and_verified(mcscore: Command, project: Path) -> None:
    made = answer(mcscore("pool", "import", "digits.npy", "grow.zarr", "--layout", "hw", "--classes", "a,b", "--json"))
    n = made["items"]
    (project / "labels.csv").write_text("id,label\n0,a\n1,b\n")
    said = answer(mcscore("pool", "label", "grow.zarr", "labels.csv", "--json"))
    assert (said["changed"], said["labeled"]) == (2, 2)
    (project / "labels.csv").write_text("id,label\n0,a\n2, \n3,\n")
    said = answer(mcscore("pool", "label", "grow.zarr", "labels.csv", "--json"))
    assert (said["changed"], said["rows"], said["rows_without_label"], said["labeled"]) == (0, 3, 2, 2)
    told = mcscore("pool", "label", "grow.zarr", "labels.csv").stdout
    assert "0 labels set, 2 rows without a label left out, 2 of" in told
    (project / "labels.csv").write_text("id,label\n0,b\n")
    refused = mcscore("pool", "label", "grow.zarr", "labels.csv")
    assert refused.exit_code == 1
    assert "item 0 is labeled 0 and would become 1" in refused.stderr
    assert answer(mcscore("pool", "label", "grow.zarr", "labels.csv", "--overwrite", "--json"))["changed"] == 1
    assert answer(mcscore("pool", "exclude", "grow.zarr", "3,5-6", "--json"))["excluded"] == 3
    assert answer(mcscore("pool", "exclude", "grow.zarr", "5", "--readmit", "--json"))["excluded"] == 2
    same = answer(mcscore("pool", "append", "grow.zarr", "digits.npy", "--layout", "hw", "--json"))
    assert (same["added"], same["items"]) == (0, n), "the file that the pool was imported from"
    np.save(project / "more.npy", 255 - np.load(project / "digits.npy"))
    grown = answer(mcscore("pool", "append", "grow.zarr", "more.npy", "--layout", "hw", "--json"))
    assert (grown["added"], grown["items"], grown["labeled"], grown["excluded"]) == (n, 2 * n, 2, 2)
    assert answer(mcscore("pool", "append", "grow.zarr", "more.npy", "--layout", "hw", "--json"))["added"] == 0
    assert (
        "the pool has the items of more.npy already"
        in mcscore("pool", "append", "grow.zarr", "more.npy", "--layout", "hw").stdout
    )
    compacted = answer(mcscore("pool", "compact", "grow.zarr", "--out", "compact.zarr", "--quiet", "--json"))
    assert (compacted["items"], compacted["fingerprint"]) == (grown["items"], grown["fingerprint"])
    assert compacted["files"] <= compacted["files_before"]
    info = answer(mcscore("pool", "info", "grow.zarr", "--contact-sheet", "sheet.png", "--json"))
    assert info["labeled_share"] == round(2 / (2 * n), 6)
    files = (project / "grow.zarr").rglob("c.*")
    assert info["bytes"] == sum(file.stat().st_size for file in files)
    assert info["arrays"]["items"]["codecs"] == ["bytes", "crc32c"]
    assert (project / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert answer(mcscore("pool", "verify", "grow.zarr", "--json"))["damaged"] == []
    file = project / "grow.zarr" / "items" / "c.0.0.0.0"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    found = mcscore("pool", "verify", "grow.zarr", "--json")
    assert found.exit_code == 1
    (damage,) = json.loads(found.stdout)["damaged"]
    assert (damage["array"], damage["chunk"]) == ("items", 0)
    assert damage["file"].endswith("grow.zarr/items/c.0.0.0.0")
    assert "items chunk 0, items 0.." in found.stderr
    assert "crc32c mismatch" in found.stderr


def test_set_changes_normalization_and_names_and_nothing_else(mcscore: Command, project: Path) -> None:
    made = mcscore("pool", "import", "digits.npy", "set.zarr", "--labels", "labels.npy", "--layout", "hw", "--json")
    before = answer(made)
    told = mcscore(
        "pool", "set", "set.zarr", "--mean", "0.3", "--std", "0.25", "--classes", "a,b,c,d,e,f,g,h,i,j", "--json"
    )
    assert told.exit_code == 0, told.stderr
    assert (answer(told)["mean"], answer(told)["std"]) == ([0.3], [0.25])
    assert answer(told)["classes"] == list("abcdefghij")
    changed = {"mean", "std", "classes", "fingerprint"}
    unchanged = answer(told).keys() - changed
    assert {name: answer(told)[name] for name in unchanged} == {name: before[name] for name in unchanged}
    assert mcscore("pool", "verify", "set.zarr").exit_code == 0
    kept = mcscore("pool", "set", "set.zarr", "--unnormalized", "--json")
    assert (answer(kept)["mean"], answer(kept)["classes"]) == (None, list("abcdefghij"))
    assert answer(kept)["fingerprint"] == before["fingerprint"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "say what to change"),
        (("--mean", "0.5"), "mean and std go together"),
        (("--mean", "123", "--std", "58"), "not in units of [0, 1]"),
        (("--classes", "a,b,c"), "3 class names give 0 to 2"),
        (("--unnormalized", "--mean", "0.5", "--std", "1"), "--unnormalized takes mean and std away"),
    ],
)
def test_set_refuses_what_does_not_fit(mcscore: Command, project: Path, words: tuple[str, ...], why: str) -> None:
    if not (project / "kept.zarr").exists():
        mcscore("pool", "import", "digits.npy", "kept.zarr", "--labels", "labels.npy", "--layout", "hw")
    before = (project / "kept.zarr" / "zarr.json").read_bytes()
    told = mcscore("pool", "set", "kept.zarr", *words)
    assert told.exit_code in (1, 2)
    assert why in told.stderr
    assert (project / "kept.zarr" / "zarr.json").read_bytes() == before


def test_labels_are_numbers_or_stand_in_columns_of_their_own(mcscore: Command, project: Path) -> None:
    np.save(project / "x.npy", np.zeros((4, 3), np.float32))
    np.save(project / "y.npy", np.array([1.5, np.nan, -1, np.nan]))
    made = answer(
        mcscore("pool", "import", "x.npy", "numbers.zarr", "--labels", "y.npy", "--label-kind", "number", "--json")
    )
    assert made["label_columns"] == {"label": {"kind": "number", "labeled": 2}}
    refused = mcscore("pool", "import", "x.npy", "other.zarr", "--labels", "y.npy")
    assert refused.exit_code == 1
    assert "unless they are numbers to be predicted: label_kind='number' (--label-kind number)" in refused.stderr
    (project / "t.csv").write_text("id:label\n1:good\n3:bad\n")
    words = ("t.csv", "--separator", ":", "--name", "look")
    refused = mcscore("pool", "label", "numbers.zarr", *words)
    assert "has no column of labels 'look'; it has label. --kind class or --kind number" in refused.stderr
    said = answer(
        mcscore("pool", "label", "numbers.zarr", *words, "--kind", "class", "--classes", "bad,good", "--json")
    )
    assert (said["name"], said["changed"], said["labeled"]) == ("look", 2, 2)
    told = mcscore("pool", "info", "numbers.zarr").stdout
    assert "labels         label: 2 numbers\nlabels         look: 2 classes (bad, good)\n" in told
    (project / "t.json").write_text('{"1": 0.25}')
    told = mcscore("pool", "label", "numbers.zarr", "t.json").stdout
    assert "1 labels set, 3 of 4 items are labeled" in told
    for value, says in (("::", "'::' is not one character"), ("tab", "the header"), ("", "not one character")):
        result = mcscore("pool", "label", "numbers.zarr", "t.csv", "--separator", value)
        assert result.exit_code == (1 if value == "tab" else 2)
        assert says in result.stderr or value == "tab"
    wrong = mcscore("pool", "import", "images", "x.zarr", "--size", "4", "--label-kind", "number")
    assert wrong.exit_code == 2
    assert "labels of images in SRC are classes" in wrong.stderr
