"""What a verb says, where, and with which exit code."""

from __future__ import annotations

import json
import logging
import warnings
from datetime import datetime

import click
import pytest
from click.testing import CliRunner

from mcscore.cli import progress
from mcscore.cli.progress import progress_line, reporting
from mcscore.cli.terminal import Group, as_json, echo, emit


@click.group(cls=Group)
def group() -> None:
    pass


@group.command()
@as_json
@click.argument("kind")
def verb(kind: str) -> None:
    if kind == "done":
        emit({"a": 1}, "one", "two")
    elif kind.startswith("warn"):
        warnings.warn(f"beware {kind}", stacklevel=1)
        if kind == "warn and fail":
            raise ValueError("no")
        emit({"a": 1}, "one")
    elif kind == "ctrl-c":
        raise KeyboardInterrupt
    elif kind == "value":
        raise ValueError("two\nlines")
    elif kind == "name":
        raise ValueError("\x1b[2J \udcff.png")
    elif kind == "names":
        emit({"name": "\udcff"}, "a\x07", "\udcff.png")
    elif kind == "file":
        raise FileNotFoundError(2, "No such file or directory", "x.npy")
    else:
        raise ZeroDivisionError("a fault")


@pytest.mark.parametrize(
    ("kind", "code", "says"),
    [
        ("ctrl-c", 1, "mcscore: interrupted\n"),
        ("value", 1, "mcscore: two lines\n"),
        ("name", 1, "mcscore: \\x1b[2J \\udcff.png\n"),
        ("file", 1, "mcscore: x.npy: No such file or directory\n"),
        ("fault", 1, "mcscore: ZeroDivisionError: a fault (MCSCORE_TRACEBACK=1 shows where)\n"),
    ],
)
def test_what_a_verb_raises_becomes_one_sentence(kind: str, code: int, says: str) -> None:
    result = CliRunner().invoke(group, ["verb", kind])
    assert (result.exit_code, result.stderr, result.stdout) == (code, says, "")
    told = json.loads(CliRunner().invoke(group, ["verb", kind, "--json"]).stdout)
    assert told["exit_code"] == code


def test_answer_is_lines_or_one_object() -> None:
    assert CliRunner().invoke(group, ["verb", "done"]).stdout == "one\ntwo\n"
    assert json.loads(CliRunner().invoke(group, ["verb", "done", "--json"]).stdout) == {"a": 1}


def test_a_name_neither_drives_the_terminal_nor_fails_to_be_printed() -> None:
    assert CliRunner().invoke(group, ["verb", "names"]).stdout == "a\\x07\n\\udcff.png\n"
    assert json.loads(CliRunner().invoke(group, ["verb", "names", "--json"]).stdout) == {"name": "\udcff"}


def test_warnings_are_on_stderr_and_in_the_object() -> None:
    result = CliRunner().invoke(group, ["verb", "warn", "--json"])
    assert result.stderr == "mcscore: warning: beware warn\n"
    assert json.loads(result.stdout) == {"a": 1, "warnings": ["beware warn"]}
    told = json.loads(CliRunner().invoke(group, ["verb", "warn and fail", "--json"]).stdout)
    assert (told["message"], told["warnings"]) == ("no", ["beware warn and fail"])
    assert CliRunner().invoke(group, ["verb", "warn"]).stdout == "one\n"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still unless a test changes it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_progress_off_a_terminal_is_a_line_every_ten_seconds_and_at_the_end(
    now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_line(passes=50) as show:
        for done in range(1000, 2006, 10):  # an earlier attempt had done 1,000; now ten items a second
            show(done, 3000)
            now[0] += 1.0
    out, err = capsys.readouterr()
    assert out == ""
    stamps, lines = zip(*(line.split(" ", 1) for line in err.splitlines()), strict=True)
    assert all(datetime.fromisoformat(stamp).tzinfo is not None for stamp in stamps)
    assert len(lines) == 11
    assert lines[0] == "1,100 of 3,000 items, 10 items/s, 500 passes/s, 3 min left"
    assert lines[-1] == "2,000 of 3,000 items in 2 min, 10 items/s, 495 passes/s"


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_line(passes=50, quiet=True) as show:
        show(1, 2)
    assert capsys.readouterr() == ("", "")


@group.command()
@reporting
@as_json
def work() -> None:
    with progress_line(None, unit="rows") as show:
        show.stage("sorting", 1)
        show(0, 4)
        show(4, 4)
        warnings.warn("beware", stacklevel=1)
        echo("a note", err=True)
    raise ValueError("no")


def test_a_log_has_a_json_object_for_progress_warnings_and_errors(now: list[float]) -> None:
    told = CliRunner().invoke(group, ["work", "--log-json"])
    lines = [json.loads(line) for line in told.stderr.splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", "progress"), ("warning", "warning"), ("info", "message"), ("info", "progress"), ("error", "error")
    ]  # fmt: skip
    assert lines[1]["message"] == "beware"
    assert lines[4] | {"time": ""} == {
        "time": "", "level": "error", "event": "error", "message": "no", "kind": "ValueError", "exit_code": 1
    }  # fmt: skip
    ends = lines[3]
    assert [ends[name] for name in ("stage", "done", "total", "unit", "over")] == ["sorting", 4, 4, "rows", True]
    assert logging.getLogger("mcscore").handlers == [
        h for h in logging.getLogger("mcscore").handlers if isinstance(h, logging.NullHandler)
    ]
    assert logging.getLogger("mcscore").level == logging.NOTSET


@pytest.mark.parametrize(
    ("words", "events"),
    [
        (["--log-json", "--progress", "none"], ["warning", "message", "error"]),
        (["--log-json", "--quiet"], ["warning", "message", "error"]),
        (["--progress", "json"], ["progress", "progress"]),
        (["--progress", "none"], []),
    ],
)
def test_progress_is_shown_as_asked_for(words: list[str], events: list[str]) -> None:
    lines = CliRunner().invoke(group, ["work", *words]).stderr.splitlines()
    assert [json.loads(line)["event"] for line in lines if line.startswith("{")] == events


def test_a_bar_is_drawn_where_it_is_asked_for() -> None:
    assert "sorting: 100%" in CliRunner().invoke(group, ["work", "--progress", "bar"]).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verb", "--json"], "Missing argument 'KIND'."),
        (["verb", "done", "--json", "--bogus"], "No such option '--bogus'."),
        (["verbs", "--json"], "No such command 'verbs'. Did you mean 'verb'?"),
        (["--bogus", "--json"], "No such option '--bogus'."),
        (["work", "--progress", "fast", "--json"], "Invalid value for '--progress': 'fast' is not one of 'bar', 'lines', 'json', 'none'."),
    ],
)  # fmt: skip
def test_wrong_usage_is_an_object_too(words: list[str], message: str) -> None:
    told = CliRunner().invoke(group, words)
    assert told.exit_code == 2
    assert (said := json.loads(told.stdout))["exit_code"] == 2
    assert said["message"].rstrip(".").startswith(message.split(" Did")[0].rstrip("."))
    plain = CliRunner().invoke(group, [word for word in words if word != "--json"])
    assert (plain.exit_code, plain.stdout) == (2, "")
    assert plain.stderr.startswith("Usage: ")


def test_words_after_two_dashes_are_no_options() -> None:
    assert CliRunner().invoke(group, ["verb", "--", "--json"]).stdout == ""
