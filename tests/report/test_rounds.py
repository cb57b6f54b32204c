"""Rounds compared, and the curves of cycles: the numbers are those of the runs and of the rounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mcscore import Pool, Run
from mcscore.cli import main
from mcscore.cycle import Curve, cycles, read_cycle
from mcscore.errors import RunError
from mcscore.report.curves import Line, Point, advantage, labels_to_reach, lines_of
from mcscore.report.cycle_page import cycle_view, write_cycle_report
from mcscore.report.rounds import TOP, rounds_tables

from ..cycle.conftest import ARGUMENTS, N

METHODS: dict[str, Any] = {"top": {"select": {"by": "bald", "diversity": "none"}}, "random": {"select": "random"}}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Two methods and two seeds; where they are, and their rounds."""
    folder = tmp_path_factory.mktemp("curves")
    items = np.random.default_rng(0).integers(0, 256, (N, 1, 4, 4), dtype=np.uint8)
    pool = Pool.create(folder / "pool", items, classes=["ant", "bee", "<i>"])
    given = {**ARGUMENTS, "rounds": 2, "start": lambda seed: [seed, 5, 9]}
    del given["select"]
    return folder / "all", cycles(pool, methods=METHODS, seeds=[0, 1], out=folder / "all", **given)


def test_rounds_are_told_as_the_runs_have_them(done: tuple[Path, dict[str, Any]]) -> None:
    folder, results = done
    turns = results["top"][0]
    pool = Pool.open(folder / "top/seed-0/pool")
    runs = [Run.open(turn.run) for turn in turns[:2]]
    found = rounds_tables(runs[::-1], pool)
    labels, predicted = pool.labels, [run.prediction for run in runs]
    for row, turn, run, says in zip(found["rounds"], turns, runs, predicted, strict=False):
        assert (row["name"], row["scored"], row["selected"], row["labeled"]) == (run.path.name, N - turn.labels, 5, 5)
        assert row["accuracy"] == (says == labels)[turn.chosen].mean()
        since = (labels >= 0) & (says >= 0)
        assert (row["later"], row["later_accuracy"]) == (since.sum(), (says == labels)[since].mean())
    (pair,) = found["pairs"]
    both = (predicted[0] >= 0) & (predicted[1] >= 0)
    assert (pair["one"], pair["other"], pair["both"]) == ("round-00", "round-01", both.sum())
    assert pair["agreement"] == (predicted[0] == predicted[1])[both].mean() == turns[1].agreement
    assert (pair["by"], pair["top"], pair["overlap"]) == ("bald", both.sum(), both.sum())  # fewer than TOP are in both
    assert both.sum() < TOP
    for row in found["classes"]:
        assert row["selected"] == [int((turn.chosen % 3 == row["index"]).sum()) for turn in turns[:2]]
    assert sum(sum(row["selected"]) for row in found["classes"]) == 10


def test_the_highest_scores_are_compared_among_items_of_both_runs(
    done: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, results = done
    monkeypatch.setattr("mcscore.report.rounds.TOP", 7)
    monkeypatch.setattr("mcscore.run.comparing.STRIDE", 16)
    runs = [Run.open(turn.run) for turn in results["top"][1][:2]]
    (pair,) = rounds_tables(runs, None)["pairs"]
    scores = np.stack([run.scores("bald") for run in runs])
    both = np.flatnonzero(np.isfinite(scores).all(0))
    tops = [set(both[np.lexsort((both, -each[both]))][:7]) for each in scores]
    assert (pair["top"], pair["overlap"]) == (7, len(tops[0] & tops[1]))
    assert folder.exists()


def test_without_the_pool_nothing_is_told_of_accuracy(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    runs = [Run.open(turn.run) for turn in done[1]["top"][0][:2]]
    rows = rounds_tables(runs, None)["rounds"]
    assert [(row["labeled"], row["accuracy"], row["later"]) for row in rows] == [(None, None, None)] * 2
    other = Pool.create(tmp_path / "other", np.zeros((N, 1, 4, 4), np.uint8))
    with pytest.raises(RunError, match="is not the pool that"):
        rounds_tables(runs, other)
    runs[1].meta["pool"]["fingerprint"] = "sha256:other"
    with pytest.raises(RunError, match="are not of one pool"):
        rounds_tables(runs, None)


def test_lines_are_means_where_all_seeds_have_a_value(done: tuple[Path, dict[str, Any]]) -> None:
    folder, results = done
    top, random = lines_of(read_cycle(folder), "accuracy")
    assert (top.method, random.method) == ("top", "random")
    for at, point in enumerate(top.points):
        values = [turns[at].accuracy for turns in results["top"]]
        assert point == Point([3, 8, 13][at], pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))  # type: ignore[arg-type]
    gains = [one.mean - other.mean for one, other in zip(top.points[1:], random.points[1:], strict=True)]
    assert advantage(top, random) == pytest.approx(np.mean(gains))
    short = Line("a", [[(3, 0.1), (8, 0.2)], [(3, 0.3)]], [])
    curves = [Curve("a", seed, folder, {}, results["top"][seed][: 3 - seed]) for seed in (0, 1)]
    assert [point.labels for point in lines_of(curves, "loss")[0].points] == [3, 8]
    assert labels_to_reach(short, 0.2) == [8, 3]
    assert labels_to_reach(short, 0.15, falls=True) == [3, None]


def test_the_page_of_several_cycles(done: tuple[Path, dict[str, Any]]) -> None:
    folder, results = done
    result = CliRunner().invoke(main, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.output == f"{folder}/report.html\n"
    page = (folder / "report.html").read_text()
    assert "accuracy against labels" in page
    assert "loss against labels" in page
    chart = cycle_view(folder, read_cycle(folder))["charts"][0]
    means = [np.mean([turns[at].accuracy for turns in results["top"]]) for at in range(3)]
    assert [dot["x"] for dot in chart["lines"][0]["dots"]] == [0, 50, 100]
    heights = [dot["y"] for dot in chart["lines"][0]["dots"]]
    assert np.sign(np.diff(heights)).tolist() == np.sign(np.diff(means)).tolist()
    assert f"top, 8 labels: {means[1]:.4f} ± " in chart["lines"][0]["dots"][1]["text"]
    assert chart["lines"][1]["color"] == "b"
    assert not re.search(r"https?://|<script|src=", page)
    for words in (["--selection", "1"], ["--compare", str(folder)]):
        assert "is a cycle: --selection" in CliRunner().invoke(main, ["report", str(folder), *words]).output


def test_the_page_of_one_cycle_and_that_of_its_runs_compare_rounds(done: tuple[Path, dict[str, Any]]) -> None:
    folder, results = done
    own = folder / "top/seed-1"
    page = write_cycle_report(own).read_text()
    assert "Rounds compared" in page
    assert "&lt;i&gt;" in page
    assert f"{results['top'][1][1].agreement:.1%}" in page
    pytest.importorskip("matplotlib")
    report = CliRunner().invoke(main, ["report", str(own / "round-01"), "--out", str(folder.parent / "a.html")])
    assert report.exit_code == 0, report.output
    assert "round-00 → round-01" in (folder.parent / "a.html").read_text()
    report = CliRunner().invoke(
        main,
        [
            "report",
            str(own / "round-01"),
            "--compare",
            str(folder / "top/seed-0/round-00"),
            "--out",
            str(folder.parent / "b.html"),
        ],
    )
    assert report.exit_code == 0, report.output
    assert "Rounds compared" in (folder.parent / "b.html").read_text()


def test_what_is_no_cycle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a cycle: it has no cycle\.json"):
        write_cycle_report(tmp_path)
