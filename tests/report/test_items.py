"""An item becomes a picture that shows its values."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from mcscore.report.items import LOSSLESS, MAX_LINE, THUMBNAIL, Picture, pictures

Image = pytest.importorskip("PIL.Image")


def _pixels(picture: Picture) -> np.ndarray:
    assert picture.kind == "image"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))))


def test_small_images_keep_every_pixel() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 9), dtype=np.uint8)
    color = np.random.default_rng(1).integers(0, 256, (2, 3, 8, 9), dtype=np.uint8)
    for i, picture in enumerate(pictures(gray)):
        np.testing.assert_array_equal(_pixels(picture), gray[i, 0])
    for i, picture in enumerate(pictures(color)):
        np.testing.assert_array_equal(_pixels(picture), color[i].transpose(1, 2, 0))


@pytest.mark.parametrize(("channels", "shown"), [(2, slice(0, 1)), (4, slice(0, 3))])
def test_channels_that_make_no_image_are_left_out(channels: int, shown: slice) -> None:
    items = np.random.default_rng(0).integers(0, 256, (1, channels, 6, 5), dtype=np.uint8)
    np.testing.assert_array_equal(_pixels(pictures(items)[0]), items[0, shown].transpose(1, 2, 0).squeeze())


def test_large_images_are_shrunk() -> None:
    picture = pictures(np.zeros((1, 3, 400, 200), np.uint8))[0]
    assert picture.uri.startswith("data:image/jpeg;base64,")
    assert _pixels(picture).shape == (THUMBNAIL, THUMBNAIL // 2, 3)
    assert LOSSLESS < THUMBNAIL


def test_float_images_are_taken_as_fractions_or_else_stretched_together() -> None:
    unit = np.linspace(0, 1, 2 * 16, dtype=np.float32).reshape(2, 1, 4, 4)
    np.testing.assert_array_equal(_pixels(pictures(unit)[1]), np.round(unit[1, 0] * 255).astype(np.uint8))
    wide = unit * 10 - 5
    np.testing.assert_array_equal(_pixels(pictures(wide)[1]), _pixels(pictures(unit)[1]))


def test_a_short_vector_is_bars_scaled_per_feature() -> None:
    items = np.array([[0, 100, 7], [1, 300, 7], [2, 200, 7]], np.float32)
    assert [picture.bars for picture in pictures(items)] == [(0, 0, 0), (0.5, 1, 0), (1, 0.5, 0)]
    assert pictures(items)[1].numbers == "1, 300, 7"


def test_a_long_vector_is_a_line_that_keeps_its_peaks() -> None:
    items = np.zeros((2, 1000), np.float32)
    items[1, 333] = 1.0
    flat, peaked = ([float(point.partition(",")[2]) for point in picture.points.split()] for picture in pictures(items))
    assert len(flat) == len(peaked) == MAX_LINE
    assert set(flat) == {38.0}
    assert min(peaked) == 2.0


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (), (16, 4, 4), (2, 3)])
def test_other_shapes_are_numbers(shape: tuple[int, ...]) -> None:
    picture = pictures(np.full((1, *shape), 1.5, np.float32))[0]
    assert picture.kind == "numbers"
    assert picture.numbers.startswith("1.5")


def test_values_that_are_not_finite_do_no_harm() -> None:
    for shape in ((1, 4, 4), (5,), (200,)):
        items = np.full((2, *shape), np.nan, np.float32)
        items[1] = np.inf
        assert len(pictures(items)) == 2


def test_no_items_make_no_pictures() -> None:
    for shape in ((1, 4, 4), (5,), (200,)):
        assert pictures(np.empty((0, *shape), np.float32)) == []
