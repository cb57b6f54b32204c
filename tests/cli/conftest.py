"""A small project of a user's: real digits as an array file, a model file, its weights, and a way to give commands."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_model
from torch.nn.functional import cross_entropy

NET = """
    from torch import nn

    def build():
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 16), nn.Dropout(0.5), nn.Linear(16, 10)
        )
"""
ITEMS, LABELED = 500, 40
MODEL = ("--model", "net.py:build", "--weights", "net.safetensors")
FAST = ("--passes", 20, "--quiet")


def _trained(net: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> torch.nn.Module:
    x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels).long()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with digits.npy (500, 8, 8), labels.npy (the first 40 known), net.py, net.safetensors and net.pt."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = np.rint(digits.images[:ITEMS] * (255 / 16)).astype(np.uint8)
    labels = np.full(ITEMS, -1, np.int32)
    labels[:LABELED] = digits.target[:LABELED]
    folder = tmp_path_factory.mktemp("project")
    np.save(folder / "digits.npy", images)
    np.save(folder / "labels.npy", labels)
    (folder / "net.py").write_text(textwrap.dedent(NET))
    names: dict[str, Any] = {}
    exec(compile(textwrap.dedent(NET), "net.py", "exec"), names)
    torch.manual_seed(0)
    net = _trained(names["build"](), images[:LABELED], labels[:LABELED])
    save_model(net, str(folder / "net.safetensors"))
    torch.save(net.state_dict(), folder / "net.pt")
    return folder


Command = Callable[..., Result]


@pytest.fixture
def mcscore(project: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """mcscore("pool", "info", "x") as given in the project's directory; the result has exit_code, stdout, stderr."""
    from mcscore.cli import main

    monkeypatch.chdir(project)
    monkeypatch.delenv("MCSCORE_TRACEBACK", raising=False)

    def give(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words], prog_name="mcscore")

    return give


@pytest.fixture(scope="session")
def pool(project: Path) -> Path:
    """The digits as a pool."""
    from mcscore.ingest.arrays import import_array

    path = project / "pool.zarr"
    import_array(project / "digits.npy", path, labels=project / "labels.npy", layout="hw", classes=list("0123456789"))
    return path


def answer(result: Result) -> dict[str, Any]:
    """The one JSON object on stdout, and nothing else there."""
    return json.loads(result.stdout)
