"""What the pixels of an image become: size, channels, depth, and how shape, range and transparency are dealt with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import PoolError
from ..schema import Attributes

# 100 megapixels are 300 MB decoded. A file of some kB can declare far more.
MAX_PIXELS = 100_000_000
FITS = ("crop", "pad", "squash")
DEPTHS = (8, 16)
RANGES = ("type", "image")
NO_BACKGROUND = "none"
WHITE = "#ffffff"

ValueRange = str | tuple[float, float]


@dataclass(frozen=True)
class PixelFormat:
    """How an image becomes (channels, height, width) pixels of uint8 or uint16.

    Attributes:
        size: (height, width).
        channels: 3 (RGB) or 1 (gray).
        fit: what is done where the shape differs. "crop": resize to cover, keep the middle; "pad": resize to fit inside, the
            rest is black; "squash": resize height and width each by its own factor.
        background: "#rrggbb", the color that transparent pixels are laid on; "none": transparency is dropped, and the colors
            below it show, as in PIL's ``convert("RGB")``.
        value_range: the values that become black and white, in images of more than 8 bits a value. "type": 0 and 65535, of
            16 bits; "image": the least and the greatest of each image; or (black, white).
        depth: bits of a stored value. 8: uint8; 16: uint16, and 8-bit images times 257.
    """

    size: tuple[int, int]
    channels: int = 3
    fit: str = "crop"
    background: str = WHITE
    value_range: ValueRange = "type"
    depth: int = 8

    @property
    def dtype(self) -> np.dtype:
        """Of a stored value."""
        return np.dtype(np.uint8 if self.depth == 8 else np.uint16)

    @property
    def item_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.channels, *self.size)

    @staticmethod
    def of_pool(attributes: Attributes) -> PixelFormat:
        """Return the format of a pool of images; what was not recorded is as earlier releases had it.

        Raises:
            PoolError: the items have another shape than images have.

        >>> PixelFormat.of_pool(Attributes((3, 24, 96))).background
        'none'
        """
        if len(attributes.item_shape) != 3:
            raise PoolError(
                f"items of shape {attributes.item_shape} are no decoded images, which are (channels, height, width)"
            )
        channels, height, width = attributes.item_shape
        return PixelFormat(
            (height, width),
            channels,
            attributes.fit or "crop",
            attributes.background or NO_BACKGROUND,
            attributes.value_range or "type",
            attributes.depth or 8,
        )


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width).

    >>> sides(24), sides((24, 96))
    ((24, 24), (24, 96))
    """
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def checked_format(
    size: int | tuple[int, int], channels: int, fit: str, background: str, value_range: Any, depth: int
) -> PixelFormat:
    """Return the format that a caller asks for.

    Raises:
        PoolError: a size below 1, or so large that an item is no longer an image; other channels than 1 or 3; no such fit,
            depth, range or color.

    >>> checked_format(24, 3, "crop", "white", (0, 4095), 8).background
    '#ffffff'
    """
    shape = sides(size)
    if min(shape) < 1 or channels not in (1, 3):
        raise PoolError(f"size must be at least 1 and channels 1 or 3, not {size} and {channels}")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise PoolError(f"size {shape[0]} x {shape[1]} has more than {MAX_PIXELS:,} pixels")
    if fit not in FITS:
        raise PoolError(f"fit {fit!r} is unknown; choose from {', '.join(FITS)}")
    if depth not in DEPTHS:
        raise PoolError(f"depth must be 8 or 16, not {depth!r}")
    return PixelFormat(shape, channels, fit, _checked_color(background), _checked_range(value_range), depth)


def _checked_color(background: str) -> str:
    from PIL import ImageColor

    if background == NO_BACKGROUND:
        return background
    try:
        color: tuple[int, ...] = ImageColor.getrgb(background)
    except (ValueError, TypeError, AttributeError):
        color = ()
    if len(color) != 3:  # not 4: one that is transparent itself
        raise PoolError(
            f"background {background!r} is no color; give a name such as white, or #rrggbb, or {NO_BACKGROUND} to drop transparency"
        )
    return f"#{color[0]:02x}{color[1]:02x}{color[2]:02x}"


def _checked_range(value_range: Any) -> ValueRange:
    if isinstance(value_range, str) and value_range in RANGES:
        return value_range
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise PoolError(f"value_range must be 'type', 'image', or two numbers (black, white), not {value_range!r}")
    return low, high
