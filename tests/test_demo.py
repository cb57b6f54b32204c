"""The demo runs the cycle on real digits."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from mcscore.demo import _draw, load_digits, main


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
