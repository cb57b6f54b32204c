"""The plots say in words what they draw, and draw whatever scores there are."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from mcscore.report.plots import Plot, around_cut, histogram, plane
from mcscore.report.stats import Cloud, spread

Image = pytest.importorskip("PIL.Image")


def _colored(plot: Plot, light: str, dark: str) -> tuple[int, int]:
    """How many pixels of the light and of the dark picture have these colors."""
    found = []
    for uri, color in ((plot.light, light), (plot.dark, dark)):
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        pixels = np.asarray(image)[..., :3].reshape(-1, 3)
        assert image.size == (2 * plot.width, 2 * plot.height)
        found.append(int((np.abs(pixels.astype(int) - list(bytes.fromhex(color[1:]))) <= 2).all(axis=1).sum()))
    return found[0], found[1]


CHOSEN = ("#d9480f", "#ff8a4c")


def test_histogram_marks_the_selection_and_says_where_it_begins() -> None:
    values = np.linspace(0, 1, 101).astype(np.float32)
    found = spread(lambda: [values])
    assert found is not None
    plot = histogram(found, values[[70, 90, 100]], 0.7, "BALD")
    assert plot.alt == (
        "Histogram of BALD over 101 items, 3 of them selected: from 0 to 1.000, median 0.500; "
        "the lowest selected score is 0.700."
    )
    assert min(_colored(plot, *CHOSEN)) > 100
    none = histogram(found, values[:0], None, "BALD")
    assert "selected" not in none.alt
    assert _colored(none, *CHOSEN) == (0, 0)


@pytest.mark.parametrize("weights", [None, np.array([1, 30, 5])])
@pytest.mark.parametrize("corners", [True, False])
def test_plane_marks_the_selection_among_points_and_hexagons(weights: np.ndarray | None, corners: bool) -> None:
    cloud = Cloud(np.array([0.1, 0.4, 0.5]), np.array([0.3, 0.2, 0.0]), weights, 36)
    plot = plane(cloud, np.array([0.4]), np.array([0.2]), ("noise", "doubt"), corners)
    assert plot.alt.endswith("36 items by noise (across) and doubt (up), with 1 selected item marked.")
    assert min(_colored(plot, *CHOSEN)) > 20


def test_items_around_the_cut_have_error_bars() -> None:
    ranks, scores = np.arange(8, 13), np.array([0.9, 0.8, 0.7, 0.7, 0.5])
    chosen = np.array([True, False, True, False, False])
    plot = around_cut(ranks, scores, np.full(5, 0.1), chosen, 0.7, "margin")
    assert plot.alt == (
        "margin of the items of rank 8 to 12 with their standard errors, 2 items of them selected; the lowest selected score is 0.700."
    )
    with_bars, without = (min(_colored(around_cut(ranks, scores, error, chosen, 0.7, "margin"), *CHOSEN)) for error in (
        np.full(5, 0.1), np.zeros(5)
    ))  # fmt: skip
    assert with_bars > without + 100 > 100
    assert _colored(around_cut(ranks, scores, np.zeros(5), ~chosen & False, 0.7, "margin"), *CHOSEN) == (0, 0)


@pytest.mark.parametrize("value", [0.0, 1e6])
def test_scores_that_are_all_equal_can_be_drawn(value: float) -> None:
    found = spread(lambda: [np.full(5, value, np.float32)])
    assert found is not None
    assert found.flat
    histogram(found, np.full(2, value, np.float32), value, "BALD")
    plane(Cloud(np.full(5, value), np.full(5, value), None, 5), np.full(2, value), np.full(2, value), ("a", "b"), True)


@pytest.mark.parametrize("name", [r"$\foo$", "$x", r"\frac", "a_b^c", "%", ""])
def test_a_score_may_have_any_name(name: str) -> None:
    values = np.linspace(0, 1, 9).astype(np.float32)
    found = spread(lambda: [values])
    assert found is not None
    assert f"of {name} over" in histogram(found, values[:0], None, name).alt
    plane(Cloud(values, values, None, 9), values[:1], values[:1], (name, name), corners=False)
    around_cut(np.arange(1, 10), values, values, values > 1, 0.5, name)
