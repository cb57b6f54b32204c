"""Damage is an error that names the chunk; what is no pool is said to be none."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from mcscore.errors import ChunkError, PoolError
from mcscore.pool import Pool
from mcscore.pool.metadata import attributes_hash
from mcscore.store import chunks
from mcscore.store.chunks import ChunkReader

from .helpers import chunk_files, flip_bit, images, small_pool, unsigned

KINDS = pytest.mark.parametrize(
    ("compression", "sharded"), [("none", False), ("none", True), ("lz4", False), ("lz4", True), ("zstd", True)]
)


def every_way_of_reading(pool: Pool, match: str) -> None:
    """Items 20..23 (chunk 5) are broken; 0..3 and 48..49 must still come."""
    for read in (
        lambda: pool.read(0, 50),
        lambda: pool.read(22, 23),
        lambda: pool.take([49, 21]),
        lambda: list(pool.blocks([(0, 16), (16, 32)])),
    ):
        with pytest.raises(PoolError, match=match):
            read()
    assert np.array_equal(pool.take([49, 0]), images()[[49, 0]])


@KINDS
def test_a_flipped_bit_names_the_chunk(tmp_path: Path, compression: str, sharded: bool) -> None:
    pool = small_pool(tmp_path / "p", compression, sharded)
    file = chunk_files(pool)[1 if sharded else 5]
    offset = 0
    if sharded:
        index = np.frombuffer(file.read_bytes()[-4 - 64 : -4], "<u8").reshape(4, 2)
        offset = int(index[1, 0])
    flip_bit(file, offset + 20)
    every_way_of_reading(pool, rf"items 20\.\.23 cannot be read, chunk 5 of .*{file.name}.*crc32c mismatch")


@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("left", [0, 3, 100])
def test_a_truncated_chunk_is_named(tmp_path: Path, compression: str, left: int) -> None:
    pool = small_pool(tmp_path / "p", compression)
    file = chunk_files(pool)[5]
    file.write_bytes(file.read_bytes()[:left])
    why = f"{left} bytes, 124 expected: truncated" if compression == "none" else ""
    every_way_of_reading(pool, rf"items 20\.\.23 cannot be read, chunk 5 of .*{file.name}: {why}")


def test_a_reader_that_met_damage_still_reads_the_rest_right(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p")
    flip_bit(chunk_files(pool)[5], 20)
    out = np.empty((2, 2, 3, 5), np.uint8)
    with ChunkReader(pool.storage.rows) as reader:
        reader.read(16, out)
        with pytest.raises(PoolError, match="chunk 5"):
            reader.read(20, out)
        reader.read(18, out)
    assert np.array_equal(out, images()[18:20])


def skipped(pool: Pool, ranges: list[tuple[int, int]] | None = None) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """All items as they come when bad chunks are skipped, and what was said to be bad."""
    batches = list(pool.blocks(ranges, on_bad_chunk="skip"))
    said = [(error.start, error.stop) for batch in batches for error in batch.bad]
    return np.concatenate([batch.items for batch in batches]), said


@KINDS
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_bad_chunks_are_skipped_where_that_is_asked_for(
    tmp_path: Path, compression: str, sharded: bool, damage: str
) -> None:
    pool = small_pool(tmp_path / "p", compression, sharded)
    file = chunk_files(pool)[1 if sharded else 5]
    {
        "missing": file.unlink,
        "flipped": lambda: flip_bit(file, 20),  # of a shard the first chunk
        "truncated": lambda: file.write_bytes(file.read_bytes()[:50]),
    }[damage]()
    start, stop = (20, 24) if not sharded else (16, 20) if damage == "flipped" else (16, 32)
    expected = images()
    expected[start:stop] = 0
    for ranges in (None, [(0, 18), (18, 22), (22, 50)], [(0, 50)]):
        items, said = skipped(pool, ranges)
        assert np.array_equal(items, expected)
        assert sorted(i for a, b in said for i in range(a, b)) == list(range(start, stop))
    with pytest.raises(ChunkError) as caught:
        list(pool.blocks([(0, 18), (18, 30)]))
    assert caught.value.start <= start < caught.value.stop


def test_a_disk_that_cannot_read_is_a_bad_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = small_pool(tmp_path / "p")

    def preadv(descriptor: int, buffers: list[object], offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(chunks.os, "preadv", preadv)
    with pytest.raises(ChunkError, match=r"items 20\.\.23 cannot be read, chunk 5 of .*: Input/output error"):
        pool.read(20, 22)


def test_a_pool_that_lost_a_file_or_an_index_has_another_fingerprint(tmp_path: Path) -> None:
    whole = small_pool(tmp_path / "p", sharded=True).fingerprint
    file = chunk_files(Pool.open(tmp_path / "p"))[1]
    stored = file.read_bytes()
    flip_bit(file, len(stored) - 20)
    no_index = Pool.open(tmp_path / "p").fingerprint
    with pytest.raises(ChunkError, match="crc32c mismatch in the index of the shard"):
        Pool.open(tmp_path / "p").check_files()
    file.unlink()
    lost = Pool.open(tmp_path / "p").fingerprint
    assert len({whole, no_index, lost}) == 3
    file.write_bytes(stored)
    again = Pool.open(tmp_path / "p")
    assert again.fingerprint == whole
    again.check_files()


@KINDS
def test_a_missing_file_is_an_error_and_never_zeros(tmp_path: Path, compression: str, sharded: bool) -> None:
    pool = small_pool(tmp_path / "p", compression, sharded)
    file = chunk_files(pool)[1 if sharded else 5]
    file.unlink()
    with pytest.raises(PoolError, match=rf"chunk {4 if sharded else 5} of .*{file.name}.*the file is missing"):
        pool.read(0, 50)
    with pytest.raises(ChunkError, match=rf"items \d+..\d+ cannot be read, chunk \d of .*{file.name}.*is missing"):
        pool.check_files()


@pytest.mark.parametrize("left", [0, 3, 60, 200])
def test_a_truncated_shard_is_named(tmp_path: Path, left: int) -> None:
    pool = small_pool(tmp_path / "p", sharded=True)
    file = chunk_files(pool)[1]
    file.write_bytes(file.read_bytes()[:left])
    every_way_of_reading(
        pool, rf"chunk \d of .*{file.name} \(chunk \d inside\): crc32c mismatch in the index of the shard"
    )


def test_a_shard_whose_index_was_flipped_is_named(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", sharded=True)
    file = chunk_files(pool)[1]
    flip_bit(file, file.stat().st_size - 20)
    every_way_of_reading(pool, "crc32c mismatch in the index of the shard")


def test_a_chunk_that_a_shard_lacks_is_named(tmp_path: Path) -> None:
    """As a careless writer leaves it: all-zero items not written."""
    pool = small_pool(tmp_path / "p", sharded=True)
    array = zarr.open_array(pool.path / "items", mode="r+", config={"write_empty_chunks": False})
    array[16:32] = np.concatenate([images()[16:20], np.zeros((4, 2, 3, 5), np.uint8), images()[24:32]])
    every_way_of_reading(Pool.open(pool.path), "chunk 5 .* not in the shard")


@pytest.mark.parametrize("array", ["labels", "excluded", "keys"])
@pytest.mark.parametrize("damage", ["missing", "flipped", "truncated"])
def test_damaged_labels_are_an_error_and_never_minus_one(tmp_path: Path, array: str, damage: str) -> None:
    pool = small_pool(tmp_path / "p", labels=np.arange(50), keys=[f"key {i}" for i in range(50)])
    (file,) = chunk_files(pool, array)
    {
        "missing": file.unlink,
        "flipped": lambda: flip_bit(file, 10),
        "truncated": lambda: file.write_bytes(file.read_bytes()[:9]),
    }[damage]()
    with pytest.raises(PoolError, match=rf"{array} 0\.\.49 cannot be read, chunk 0 of .*{array}/{file.name}"):
        getattr(pool, array)
    if array != "keys":
        change = pool.set_labels if array == "labels" else pool.set_excluded
        with pytest.raises(PoolError, match=rf"{array} 0\.\.49 cannot be read"):
            change([1], [1])


# ---------------------------------------------------------------------- not a pool


def edit(path: Path, **attributes: object) -> None:
    """Change attributes as somebody who knows the format would: the checksum fits."""
    meta = json.loads((path / "zarr.json").read_text())
    meta["attributes"].update(attributes)
    del meta["attributes"]["checksum"]
    meta["attributes"]["checksum"] = attributes_hash(meta["attributes"])
    (path / "zarr.json").write_text(json.dumps(meta))


def test_what_is_no_pool_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(
        PoolError, match=r"nowhere is not a pool: there is nothing at this path\. `mcscore pool import`"
    ):
        Pool.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(PoolError, match="it is a file"):
        Pool.open(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PoolError, match=r"it has no zarr\.json"):
        Pool.open(tmp_path / "folder")
    zarr.create_group(tmp_path / "group").create_array("x", shape=(3,), dtype="f4")
    with pytest.raises(PoolError, match="Zarr data of another kind"):
        Pool.open(tmp_path / "group")
    with pytest.raises(PoolError, match="Zarr data of another kind"):
        Pool.open(tmp_path / "group" / "x")
    zarr.create_group(tmp_path / "old", zarr_format=2)
    with pytest.raises(PoolError, match="no Zarr v3 group"):
        Pool.open(tmp_path / "old")
    for content in ("", "{", "[1]", "3"):
        (tmp_path / "folder" / "zarr.json").write_text(content)
        with pytest.raises(PoolError, match=r"folder is not a pool: its zarr\.json"):
            Pool.open(tmp_path / "folder")


def test_a_newer_version_is_refused_and_says_upgrade(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p")
    edit(pool.path, version=3)
    with pytest.raises(PoolError, match=r"pool format version 3, written by a newer mcscore; this one .* 2: upgrade"):
        Pool.open(pool.path)


def test_an_older_version_is_refused_and_says_import(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p")
    edit(pool.path, version=1)
    with pytest.raises(
        PoolError, match=r"pool format version 1, written by an older mcscore; .* import the data again"
    ):
        Pool.open(pool.path)


def test_an_unknown_attribute_is_named(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p")
    edit(pool.path, tint="blue")
    with pytest.raises(PoolError, match=r"p cannot be read: unknown attribute 'tint': written by a newer mcscore"):
        Pool.open(pool.path)


def test_attributes_that_are_missing_or_null_have_defaults(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", classes=["a"], mean=0.5, std=1.0, source="camera")
    for only in ({}, {"classes": None, "mean": None, "n": None, "earlier": None}):
        meta = json.loads((pool.path / "zarr.json").read_text())
        meta["attributes"] = {"format": "mcscore-pool", "version": 2, "item_shape": [2, 3, 5], **only}
        (pool.path / "zarr.json").write_text(json.dumps(meta))
        bare = Pool.open(pool.path)
        assert bare.n == 50
        assert (bare.mean, bare.std, bare.classes, bare.source, bare.created) == (None, None, None, None, "")
        assert np.array_equal(bare.read(0, 50), images())


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("item_shape", "round", "a list is needed"),
        ("item_shape", None, "'item_shape' is missing"),
        ("n", "50", "an integer from 0 on"),
        ("n", -1, "an integer from 0 on"),
        ("n", 10**30, "below 2^63"),
        ("mean", [10**400], "a finite number"),
        ("mean", [0.5, 0.5, 0.5], "a list of 1 or 2 numbers"),
        ("item_shape", [0], "positive lengths"),
        ("keys", [["keys", 0]], "a list of lists of 3"),
        ("rows", "../other", "the name of an array"),
        ("arrays", ["items"], "an object"),
        ("mean", 0.5, "a list is needed"),
        ("std", ["x"], "a finite number is needed"),
        ("classes", [1], "a string is needed"),
        ("encoded", 1, "true or false is needed"),
        ("earlier", [[1, 2, 3]], "pairs"),
    ],
)
def test_an_attribute_of_another_type_is_named(tmp_path: Path, name: str, value: object, wanted: str) -> None:
    pool = small_pool(tmp_path / "p")
    edit(pool.path, **{name: value})
    with pytest.raises(PoolError, match="p cannot be read: the attribute") as caught:
        Pool.open(pool.path)
    assert name in str(caught.value)
    assert wanted in str(caught.value)


@pytest.mark.parametrize("lost", ["items", "labels", "excluded"])
def test_a_pool_without_one_of_its_arrays_is_damaged(tmp_path: Path, lost: str) -> None:
    pool = small_pool(tmp_path / "p")
    shutil.rmtree(pool.path / lost)
    with pytest.raises(PoolError, match=f"is a damaged pool.*{lost}"):
        Pool.open(pool.path)


def test_arrays_that_do_not_match_are_a_damaged_pool(tmp_path: Path) -> None:
    pool, other = small_pool(tmp_path / "p"), small_pool(tmp_path / "q", n=49)
    shutil.rmtree(pool.path / "labels")
    shutil.copytree(other.path / "labels", pool.path / "labels")
    with pytest.raises(PoolError, match=r"damaged pool: items \(50, 2, 3, 5\).*'labels': 49"):
        Pool.open(pool.path)
    edit(other.path, item_shape=[2, 3, 6])
    with pytest.raises(PoolError, match=r"item_shape \(2, 3, 6\)"):
        Pool.open(other.path)


def test_chunks_that_cut_items_apart_are_refused(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p")
    unsigned(pool.path)
    group = zarr.open_group(pool.path, mode="r+")
    del group["items"]
    group.create_array("items", shape=(50, 2, 3, 5), dtype="u1", chunks=(8, 2, 3, 4))
    with pytest.raises(PoolError, match=r"cut items of shape \(2, 3, 5\) apart"):
        Pool.open(pool.path)
