"""Images of more than 8 bits a value: gray of 16 bits, signed, of 32 bits, or floats. Pillow reads color with 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import ImageError
from .pixel_format import NO_BACKGROUND, PixelFormat

# What is done to an image. An import counts each kind and says so.
HIGH_BYTE = "16-bit values to their high byte"
HIGH_BITS = "values of 10 or 12 bits to 8"
OWN_RANGE = "values scaled from the range of each image"
GIVEN_RANGE = "values scaled from the range given"
OUTSIDE = "values outside of the range given cut to it"
DIM = {bits: f"images of 16 bits without a value above {(1 << bits) - 1:,}: dark" for bits in (8, 10, 12, 14)}

_SIGNED = 2  # SampleFormat of TIFF


def file_bits(image: Any, data: bytes, iso_bits: int) -> int:
    """Return the bits of a value in the file; Pillow decodes some kinds of 16 bits to 8 by itself."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return 16
    if image.format == "PNG":
        return data[24]  # the bit depth in IHDR, which always comes first
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(258, (8,))))  # BitsPerSample
    if image.format == "PPM":
        arguments = image.tile[0][3] if image.tile else ()
        return 16 if isinstance(arguments, tuple) and isinstance(arguments[-1], int) and arguments[-1] > 255 else 8
    return iso_bits


def has_own_values(image: Any) -> bool:
    """Whether Pillow gives the values of the file: gray of more than 8 bits, or signed."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16") or _is_signed_byte(image)


def _is_signed_byte(image: Any) -> bool:
    return image.format == "TIFF" and image.mode == "L" and image.tag_v2.get(339, (1,))[0] == _SIGNED


def scaled(upright: Any, image: Any, pixel_format: PixelFormat, background: int, converted: list[str]) -> Any:
    """Return the values of an image of ``has_own_values`` as a gray image: "L", or "F" from 0 to 65535 for a depth of 16.

    Args:
        upright: the image, turned.
        image: as it was opened: a copy has no tags.
        pixel_format: says which values become black and white.
        background: level of 0..255 for the value that counts as transparent.
        converted: what was done is appended.

    Raises:
        ImageError: values that are not finite, or have no range of their own while none is given.
    """
    from PIL import Image

    values, is_16_bit = _values(upright, image)
    chosen, top = pixel_format.value_range, (1 << pixel_format.depth) - 1
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ImageError("it holds values that are NaN or infinite")
    if chosen == "type" and not is_16_bit:
        raise ImageError(
            f"its values are {values.dtype}, whose range says nothing: give the values of black and white, --range LOW,HIGH, or "
            "--range image (value_range= in Python)"
        )
    result: Any
    if chosen == "type":
        converted += [HIGH_BYTE] if pixel_format.depth == 8 else []
        converted += dim(int(values.max(initial=0)))
        result = values >> 8 if pixel_format.depth == 8 else values.astype(np.float32)
    else:
        low, high = (float(values.min()), float(values.max())) if isinstance(chosen, str) else chosen
        converted.append(OWN_RANGE if isinstance(chosen, str) else GIVEN_RANGE)
        if values.min() < low or values.max() > high:
            converted.append(OUTSIDE)
        share = (values.astype(np.result_type(values.dtype, np.float32)) - low) / (high - low or 1.0)
        result = np.clip(share, 0, 1, out=share) * top
        result = np.rint(result) if pixel_format.depth == 8 else result
    # Pillow turns 8-bit values around where a TIFF says that 0 is white, but no others.
    if image.format == "TIFF" and image.tag_v2.get(262) == 0 and not _is_signed_byte(image):
        result = top - result
    clear = image.info.get("transparency")
    if isinstance(clear, int) and pixel_format.background != NO_BACKGROUND:
        result = np.where(values == clear, np.float32(background * (top // 255)), result)
    return Image.fromarray(result.astype(np.uint8 if pixel_format.depth == 8 else np.float32))


def dim(most: int) -> list[str]:
    """Return the kind of a 16-bit image whose greatest value leaves two or more of its upper bits unused; none if it is black."""
    return next(([kind] for bits, kind in DIM.items() if 0 < most < 1 << bits), [])


def _values(upright: Any, image: Any) -> tuple[np.ndarray, bool]:
    """Return the values with the dtype that they have in the file, and whether that is uint16."""
    values = np.asarray(upright)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return values.astype(np.uint16, copy=False), True
    if image.mode == "F":
        return values, False
    if image.tag_v2.get(339, (1,))[0] != _SIGNED:
        return values.view(np.uint32), False
    return values.view(np.int8) if image.mode == "L" else values.astype(f"i{image.tag_v2[258][0] // 8}"), False
