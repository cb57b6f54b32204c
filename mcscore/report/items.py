"""Draws an item of a pool as a small picture: a thumbnail, bars for a short vector, a line for a long one, numbers for anything else."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..pool.pictures.pixels import finite, is_image, pixels, thumbnail

THUMBNAIL = 160  # pixels; larger images are shrunk to it
LOSSLESS = (
    96  # up to this side images keep every pixel, as PNG; larger ones are photographs, a fifth of the size as JPEG
)
MAX_BARS = 48
MAX_LINE = 120  # points of a drawn line; a longer signal shows the least and greatest value of each stretch
SHOWN_NUMBERS = 6


@dataclass(frozen=True)
class Picture:
    """The picture of an item on the page. Bars are heights in [0, 1]; a line is (x, y) points in a 100 × 40 box."""

    kind: Literal["image", "bars", "line", "numbers"]
    uri: str = ""
    bars: tuple[float, ...] = ()
    points: str = ""
    numbers: str = ""


def pictures(items: np.ndarray) -> list[Picture]:
    """Return a picture of each of ``items`` (n, *item_shape); the items share one scale, so that they can be compared."""
    shape = items.shape[1:]
    if not len(items):
        return []
    if is_image(shape, items.dtype):
        return [_thumbnail(item) for item in pixels(items)]
    if len(shape) == 1 and shape[0] <= MAX_BARS:
        return _bars(items)
    if len(shape) == 1 or (len(shape) == 2 and shape[0] == 1):
        return _lines(items.reshape(len(items), -1))
    return [Picture("numbers", numbers=_numbers(item)) for item in items]


def _thumbnail(image: np.ndarray) -> Picture:
    small = max(image.shape[:2]) <= LOSSLESS
    picture = thumbnail(image, LOSSLESS if small else THUMBNAIL)
    file = io.BytesIO()
    picture.save(file, "PNG" if small else "JPEG", optimize=True, **({} if small else {"quality": 85}))
    kind = "png" if small else "jpeg"
    return Picture("image", uri=f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}")


def _bars(items: np.ndarray) -> list[Picture]:
    """Draw each feature scaled to its range over the items shown, because features have different units."""
    values = finite(items)
    lo, hi = values.min(axis=0), values.max(axis=0)
    heights = (values - lo) / np.where(hi > lo, hi - lo, 1.0)
    return [
        Picture("bars", bars=tuple(np.round(height, 3).tolist()), numbers=_numbers(item))
        for height, item in zip(heights, items, strict=True)
    ]


def _lines(items: np.ndarray) -> list[Picture]:
    values = finite(items)
    if values.shape[1] > MAX_LINE:
        stretches = np.array_split(values, MAX_LINE // 2, axis=1)
        values = np.stack([f(part, axis=1) for part in stretches for f in (np.min, np.max)], axis=1)
    lo, hi = values.min(), values.max()
    x = np.linspace(0, 100, values.shape[1])
    y = 38 - 36 * (values - lo) / (hi - lo if hi > lo else 1.0)
    return [
        Picture(
            "line", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, row, strict=True)), numbers=_numbers(item)
        )
        for row, item in zip(y, items, strict=True)
    ]


def _numbers(item: np.ndarray) -> str:
    first = ", ".join(f"{value:.4g}" for value in item.ravel()[:SHOWN_NUMBERS].tolist())
    return first + (f", … ({'×'.join(map(str, item.shape))})" if item.size > SHOWN_NUMBERS else "")
