"""What a run tells those who keep logs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from mcscore.errors import RunError
from mcscore.events import event

from .fakes import SPAN, N, begin, fail_at, go_on, unpacked


def told(log: pytest.LogCaptureFixture, *names: str) -> list[Any]:
    """The events with some of their fields, in order."""
    records = [record for record in log.records if record.name.startswith("mcscore")]
    log.clear()
    return [(record.event, *(record.fields.get(name) for name in names)) for record in records]


def test_a_run_tells_how_it_begins_what_it_commits_and_how_it_ends(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mcscore")
    with pytest.raises(RunError):
        begin(out, on_block=fail_at(85))
    assert told(caplog, "done", "span", "items") == [
        ("run made", 0, None, N),
        ("plan chosen", None, None, None),
        ("span committed", None, 0, SPAN),
        ("span committed", None, 1, SPAN),
    ]
    run = go_on(out)
    assert {record.fields["run"] for record in caplog.records} == {run.header.id}
    assert told(caplog, "done", "spans_done", "span") == [
        ("run resumed", 80, 2, None),
        ("plan adopted", None, None, None),
        ("span committed", None, None, 2),
        ("run complete", N, 3, None),
    ]
    (unpacked(run).path / "commits" / "000001.json").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="is scored again"):
        go_on(out)
    (damage,) = [record for record in caplog.records if record.event == "damage repaired"]
    assert damage.levelno == logging.WARNING
    assert [each["span"] for each in damage.fields["damage"]] == [1]
    assert f"damage repaired run={run.header.id} path={out}" in damage.getMessage()


def test_where_nobody_listens_no_record_is_made(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(logging.Logger, "makeRecord", lambda *args, **_more: made.append(args[1]))
    begin(out)
    event("mcscore.of_a_test", "nothing")
    assert [name for name in made if name.startswith("mcscore")] == []


def test_warnings_reach_no_stream_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    event("mcscore.of_a_test", "worker ended", logging.WARNING, worker=1)
    assert capsys.readouterr() == ("", "")
