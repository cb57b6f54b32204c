"""Images become a pool: every kind of source and of damage, and an import that was killed goes on."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from mcscore.errors import ImageError, PoolError
from mcscore.ingest import import_images
from mcscore.ingest.sources import expand_braces, open_source
from mcscore.pool import Pool
from mcscore.pool.decode import decode
from mcscore.pool.schema import Grid

from ..pool.helpers import Killed, failing

Image = pytest.importorskip("PIL.Image")
MODULE = sys.modules["mcscore.ingest.images"]  # its name in the package is the function's


def encoded(image: object, kind: str = "PNG", **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)  # type: ignore[attr-defined]
    return out.getvalue()


def color(red: int, mode: str = "RGB") -> bytes:
    return encoded(Image.new(mode, (8, 8), (red, 10, 20)))


def bad_of(pool: Path) -> dict[str, str]:
    with pool.with_name(f"{pool.name}.bad.csv").open() as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


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


def folder(root: Path, n: int = 6) -> Path:
    for i in range(n):
        place = root / ("cat" if i % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:05d}.png").write_bytes(color(i))
    return root


def test_folder_with_class_labels_lists_what_is_bad(tmp_path: Path) -> None:
    src = folder(tmp_path / "src")
    (src / "cat" / "bad.png").write_bytes(b"")
    pool = import_images(src, tmp_path / "p", size=4, labels=True, workers=1)
    assert pool.keys is not None
    assert pool.keys.tolist() == [
        "cat/00001.png",
        "cat/00003.png",
        "cat/00005.png",
        *(f"dog/0000{i}.png" for i in (0, 2, 4)),
    ]
    assert pool.classes == ["cat", "dog"]
    assert pool.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pool.read(0, 6)[:, 0, 0, 0].tolist() == [1, 3, 5, 0, 2, 4]
    assert bad_of(tmp_path / "p") == {"cat/bad.png": "the file is empty"}
    assert not list(tmp_path.glob(".p*"))


def test_more_bad_than_allowed_stops_and_a_greater_limit_goes_on(tmp_path: Path) -> None:
    src = folder(tmp_path / "src")
    (src / "bad.png").write_bytes(b"x")
    with pytest.raises(PoolError, match="max_bad=0"):
        import_images(src, tmp_path / "p", size=4, max_bad=0, workers=1)
    assert not (tmp_path / "p").exists()
    with pytest.raises(PoolError, match="started with size=4, now 5"):
        import_images(src, tmp_path / "p", size=5, workers=1)
    assert import_images(src, tmp_path / "p", size=4, max_bad=1, workers=1).n == 6


def test_an_import_killed_after_the_pool_was_made_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = folder(tmp_path / "src")
    with monkeypatch.context() as patch:
        patch.setattr("mcscore.atomic.discard_directory", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            import_images(src, tmp_path / "p", size=4, workers=1)
    assert list(tmp_path.glob(".p.import"))
    assert import_images(src, tmp_path / "p", size=4, workers=1).n == 6
    assert not list(tmp_path.glob(".p*"))
    with pytest.raises(PoolError, match="exists already"):
        import_images(src, tmp_path / "p", size=4, workers=1)


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The stage of an import that stopped at a bad entry, with one checkpoint's worth of items before it."""
    src = folder(tmp_path / "src")
    (src / "zzz.png").write_bytes(b"x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "plan_grid", lambda *_: Grid(5, None))
        with pytest.raises(PoolError, match="max_bad=0"):
            import_images(src, tmp_path / "p", size=4, max_bad=0, workers=1)
    return tmp_path / ".p.import"


@pytest.mark.parametrize("version", [None, 1, 3])
def test_a_stage_of_another_version_is_refused(tmp_path: Path, interrupted: Path, version: int | None) -> None:
    settings = json.loads((interrupted / "settings.json").read_bytes())
    assert settings.pop("version") == 2
    bare = settings["settings"] if version is None else {**settings, "version": version}  # version 1 had no version
    (interrupted / "settings.json").write_text(json.dumps(bare))
    match = f"has version {version or 1} of the staging format, this mcscore reads version 2: .*remove that directory"
    with pytest.raises(PoolError, match=match):
        import_images(tmp_path / "src", tmp_path / "p", size=4, workers=1)
    shutil.rmtree(interrupted)
    assert import_images(tmp_path / "src", tmp_path / "p", size=4, workers=1).n == 6


def test_a_stage_follows_its_schema(tmp_path: Path, interrupted: Path) -> None:
    file = interrupted / "log" / "00000000.json"
    good = json.loads(file.read_bytes())
    missing = {name: value for name, value in good.items() if name != "entries"}
    for content, match in [
        (json.dumps({**good, "new": 1}), "field 'new' is unknown. Remove the directory .*p.import and"),
        (json.dumps(missing), "field 'entries' is missing"),
        ("[]", "no JSON object"),
        ("{", "no JSON: "),
    ]:
        file.write_text(content)
        with pytest.raises(PoolError, match=match):
            import_images(tmp_path / "src", tmp_path / "p", size=4, workers=1)
    file.write_text(json.dumps(good))
    assert import_images(tmp_path / "src", tmp_path / "p", size=4, workers=1).n == 6


def test_tars_give_labels_and_refuse_names_that_lead_out(tmp_path: Path) -> None:
    for part in range(2):
        with tarfile.open(tmp_path / f"t-{part:02d}.tar", "w") as archive:
            for name, data in [
                (f"a{part}.png", color(7 + part)), (f"a{part}.cls", b"3"), ("../out.png", color(1)), ("twice.png", color(9)),
            ]:  # fmt: skip
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    pool = import_images(tmp_path / "t-{00..01}.tar", tmp_path / "p", size=4, labels=True, workers=1)
    assert pool.keys is not None
    assert pool.keys.tolist() == ["a0", "twice", "a1"]
    assert pool.labels.tolist() == [3, -1, 3]
    assert pool.read(0, 3)[:, 0, 0, 0].tolist() == [7, 9, 8]
    assert set(bad_of(tmp_path / "p")) == {"../out.png", "twice"}
    assert not (tmp_path.parent / "out.png").exists()


def tar_of(path: Path, names: list[str], kind: str = "w") -> Path:
    with tarfile.open(path, kind) as archive:  # type: ignore[call-overload]
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            data = color(i)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("cut", [1024 + 256, 2048 + 512, 550])
@pytest.mark.parametrize("kind", ["w", "w:gz"])
def test_a_damaged_tar_loses_neither_what_precedes_nor_the_next_tar(tmp_path: Path, cut: int, kind: str) -> None:
    """Cut inside a member, inside a header, and inside the first member; each member takes two blocks of 512 bytes."""
    suffix = "tar.gz" if kind == "w:gz" else "tar"
    first = tar_of(tmp_path / f"t-0.{suffix}", ["a.png", "b.png", "c.png"], kind)
    tar_of(tmp_path / f"t-1.{suffix}", ["d.png"], kind)
    os.truncate(first, cut if kind == "w" else first.stat().st_size // 2)
    pool = import_images(tmp_path / f"t-*.{suffix}", tmp_path / "p", size=4, workers=1)
    assert pool.keys is not None
    assert pool.keys[-1] == "d"
    if kind == "w":
        assert pool.keys.tolist() == {550: [], 1280: ["a"], 2560: ["a", "b"]}[cut] + ["d"]
    (name, why), *more = bad_of(tmp_path / "p").items()
    assert not more
    assert name == str(first)
    assert why.startswith("the tar is damaged or truncated; its remaining entries are lost")


def test_a_header_that_is_none_is_damage_and_not_the_end(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "t.tar", ["a.png", "b.png", "c.png"])
    data = bytearray(path.read_bytes())
    data[1024:1200] = b"x" * 176
    path.write_bytes(data)
    pool = import_images(path, tmp_path / "p", size=4, workers=1)
    assert pool.n == 1
    assert "no valid header at byte 1024" in bad_of(tmp_path / "p")[str(path)]


def test_parquet_with_an_image_column(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"bytes": color(5), "path": "x.png"},
        {"bytes": None, "path": "/etc/hostname"},
        {"bytes": color(6), "path": None},
    ]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows, "label": [1, 1, 0]}), tmp_path / "d.parquet")
    pool = import_images(tmp_path / "*.parquet", tmp_path / "p", size=4, labels=True, workers=1)
    assert pool.keys is not None
    assert pool.keys.tolist() == ["x.png", "d.parquet:2"]
    assert pool.labels.tolist() == [1, 0]
    assert pool.read(0, 2)[:, 0, 0, 0].tolist() == [5, 6]
    assert bad_of(tmp_path / "p") == {
        "/etc/hostname": "the row holds no bytes, and its path points outside the file's folder"
    }


def test_paths_of_rows_are_followed_within_the_folder_of_the_file_only(tmp_path: Path) -> None:
    """As the datasets library writes them: structs, class names in the schema, several row groups."""
    import pyarrow
    import pyarrow.parquet

    home = tmp_path / "set"
    (home / "img").mkdir(parents=True)
    (home / "img" / "a.png").write_bytes(color(8))
    (tmp_path / "secret.png").write_bytes(color(9))
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["img/a.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "img/none.png", None]
    rows = [{"bytes": None, "path": path} for path in paths] + [{"bytes": color(3), "path": "z.png"}]
    said = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pyarrow.table({"image": rows, "label": [1, 1, 1, 1, 1, 1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(said)})
    pyarrow.parquet.write_table(table, home / "d.parquet", row_group_size=2)
    pool = import_images(home / "d.parquet", tmp_path / "p", size=4, labels=True, workers=1)
    assert pool.keys is not None
    assert pool.keys.tolist() == ["img/a.png", "z.png"]
    assert pool.labels.tolist() == [1, 0]
    assert pool.classes == ["cat", "dog"]
    assert pool.read(0, 2)[:, 0, 0, 0].tolist() == [8, 3]
    bad = bad_of(tmp_path / "p")
    assert {key for key, why in bad.items() if "points outside" in why} == set(paths[1:4])
    assert "No such file" in bad["img/none.png"]
    assert bad["d.parquet:5"] == "the row holds neither bytes nor a path"


def test_a_source_starts_at_any_entry(tmp_path: Path, mixed: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"bytes": color(i), "path": str(i)} for i in range(9)]
    for part in range(2):
        pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / f"{part}.parquet", row_group_size=4)
    folder(tmp_path / "src")
    for where in (mixed / "t-*.tar", tmp_path / "*.parquet", tmp_path / "src"):
        source = open_source(where)
        entries = list(source.entries((0, 0)))
        assert len({entry.position for entry in entries}) == len(entries) >= 6
        for i, entry in enumerate(entries):
            assert list(source.entries(entry.position)) == entries[i:]


def test_encoded_pools_give_the_pixels_of_an_import_that_decodes(tmp_path: Path, mixed: Path) -> None:
    pixels = import_images(mixed / "t-*.tar", tmp_path / "a", size=16, workers=1)
    kept = import_images(mixed / "t-*.tar", tmp_path / "b", size=16, workers=1, keep_encoded=True)
    same = pixels.read(0, 13)
    assert (kept.n, kept.item_shape, kept.dtype) == (13, (3, 16, 16), np.dtype("u1"))
    assert np.array_equal(kept.read(0, 13), same)
    assert np.array_equal(kept.read(4, 9), same[4:9])
    assert np.array_equal(kept.take([12, 0, 3]), same[[12, 0, 3]])
    assert np.array_equal(np.concatenate([b.items for b in kept.blocks([(0, 5), (5, 13)])]), same)
    assert kept.keys is not None
    assert pixels.keys is not None
    assert kept.keys.tolist() == pixels.keys.tolist()
    assert kept.fingerprint != pixels.fingerprint
    files = {entry.key: entry.data for entry in open_source(mixed / "t-*.tar").entries((0, 0))}
    with kept._reader() as reader:
        assert reader.encoded(5) == files[str(kept.keys[5])], "stored as they are"  # type: ignore[union-attr]


def test_an_image_that_no_longer_decodes_is_named(tmp_path: Path) -> None:
    pool = import_images(folder(tmp_path / "src"), tmp_path / "p", size=4, workers=1, keep_encoded=True)
    before, start = pool.fingerprint, int(pool.offsets()[2])
    array = zarr.open_array(tmp_path / "p" / "blob", mode="r+")
    array[start : start + 8] = np.zeros(8, np.uint8)
    assert Pool.open(tmp_path / "p").fingerprint != before
    for read in (lambda: pool.read(0, 6), lambda: list(pool.blocks())):
        with pytest.raises(PoolError, match=r"item 2 \(key 'cat/00005.png'\) cannot be decoded: cannot identify"):
            read()
    assert pool.read(3, 6).shape == (3, 3, 4, 4)
    (batch,) = pool.blocks(on_bad_chunk="skip")
    assert [(bad.start, bad.stop) for bad in batch.bad] == [(2, 3)]
    assert (batch.items[2] == 0).all()
    assert batch.items[5, 0, 0, 0] == 4


def test_braces() -> None:
    assert expand_braces("a{08..10}{x,y}") == ["a08x", "a08y", "a09x", "a09y", "a10x", "a10y"]


BIG = 512  # pixels per side: 5 images per chunk, a file of its own


def noise(i: int) -> bytes:
    rng = np.random.default_rng(i)
    return encoded(Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)), "JPEG")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tars of 14 images in all, bad ones and repeated ones among them."""
    root = tmp_path_factory.mktemp("mixed")
    for part in range(3):
        with tarfile.open(root / f"t-{part}.tar", "w") as archive:
            for i in range(6):
                data = b"bad" if i == 2 else noise(10 * part + i)
                info = tarfile.TarInfo("twice.jpg" if i == 3 else f"{part}/{i}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return root


def same_pool(a: Pool, b: Pool) -> None:
    assert np.array_equal(a.read(0, a.n), b.read(0, b.n))
    assert a.keys is not None
    assert b.keys is not None
    assert a.keys.tolist() == b.keys.tolist()
    assert a.labels.tolist() == b.labels.tolist()
    assert a.fingerprint == b.fingerprint


@pytest.mark.parametrize("keep", [False, True])
def test_an_import_killed_at_any_write_goes_on_to_the_same_pool(
    tmp_path: Path, mixed: Path, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of 5 images, or 3000 bytes; the n-th durable step is the last, for every n. Decoded in this process."""
    monkeypatch.setattr("mcscore.ingest.pipeline.ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of real ones take their time
    chunk = 3000 if keep else 5
    monkeypatch.setattr(MODULE, "plan_grid", lambda *_: Grid(chunk, None))
    kwargs: dict[str, Any] = {"size": 16, "keep_encoded": keep, "workers": 1}
    whole = import_images(mixed / "t-{0..2}.tar", tmp_path / "whole", **kwargs)
    assert whole.n == 13  # 3 x 6, less 3 bad ones, less 2 that come again
    assert len(bad_of(tmp_path / "whole")) == 4  # "twice" is one row of the table
    n, finished = 0, False
    while not finished:
        n += 1
        path = tmp_path / f"p{n}"
        with monkeypatch.context() as patch:
            for name in ("replace", "rename", "mkdir"):
                step, _ = failing(getattr(os, name), n, Killed())
                patch.setattr(os, name, step)
            try:
                import_images(mixed / "t-{0..2}.tar", path, **kwargs)
                finished = True
            except Killed:
                finished = False
        if not finished:
            again = import_images(mixed / "t-{0..2}.tar", path, **kwargs)
            same_pool(again, whole)
            assert bad_of(path) == bad_of(tmp_path / "whole")
        assert not list(tmp_path.glob(".p*"))
    assert n > 15


def test_an_import_that_goes_on_decodes_only_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = folder(tmp_path / "src", 12)
    monkeypatch.setattr(MODULE, "plan_grid", lambda *_: Grid(5, None))
    (src / "zzz.png").write_bytes(b"x")  # the last entry
    with pytest.raises(PoolError, match="max_bad=0"):
        import_images(src, tmp_path / "p", size=4, workers=1, max_bad=0)
    seen: list[tuple[int, int]] = []
    import_images(src, tmp_path / "p", size=4, workers=1, progress=lambda done, n: seen.append((done, n)))
    assert seen[0] == (9, 13), "two files of 5 are kept; the entry that filled the last is looked at again"
    assert seen[-1] == (13, 13)


def test_a_killed_process_goes_on_to_the_same_pool(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    for i in range(60):
        (src / f"{i:03d}.jpg").write_bytes(noise(i))
    whole = import_images(src, tmp_path / "whole", size=BIG, workers=1)
    words = [sys.executable, "-m", "mcscore.cli", "pool", "import", str(src), str(tmp_path / "p"), "--size", str(BIG)]
    child = subprocess.Popen([*words, "--workers", "1", "--quiet"], start_new_session=True)
    first = tmp_path / ".p.import" / "log" / "00000000.json"
    while not first.exists() and child.poll() is None:
        time.sleep(0.005)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert first.exists()
    assert not (tmp_path / "p").exists(), "it was killed too late to test anything"
    seen: list[tuple[int, int]] = []
    again = import_images(src, tmp_path / "p", size=BIG, workers=1, progress=lambda done, n: seen.append((done, n)))
    assert seen[0][0] >= 3
    same_pool(again, whole)
