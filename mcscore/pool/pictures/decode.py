"""Decoding an image to uint8 pixels of a fixed size, or to a reason why not. Nothing that the bytes say is trusted."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ImageError, PoolError

# 100 megapixels are 300 MB decoded. A file of some kB can declare far more.
MAX_PIXELS = 100_000_000
MAX_BYTES = 512 << 20  # of an encoded image: 100 megapixels of 16-bit RGB are 600 MB before any compression
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"
)  # fmt: skip
FITS = ("crop", "pad", "squash")

# What is done to an image beside resizing it. An import counts each kind and says so.
HIGH_BYTE = "16-bit values to their high byte"
NO_ALPHA = "transparency dropped"
FROM_PALETTE = "palette to colors"
FROM_CMYK = "CMYK to RGB"
TO_COLOR = "gray to RGB"
TO_GRAY = "color to gray"
TURNED = "turned upright as EXIF says"
FIRST_FRAME = "first of several frames taken"
SHAPED = {"crop": "cut to the middle", "pad": "padded with black", "squash": "squashed to the shape"}


@dataclass(frozen=True)
class Decoded:
    """The (channels, height, width) uint8 pixels of an image, and what was converted to get them (kinds as above)."""

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


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width).

    >>> sides(24), sides((24, 96))
    ((24, 24), (24, 96))
    """
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def decode(data: bytes, size: int | tuple[int, int], channels: int = 3, fit: str = "crop") -> np.ndarray:
    """Return the pixels of decode_counted.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 30), "red").save(file, "PNG")
    >>> decode(file.getvalue(), size=8)[:, 0, 0]
    array([255,   0,   0], dtype=uint8)
    """
    return decode_counted(data, size, channels, fit).pixels


def decode_counted(data: bytes, size: int | tuple[int, int], channels: int = 3, fit: str = "crop") -> Decoded:
    """Decode an image to (channels, height, width) uint8, upright (EXIF), and say what was converted.

    CMYK, palette and gray images are converted, 16-bit images keep their high byte, transparency is dropped (the colors
    below it stay, as in PIL's ``convert("RGB")``), of several frames the first is taken.

    Args:
        data: the file's bytes.
        size: (height, width) of the result, or both as one number.
        channels: 3 (RGB) or 1 (gray).
        fit: what is done where the shape differs. "crop": resize to cover, keep the middle; "pad": resize to fit inside, the
            rest is black; "squash": resize height and width each by its own factor.

    Raises:
        ImageError: no image of KINDS, damaged, cut off, more than MAX_BYTES or MAX_PIXELS, or of 32-bit pixels.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ImageError("the file is empty")
    if len(data) > MAX_BYTES:
        raise too_large(len(data))
    _refuse_large_webp(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns below MAX_PIXELS, and of palettes with transparency
            with Image.open(io.BytesIO(data), formats=KINDS) as image:
                return _decoded(image, data, sides(size), channels, fit)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"cannot identify the image: it is none of {', '.join(KINDS)}, or its header is damaged"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels: {error}") from error
    except MemoryError as error:
        raise ImageError("decoding it takes more memory than there is") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error, zlib.error) as error:
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error  # what Pillow's parsers raise


def whole_picture(data: bytes, longest: int, channels: int = 3) -> np.ndarray:
    """Decode an image in its own shape, (channels, height, width) uint8, shrunk to at most ``longest`` pixels a side.

    Raises:
        ImageError: as of decode_counted.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 30)).save(file, "PNG")
    >>> whole_picture(file.getvalue(), longest=20).shape
    (3, 15, 20)
    """
    from PIL import Image

    decode_counted(data, 1, channels)  # refuses what is no image, before anything else reads its header
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=KINDS) as image:
            width, height = image.size
            if image.getexif().get(0x0112, 1) in range(5, 9):  # EXIF: lies on its side
                width, height = height, width
    scale = min(1.0, longest / max(width, height))
    return decode(data, (max(1, round(height * scale)), max(1, round(width * scale))), channels, "squash")


def too_large(size: int) -> ImageError:
    """Return the error for an encoded image of more than MAX_BYTES."""
    return ImageError(f"{size:,} bytes are more than an encoded image may have ({MAX_BYTES:,})")


def _refuse_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")


def _refuse_large_webp(data: bytes) -> None:
    """Check the size in a WebP header: Pillow's decoder allocates the whole canvas, twice, when it opens the file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return
    kind = data[12:16]
    if kind == b"VP8X":
        _refuse_pixels(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        _refuse_pixels(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        _refuse_pixels(width & 0x3FFF, height & 0x3FFF)


def _decoded(image: Any, data: bytes, shape: tuple[int, int], channels: int, fit: str) -> Decoded:
    from PIL import ImageOps

    _refuse_pixels(image.width, image.height)
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ImageError(f"pixels of mode {image.mode} (32 bits) have no known range")
    converted = [HIGH_BYTE] if _is_16_bit(image, data) else []
    if getattr(image, "is_animated", False):
        converted.append(FIRST_FRAME)
    if image.mode in ("RGB", "L"):
        # libjpeg may decode at 1/2, 1/4 or 1/8, never below twice the size wanted, so that resizing still filters.
        image.draft(None, (2 * max(shape), 2 * max(shape)))
    orientation = image.getexif().get(0x0112, 1)
    # Pillow turns 8-bit values around where a TIFF says that 0 is white, but not 16-bit ones.
    negative = image.format == "TIFF" and image.mode.startswith("I;16") and image.tag_v2.get(262) == 0
    upright = ImageOps.exif_transpose(image)
    if orientation in range(2, 9):
        converted.append(TURNED)
    made = _converted(upright, channels, negative, converted)
    return Decoded(_pixels(_shaped(made, shape, fit, converted)), tuple(converted))


def _is_16_bit(image: Any, data: bytes) -> bool:
    """Whether the values in the file have 16 bits; Pillow decodes some kinds of them to 8 bits by itself."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return True
    if image.format == "PNG":
        return data[24:25] == b"\x10"  # the bit depth in IHDR, which always comes first
    if image.format == "TIFF":
        return 16 in tuple(image.tag_v2.get(258, ()))  # BitsPerSample
    if image.format == "PPM":
        arguments = image.tile[0][3] if image.tile else ()
        return isinstance(arguments, tuple) and isinstance(arguments[-1], int) and arguments[-1] > 255
    return False


def _converted(image: Any, channels: int, negative: bool, converted: list[str]) -> Any:
    """Return the image in RGB or gray; append what was done to ``converted``."""
    from PIL import Image

    mode = "RGB" if channels == 3 else "L"
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit values at 255: nearly everything becomes white.
        high = np.asarray(image).astype(np.uint32) >> 8
        image = Image.fromarray((255 - high if negative else high).astype(np.uint8))
    if image.mode == mode and not image.info.get("transparency"):
        return image
    if _is_transparent(image):
        converted.append(NO_ALPHA)
    if image.mode in ("P", "PA"):
        converted.append(FROM_PALETTE)
        image = image.convert("RGB")
    if image.mode == "CMYK":
        converted.append(FROM_CMYK)
    is_gray = image.mode in ("1", "L", "LA", "La")
    if is_gray != (channels == 1):
        converted.append(TO_COLOR if is_gray else TO_GRAY)
    return image if image.mode == mode else image.convert(mode)


def _is_transparent(image: Any) -> bool:
    """Whether any pixel is not opaque."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return bool(image.getchannel(len(image.getbands()) - 1).getextrema()[0] < 255)
    return image.info.get("transparency") is not None


def _shaped(image: Any, shape: tuple[int, int], fit: str, converted: list[str]) -> Any:
    """Return the image in ``shape`` (height, width); append to ``converted`` if its own shape differed by a pixel or more."""
    from PIL import Image, ImageOps

    height, width = shape
    scale = max(width / image.width, height / image.height)
    if max(scale * image.width - width, scale * image.height - height) >= 1:
        converted.append(SHAPED[fit])
    if fit == "pad":
        return ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR)
    if fit == "squash":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)


def _pixels(image: Any) -> np.ndarray:
    values = np.asarray(image)
    return np.ascontiguousarray(values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0))
