"""Metadata is believed only if it is as it was written: another value, type or name is told, by file and field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcscore import fields
from mcscore.errors import RunError
from mcscore.run import Run, score_pool
from mcscore.run.status import info, verify

from .fakes import SPAN, FakePool, FakeScorer, begin, content, go_on, reheader, unpacked
from .test_resume import forge, record, snapshot

LOOKS: list[Callable[[Path], Any]] = [
    Run.open,
    info,
    verify,
    lambda run: score_pool(FakePool(), FakeScorer(), run),
]


def refused(run: Path, says: str) -> None:
    before = snapshot(run)
    for look in LOOKS:
        with pytest.raises(RunError, match=says):
            look(run)
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"block_items": 16', '"block_items": 17'),
        ('"span": 40', '"span": 41'),
        ('"seed": 0', '"seed": 1'),
        ('"device": "', '"device": "x'),
        ('"path": "', '"path": "x'),
        ('"checksum": "sha256:', '"checksum": "sha256:0'),
        ('"checksum": "sha256:', '"checksum": null, "other": "'),
    ],
)
def test_a_field_that_is_not_as_it_was_written_is_damage(out: Path, old: str, new: str) -> None:
    begin(out)
    text = (out / "run.json").read_text()
    assert old in text
    (out / "run.json").write_text(text.replace(old, new))
    refused(out, "run.json is damaged: checksum mismatch.*keep the directory: put run.json back from a copy")
    (out / "run.json").write_text(text)
    assert verify(out) == []


def test_a_checksum_whose_name_is_flipped_is_no_older_file(out: Path) -> None:
    begin(out)
    text = (out / "run.json").read_text()
    (out / "run.json").write_text(text.replace('"checksum"', '"checksun"'))
    refused(out, "unknown field 'checksun'")


WRONG = {
    "id": (7, "'id' is 7; a string is needed"),
    "span": (True, "'span' is true; a whole number is needed"),
    "block_items": (-1, "'block_items' is -1; a whole number from 1 on is needed"),
    "passes": ("20", "'passes' is \"20\"; a whole number is needed"),
    "seed": (10**400, "'seed' is 1000000000.* 0 to 2\\^64 - 1 is needed"),
    "scores": ("bald", "'scores' is \"bald\"; a list of strings is needed"),
    "pool": ([], r"'pool' is \[\]; an object is needed"),
    "model": ("net", "'model' is \"net\"; an object is needed"),
    "labeled": (0, "'labeled' is 0; true or false is needed"),
    "noise_variance": (False, "'noise_variance' is false; a number or null is needed"),
    "normalize": ([0.1], r"'normalize' is \[0.1\]; a list of lists or null is needed"),
    "hardware": ({}, r"'hardware' is {}; a list of objects is needed"),
    "grown": ([{"n": 200, "fingerprint": ""}], r"'grown' is \[200\]; numbers of items up to those of the pool, 100"),
    "versions": ({"torch": 2}, r"'versions' is {\"torch\": 2}; an object of strings is needed"),
    "version": (2.0, "format version 2.0"),
    "settings": ({}, "unknown field 'settings'"),
}


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", WRONG)
def test_a_field_of_a_wrong_type_or_value_is_named(out: Path, name: str, sealed: bool) -> None:
    begin(out)
    value, says = WRONG[name]
    reheader(out, sealed, **{name: value})
    refused(out, f"run.*{says}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"span": 40, "span": 41}', "the name 'span' stands twice"),
        ('{"span": NaN}', "NaN is no number of JSON"),
        ("[" * 100_000, "without end|within each other"),
        ('{"a": ' * 40 + "1" + "}" * 40, "more than 32 lists or objects within each other"),
        ("9" * 5000, "digits"),
        ('{"span"\x00: 1}', "Expecting"),
        ("", "Expecting"),
    ],
)
def test_json_that_means_nothing_or_two_things_is_refused(out: Path, text: str, says: str) -> None:
    begin(out)
    (out / "run.json").write_text(text)
    refused(out, f"run.json is damaged: .*({says})")
    (out / "run.json").write_bytes(b"\xff\xfe" + "{}".encode("utf-16-le"))
    refused(out, "run.json is damaged: .*utf-8")


@pytest.mark.parametrize("text", ["[]", "3", '"run"', "null"])
def test_json_that_is_no_object_is_no_run(out: Path, text: str) -> None:
    begin(out)
    (out / "run.json").write_text(text)
    refused(out, "is not a run: its run.json does not have the format 'mcscore-run'")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", "40"),
        ("span", True),
        ("crc32c", 5),
        ("crc32c", [1, "2", 3]),
        ("unreadable", [[1, 2, 3]]),
        ("unreadable", [["1", 2]]),
        ("nonfinite_ids", [1.5]),
        ("plan", "vmap"),
        ("seconds", None),
    ],
)
def test_a_record_of_wrong_types_is_refused_and_not_thrown_away(out: Path, name: str, value: Any) -> None:
    unpacked(begin(out))
    forge(record(out, 1), **{name: value})
    refused(out, f"000001.json: the field '{name}' is ")


# -- run.json and records of two runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("changes", [{}, {"scores": ["entropy"]}])
def test_the_run_json_of_another_run_is_refused_before_anything_is_lost(
    out: Path, packed: bool, changes: dict[str, Any]
) -> None:
    other = begin(out.with_name("other"), **changes)
    run = begin(out) if packed else unpacked(begin(out))
    mine = (out / "run.json").read_bytes()
    shutil.copy(other.path / "run.json", out / "run.json")
    says = f"it has the id {other.meta['id']}, but 3 records name the run {run.meta['id']}"
    looks = LOOKS if not changes else LOOKS[:-1]  # the fourth tells of the scores, which differ
    for look in looks:
        with pytest.raises(RunError, match=f"run.json is not of the records beside it: {says}"):
            look(out)
    (out / "run.json").write_bytes(mine)
    assert verify(out) == []
    assert content(go_on(out)) == content(run)


def test_a_grown_pool_does_not_write_into_the_run_json_of_another_run(out: Path) -> None:
    from .fakes import grown

    other = begin(out.with_name("other"))
    begin(out)
    shutil.copy(other.path / "run.json", out / "run.json")
    before = snapshot(out)
    with pytest.raises(RunError, match="is not of the records beside it"):
        score_pool(grown(150), FakeScorer(), out)
    assert snapshot(out) == before


def test_the_array_says_what_run_json_says(out: Path) -> None:
    begin(out)
    file = out / "scores.zarr" / "zarr.json"
    text = file.read_text()
    for old, new in (('"bald"', '"balc"'), ('"separator": "/"', '"separator": "."'), ('"item"', '"iten"')):
        assert old in text
        file.write_text(text.replace(old, new))
        for look in (LOOKS[0], LOOKS[1], LOOKS[3]):
            with pytest.raises(RunError, match=r"zarr.json.* not what run.json says|zarr.json is not what"):
                look(out)
        assert [(one.file, one.why) for one in verify(out)] == [(file, "not what run.json says")]
    file.unlink()
    assert go_on(out).complete
    assert file.read_text() == text


# -- what is lost is told ----------------------------------------------------------------------------------------------


def test_what_is_damaged_is_told_when_it_is_opened_and_when_it_is_scored_again(out: Path) -> None:
    begin(out)
    packed = out / "commits" / "packed.jsonl"
    packed.write_bytes(packed.read_bytes().replace(b'"scored":40', b'"scored":4 ', 1))
    with pytest.warns(UserWarning, match=r"1 damaged place: span 0 \(items 0..39\), .*packed.jsonl: line 1: crc32c"):
        run = Run.open(out)
    assert [str(each.span) for each in run.damaged] == ["span 0 (items 0..39)"]
    assert info(out).facts()["damage"][0]["span"] == 0
    with pytest.warns(UserWarning, match=r"1 damaged place: .*; what is damaged is scored again"):
        go_on(out)


def test_a_span_that_cuts_a_pool_into_too_many_is_refused_before_the_run_is_made(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcscore.run.schema.SPANS_MAX", 3)
    with pytest.raises(RunError, match="cuts 100 items into 5 spans; at most 3 are possible: choose a larger span"):
        score_pool(FakePool(), FakeScorer(), out, span=SPAN // 2)
    assert not (out / "run.json").exists()
    begin(out)


def test_the_checksum_is_of_the_meaning(out: Path) -> None:
    begin(out)
    said = json.loads((out / "run.json").read_bytes())
    (out / "run.json").write_text(json.dumps(dict(reversed(said.items())), indent=4))
    assert verify(out) == []
    assert fields.checksum({"a": 1.0}) != fields.checksum({"a": 1}) != fields.checksum({"a": True})
