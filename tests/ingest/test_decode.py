"""An image becomes the right pixels; whatever is converted on the way is named; limits hold before memory is taken."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest

from mcscore.errors import ImageError
from mcscore.pool.pictures import decode as module
from mcscore.pool.pictures import deep
from mcscore.pool.pictures.decode import Decoded
from mcscore.pool.pictures.pixel_format import PixelFormat, sides

from .helpers import color, encoded

Image = pytest.importorskip("PIL.Image")


def decode_counted(data: bytes, size: int | tuple[int, int], channels: int = 3, **more: Any) -> Decoded:
    return module.decode_counted(data, PixelFormat(sides(size), channels, **more))


def decode(data: bytes, size: int, channels: int = 3) -> np.ndarray:
    return decode_counted(data, size, channels).pixels


def test_colors_and_layout_survive_decoding() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels)), 8), np.moveaxis(pixels, -1, 0))


def test_16_bit_keeps_the_high_byte() -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    assert np.array_equal(decode(encoded(Image.fromarray(values)), 8, 1)[0], values >> 8)


def test_palette_and_cmyk_become_rgb() -> None:
    palette = Image.new("RGB", (8, 8), (200, 10, 20)).quantize(4)
    assert decode(encoded(palette), 8)[:, 0, 0].tolist() == [200, 10, 20]
    cmyk = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), 8)[:, 4, 4]
    assert np.allclose(cmyk, [255, 0, 0], atol=12)


def test_exif_rotation_is_applied() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show: left becomes top
    got = decode(encoded(Image.fromarray(pixels), "PNG", exif=exif), 8)
    assert got[0, :4].min() == 255
    assert got[0, 4:].max() == 0


JPEG = encoded(Image.effect_noise((64, 64), 90), "JPEG")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"GARBAGE" * 9, "cannot identify"),
        (color(1)[:-30], "truncated|broken|Truncated"),
        (JPEG[: len(JPEG) // 2], "truncated"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        decode(data, 8)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match="pixels"):
        decode(bomb, 8)


GRADIENT = np.arange(96, dtype=np.uint8)[None, :, None].repeat(24, 0).repeat(3, 2)  # 24 high, 96 wide
STRIP = encoded(Image.fromarray(GRADIENT))


def test_a_strip_is_kept_cut_padded_or_squashed() -> None:
    whole = decode_counted(STRIP, (24, 96))
    assert whole.converted == ()
    assert np.array_equal(whole.pixels, np.moveaxis(GRADIENT, -1, 0))
    cut = decode_counted(STRIP, 24)
    assert cut.converted == (module.SHAPED["crop"],)
    assert np.array_equal(cut.pixels[0, 0], np.arange(36, 60)), "the middle quarter"
    padded = decode_counted(STRIP, 24, fit="pad")
    assert padded.converted == (module.SHAPED["pad"],)
    assert padded.pixels[0, :9].max() == 0
    assert padded.pixels[0, 15:].max() == 0
    assert abs(padded.pixels[0, 9:15].mean() - 47.5) < 0.5
    squashed = decode_counted(STRIP, 24, fit="squash")
    assert squashed.converted == (module.SHAPED["squash"],)
    assert np.abs(squashed.pixels[0, 5, 1:-1] - (np.arange(1, 23) * 4 + 1.5)).max() <= 1


def rgba(alpha: int) -> bytes:
    return encoded(Image.new("RGBA", (8, 8), (200, 10, 20, alpha)))


WHITENED = f"{module.LAID}#ffffff"
SIXTEEN = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000


@pytest.mark.parametrize(
    ("data", "channels", "converted", "first"),
    [
        (rgba(100), 3, [WHITENED], [233, 159, 163]),
        (rgba(255), 3, [], [200, 10, 20]),
        (encoded(Image.new("LA", (8, 8), (77, 0))), 3, [module.TO_COLOR, WHITENED], [255, 255, 255]),
        (encoded(Image.new("L", (8, 8), 77)), 1, [], [77]),
        (encoded(Image.new("1", (8, 8), 1)), 1, [], [255]),
        (color(9), 1, [module.TO_GRAY], [11]),
        (encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), 3, [module.FROM_CMYK], [255, 0, 0]),
        (encoded(Image.fromarray(SIXTEEN + 300)), 1, [deep.HIGH_BYTE], [1]),
        (encoded(Image.fromarray(SIXTEEN + 300), "TIFF"), 1, [deep.HIGH_BYTE], [1]),
        (b"P6 8 8 65535\n" + (SIXTEEN + 300).repeat(3).astype(">u2").tobytes(), 3, [deep.HIGH_BYTE], [1, 1, 1]),
        (encoded(Image.new("P", (8, 8), 0), transparency=0), 3, [module.FROM_PALETTE, WHITENED], [255, 255, 255]),
    ],
)  # fmt: skip
def test_each_conversion_is_named(data: bytes, channels: int, converted: list[str], first: list[int]) -> None:
    got = decode_counted(data, 8, channels)
    assert list(got.converted) == converted
    assert got.pixels[:, 0, 0].tolist() == first


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white_is_turned_around(bits: int) -> None:
    values = np.arange(64, dtype="<u2").reshape(8, 8) * 1000
    data = values.tobytes() if bits == 16 else (values >> 8).astype("u1").tobytes()
    tags = [
        (256, 8),
        (257, 8),
        (258, bits),
        (259, 1),
        (262, 0),
        (273, 8 + 2 + 9 * 12 + 4),
        (277, 1),
        (278, 8),
        (279, len(data)),
    ]
    head = (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    )
    got = decode(head + struct.pack("<I", 0) + data, 8, 1)
    assert np.array_equal(got[0], 255 - (values >> 8))


def test_frames_and_exif_are_named() -> None:
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in (50, 200)]
    got = decode_counted(encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), 8)
    assert got.converted == (module.FIRST_FRAME,)
    assert got.pixels[0, 0, 0] == 50
    exif = Image.Exif()
    exif[0x0112] = 3
    assert decode_counted(encoded(Image.new("RGB", (8, 8)), exif=exif), 8).converted == (module.TURNED,)


def webp(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.parametrize(
    "data",
    [
        webp(b"VP8X", bytes(4) + (16383).to_bytes(3, "little") * 2 + bytes(4)),
        webp(b"VP8L", b"\x2f" + (0x3FFF | 0x3FFF << 14).to_bytes(4, "little") + bytes(9)),
        webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383) + bytes(4)),
    ],
)
def test_a_webp_of_few_bytes_is_refused_before_its_canvas_is_made(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(Image, "open", lambda *_, **__: opened.append(1))
    assert len(data) <= 40
    with pytest.raises(ImageError, match=r"1638[34] x 1638[34] pixels are more than 100,000,000"):
        decode(data, 8)
    assert not opened


def test_a_small_webp_is_decoded() -> None:
    for lossless in (False, True):
        got = decode(encoded(Image.new("RGB", (8, 8), (200, 10, 20)), "WEBP", lossless=lossless), 8)
        assert np.abs(got[:, 4, 4] - np.array([200.0, 10, 20])).max() < 8


def test_an_encoded_image_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 50)
    with pytest.raises(ImageError, match="bytes are more than an encoded image may have"):
        decode(color(1), 8)
