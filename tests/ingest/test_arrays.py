"""Importers: every format gives the array that was saved; what is damaged or does not fit is named, and leaves nothing."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import zarr

from mcscore.errors import PoolError
from mcscore.ingest import ARRAY_FORMATS, import_array
from mcscore.ingest.array_formats import open_array
from mcscore.pool import Pool

from ..pool.helpers import chunk_files, flip_bit, images, listing, small_pool

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: np.ndarray) -> bytes:
    code = CODES[array.dtype.str[1:]]
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def save_npy(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def save_npz(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, x=array)


SAVE: dict[str, Callable[[Path, np.ndarray], object]] = {
    "npy": save_npy,
    "npz": save_npz,
    "idx": lambda path, array: path.write_bytes(idx_bytes(array)),
    "idx.gz": lambda path, array: path.write_bytes(gzip.compress(idx_bytes(array))),
}
PICTURES = np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8)


def test_every_format_of_the_table_is_tested() -> None:
    assert {kind.name for kind in ARRAY_FORMATS} == set(SAVE)


@pytest.mark.parametrize("name", SAVE)
@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_a_saved_array_becomes_a_pool_of_equal_items(
    tmp_path: Path, name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcscore.ingest.array_formats._READ_BYTES", 1000)  # several blocks, the last one short
    items, labels = (PICTURES / 3).astype(dtype), np.arange(40, dtype=np.uint8)
    SAVE[name](tmp_path / "data", items)  # no suffix: the first bytes decide
    SAVE[name](tmp_path / "labels", labels)
    pool = import_array(tmp_path / "data", tmp_path / "pool", tmp_path / "labels", mean=0.5, std=0.25)
    stored = items[:, None] if name.startswith("idx") else items
    assert pool.item_shape == stored.shape[1:]
    assert pool.dtype == np.dtype(dtype)
    assert np.array_equal(pool.read(0, 40), stored)
    assert pool.labels.tolist() == list(range(40))
    assert (pool.source, pool.mean, pool.std) == ("data", (0.5,), (0.25,))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4"])
def test_idx_labels_of_every_integer_type_are_read(tmp_path: Path, dtype: str) -> None:
    labels = np.array([3, -1, 100], dtype)
    SAVE["idx"](tmp_path / "labels", labels)
    save_npy(tmp_path / "data", PICTURES[:3])
    assert import_array(tmp_path / "data", tmp_path / "pool", tmp_path / "labels").labels.tolist() == [3, -1, 100]


def test_npy_in_fortran_order_and_npz_keys(tmp_path: Path) -> None:
    save_npy(tmp_path / "f.npy", np.asfortranarray(PICTURES))
    assert np.array_equal(import_array(tmp_path / "f.npy", tmp_path / "a").read(0, 40), PICTURES)
    np.savez(tmp_path / "two.npz", x=PICTURES, y=np.arange(40))
    pool = import_array(tmp_path / "two.npz", tmp_path / "b", tmp_path / "two.npz", key="x", labels_key="y")
    assert np.array_equal(pool.read(0, 40), PICTURES)
    assert pool.labels.tolist() == list(range(40))
    with pytest.raises(PoolError, match="holds x, y: choose one with key="):
        import_array(tmp_path / "two.npz", tmp_path / "c")
    with pytest.raises(PoolError, match="holds x, y: there is no array 'z'"):
        import_array(tmp_path / "two.npz", tmp_path / "c", key="z")
    np.savez(tmp_path / "f.npz", np.asfortranarray(PICTURES))
    with pytest.raises(PoolError, match="Fortran order"):
        import_array(tmp_path / "f.npz", tmp_path / "c")


@pytest.mark.parametrize(
    ("layout", "shape", "stored"),
    [
        (None, (4, 6, 5, 3), (6, 5, 3)),
        ("hw", (4, 6, 5), (1, 6, 5)),
        ("hwc", (4, 6, 5, 3), (3, 6, 5)),
        ("chw", (4, 3, 6, 5), (3, 6, 5)),
    ],
)
def test_layout_arranges_the_axes(
    tmp_path: Path, layout: str | None, shape: tuple[int, ...], stored: tuple[int, ...]
) -> None:
    items = np.random.default_rng(1).random(shape)
    save_npy(tmp_path / "data", items)
    pool = import_array(tmp_path / "data", tmp_path / "pool", layout=layout)
    assert pool.item_shape == stored
    got = pool.read(0, 4)
    back = {"hw": lambda: got[:, 0], "hwc": lambda: got.transpose(0, 2, 3, 1)}.get(str(layout), lambda: got)()
    assert np.array_equal(back, items)


def test_an_empty_array_becomes_an_empty_pool(tmp_path: Path) -> None:
    for name, save in SAVE.items():
        save(tmp_path / name, PICTURES[:0])
        assert import_array(tmp_path / name, tmp_path / f"pool {name}", labels=[]).n == 0


def test_real_mnist_is_read_byte_for_byte(tmp_path: Path, data_dir: Path) -> None:
    mnist = data_dir / "mnist"
    images, labels = mnist / "t10k-images-idx3-ubyte.gz", mnist / "t10k-labels-idx1-ubyte.gz"
    if not images.exists():
        pytest.skip("no MNIST among the real data")
    pool = import_array(images, tmp_path / "pool", labels, mean=0.1307, std=0.3081)
    with gzip.open(images) as file:
        raw = np.frombuffer(file.read(), np.uint8, offset=16).reshape(10_000, 1, 28, 28)
    assert np.array_equal(pool.read(0, 10_000), raw)
    assert np.bincount(pool.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert pool.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.array_equal(pool.take([9999, 0]), raw[[9999, 0]])


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", SAVE)
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_file_is_named_and_leaves_nothing(tmp_path: Path, name: str, keep: float) -> None:
    SAVE[name](tmp_path / "data", PICTURES)
    whole = (tmp_path / "data").read_bytes()
    (tmp_path / "data").write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(PoolError, match="data"):
        import_array(tmp_path / "data", tmp_path / "pool")
    assert listing(tmp_path) == ["data"]


def test_data_after_the_last_item_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(idx_bytes(PICTURES) + b"x")
    with pytest.raises(PoolError, match="data follow the 40 items"):
        import_array(tmp_path / "data", tmp_path / "pool")
    assert listing(tmp_path) == ["data"]


def zipped(path: Path, **members: bytes | np.ndarray) -> Path:
    """A ZIP file of members; arrays get the suffix .npy, __ stands for a dot."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if isinstance(content, np.ndarray):
                np.save(file := io.BytesIO(), content)
                archive.writestr(f"{name}.npy", file.getvalue())
            else:
                archive.writestr(name.replace("__", "."), content)
    return path


def test_members_of_an_npz_that_are_no_arrays_are_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.npz", x=PICTURES, readme__txt=b"hello")
    with pytest.warns(UserWarning, match=r"a\.npz: passed over readme\.txt, not arrays \(\.npy\); read x"):
        pool = import_array(path, tmp_path / "a")
    assert np.array_equal(pool.read(0, 40), PICTURES)
    assert np.array_equal(import_array(path, tmp_path / "b", key="x").read(0, 40), PICTURES)
    with pytest.raises(PoolError, match=r"a\.npz holds x: there is no array 'readme\.txt'"):
        import_array(path, tmp_path / "c", key="readme.txt")


def test_a_zip_file_that_is_no_npz_is_named(tmp_path: Path) -> None:
    pictures = {f"{i}__png": b"x" for i in range(7)}
    with pytest.raises(PoolError, match=r"without an array .*: it holds 0\.png, 1\.png, .*4\.png and 2 more"):
        import_array(zipped(tmp_path / "a.zip", **pictures), tmp_path / "c")
    (tmp_path / "empty.npz").write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(PoolError, match=r"without an array .*: it is empty"):
        import_array(tmp_path / "empty.npz", tmp_path / "c")
    with zipfile.ZipFile(zipped(tmp_path / "twice.npz", x=PICTURES), "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own
        archive.writestr("x.npy", archive.read("x.npy"))
    with pytest.raises(PoolError, match="holds 2 arrays named 'x'"):
        import_array(tmp_path / "twice.npz", tmp_path / "c")
    data = bytearray(zipped(tmp_path / "locked.npz", x=PICTURES).read_bytes())
    data[6] |= 1  # encrypted, in the member's own header
    data[data.rindex(b"PK\1\2") + 8] |= 1  # and in the directory
    (tmp_path / "locked.npz").write_bytes(data)
    with pytest.raises(PoolError, match=r"x of .*locked\.npz cannot be read: .*encrypted"):
        import_array(tmp_path / "locked.npz", tmp_path / "c")


@pytest.mark.parametrize("name", ["npz", "idx.gz"])
def test_a_damaged_archive_is_named(tmp_path: Path, name: str) -> None:
    SAVE[name](tmp_path / "data", PICTURES)
    data = bytearray((tmp_path / "data").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "data").write_bytes(data)
    with pytest.raises(PoolError, match="data is damaged"):
        import_array(tmp_path / "data", tmp_path / "pool")
    assert listing(tmp_path) == ["data"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "none of npy, npz, idx.gz, idx"),
        (b"GIF89a", "none of npy, npz, idx.gz, idx .*GIF89a"),
        (b"\0\0\x07\x01\0\0\0\x01", "not an idx file"),
        (b"\0\0\x08\x00", "not an idx file"),
        (b"\0\0\x08\x03\0\0\0\x01", "ends inside its header"),
        (b"\x93NUMPYxx", "damaged .npy"),
        (b"PKxx", "damaged .npz"),
        (gzip.compress(b"hello there", mtime=0), "not an idx file"),
        (b"\x1f\x8bxxxx", "damaged"),
    ],
)
def test_what_is_no_array_is_named(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(PoolError, match=match):
        open_array(tmp_path / "data")


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=np.array([{}], object))
    for name in ("o.npy", "o.npz"):
        with pytest.raises(PoolError, match=name):
            open_array(tmp_path / name)


def test_what_does_not_fit_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    save_npy(data, PICTURES)
    with pytest.raises(PoolError, match=r"39 labels for the 40 items of .*data"):
        import_array(data, tmp_path / "pool", labels=np.zeros(39, int))
    with pytest.raises(PoolError, match=r"layout 'hwc' needs 4 axes"):
        import_array(data, tmp_path / "pool", layout="hwc")
    with pytest.raises(PoolError, match="layout 'whc' is unknown; choose from hw, chw, hwc"):
        import_array(data, tmp_path / "pool", layout="whc")
    with pytest.raises(PoolError, match="takes no key"):
        import_array(data, tmp_path / "pool", key="x")
    with pytest.raises(PoolError, match="absent cannot be read: No such file"):
        import_array(tmp_path / "absent", tmp_path / "pool")
    with pytest.raises(PoolError, match="is not a readable Zarr array or group"):
        import_array(tmp_path, tmp_path / "pool")
    save_npy(tmp_path / "flat", np.zeros(4, np.uint8))
    with pytest.raises(PoolError, match=r"shape \(4,\)"):
        import_array(tmp_path / "flat", tmp_path / "pool")
    save_npy(tmp_path / "one", np.array(3.0))
    with pytest.raises(PoolError, match="single value"):
        open_array(tmp_path / "one")
    Pool.create(tmp_path / "pool", PICTURES)
    with pytest.raises(PoolError, match="exists already"):
        import_array(data, tmp_path / "pool")


# ---------------------------------------------------------------------- Zarr


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_arrays_become_pools(tmp_path: Path, zarr_format: Literal[2, 3]) -> None:
    items = images(41)[4:]  # the first four are zeros, which zarr leaves out
    zarr.create_array(tmp_path / "a.zarr", data=items, chunks=(5, 2, 3, 2), zarr_format=zarr_format)
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=zarr_format)
    group.create_array("x", data=items, chunks=(4, 2, 3, 5))
    for source in ("a.zarr", "g.zarr", "g.zarr::x"):
        pool = import_array(tmp_path / source, tmp_path / f"{source}.pool", labels=np.arange(37))
        assert np.array_equal(pool.read(0, 37), items)
    group.create_array(
        "y", data=items.astype("f4") / 7, chunks=(8, 2, 3, 5), shards=(16, 2, 3, 5) if zarr_format == 3 else None
    )
    assert import_array(tmp_path / "g.zarr::y", tmp_path / "y").dtype == np.float32
    with pytest.raises(PoolError, match=r"holds the arrays x, y: choose one: .*::x"):
        import_array(tmp_path / "g.zarr", tmp_path / "z")
    with pytest.raises(PoolError, match="there is no array 'z'"):
        import_array(tmp_path / "g.zarr::z", tmp_path / "z")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PoolError, match="is not a readable Zarr array or group"):
        import_array(tmp_path / "folder", tmp_path / "z")
    assert not (tmp_path / "z").exists()


def test_a_pool_is_a_zarr_source_too_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", sharded=True)
    assert np.array_equal(import_array(tmp_path / "p::items", tmp_path / "q").read(0, 50), images())
    flip_bit(chunk_files(pool)[1], 9)
    with pytest.raises(PoolError, match=r"p::items cannot be read from item 0 on"):
        import_array(tmp_path / "p::items", tmp_path / "r")
    chunk_files(pool)[1].unlink()
    with pytest.warns(UserWarning, match="lacks"):
        import_array(tmp_path / "p::items", tmp_path / "r")
