"""run.json and records: what is missing has a default, what is unknown is refused, and a new option ends no old run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mcscore.errors import RunError
from mcscore.fields import sealed
from mcscore.run import Run, schema, score_pool
from mcscore.run.record import Record
from mcscore.run.schema import RunHeader, Settings, read_header
from mcscore.run.spans import Span
from mcscore.run.status import verify

from .fakes import FakePool, FakeScorer, begin, content, fail_at, go_on, reheader, unpacked
from .made_up import tiny_scorer
from .test_resume import forge, record, said_by


def test_the_settings_are_those_that_a_scorer_describes() -> None:
    described = tiny_scorer().describe()
    assert {field.name for field in dataclasses.fields(Settings)} == set(described)
    assert {field.name.rstrip("_") for field in dataclasses.fields(schema.Model)} == set(described["model"])
    assert json.loads(json.dumps(schema.to_json(Settings.of_scorer(described)))) == json.loads(json.dumps(described))


def test_a_header_is_read_as_it_was_written(out: Path) -> None:
    begin(out)
    header = read_header(out)
    assert RunHeader.from_json(json.loads(json.dumps(header.to_json())), out / "run.json") == header
    assert json.loads((out / "run.json").read_bytes()) == sealed(header.to_json())


def test_fields_that_are_missing_have_their_defaults(out: Path, undisturbed: dict[str, bytes]) -> None:
    begin(out)
    gone = ("labeled", "grown", "masks", "input", "noise_variance", "channels_last", "compile", "weight_dropout")
    reheader(out, **dict.fromkeys(gone, ...))
    assert Run.open(out).meta["masks"] == "independent"
    assert content(go_on(out)) == undisturbed
    with pytest.raises(RunError, match='started with masks="independent", now "shared"'):
        go_on(out, masks="shared")


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version of mcscore, which has one more option, with a default."""
    later = dataclasses.make_dataclass(
        "Settings", [("temperature", float, 1.0)], bases=(Settings,), frozen=True, kw_only=True
    )
    monkeypatch.setattr(schema, "Settings", later)


def test_an_option_that_is_added_later_does_not_end_an_old_run(
    out: Path, undisturbed: dict[str, bytes], request: pytest.FixtureRequest
) -> None:
    with pytest.raises(RunError):
        begin(out, on_block=fail_at(45))
    request.getfixturevalue("newer")
    with pytest.raises(RunError, match=r"started with temperature=1\.0, now 2\.0"):
        go_on(out, temperature=2.0)
    assert content(go_on(out, temperature=1.0)) == undisturbed
    assert Run.open(out).meta["temperature"] == 1.0


def test_a_run_with_an_option_of_a_newer_version_is_refused(
    out: Path, monkeypatch: pytest.MonkeyPatch, newer: None
) -> None:
    begin(out, temperature=2.0)
    monkeypatch.undo()
    for look in (Run.open, verify, go_on):
        with pytest.raises(RunError, match="unknown field 'temperature': it was written by a newer mcscore"):
            look(out)


def test_a_setting_that_the_schema_does_not_know_is_refused_before_anything_is_written(out: Path) -> None:
    with pytest.raises(
        RunError, match=r"Scorer.describe\(\) has the unknown field 'temperature': add it with its default"
    ):
        begin(out, temperature=2.0)
    assert not out.exists()


def test_a_record_of_a_newer_version_is_refused_and_not_thrown_away(out: Path) -> None:
    unpacked(begin(out))
    forge(record(out, 1), screened=3)
    before = record(out, 1).read_bytes()
    looks: list[Any] = [Run.open, verify, lambda path: score_pool(FakePool(), FakeScorer(), path)]
    for look in looks:
        with pytest.raises(RunError, match=r"000001\.json has the unknown field 'screened': it was written by a newer"):
            look(out)
    assert record(out, 1).read_bytes() == before


def test_records_are_read_as_they_were_written(out: Path) -> None:
    full = Record(
        run="0" * 32,
        span=Span(3, 120, 150),
        scored=25,
        crc32c=(1, 2**32 - 1, 3),
        nonfinite_ids=(121, 140),
        unreadable=((122, 124), (130, 131)),
        seconds=1.25,
        hardware=1,
        plan={"items": 1, "passes": 50},
    )
    for one in (full, Record(run="1" * 32, span=Span(0, 0, 40), scored=40, crc32c=(0, 0, 0))):
        assert Record.from_json(json.loads(json.dumps(one.to_json())), out) == one
    unpacked(begin(out))
    assert set(said_by(record(out, 0))) == {"run", "span", "start", "n", "scored", "crc32c", "seconds"}
    said = said_by(record(out, 0))
    del said["crc32c"]
    with pytest.raises(RunError, match="lacks the field 'crc32c'"):
        Record.from_json(said, out)
