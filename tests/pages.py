"""Runs what a page of the documentation shows: files that are titled, commands in a shell, or the one program of a recipe."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


def run_commands(page: Path, folder: Path) -> str:
    """Write the page's files into the folder and run its commands there. Returns what they print."""
    (folder / "bin").mkdir()
    for command, code in (("python", '"$@"'), ("mcscore", '-m mcscore.cli "$@"')):
        script = folder / "bin" / command
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {code}\n')
        script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{folder}",
        "OMP_NUM_THREADS": "1",
    }
    printed = ""
    for language, title, text in BLOCK.findall(page.read_text()):
        if title:
            (folder / title).write_text(text)
        elif language == "sh":
            done = subprocess.run(
                ["sh", "-euc", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            printed += done.stdout
    return printed


def run_recipe(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the one program of a recipe in this process. Returns what it prints; mcscore must find nothing wrong with its model."""
    ((_, title, text),) = BLOCK.findall((ROOT / "docs" / "recipes" / f"{name}.md").read_text())
    (folder / title).write_text(text)
    monkeypatch.chdir(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="this does not look right")
        runpy.run_path(title, run_name="__main__")
    return capsys.readouterr().out
