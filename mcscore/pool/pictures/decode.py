"""Decoding an image to pixels of a fixed size, or to a reason why not. Nothing that the bytes say is trusted."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import ImageError, PoolError
from .containers import iso_bits, iso_kind, open_image, refuse_pixels
from .deep import HIGH_BITS, HIGH_BYTE, dim, file_bits, has_own_values, scaled
from .pixel_format import MAX_PIXELS, NO_BACKGROUND, PixelFormat

MAX_BYTES = 512 << 20  # of an encoded image: 100 megapixels of 16-bit RGB are 600 MB before any compression

# What is done to an image beside resizing it. An import counts each kind and says so; deep.py has more of them.
NO_ALPHA = "transparency dropped"
LAID = "transparency laid on "  # and the color
FROM_PALETTE = "palette to colors"
FROM_CMYK = "CMYK to RGB"
TO_COLOR = "gray to RGB"
TO_GRAY = "color to gray"
TURNED = "turned upright as EXIF says"
FIRST_FRAME = "first of several frames taken"
WIDENED = "8-bit values times 257"
SHAPED = {"crop": "cut to the middle", "pad": "padded with black", "squash": "squashed to the shape"}


@dataclass(frozen=True)
class Decoded:
    """The (channels, height, width) pixels of an image, uint8 or uint16, and what was converted to get them."""

    pixels: np.ndarray
    converted: tuple[str, ...]


def require_decoder() -> None:
    """Check that images can be decoded.

    Raises:
        PoolError: Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise PoolError("reading images needs Pillow: pip install 'mcscore[images]'") from None


def decode(data: bytes, pixel_format: PixelFormat) -> np.ndarray:
    """Return the pixels of decode_counted.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 30), "red").save(file, "PNG")
    >>> decode(file.getvalue(), PixelFormat((8, 8)))[:, 0, 0]
    array([255,   0,   0], dtype=uint8)
    """
    return decode_counted(data, pixel_format).pixels


def decode_counted(data: bytes, pixel_format: PixelFormat) -> Decoded:
    """Decode an image to pixels, upright (EXIF), and say what was converted.

    CMYK, palette and gray images are converted to the channels wanted; of several frames the first is taken. Resizing is
    bilinear, with antialiasing.

    Args:
        data: the file's bytes.
        pixel_format: what the pixels are to become.

    Raises:
        ImageError: no image of a known kind, damaged, cut off, more than MAX_BYTES or MAX_PIXELS; values without a range; 16
            bits a value are wanted, and the file has them in color, of which Pillow reads 8.
        DecoderError: HEIF or AVIF without its decoder.
    """
    with _opened(data) as image:
        return _decoded(image, data, pixel_format)


def whole_picture(data: bytes, longest: int, pixel_format: PixelFormat) -> np.ndarray:
    """Decode an image for a person: in its own shape, (channels, height, width) uint8, at most ``longest`` pixels a side.

    Values of 16 bits are shown from the least to the greatest where the format gives no range.

    Raises:
        ImageError: as of decode_counted.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 30)).save(file, "PNG")
    >>> whole_picture(file.getvalue(), 20, PixelFormat((8, 8))).shape
    (3, 15, 20)
    """
    chosen = "image" if pixel_format.value_range == "type" else pixel_format.value_range
    with _opened(data) as image:
        width, height = image.size
        if image.getexif().get(0x0112, 1) in range(5, 9):  # EXIF: lies on its side
            width, height = height, width
        scale = min(1.0, longest / max(width, height))
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        shown = replace(pixel_format, size=shape, fit="squash", value_range=chosen, depth=8)
        return _decoded(image, data, shown, for_people=True).pixels


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    """Open an image; what Pillow raises then and while it is decoded becomes an ImageError."""
    from PIL import Image

    if not data:
        raise ImageError("the file is empty")
    if len(data) > MAX_BYTES:
        raise too_large(len(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns below MAX_PIXELS, and of palettes with transparency
            with open_image(data) as image:
                refuse_pixels(image.width, image.height)
                yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels: {error}") from error
    except MemoryError as error:
        raise ImageError("decoding it takes more memory than there is") from error
    except _PILLOW as error:
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error


# What Pillow's parsers and decoders raise.
_PILLOW = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, RuntimeError, OverflowError, struct.error, zlib.error
)  # fmt: skip


def too_large(size: int) -> ImageError:
    """Return the error for an encoded image of more than MAX_BYTES."""
    return ImageError(f"{size:,} bytes are more than an encoded image may have ({MAX_BYTES:,})")


def _decoded(image: Any, data: bytes, pixel_format: PixelFormat, for_people: bool = False) -> Decoded:
    from PIL import ImageOps

    converted: list[str] = []
    if getattr(image, "is_animated", False):
        converted.append(FIRST_FRAME)
    bits = file_bits(image, data, iso_bits(data) if iso_kind(data) else 8)
    own_values = has_own_values(image)
    if bits > 8 and not own_values:
        if not for_people and (pixel_format.depth == 16 or pixel_format.value_range != "type"):
            raise ImageError(
                f"its colors have {bits} bits, of which Pillow reads 8: a depth of 16 and a range need gray images"
            )
        converted.append(HIGH_BYTE if bits == 16 else HIGH_BITS)
    if image.mode in ("RGB", "L") and image.format != "HEIF":  # where it would take an embedded thumbnail
        # libjpeg may decode at 1/2, 1/4 or 1/8, never below twice the size wanted, so that resizing still filters.
        image.draft(None, (2 * max(pixel_format.size), 2 * max(pixel_format.size)))
    orientation = image.getexif().get(0x0112, 1)
    upright = ImageOps.exif_transpose(image)
    if orientation in range(2, 9):
        converted.append(TURNED)
    if own_values:
        upright = scaled(upright, image, pixel_format, _gray_of(pixel_format.background), converted)
        if image.info.get("transparency") is not None:
            converted.append(_laid(pixel_format))
    elif bits == 16:
        _mend_16_bit_color(upright, converted)
    if upright.mode != "F":
        upright = _converted(upright, pixel_format, converted)
    elif pixel_format.channels == 3:
        converted.append(TO_COLOR)
    shaped = _shaped(upright, pixel_format, converted)
    return Decoded(_pixels(shaped, pixel_format, converted), tuple(converted))


def _mend_16_bit_color(image: Any, converted: list[str]) -> None:
    """Scale the transparent color as Pillow does the others; count an image whose upper bits are unused."""
    clear = image.info.get("transparency")
    if isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    bands = image.getextrema()[:3]
    converted += dim((max(most for _, most in bands) << 8) + 255)


def _converted(image: Any, pixel_format: PixelFormat, converted: list[str]) -> Any:
    """Return an image of 8 bits in RGB or gray; append what was done to ``converted``."""
    from PIL import Image

    mode = "RGB" if pixel_format.channels == 3 else "L"
    if image.mode == mode and image.info.get("transparency") is None:
        return image
    is_gray = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("P", "PA"):
        converted.append(FROM_PALETTE)
    if image.mode == "CMYK":
        converted.append(FROM_CMYK)
    if is_gray != (pixel_format.channels == 1):
        converted.append(TO_COLOR if is_gray else TO_GRAY)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or image.info.get("transparency") is not None:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            converted.append(_laid(pixel_format))
            if pixel_format.background != NO_BACKGROUND:
                image = Image.alpha_composite(Image.new("RGBA", image.size, pixel_format.background), image)
    if image.mode in ("P", "RGBA"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _laid(pixel_format: PixelFormat) -> str:
    return NO_ALPHA if pixel_format.background == NO_BACKGROUND else LAID + pixel_format.background


def _gray_of(background: str) -> int:
    from PIL import ImageColor

    return 0 if background == NO_BACKGROUND else int(ImageColor.getcolor(background, "L"))  # type: ignore[arg-type]


def _shaped(image: Any, pixel_format: PixelFormat, converted: list[str]) -> Any:
    """Return the image in the size wanted; append to ``converted`` if its own shape differed by a pixel or more."""
    from PIL import Image, ImageOps

    height, width = pixel_format.size
    scale = max(width / image.width, height / image.height)
    if max(scale * image.width - width, scale * image.height - height) >= 1:
        converted.append(SHAPED[pixel_format.fit])
    if pixel_format.fit == "pad":
        return ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR)
    if pixel_format.fit == "squash":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)


def _pixels(image: Any, pixel_format: PixelFormat, converted: list[str]) -> np.ndarray:
    values = np.asarray(image)
    if values.dtype == np.float32:
        values = np.rint(np.clip(values, 0, 65535)).astype(np.uint16)
        return np.repeat(values[None], pixel_format.channels, axis=0)
    if pixel_format.depth == 16:
        converted.append(WIDENED)
        values = values * np.uint16(257)
    return np.ascontiguousarray(values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0))
