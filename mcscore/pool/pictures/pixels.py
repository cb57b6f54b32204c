"""Items as pictures: which items are images, their pixels, thumbnails of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


def is_image(item_shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether items can be shown as images: (H, W), or (C, H, W) with 1 to 4 channels.

    Both sides must have 4 pixels; 2 are enough for bytes, which are pixels more often than floats are.

    >>> is_image((3, 32, 32), np.dtype(np.float32)), is_image((3, 2, 2), np.dtype(np.float32)), is_image((128,), np.dtype("u1"))
    (True, False, False)
    """
    if len(item_shape) not in (2, 3) or (len(item_shape) == 3 and not 1 <= item_shape[0] <= 4):
        return False
    return min(item_shape[-2:]) >= (2 if dtype == np.uint8 else 4)


def pixels(items: np.ndarray, within: tuple[float, float] | None = None) -> np.ndarray:
    """Return images as uint8 (n, H, W), or (n, H, W, 3) in color.

    Of two channels the first is shown, of four the first three (without alpha). Floats in [0, 1] are taken as such, others
    are stretched from the least to the greatest of all items, or of ``within``, so that the items can be compared; NaN and
    infinity show as 0.

    >>> pixels(np.array([[[-1.0, 3.0]]])).tolist()
    [[[0, 255]]]
    """
    if items.ndim == 4:
        items = items[:, :3] if items.shape[1] >= 3 else items[:, :1]
        items = items[:, 0] if items.shape[1] == 1 else items.transpose(0, 2, 3, 1)
    if items.dtype == np.uint8:
        return items
    values = finite(items)
    if values.size == 0:
        return values.astype(np.uint8)
    low, high = (values.min(), values.max()) if within is None else within
    if low < 0 or high > 1:
        values = (values - low) / (high - low if high > low else 1.0)
    return np.round(values * 255).astype(np.uint8)


def finite(items: np.ndarray) -> np.ndarray:
    """Return items as float64, with 0 for NaN and infinity."""
    values = items.astype(np.float64)
    return np.where(np.isfinite(values), values, 0.0)


def thumbnail(image: np.ndarray, side: int, enlarge: bool = False) -> Image:
    """Return one image of :func:`pixels` with its longer side at most ``side``.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        side: pixels of the longer side.
        enlarge: make smaller images as large as ``side``; their pixels stay squares, as the model sees them.
    """
    from PIL.Image import Resampling, fromarray

    picture = fromarray(np.ascontiguousarray(image))
    scale = side / max(picture.size)
    if scale == 1 or (scale > 1 and not enlarge):
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Resampling.NEAREST if scale > 1 else Resampling.LANCZOS)
