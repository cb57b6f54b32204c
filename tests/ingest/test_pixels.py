"""Depth, range and background of pixels are as the owner of the images says; HEIF and AVIF are read, or refused in a sentence."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore import Scorer
from mcscore.errors import DecoderError, ImageError, PoolError
from mcscore.ingest import append_images, import_array, import_images
from mcscore.pool import Pool
from mcscore.pool.pictures import containers, decode, deep
from mcscore.pool.pictures.pixel_format import PixelFormat

from .helpers import bad_of, cli, encoded, imported, tar_of

Image = pytest.importorskip("PIL.Image")

VALUES = (np.arange(64, dtype=np.uint16).reshape(8, 8) + 1) * 63  # 12 bits: 63 to 4032
TWELVE = encoded(Image.fromarray(VALUES))


def tiff(values: np.ndarray, photometric: int = 1) -> bytes:
    """An 8 x 8 TIFF; of types that Pillow cannot write, too."""
    data, kind = values.tobytes(), {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = [(256, 8), (257, 8), (258, 8 * values.itemsize), (259, 1), (262, photometric), (273, 8 + 2 + 10 * 12 + 4)]
    tags += [(277, 1), (278, 8), (279, len(data)), (339, kind)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4) + data


def gray(data: bytes, **more: Any) -> tuple[np.ndarray, list[str]]:
    got = decode.decode_counted(data, PixelFormat((8, 8), 1, **more))
    return got.pixels[0], list(got.converted)


@pytest.mark.parametrize("data", [TWELVE, tiff(VALUES), b"P5 8 8 65535\n" + VALUES.astype(">u2").tobytes()])
def test_16_bits_are_kept_or_scaled_by_a_range(data: bytes) -> None:
    dark = "images of 16 bits without a value above 4,095: dark"
    assert gray(data)[1] == [deep.HIGH_BYTE, dark]
    kept, converted = gray(data, depth=16)
    assert (kept.dtype, converted) == (np.uint16, [dark])
    assert np.array_equal(kept, VALUES)
    given, converted = gray(data, value_range=(0.0, 4095.0))
    assert (given.dtype, converted) == (np.uint8, [deep.GIVEN_RANGE])
    assert np.array_equal(given, np.rint(VALUES / 4095 * 255))
    own, converted = gray(data, value_range="image", depth=16)
    assert converted == [deep.OWN_RANGE]
    assert np.abs(own - (VALUES - 63.0) / (4032 - 63) * 65535).max() < 0.51
    cut, converted = gray(data, value_range=(100.0, 1000.0))
    assert converted == [deep.GIVEN_RANGE, deep.OUTSIDE]
    assert (cut.min(), cut.max()) == (0, 255)


def test_an_image_that_uses_its_16_bits_or_is_black_is_not_called_dark() -> None:
    for values in (VALUES * 5, VALUES * 0):
        assert gray(encoded(Image.fromarray(values)))[1] == [deep.HIGH_BYTE]


SIGNED = np.arange(-32, 32).reshape(8, 8) * 3


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float32"])
def test_values_without_a_range_are_refused_or_scaled(dtype: str) -> None:
    values = (SIGNED + (3 << 30) if dtype == "uint32" else SIGNED).astype(dtype)
    with pytest.raises(ImageError, match=rf"values are {dtype}, whose range says nothing.* --range LOW,HIGH"):
        gray(tiff(values))
    wanted = np.rint((SIGNED + 96) / 189 * 255)
    own = gray(tiff(values), value_range="image")[0]
    assert np.array_equal(own, wanted)
    assert np.array_equal(gray(tiff(values), value_range=(float(values.min()), float(values.max())))[0], own)


def test_a_deep_tiff_whose_zero_is_white_is_turned_around() -> None:
    for values in (SIGNED.astype(np.float32), (SIGNED + 96).astype(np.uint16)):  # Pillow reads no others
        positive, negative = (gray(tiff(values, how), value_range="image")[0] for how in (1, 0))
        assert np.abs(negative.astype(int) - (255 - positive.astype(int))).max() <= 1


def test_values_that_are_not_finite_are_refused() -> None:
    values = SIGNED.astype(np.float32)
    values[2, 3] = np.nan
    with pytest.raises(ImageError, match="NaN or infinite"):
        gray(tiff(values), value_range=(0.0, 1.0))


def test_color_of_16_bits_is_not_taken_for_what_it_is_not() -> None:
    """Pillow reads 8 bits of it."""
    data = b"P6 8 8 65535\n" + (VALUES * 5).repeat(3).astype(">u2").tobytes()
    assert np.abs(decode.decode(data, PixelFormat((8, 8)))[1] - VALUES * 5 / 257).max() < 1
    for more in ({"depth": 16}, {"value_range": "image"}):
        with pytest.raises(ImageError, match="its colors have 16 bits, of which Pillow reads 8"):
            gray(data, **more)


def test_8_bits_fill_16() -> None:
    data = encoded(Image.new("RGB", (8, 8), (200, 10, 255)))
    got = decode.decode_counted(data, PixelFormat((4, 4), depth=16, value_range="image"))
    assert got.converted == (decode.WIDENED,)
    assert got.pixels[:, 1, 2].tolist() == [200 * 257, 10 * 257, 65535]


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_16_bits_are_resized_as_8_are(fit: str) -> None:
    values = np.arange(64, dtype=np.uint16)[None].repeat(16, 0) * 1000
    small = decode.decode(encoded(Image.fromarray(values)), PixelFormat((8, 8), 3, fit, depth=16))
    coarse = decode.decode(encoded(Image.fromarray((values >> 8).astype(np.uint8))), PixelFormat((8, 8), 1, fit))
    assert small.shape == (3, 8, 8)
    assert np.abs(small / 256.0 - coarse).max() < 1.6


@pytest.mark.parametrize(
    ("image", "more"),
    [
        (Image.new("RGBA", (8, 8), (0, 255, 0, 0)), {}),
        (Image.new("LA", (8, 8), (77, 0)), {}),
        (Image.new("P", (8, 8), 0), {"transparency": 0}),
        (Image.new("L", (8, 8), 0), {"transparency": 0}),
        (Image.new("RGB", (8, 8), (1, 2, 3)), {"transparency": (1, 2, 3)}),
        (Image.fromarray(VALUES * 0 + 300), {"transparency": 300}),
    ],
)
def test_transparent_pixels_get_the_background(image: Any, more: dict[str, Any]) -> None:
    data = encoded(image, **more)
    for color, three in (("#ffffff", [255, 255, 255]), ("#0a141e", [10, 20, 30])):
        got = decode.decode_counted(data, PixelFormat((2, 2), background=color))
        is_deep = image.mode == "I;16"  # stored as gray before it becomes RGB
        assert got.pixels[:, 0, 1].tolist() == (three if not is_deep or color == "#ffffff" else [18, 18, 18])
        assert decode.LAID + color in got.converted
    assert decode.NO_ALPHA in decode.decode_counted(data, PixelFormat((2, 2), background="none")).converted
    assert decode.decode(data, PixelFormat((2, 2), 1)).tolist() == [[[255, 255], [255, 255]]]


def test_a_palette_whose_transparent_color_is_not_used_counts_as_opaque() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([9, 9, 9, 200, 10, 20])
    got = decode.decode_counted(encoded(image, transparency=0), PixelFormat((8, 8)))
    assert got.converted == (decode.FROM_PALETTE,)
    assert got.pixels[:, 0, 0].tolist() == [200, 10, 20]


def mixed(root: Path) -> Path:
    root.mkdir()
    (root / "a.png").write_bytes(TWELVE)
    (root / "b.png").write_bytes(encoded(Image.new("RGBA", (8, 8), (200, 10, 20, 0))))
    return root


CHOSEN = {"background": "black", "value_range": (0, 4095), "depth": 16, "channels": 1, "size": 8}


@pytest.mark.parametrize("keep_encoded", [False, True])
def test_a_pool_keeps_its_options_for_what_is_appended(tmp_path: Path, here: None, keep_encoded: bool) -> None:
    pool, counts = imported(mixed(tmp_path / "src"), tmp_path / "p", keep_encoded=keep_encoded, **CHOSEN)
    assert counts.remarks == ()
    assert (pool.dtype, pool.item_shape) == (np.uint16, (1, 8, 8))
    (tmp_path / "src" / "c.png").write_bytes(encoded(Image.fromarray(VALUES[::-1].copy())))
    (tmp_path / "src" / "d.png").write_bytes(encoded(Image.new("LA", (8, 8), (9, 0))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a and b are there already
        grown = append_images(tmp_path / "p", tmp_path / "src")
    items = grown.read(0, 4)[:, 0]
    scaled = np.rint(VALUES / 4095 * 65535)
    assert np.abs(items[0] - scaled).max() <= 1
    assert np.array_equal(items[2], items[0][::-1])
    assert not items[1].any()
    assert not items[3].any(), "black"
    recorded = Pool.open(tmp_path / "p").storage.attributes
    assert (recorded.background, recorded.value_range, recorded.depth) == ("#000000", (0.0, 4095.0), 16)
    batches = [batch.items.copy() for batch in grown.blocks([(0, 3), (3, 4)])]
    assert np.array_equal(np.concatenate(batches)[:, 0], items)


def test_what_decides_the_pixels_of_kept_files_is_in_the_fingerprint(tmp_path: Path, here: None) -> None:
    src = mixed(tmp_path / "src")
    seen = set()
    for i, more in enumerate(({}, {"background": "none"}, {"value_range": "image"}, {"depth": 16})):
        pool, _ = imported(src, tmp_path / f"p{i}", keep_encoded=True, **more)
        seen.add(pool.fingerprint)
    assert len(seen) == 4


def test_the_command_counts_what_it_does_and_says_what_is_dark(tmp_path: Path, here: None) -> None:
    src = mixed(tmp_path / "src")
    code, facts = cli("pool", "import", src, tmp_path / "p", "--size", 8, "--workers", 1)
    assert code == 0
    assert facts["converted"] == {
        deep.DIM[12]: 1,
        deep.HIGH_BYTE: 1,
        decode.TO_COLOR: 1,
        f"{decode.LAID}#ffffff": 1,
    }
    assert facts["remarks"] == [
        "1 image of 16 bits without a value above 4,095: dark in the pool. If values have 12 bits, import again with "
        "--range 0,4095 (value_range=), or with --range image"
    ]
    more = ["--range", "0,4095", "--depth", 16, "--background", "navy", "--gray", "--mean", "0.5", "--std", "0.25"]
    code, facts = cli("pool", "import", src, tmp_path / "q", "--size", 8, "--workers", 1, *more)
    assert (code, facts["dtype"], facts["remarks"]) == (0, "uint16", [])
    assert facts["converted"][f"{decode.LAID}#000080"] == 1
    code, facts = cli("pool", "import", src, tmp_path / "r", "--size", 8, "--background", "whiite")
    assert code == 1
    assert "background 'whiite' is no color" in facts["message"]
    code, facts = cli("pool", "import", src, tmp_path / "r", "--size", 8, "--range", "-1000,-3000")
    assert code == 1
    assert "value_range must be" in facts["message"]


def test_items_of_16_bits_are_scored_as_fractions_of_65535(tmp_path: Path) -> None:
    import torch
    from torch import nn

    values = np.random.default_rng(0).integers(0, 65536, (9, 1, 4, 5), dtype=np.uint16)
    np.save(tmp_path / "x.npy", values)
    pool = import_array(tmp_path / "x.npy", tmp_path / "p", mean=0.5, std=0.25)
    assert np.array_equal(pool.take([8, 0]), values[[8, 0]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 7), nn.Dropout(0.5), nn.Linear(7, 3))
    scorer = Scorer(model, passes=5, scores=("bald",))
    scorer.normalize((0.5,), (0.25,))
    as_floats = Scorer(model, passes=5, scores=("bald",))
    wanted = as_floats(((values / 65535 - 0.5) / 0.25).astype(np.float32))["bald"]
    assert torch.allclose(scorer(values)["bald"], wanted, atol=1e-6)
    with pytest.raises(PoolError, match=r"uint16 items are normalized \(value / 65535\): divide both by 65535"):
        import_array(tmp_path / "x.npy", tmp_path / "q", mean=30000, std=9000)


# -- HEIF and AVIF -----------------------------------------------------------------------------------------------------

LEFT_RED = np.zeros((16, 24, 3), np.uint8)
LEFT_RED[:, :12, 0] = 250


def heif(image: Any, **more: Any) -> bytes:
    pytest.importorskip("pillow_heif").register_heif_opener()
    return encoded(image, "HEIF", **{"quality": 100, "chroma": 444, **more})


def avif(image: Any, **more: Any) -> bytes:
    if not containers._has_decoder("AVIF"):
        pytest.skip("this Pillow reads no AVIF")
    return encoded(image, "AVIF", quality=100, **more)


@pytest.mark.parametrize("encode", [heif, avif])
def test_heif_and_avif_become_pixels_upright_on_the_background(encode: Any) -> None:
    got = decode.decode_counted(encode(Image.fromarray(LEFT_RED)), PixelFormat((16, 24)))
    assert got.converted == ()
    assert np.abs(got.pixels[:, 3, 3] - np.array([250.0, 0, 0])).max() < 12
    assert got.pixels[:, 3, 20].max() < 12
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show: left becomes top
    turned = decode.decode(encode(Image.fromarray(LEFT_RED), exif=exif.tobytes()), PixelFormat((24, 16)))
    assert turned[0, 3, 3] > 238
    assert turned[0, 20, 3] < 12
    shown = decode.whole_picture(encode(Image.fromarray(LEFT_RED), exif=exif.tobytes()), 99, PixelFormat((4, 4)))
    assert shown.shape == (3, 24, 16)
    clear = encode(Image.new("RGBA", (16, 16), (200, 10, 20, 0)))
    laid = decode.decode_counted(clear, PixelFormat((4, 4)))
    assert laid.converted == (f"{decode.LAID}#ffffff",)
    assert laid.pixels.min() > 250


@pytest.mark.parametrize("encode", [heif, avif])
def test_a_damaged_heif_or_avif_is_refused(encode: Any) -> None:
    data = encode(Image.fromarray(LEFT_RED))
    for broken in (data[: len(data) // 2], data[:40], data[:-5]):
        with pytest.raises(ImageError):
            decode.decode(broken, PixelFormat((4, 4)))


def test_heif_in_folders_tars_and_parquet(tmp_path: Path, here: None) -> None:
    import pyarrow
    import pyarrow.parquet as pq

    data = heif(Image.fromarray(LEFT_RED))
    (tmp_path / "folder").mkdir()
    for name in ("a.HEIC", "b.heif", "c.hif"):
        (tmp_path / "folder" / name).write_bytes(data)
    tar_of(tmp_path / "t.tar", {"a.heic": data, "b.png": TWELVE})
    pq.write_table(pyarrow.table({"image": [{"bytes": data, "path": "a.heic"}]}), tmp_path / "x.parquet")
    for i, (source, n) in enumerate((("folder", 3), ("t.tar", 2), ("x.parquet", 1))):
        for keep in (False, True):
            pool, counts = imported(tmp_path / source, tmp_path / f"p{i}{keep}", keep_encoded=keep, size=16)
            assert (pool.n, counts.refused) == (n, {})
            assert pool.take([0])[0, 0, 3, 1] > 238


def test_an_image_without_its_decoder_is_refused_in_a_sentence(
    tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.heic").write_bytes(heif(Image.fromarray(LEFT_RED)))
    (tmp_path / "src" / "b.png").write_bytes(TWELVE)
    kept = import_images(tmp_path / "src", tmp_path / "kept", size=4, keep_encoded=True)
    monkeypatch.setattr(containers, "_has_decoder", lambda kind: False)
    why = "HEIF images need a decoder: pip install 'mcscore[heif]'"
    pool, counts = imported(tmp_path / "src", tmp_path / "p")
    assert (pool.n, counts.refused) == (1, {why: 1})
    assert bad_of(tmp_path / "p") == {"a.heic": why}
    with pytest.raises(PoolError, match=r"a\.heic.* cannot be decoded here: HEIF images need a decoder"):
        kept.take([0, 1])
    with pytest.raises(DecoderError, match="AVIF images need a decoder"):
        decode.decode(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif" + bytes(4), PixelFormat((4, 4)))


def test_more_than_8_bits_of_an_avif_or_heif_are_named() -> None:
    assert containers.iso_bits(avif(Image.fromarray(LEFT_RED))) == 8
    pillow_heif = pytest.importorskip("pillow_heif")
    values = np.full((16, 16, 3), 40000, np.uint16)
    made = pillow_heif.from_bytes("RGB;16", (16, 16), values.tobytes())
    file = io.BytesIO()
    made.save(file, quality=-1)
    data = file.getvalue()
    assert containers.iso_bits(data) in (10, 12)
    got = decode.decode_counted(data, PixelFormat((8, 8)))
    assert got.converted == (deep.HIGH_BITS,)
    assert abs(int(got.pixels[1, 2, 3]) - (40000 >> 8)) <= 3
