"""Decoding an image to uint8 pixels of a fixed size, or to a reason why not. Nothing that the bytes say is trusted."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np

from ..errors import ImageError, PoolError

# 100 megapixels are 300 MB decoded. A file of some kB can declare far more.
MAX_PIXELS = 100_000_000
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def require_decoder() -> None:
    """Check that images can be decoded.

    Raises:
        PoolError: Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise PoolError("reading images needs Pillow: pip install 'mcscore[images]'") from None


def decode(data: bytes, size: int, channels: int = 3) -> np.ndarray:
    """Return (channels, size, size) uint8: upright (EXIF), shorter side resized to ``size``, the middle cut out.

    CMYK, palette and gray images are converted, 16-bit images keep their high byte, transparency is dropped, of several
    frames the first is taken.

    Args:
        data: the file's bytes.
        size: height and width of the result.
        channels: 3 (RGB) or 1 (gray).

    Raises:
        ImageError: no image of KINDS, damaged, cut off, more than MAX_PIXELS, or of 32-bit pixels.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 30), "red").save(file, "PNG")
    >>> decode(file.getvalue(), size=8)[:, 0, 0]
    array([255,   0,   0], dtype=uint8)
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise ImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=KINDS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
                raise ImageError(f"pixels of mode {image.mode} (32 bits) have no known range")
            if image.mode in ("RGB", "L"):
                # libjpeg may decode at 1/2, 1/4 or 1/8, never below twice the size wanted, so that resizing still filters.
                image.draft(None, (2 * size, 2 * size))
            upright = ImageOps.exif_transpose(image)
            return _pixels(ImageOps.fit(_converted(upright, channels), (size, size), Image.Resampling.BILINEAR))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"cannot identify the image: it is none of {', '.join(KINDS)}, or its header is damaged"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error, zlib.error) as error:
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error  # what Pillow's parsers raise


def _converted(image: Any, channels: int) -> Any:
    from PIL import Image

    mode = "RGB" if channels == 3 else "L"
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit values at 255: nearly everything becomes white.
        high = np.asarray(image).astype(np.uint32) >> 8
        image = Image.fromarray(high.astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)


def _pixels(image: Any) -> np.ndarray:
    values = np.asarray(image)
    return np.ascontiguousarray(values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0))
