"""Every script in examples/ runs as a user would run it, and prints what it says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import mcscore

from .pool.helpers import small_pool
from .pool.test_remote import Publish, bucket, s3_server  # noqa: F401  (fixtures)

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    tested = Path(__file__).read_text()
    assert [file.stem for file in EXAMPLES.glob("*.py") if f'load("{file.stem}")' not in tested] == []


def test_a_dataset_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    ids = load("own_dataset").main(k=7)
    assert len(set(ids.tolist())) == 7
    assert capsys.readouterr().out.count("bald") == 7


def test_an_ensemble(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    scores = load("ensemble").main(members=3)
    assert len(scores["bald"]) == 1697
    wrong, right = (float(part.split()[-1].rstrip(",")) for part in capsys.readouterr().out.splitlines()[1].split(", "))
    assert wrong > 2 * right


def test_a_pool_in_an_object_store(bucket: Publish, tmp_path: Path) -> None:  # noqa: F811
    small_pool(tmp_path / "pool.zarr")
    run = load("s3_pool").main(bucket(tmp_path / "pool.zarr"), str(tmp_path / "run"))
    assert run.scored == 50
    assert np.isfinite(run.scores("bald")).all()


@pytest.fixture
def catalog() -> Iterator[None]:
    """What a test adds to the catalog is gone after it."""
    rows = dict(mcscore.SCORES)
    yield
    mcscore.SCORES.clear()
    mcscore.SCORES.update(rows)


@pytest.mark.usefixtures("catalog")
def test_a_score_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    module = load("custom_score")
    ids = module.main(k=5)
    assert capsys.readouterr().out.count("vote entropy") == 5
    logits_TBC = torch.randn(30, 40, 6)
    got = mcscore.score_logits(logits_TBC, ("vote_entropy",))["vote_entropy"]
    truth = module.oracle(logits_TBC.double().softmax(-1), "categorical")
    torch.testing.assert_close(got.double(), truth, rtol=1e-6, atol=1e-6)
    assert len(set(ids.tolist())) == 5


def test_scripts_start_from_a_shell() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLES / "s3_pool.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--endpoint" in done.stdout
