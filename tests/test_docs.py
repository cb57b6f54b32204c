"""What the documentation shows is what works: tutorial, notebook and recipes are run, and every relative link leads somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .pages import BLOCK, ROOT, run_commands, run_recipe

PAGES = sorted(ROOT.glob("docs/**/*.md")) + [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]


def test_the_tutorial_runs_from_top_to_bottom(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    printed = run_commands(ROOT / "docs" / "tutorial.md", tmp_path)
    first, second = (float(share) for share in re.findall(r"labels: ([\d.]+)% correct", printed))
    assert re.findall(r"(\d+) labels:", printed) == ["20", "60"]
    assert second > first
    assert (tmp_path / "runs/1/report.html").stat().st_size > 10_000
    assert (tmp_path / "runs/2/selection-0001.parquet").exists()


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    cells = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())["cells"]
    names: dict = {}
    with matplotlib.rc_context({"backend": "agg"}):
        for cell in cells:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
        matplotlib.pyplot.close("all")
    assert names["before"] < names["after"]
    assert len(set(names["chosen"].ids)) == 40
    assert not set(names["chosen"].ids) & set(names["first"])


def test_a_recipe_for_segmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    printed = run_recipe("segmentation", tmp_path, monkeypatch, capsys)
    ids = json.loads(re.findall(r"to draw: (.*)", printed)[0])
    assert len(set(ids)) == 10
    assert min(ids) >= 50
    assert all(0 <= pixel < 256 for pixel in json.loads(re.findall(r"least sure pixel: (.*)", printed)[0]))


def test_a_recipe_for_regression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    printed = run_recipe("regression", tmp_path, monkeypatch, capsys)
    ids = json.loads(re.findall(r"to measure: (.*)", printed)[0])
    assert len(set(ids)) == 20
    assert min(ids) >= 60
    assert float(re.findall(r"passes: ([\d.]+)", printed)[0]) < 0.95  # 1 is the error of the mean target


def test_a_recipe_for_bandits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    printed = run_recipe("bandits", tmp_path, monkeypatch, capsys)
    first, last = (int(each) for each in re.findall(r"100: (\d+)", printed))
    assert last < first - 10


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
