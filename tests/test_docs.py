"""What the documentation shows is what works: the tutorial is run block by block, and every relative link leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(ROOT.glob("docs/*.md")) + [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


def test_the_tutorial_runs_from_top_to_bottom(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / "bin").mkdir()
    for command, code in (("python", '"$@"'), ("mcscore", '-m mcscore.cli "$@"')):
        script = tmp_path / "bin" / command
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {code}\n')
        script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
        "OMP_NUM_THREADS": "1",
    }
    printed = ""
    for language, title, text in BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text()):
        if title:
            (tmp_path / title).write_text(text)
        elif language == "sh":
            done = subprocess.run(
                ["sh", "-euc", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            printed += done.stdout
    first, second = (float(share) for share in re.findall(r"labels: ([\d.]+)% correct", printed))
    assert re.findall(r"(\d+) labels:", printed) == ["20", "60"]
    assert second > first
    assert (tmp_path / "runs/1/report.html").stat().st_size > 10_000
    assert (tmp_path / "runs/2/selection-0001.parquet").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for language, _, text in BLOCK.findall((ROOT / "docs" / "notebook.md").read_text()):
        if language == "python":
            exec(text, names)
    assert (len(names["best"]), len(names["chosen"])) == (10, 10)
    assert names["found"].mean.shape == (16, 10)
    assert names["p_TBC"].shape == (50, 16, 10)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
