"""Opening an encoded image with Pillow; HEIF and AVIF where their decoders are installed."""

from __future__ import annotations

import functools
import io
import struct
from pathlib import Path
from typing import Any

from ...errors import DecoderError, ImageError
from .pixel_format import MAX_PIXELS

KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm",
    ".avif", ".heic", ".heif", ".hif",
)  # fmt: skip
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIF"
)
_ORIENTATION = 0x0112  # EXIF's tag
_HEADER_BYTES = 1 << 16  # of an ISO file that are searched for the bits of a value


def open_image(data: bytes) -> Any:
    """Open an image of a known kind; its pixels are not decoded yet.

    Raises:
        ImageError: none of the kinds, or a WebP canvas of more than MAX_PIXELS.
        DecoderError: HEIF or AVIF without a decoder.
        Other errors of Pillow's parsers.
    """
    from PIL import Image, UnidentifiedImageError

    _refuse_large_webp(data)
    kind = iso_kind(data)
    _need_decoder(kind)
    try:
        return Image.open(io.BytesIO(data), formats=(kind,) if kind else KINDS)
    except UnidentifiedImageError as error:
        if kind or data[:4] in (b"II*\0", b"MM\0*"):
            raise ImageError(f"{kind or 'TIFF'} of a kind that Pillow does not read, or damaged") from error
        known = ", ".join((*KINDS, "HEIF", "AVIF"))
        raise ImageError(f"cannot identify the image: it is none of {known}, or its header is damaged") from error


def size_of(path: Path) -> tuple[int, int]:
    """Return (width, height) of an image file as it is shown, upright, without decoding its pixels.

    Raises:
        DecoderError: HEIF or AVIF without a decoder.
        Other errors of Pillow's parsers, and OSError.
    """
    from PIL import Image

    with path.open("rb") as file:
        _need_decoder(iso_kind(file.read(256)))
        file.seek(0)
        with Image.open(file) as image:
            turned = image.getexif().get(_ORIENTATION, 1) > 4  # by a quarter
            return (image.height, image.width) if turned else image.size


def _need_decoder(kind: str | None) -> None:
    if kind and not _has_decoder(kind):
        raise DecoderError(f"{kind} images need a decoder: pip install 'mcscore[heif]'")


def iso_kind(data: bytes) -> str | None:
    r"""Return "HEIF" or "AVIF" if an ISO media file says that it is one, by its brands; else None.

    >>> iso_kind(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif" + bytes(4))
    'AVIF'
    """
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)


def iso_bits(data: bytes) -> int:
    """Return the bits of a value in a HEIF or AVIF image, by its pixel information; 8 where it has none."""
    at = data.find(b"pixi", 0, _HEADER_BYTES)
    count = data[at + 8] if 0 <= at < len(data) - 8 else 0
    return max(data[at + 9 : at + 9 + count], default=8)


@functools.cache
def _has_decoder(kind: str) -> bool:
    """Make Pillow read a kind of ISO media files; tell whether it does."""
    from PIL import Image

    if kind == "HEIF":
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            return False
        register_heif_opener(thumbnails=False)
    Image.init()
    if kind == "AVIF":
        from PIL import features

        return "AVIF" in Image.OPEN and bool(features.check("avif"))
    return True


def refuse_pixels(width: int, height: int) -> None:
    """Raise ImageError for more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")


def _refuse_large_webp(data: bytes) -> None:
    """Check the size in a WebP header: Pillow's decoder allocates the whole canvas, twice, when it opens the file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return
    kind = data[12:16]
    if kind == b"VP8X":
        refuse_pixels(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        refuse_pixels(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        refuse_pixels(width & 0x3FFF, height & 0x3FFF)
