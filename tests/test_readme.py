"""What the README shows is what works: its commands and its ten lines are taken from the page and run."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from mcscore import Pool
from mcscore.cli import main

README = Path(__file__).resolve().parents[1] / "README.md"
NET = """
import torch.nn as nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.25), nn.Linear(144, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10)
    )
"""


def block(language: str, holding: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)
    (found,) = [text for text in blocks if holding in text]
    return found


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that the README speaks of."""
    (tmp_path / "net.py").write_text(NET)
    namespace: dict = {}
    exec(NET, namespace)
    save_file(namespace["build"]().state_dict(), tmp_path / "net.safetensors")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8))
    (tmp_path / "labels.csv").write_text("id,label\n3,1\n7,0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "net", raising=False)  # of another test
    return tmp_path


def test_the_commands(there: Path) -> None:
    commands = [line.partition("#")[0] for line in block("sh", "mcscore pool import").splitlines()]
    assert [command.split()[1] for command in commands] == [
        "pool",
        "score",
        "select",
        "report",
        "run",
        "export",
        "pool",
    ]
    for command in commands:
        result = CliRunner().invoke(main, shlex.split(command)[1:])
        assert result.exit_code == 0, (command, result.output)
    assert (there / "runs/a/report.html").stat().st_size > 10_000
    assert (there / "runs/a/selection-0001.parquet").exists()
    assert (Pool.open("pool.zarr").labels >= 0).sum() == 2
    again = CliRunner().invoke(main, [*shlex.split(commands[2])[1:], "--json"])
    assert len(json.loads(again.stdout)["ids"]) == 50


def test_the_ten_lines(there: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2000, 1, 8, 8), dtype=np.uint8)
    np.save(there / "images.npy", images)
    assert CliRunner().invoke(main, ["pool", "import", "images.npy", "pool.zarr"]).exit_code == 0
    names = {"images": images[:20], "ids": np.arange(20), "ask_people": lambda ids: np.zeros(len(ids), np.int32)}
    exec(block("python", "import mcscore"), names)
    assert names["scores"]["bald"].shape == (20,)
    assert len(names["chosen"].ids) == 1000
    assert (names["pool"].labels == 0).sum() == 1000
    torch.testing.assert_close(
        torch.from_numpy(names["run"].scores("bald")[:20]), names["scores"]["bald"], atol=2e-6, rtol=0
    )


def test_a_package_index_shows_no_path_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nanobind")
    monkeypatch.chdir(README.parent)
    long_description = runpy.run_path("setup.py", run_name="setup")["long_description"]
    text = README.read_text()
    paths = re.findall(r"\]\((?!https?://|#)[^)]+\)", text)
    assert len(paths) > 20
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2"\n')
    assert re.findall(r"\]\((?!https?://|#)[^)]+\)", long_description()) == []
    assert "docs/report.png" not in long_description()
    assert "docs/screening.md" in long_description()
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nversion = "1.2"\nurls = { Repository = "https://forge.test/o/mcscore/" }\n'
    )
    linked = long_description()
    assert linked.count("](https://forge.test/o/mcscore/") == len(paths)
    assert "](https://forge.test/o/mcscore/raw/v1.2/docs/report.png)" in linked
    assert "](https://forge.test/o/mcscore/blob/v1.2/docs/models.md#does-this-look-right)" in linked
