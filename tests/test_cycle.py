"""The cycle acquires what it says, and the demo runs it on real digits."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcscore import Pool, Run
from mcscore.cycle import cycle
from mcscore.demo import _draw, load_digits, main


def small(pool: Pool, labeled: np.ndarray, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 3))


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    items = np.random.default_rng(0).integers(0, 256, (120, 1, 4, 4), dtype=np.uint8)
    Pool.create(tmp_path / "pool.zarr", items)
    pool = Pool.open(tmp_path / "pool.zarr")
    pool.set_labels(np.arange(6), np.zeros(6, np.int32))
    return pool


@pytest.mark.parametrize("by", ["bald", "entropy", None])
def test_every_round_labels_k_new_items(pool: Pool, tmp_path: Path, by: str | None) -> None:
    turns = list(
        cycle(
            pool,
            fit=small,
            evaluate=lambda model: 0.5,
            oracle=lambda ids: (ids % 3).astype(np.int32),
            rounds=3,
            k=5,
            out=tmp_path,
            by=by,
            diversity="none",
            passes=8,
        )
    )
    assert [turn.labels for turn in turns] == [6, 11, 16, 21]
    chosen = np.concatenate([turn.chosen for turn in turns])
    assert len(np.unique(chosen)) == 15
    assert (chosen >= 6).all()
    np.testing.assert_array_equal(Pool.open(pool.path).labels[chosen], chosen % 3)
    assert len(turns[-1].chosen) == 0
    for turn in turns[:-1]:
        if by is None:
            assert turn.run is None
            continue
        run = Run.open(turn.run)
        scores = np.where(np.isin(np.arange(120), turn.chosen), -np.inf, run.scores(by))
        assert np.isfinite(run.scores(by)[turn.chosen]).all()
        assert run.scores(by)[turn.chosen].min() >= np.nanmax(scores)


def test_the_demo_goes_through_the_cycle_and_shows_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    result = main(tmp_path / "out", seeds=1, rounds=2, passes=10, quiet=True)
    printed = capsys.readouterr().out
    assert [row["labels"] for row in result["table"]] == [20, 30, 40]
    assert all(0.2 < row[name] <= 1.0 for row in result["table"] for name in ("bald", "random"))
    for name in ("pool", "report", "curves"):
        assert Path(result[name]).exists()
        assert result[name] in printed
    assert f"{result['table'][-1]['bald']:.1%}" in printed


def test_the_chart_of_the_demo_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    rows = [{"labels": 20.0, "bald": 0.5, "bald_std": 0.1, "random": 0.4, "random_std": 0.1}]
    chart = _draw(rows, tmp_path / "curves.png")
    before = chart.read_bytes()
    assert before.startswith(b"\x89PNG")

    def half(_figure: object, file: Any, **_options: object) -> None:
        with contextlib.nullcontext(file) if hasattr(file, "write") else open(file, "wb") as out:
            out.write(before[:100])
        raise OSError("no space left on the disk")

    monkeypatch.setattr(figures.Figure, "savefig", half)
    with pytest.raises(OSError, match="no space"):
        _draw(rows, chart)
    assert chart.read_bytes() == before
    assert list(tmp_path.iterdir()) == [chart]


def test_the_demo_spares_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(FileExistsError, match="choose another --out"):
        main(tmp_path, quiet=True)
    with pytest.raises(FileExistsError, match="is a file"):
        main(tmp_path / "thesis.tex", quiet=True)
    assert (tmp_path / "thesis.tex").read_text() == "years"


def test_the_digits_are_split_once_and_for_all() -> None:
    pytest.importorskip("sklearn")
    digits = load_digits()
    assert digits.pool_images.shape == (1438, 1, 8, 8)
    assert digits.test_images.shape == (359, 1, 8, 8)
    assert digits.pool_images.max() == 255
    assert sorted(set(digits.pool_labels)) == list(range(10))
