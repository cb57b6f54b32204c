"""What a verb says, where, and with which exit code."""

from __future__ import annotations

import json
import warnings

import click
import pytest
from click.testing import CliRunner

from mcscore.cli import terminal
from mcscore.cli.terminal import Group, as_json, emit, progress_line


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


def test_progress_off_a_terminal_is_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with progress_line(passes=50, quiet=False) as show:
        assert show is not None
        for done in range(1000, 2001, 10):  # an earlier attempt had done 1,000; now ten items a second
            show(done, 3000)
            now[0] += 1.0
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "1,100 of 3,000 items, 10 items/s, 500 passes/s, 3 min left"


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_line(passes=50, quiet=True) as show:
        assert show is None
    assert capsys.readouterr() == ("", "")
