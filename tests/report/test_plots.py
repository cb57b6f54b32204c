"""The plots say in words what they draw, and draw whatever scores there are at the right places."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mcscore.report.axes import SIDE, Axis, around
from mcscore.report.plots import Plot, around_cut, embedding_plane, histogram, plane, steps
from mcscore.report.stats import Cloud, spread

DOT = re.compile(r"M(\d+) (\d+)h0")


def paths(plot: Plot, kind: str) -> list[str]:
    """What the marks of a kind draw."""
    return [
        where
        for kinds, where in re.findall(r'<path class="([^"]*)" d="([^"]*)"/>', plot.marks)
        if kind in kinds.split()
    ]


def dots(plot: Plot, kind: str) -> list[tuple[int, int]]:
    """Places of the points of a kind, from the lower left corner."""
    return [(int(x), SIDE - int(y)) for path in paths(plot, kind) for x, y in DOT.findall(path)]


def test_histogram_marks_the_selection_and_says_where_it_begins() -> None:
    values = np.linspace(0, 1, 101).astype(np.float32)
    found = spread(lambda: [values])
    assert found is not None
    plot = histogram(found, values[[70, 90, 100]], 0.7, "BALD")
    assert plot.alt == (
        "Histogram of BALD over 101 items, 3 of them selected: from 0 to 1.000, median 0.500; "
        "the lowest selected score is 0.700."
    )
    lefts = [float(x) for x in re.findall(r"M([\d.]+) ", paths(plot, "chosen")[0])]
    assert lefts == pytest.approx([44 * SIDE / 64, 57 * SIDE / 64, 63 * SIDE / 64], abs=0.1)  # bins of 0.70, 0.90 and 1
    assert paths(plot, "cut") == ["M700 1000V0"]
    assert [(note.at, note.text, note.left) for note in plot.notes] == [
        (pytest.approx(70), "lowest selected 0.700", True)
    ]
    assert [(tick.text, tick.at) for tick in plot.x] == [
        (f"{n / 5:.1f}", pytest.approx(20 * n, abs=1e-4)) for n in range(6)
    ]
    assert [tick.text for tick in plot.y] == ["1"]
    none = histogram(found, values[:0], None, "BALD")
    assert "selected" not in none.alt
    assert paths(none, "chosen") == paths(none, "cut") == []


@pytest.mark.parametrize("weights", [None, np.array([1, 30, 5])])
@pytest.mark.parametrize("corners", [True, False])
def test_plane_marks_the_selection_among_points_and_cells(weights: np.ndarray | None, corners: bool) -> None:
    cloud = Cloud(np.array([0.1, 0.4, 0.5]), np.array([0.3, 0.2, 0.0]), weights, 36)
    plot = plane(cloud, np.array([0.4, np.nan]), np.array([0.2, 0.1]), ("noise", "doubt"), corners)
    assert plot.alt.endswith("36 items by noise (across) and doubt (up), with 2 selected items marked.")
    (at,) = dots(plot, "chosen")
    assert plot.selected == [[at[0], SIDE - at[1]], []]  # one has no place
    x, y = ((0, 0.512), (0, 0.309)) if corners else ((0.088, 0.512), (-0.009, 0.309))
    assert at == (round(SIDE * (0.4 - x[0]) / (x[1] - x[0])), round(SIDE * (0.2 - y[0]) / (y[1] - y[0])))
    assert len(dots(plot, "pool")) == (3 if weights is None else 0)
    shades = [kind for kind in range(6) if paths(plot, f"shade-{kind}")]
    assert shades == ([] if weights is None else [0, 3, 5])  # of 1, 5 and 30 items
    assert bool(paths(plot, "contour")) == corners


def test_a_map_has_its_three_kinds_of_points() -> None:
    places = {"explained": [0.5, 0.25], "candidates": [[0, 0], [1, 2]], "labeled": [[2, 0]], "selected": [[1, 2]]}
    plot = embedding_plane(places)
    assert [len(dots(plot, kind)) for kind in ("pool", "labeled", "chosen")] == [2, 1, 1]
    assert plot.selected == [[500, 28]]
    assert plot.labels == ("50% of the variance", "25% of the variance")


def test_estimated_gains_are_hollow() -> None:
    plot = steps([0.5, 0.25, 0.125], 1)
    assert len(dots(plot, "chosen")) == 3
    assert dots(plot, "hollow") == dots(plot, "chosen")[1:]


def test_items_around_the_cut_have_error_bars() -> None:
    ranks, scores = np.arange(8, 13), np.array([0.9, 0.8, 0.7, 0.7, 0.5])
    chosen = np.array([True, False, True, False, False])
    plot = around_cut(ranks, scores, np.full(5, 0.1), chosen, 0.7, "margin")
    assert plot.alt == (
        "margin of the items of rank 8 to 12 with their standard errors, 2 items of them selected; the lowest selected score is 0.700."
    )
    bars, points = paths(plot, "chosen")
    up = around(np.array([0.4, 1.0]))
    ends = [[SIDE - int(each) for each in bar] for bar in re.findall(r"M\d+ (\d+)V(\d+)", bars)]
    assert ends == [up.at([0.8, 1.0]).round().tolist(), up.at([0.6, 0.8]).round().tolist()]
    assert len(DOT.findall(points)) == 2
    assert [tick.text for tick in plot.x] == ["8", "9", "10", "11", "12"]


@pytest.mark.parametrize("value", [0.0, 1e6])
def test_scores_that_are_all_equal_can_be_drawn(value: float) -> None:
    found = spread(lambda: [np.full(5, value, np.float32)])
    assert found is not None
    assert found.flat
    assert len(histogram(found, np.full(2, value, np.float32), value, "BALD").x) > 2
    plot = plane(
        Cloud(np.full(5, value), np.full(5, value), None, 5), np.full(2, value), np.full(2, value), ("a", "b"), True
    )
    assert dots(plot, "chosen") == [(500, 500)] * 2


@pytest.mark.parametrize("name", [r"$\foo$", "$x", r"\frac", "a_b^c", "%", ""])
def test_a_score_may_have_any_name(name: str) -> None:
    values = np.linspace(0, 1, 9).astype(np.float32)
    found = spread(lambda: [values])
    assert found is not None
    plot = histogram(found, values[:0], None, name)
    assert f"of {name} over" in plot.alt
    assert plot.labels[0] == name


@pytest.mark.parametrize(("lo", "hi", "texts"), [
    (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]), (-2.0, 3.0, ["−2", "−1", "0", "1", "2", "3"]),
    (0.013, 0.029, ["0.015", "0.020", "0.025"]), (1e-9, 3e-9, ["1e-09", "1.5e-09", "2e-09", "2.5e-09", "3e-09"]),
    (0, 3e8, ["0", "5e+07", "1e+08", "1.5e+08", "2e+08", "2.5e+08", "3e+08"]),
])  # fmt: skip
def test_ticks_are_round_and_few(lo: float, hi: float, texts: list[str]) -> None:
    ticks = Axis(lo, hi).ticks()
    assert [tick.text for tick in ticks] == texts
    values = np.array([float(tick.text.replace("−", "-")) for tick in ticks])
    np.testing.assert_allclose([tick.at for tick in ticks], 100 * (values - lo) / (hi - lo), atol=0.5)


def test_ticks_of_counts_are_powers_of_ten() -> None:
    assert [tick.text for tick in Axis(0.7, 5e7, log=True).ticks()] == ["1", "100", "10k", "1M"]
    assert [tick.text for tick in Axis(0.7, 1500, log=True).ticks()] == ["1", "10", "100", "1k"]
