"""verify finds every kind of damage in every array, and names chunk, file and items; info's picture shows the items."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import PoolError
from mcscore.ingest import append_blocks, import_images
from mcscore.pool import Pool
from mcscore.pool.pictures.contact_sheet import GAP, SIDE, contact_sheet
from mcscore.pool.verify import verify

from ..ingest.helpers import folder, noise
from .helpers import chunk_files, flip_bit, images, small_pool


def test_a_sound_pool_has_nothing_to_tell(tmp_path: Path) -> None:
    small_pool(tmp_path / "p", keys=[str(i) for i in range(50)])
    pool = append_blocks(tmp_path / "p", images(70)[50:], keys=[f"long {i}" for i in range(20)])
    seen: list[tuple[int, int]] = []
    assert list(verify(pool, lambda done, total: seen.append((done, total)))) == []
    assert seen[-1] == (23, 23)  # 18 of items, one each of labels, excluded and appends, two of keys


@pytest.mark.parametrize("array", ["items", "labels", "excluded", "keys-50"])
@pytest.mark.parametrize("damage", ["missing", "flipped", "truncated"])
def test_damage_is_listed_with_chunk_file_and_items(tmp_path: Path, array: str, damage: str) -> None:
    small_pool(tmp_path / "p", keys=[str(i) for i in range(50)])
    pool = append_blocks(tmp_path / "p", images(70)[50:], keys=[f"long {i}" for i in range(20)])
    file = chunk_files(pool, array)[5 if array == "items" else 0]
    {
        "missing": file.unlink,
        "flipped": lambda: flip_bit(file, 10),
        "truncated": lambda: file.write_bytes(file.read_bytes()[:9]),
    }[damage]()
    (found,) = verify(Pool.open(pool.path))
    assert (found.array, found.file) == (array, str(file))
    assert (found.chunk, found.start_item, found.stop_item) == {
        "items": (5, 20, 24),
        "keys-50": (0, 50, 70),
    }.get(array, (0, 0, 70))
    assert {"missing": "the file is missing", "flipped": "crc32c", "truncated": "truncated"}[damage] in found.why or (
        array == "keys-50"  # compressed: what is left of it is known by its crc32c
    )


def test_damaged_bytes_of_encoded_images_are_told_as_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcscore.pool.schema import Grid

    from ..ingest.test_images import MODULE

    monkeypatch.setattr(MODULE, "plan_grid", lambda *_: Grid(3000, None))
    src = tmp_path / "src"
    src.mkdir()
    for i in range(12):
        (src / f"{i:02d}.jpg").write_bytes(noise(i))
    pool = import_images(src, tmp_path / "p", size=8, workers=1, keep_encoded=True)
    offsets = pool.offsets()
    hurt = [i for i in range(12) if offsets[i] < 6000 and offsets[i + 1] > 3000]
    flip_bit(chunk_files(pool, "blob")[1], 50)
    (found,) = verify(pool)
    assert (found.start_item, found.stop_item) == (hurt[0], hurt[-1] + 1)
    for read in (lambda: pool.read(0, 12), lambda: list(pool.blocks()), lambda: pool.take([hurt[-1]])):
        with pytest.raises(PoolError, match=rf"items {hurt[0]}\.\.{hurt[-1]} cannot be read"):
            read()
    assert pool.take([11, 0]).shape == (2, 3, 8, 8)


def test_the_contact_sheet_shows_the_items(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pool = import_images(folder(tmp_path / "src", 6), tmp_path / "p", size=4, workers=1)
    assert contact_sheet(pool, tmp_path / "sheet.png") == 6
    sheet = np.asarray(image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * SIDE + GAP, 3 * SIDE + 2 * GAP, 3)
    middles = sheet[SIDE // 2 :: SIDE + GAP, SIDE // 2 :: SIDE + GAP]
    assert np.array_equal(middles.reshape(6, 3), pool.read(0, 6)[:, :, 0, 0])
    floats = Pool.create(tmp_path / "f", np.linspace(-3, 5, 64).reshape(1, 1, 8, 8))
    contact_sheet(floats, tmp_path / "sheet.png")
    gray = np.asarray(image.open(tmp_path / "sheet.png"))
    assert (gray.min(), gray.max()) == (0, 255)
    with pytest.raises(PoolError, match="are no images"):
        contact_sheet(Pool.create(tmp_path / "q", np.zeros((3, 7), np.float32)), tmp_path / "sheet.png")


def test_a_contact_sheet_and_a_report_show_the_same_pixels(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    from mcscore.report.items import pictures

    items = np.random.default_rng(0).uniform(0, 0.5, (1, 2, SIDE, SIDE)).astype(np.float32)  # two channels: the first
    contact_sheet(Pool.create(tmp_path / "p", items), tmp_path / "sheet.png")
    sheet = np.asarray(image.open(tmp_path / "sheet.png"))[..., 0]
    page = np.asarray(image.open(io.BytesIO(base64.b64decode(pictures(items)[0].uri.partition(",")[2]))))
    assert np.array_equal(sheet, page)
    assert np.array_equal(sheet, np.round(items[0, 0] * 255).astype(np.uint8))


def test_many_damaged_chunks_are_told_in_order_wherever_the_pool_is(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    pool = small_pool(tmp_path / "p", "zstd", sharded=True, n=640, keys=[str(i) for i in range(640)])
    files = chunk_files(pool)
    for file in files[3::5]:
        flip_bit(file, 30)
    files[12].unlink()
    memory = fsspec.filesystem("memory")
    for file in pool.path.rglob("*"):
        if file.is_file():
            memory.pipe_file(f"/verified/{file.relative_to(pool.path)}", file.read_bytes())
    found = {}
    for where in (str(pool.path), "memory://verified"):
        steps: list[tuple[int, int]] = []
        listed = list(verify(Pool.open(where), lambda done, total, steps=steps: steps.append((done, total))))
        assert steps == [(done, steps[0][1]) for done in range(1, steps[0][1] + 1)]
        found[where] = [(one.array, one.chunk, one.start_item, one.stop_item, one.why) for one in listed]
        assert all(one.file.startswith(where) for one in listed)
    memory.rm("/verified", recursive=True)
    here, there = found.values()
    assert here == there
    assert [one[1] for one in here] == sorted([*(4 * i for i in range(3, 40, 5)), 48, 49, 50, 51])
