"""Items become pixels by one rule, and pixels become thumbnails."""

from __future__ import annotations

import numpy as np
import pytest

from mcscore.pool.pictures.pixels import is_image, pixels, thumbnail

pytest.importorskip("PIL.Image")


@pytest.mark.parametrize(
    ("shape", "dtype", "image"),
    [
        ((8, 8), "f4", True),
        ((1, 8, 8), "f4", True),
        ((4, 8, 8), "u1", True),
        ((5, 8, 8), "u1", False),
        ((0, 8, 8), "u1", False),
        ((3, 3, 8), "f4", False),
        ((3, 2, 8), "u1", True),
        ((3, 1, 8), "u1", False),
        ((8,), "u1", False),
        ((1, 1, 8, 8), "u1", False),
    ],
)
def test_which_items_are_images(shape: tuple[int, ...], dtype: str, image: bool) -> None:
    assert is_image(shape, np.dtype(dtype)) is image


def test_values_that_are_not_finite_show_as_zero() -> None:
    items = np.array([[[np.nan, np.inf], [-np.inf, 1.0]]])
    assert pixels(items).tolist() == [[[0, 0], [0, 255]]]
    assert pixels(np.zeros((0, 4, 4), np.float32)).shape == (0, 4, 4)
    assert pixels(np.full((1, 2, 2), 7.0)).tolist() == [[[0, 0], [0, 0]]]


def test_thumbnails_shrink_and_enlarge_only_where_that_is_asked_for() -> None:
    tall = np.zeros((400, 200, 3), np.uint8)
    assert thumbnail(tall, 100).size == (50, 100)
    small = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(np.asarray(thumbnail(small, 9)), small)
    assert np.array_equal(np.asarray(thumbnail(small, 9, enlarge=True)), small.repeat(3, 0).repeat(3, 1))
    assert thumbnail(np.zeros((1, 500), np.uint8), 10).size == (10, 1)
