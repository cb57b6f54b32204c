"""A model file that exits, prints, changes the directory or was edited: what the verbs say of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from .conftest import Command, answer

NET = """
    import os, sys, subprocess
    import torch
    from torch import nn

    SCALE = 255.0
    CALLS = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))
        def forward(self, x):
            # in forward
            return self.net(x)

    def transform(x):
        # in transform
        return x.float() / SCALE

    def build():
        # in build
        torch.manual_seed(0)
        return Net(), transform
    # at the end
"""
FAST = ("--passes", 10, "--scores", "bald", "--quiet")
PLACES = ["in forward", "in transform", "in build", "at the end"]
SUBJECTS = {
    "in forward": "the forward pass of Net of {file}:build or its transform ended the program: sys.exit(0)",
    "in transform": "the forward pass of Net of {file}:build or its transform ended the program: sys.exit(0)",
    "in build": "{file}:build ended the program: sys.exit(0)",
    "at the end": "model file {file}, when imported, ended the program: sys.exit(0)",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mcscore: Command) -> Path:
    """A folder of its own, which is the working directory."""
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path / "user")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path / "user"


def write(folder: Path, place: str = "", line: str = "", name: str = "net") -> Path:
    text = textwrap.dedent(NET)
    if place:
        assert f"# {place}" in text
        text = text.replace(f"# {place}", line)
    (folder / f"{name}.py").write_text(text)
    return folder / f"{name}.py"


@pytest.mark.parametrize("place", PLACES)
def test_an_exit_with_code_0_is_a_failure_that_names_the_place(
    mcscore: Command, pool: Path, folder: Path, place: str
) -> None:
    file = write(folder, place, "sys.exit(0)")
    told = mcscore("score", pool, "--model", "net.py:build", *FAST, "--out", "run", "--json")
    assert told.exit_code == 1
    assert SUBJECTS[place].format(file=file) in answer(told)["message"]
    assert not (folder / "run").exists()


def test_an_exit_at_a_later_call_names_what_is_done(mcscore: Command, pool: Path, folder: Path) -> None:
    write(folder, "in forward", "CALLS.append(1) if len(x) > 3 else None; len(CALLS) > 2 and sys.exit()")
    command = (
        "score",
        pool,
        "--model",
        "net.py:build",
        *FAST,
        "--out",
        "run",
        "--span",
        64,
        "--check",
        "off",
        "--json",
    )
    told = mcscore(*command)
    assert told.exit_code == 1
    assert "ended the program: sys.exit()" in answer(told)["message"]
    assert "of 500 items are done; score into the same directory to resume" in answer(told)["message"]


def test_an_exit_of_clicks_is_a_failure_too(mcscore: Command, pool: Path, folder: Path) -> None:
    write(folder, "in transform", "import click; raise click.exceptions.Exit(0)")
    told = mcscore("score", pool, "--model", "net.py:build", *FAST, "--out", "run", "--json")
    assert told.exit_code == 1
    assert "ended a command of its own" in answer(told)["message"]


def test_plan_and_select_fence_the_model_too(mcscore: Command, pool: Path, folder: Path) -> None:
    write(folder)
    assert mcscore("score", pool, "--model", "net.py:build", *FAST, "--out", "run").exit_code == 0
    write(folder, "in build", "sys.exit(0)")
    for words in (("plan", pool, "--model", "net.py:build"), ("select", "run", "-k", 3, "--model", "net.py:build")):
        told = mcscore(*words)
        assert told.exit_code == 1
        assert "ended the program: sys.exit(0)" in told.stderr


@pytest.mark.parametrize("into_log", [False, True])
def test_json_is_one_object_whatever_the_model_prints(pool: Path, folder: Path, into_log: bool) -> None:
    places = ["print('loaded')", "os.system('echo from a shell')", "os.write(1, b'by number\\n')"]
    places += ["__import__('atexit').register(print, 'at the end')"]
    # More than a pipe holds, printed while no other thread of the process can run.
    places += ["__import__('ctypes').PyDLL(None).printf(b'%s\\n', b'x' * 200_000)"]
    write(folder, "in build", "; ".join(places))
    verb = ["score", str(pool), "--model", "net.py:build", "--out", "run", "--json", *["--log-json"] * into_log]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "mcscore.cli", *verb, *map(str, FAST)]
    told = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["complete"] is True
    assert all(text in told.stderr for text in ("loaded", "from a shell", "by number", "at the end", "x" * 2000))
    if into_log:
        events = [json.loads(line) for line in told.stderr.splitlines()]
        printed = [event["message"] for event in events if event["event"] == "output"]
        assert {"loaded", "from a shell", "by number", "at the end"} < set(printed)
        assert sum(text.count("x") for text in printed) % 200_000 == 0
        assert "run complete" in {event["event"] for event in events}


@pytest.mark.parametrize("place", PLACES)
def test_a_model_that_changes_the_directory_writes_into_no_other_run(
    mcscore: Command, pool: Path, folder: Path, place: str
) -> None:
    away = folder.parent / "away"
    away.mkdir()
    write(away)
    os.chdir(away)
    assert mcscore("score", pool, "--model", "net.py:build", *FAST, "--out", "run", "--seed", 1).exit_code == 0
    before = {file: file.read_bytes() for file in away.rglob("*") if file.is_file()}
    os.chdir(folder)
    write(folder, place, f"os.chdir({str(away)!r})")
    told = mcscore("score", pool, "--model", "net.py:build", *FAST, "--out", "run", "--json")
    assert told.exit_code == 0, told.stderr
    assert answer(told)["run"] == str(folder / "run")
    assert {file: file.read_bytes() for file in away.rglob("*") if file.is_file()} == before
    assert Path.cwd() == folder


def test_the_same_command_after_an_edit_is_refused_until_the_edit_is_accepted(
    mcscore: Command, pool: Path, folder: Path
) -> None:
    file = write(folder)
    command = ("score", pool, "--model", "net.py:build", *FAST, "--out", "run", "--json")
    assert answer(mcscore(*command))["not_compared"] == []
    file.write_text(file.read_text().replace("SCALE = 255.0", "SCALE = 1.0"))
    refused = mcscore(*command)
    assert refused.exit_code == 1
    assert "was scored with other code: value of SCALE (net.py). Undo the edit" in answer(refused)["message"]
    assert "--accept-edited-code" in answer(refused)["message"]
    assert mcscore(*command, "--accept-edited-code").exit_code == 0


def test_select_runs_a_recorded_file_only_if_it_is_the_one_that_was_run(
    mcscore: Command, pool: Path, folder: Path
) -> None:
    file = write(folder)
    assert mcscore("score", pool, "--model", "net.py:build", *FAST, "--out", "run").exit_code == 0
    assert mcscore("select", "run", "-k", 3).exit_code == 0
    file.write_text(file.read_text() + f"\nopen({str(folder / 'was here')!r}, 'w').close()\n")
    told = mcscore("select", "run", "-k", 3)
    assert told.exit_code == 1
    assert f"{file} has changed since" in told.stderr
    assert f"give --model {file}:build to run it as it is now" in told.stderr
    assert not (folder / "was here").exists()
    assert mcscore("select", "run", "-k", 3, "--model", f"{file}:build").exit_code == 0
    assert (folder / "was here").exists()
    file.write_text(file.read_text().replace("self.net(x)", "self.net(x * 2)"))
    told = mcscore("select", "run", "-k", 3, "--model", f"{file}:build")
    assert told.exit_code == 1
    assert "was scored with other code: source of Net.forward (net.py)" in told.stderr
    assert mcscore("select", "run", "-k", 3, "--model", f"{file}:build", "--accept-edited-code").exit_code == 0


def test_select_does_not_run_what_a_run_without_a_hash_names(mcscore: Command, pool: Path, folder: Path) -> None:
    file = write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcscore.scorer.model_spec.spec_sha256", lambda _spec: None)
        assert mcscore("score", pool, "--model", "net.py:build", *FAST, "--out", "run").exit_code == 0
    told = mcscore("select", "run", "-k", 3)
    assert told.exit_code == 1
    assert "its hash was not recorded" in told.stderr
    assert mcscore("select", "run", "-k", 3, "--model", str(file) + ":build").exit_code == 0
    assert np.isfinite(answer(mcscore("select", "run", "-k", 3, "--diversity", "none", "--json"))["scores"]).all()


SCORE = """
    import torch, mcscore
    from torch import nn

    def gini(means, likelihood):
        return 1 - means["p"].square().sum(-1)

    mcscore.register_score("gini", finish=gini, moments=["p"], text="1 - sum of p squared")

    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))
"""


def test_a_score_that_the_model_file_registers_is_a_score_of_every_verb(
    mcscore: Command, pool: Path, project: Path
) -> None:
    pytest.importorskip("matplotlib")
    from mcscore import SCORES

    (project / "own.py").write_text(textwrap.dedent(SCORE))
    words = ("score", pool, "--model", "own.py:build", "--out", "own", "--passes", 5, "--quiet", "--check", "off")
    try:
        done = mcscore(*words, "--scores", "gini,bald", "--json")
        assert done.exit_code == 0, done.stderr
        assert mcscore(*words, "--scores", "gini,bold").exit_code == 2
    finally:
        del SCORES["gini"]  # other verbs are other processes
    chosen = answer(mcscore("select", "own", "-k", 4, "--by", "gini", "--diversity", "none", "--json"))
    assert (chosen["by"], chosen["k"]) == ("gini", 4)
    assert mcscore("report", "own").exit_code == 0
    assert "gini" in (project / "own" / "report.html").read_text()
    assert "gini" not in SCORES
    said = mcscore("select", "own", "-k", 4, "--by", "margin", "--diversity", "none")
    assert said.exit_code == 1
    assert "has no score 'margin'; choose from gini, bald" in said.stderr
