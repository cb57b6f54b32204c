"""The real pool, model and scorer."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mcscore import Pool, Scorer, Screen, score_pool
from mcscore.errors import RunError

from .fakes import unpacked


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.drop, self.out = nn.Linear(12, 16), nn.Dropout(0.5), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.hidden(x.flatten(1)).relu()))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(3)
    return Net()


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    items = np.random.default_rng(0).integers(0, 256, (700, 3, 2, 2), np.uint8)
    pool = Pool.create(tmp_path / "pool", items, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    pool.set_labels(np.arange(0, 700, 50), np.zeros(14, int))
    return pool


def test_a_screened_run_leaves_the_scorer_as_it_was(tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "pool", np.random.default_rng(0).random((60, 4), np.float32))
    scorer = Scorer(nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3)), passes=20)
    run = score_pool(pool, scorer, tmp_path / "run", screen=Screen(top=5, passes=4))
    scores = scorer(pool.read(0, 60), np.arange(60))
    assert sorted(scores) == ["bald", "entropy", "prediction"]
    full = np.isfinite(run.scores("bald"))
    np.testing.assert_array_equal(run.scores("bald")[full], scores["bald"].numpy()[full])


def test_a_run_equals_the_scorer_on_the_items(pool: Pool, model: Net, out: Path) -> None:
    run = score_pool(pool, Scorer(model, passes=10), out)
    ids = np.flatnonzero(pool.labels < 0)
    scorer = Scorer(model, passes=10)
    scorer.normalize(pool.mean, pool.std)
    direct = scorer(pool.take(ids), ids)
    for name in ("bald", "entropy"):
        np.testing.assert_allclose(run.scores(name)[ids], direct[name].numpy(), atol=1e-5)
    np.testing.assert_array_equal(run.prediction[ids], direct["prediction"].numpy())
    assert np.isnan(run.scores("bald")[::50]).all()


def test_a_run_that_is_resumed_ends_in_the_same_bits_and_selection(pool: Pool, model: Net, tmp_path: Path) -> None:
    whole = score_pool(pool, Scorer(model, passes=10), tmp_path / "a", span=128)
    shutil.copytree(unpacked(whole).path, tmp_path / "b")
    for span in (0, 2, 3, 5):
        (tmp_path / "b" / "commits" / f"{span:06d}.json").unlink()
        (tmp_path / "b" / "scores.zarr" / "c" / "0" / str(span)).unlink()
    parts = score_pool(
        pool, Scorer(model, passes=10), tmp_path / "b"
    )  # with a plan of its own, if it did not adopt the recorded one
    for name in ("bald", "entropy"):
        assert parts.scores(name).tobytes() == whole.scores(name).tobytes()
    assert parts.prediction.tobytes() == whole.prediction.tobytes()
    one, other = (run.select(5, by="bald") for run in (whole, parts))
    assert one.ids.tolist() == other.ids.tolist()
    assert one.radius == other.radius


def test_a_model_without_dropout_leaves_nothing(pool: Pool, out: Path) -> None:
    with pytest.raises(ValueError, match="dropout"):
        score_pool(pool, Scorer(nn.Sequential(nn.Flatten(), nn.Linear(12, 4))), out)
    assert not out.exists()


def test_other_weights_are_another_model(pool: Pool, model: Net, out: Path) -> None:
    score_pool(pool, Scorer(model, passes=5), out)
    torch.manual_seed(4)
    with pytest.raises(RunError, match=r"started with model\.fingerprint="):
        score_pool(pool, Scorer(Net(), passes=5), out)
    with pytest.raises(RunError, match="started with passes=5, now 6"):
        score_pool(pool, Scorer(model, passes=6), out)
    with pytest.raises(RunError, match="started with seed=0, now 1"):
        score_pool(pool, Scorer(model, passes=5, seed=1), out)


def test_items_that_break_the_model_are_named_and_never_selected(tmp_path: Path, model: Net) -> None:
    items = np.random.default_rng(0).random((300, 12), np.float32)
    items[[7, 250], 3] = np.nan
    pool = Pool.create(tmp_path / "floats", items)
    with pytest.warns(UserWarning, match=r"2 of 300 items have no finite score \(ids 7, 250\)"):
        run = score_pool(pool, Scorer(model, passes=5), tmp_path / "run")
    assert run.nonfinite_ids.tolist() == [7, 250]
    everything = run.select(298, by="bald", diversity="none").ids
    assert np.setdiff1d(np.arange(300), everything).tolist() == [7, 250]
