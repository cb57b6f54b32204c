"""Recipes of the documentation that need other packages run as they are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ..pages import ROOT, run_commands, run_recipe


@pytest.mark.parametrize(
    ("name", "package", "site"), [("huggingface", "transformers", "attention"), ("timm", "timm", "drop_path")]
)
def test_a_recipe_for_images(
    name: str,
    package: str,
    site: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(package)
    pytest.importorskip("sklearn")
    printed = run_recipe(name, tmp_path, monkeypatch, capsys)
    assert site in printed
    assert len(set(json.loads(re.findall(r"to label: (.*)", printed)[0]))) == 20


def test_a_recipe_for_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    printed = run_recipe("text", tmp_path, monkeypatch, capsys)
    numbers = [int(number) for number in re.findall(r"to label: (\d+): \w+ ", printed)]
    assert len(set(numbers)) == 5
    assert min(numbers) >= 30


def test_a_recipe_for_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("sklearn")
    (tmp_path / "sitecustomize.py").write_text(  # as conftest.py for this process
        "from tests.zoo.torchvision_operators import declare_missing\n\ndeclare_missing()\n"
    )
    run_commands(ROOT / "docs" / "recipes" / "lightning.md", tmp_path)
    (selection,) = (tmp_path / "run").glob("selection*.parquet")
    assert selection.stat().st_size > 1000
