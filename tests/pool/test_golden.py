"""Pools of format version 2, made once and committed, read as they were written by every later version."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr

from mcscore.ingest import append_blocks
from mcscore.pool import Pool
from mcscore.pool.verify import verify

from ..golden.make_pools import CLASSES, items, keys, labels

GOLDEN = Path(__file__).parents[1] / "golden"
PRINTS = json.loads((GOLDEN / "pool-v2-fingerprints.json").read_text())
VALUES = {
    "plain": items(13, (2, 3, 4), "uint8"),
    "sharded": items(20, (1, 4, 4), "float32"),
    "sharded-zstd": items(20, (1, 4, 4), "float16"),
    "sharded-lz4": items(20, (1, 4, 4), "float64"),
    "encoded": items(6, (8, 8, 3), "uint8").transpose(0, 3, 1, 2),
}
EACH = pytest.mark.parametrize("name", VALUES)


def golden(name: str) -> Pool:
    if name == "encoded":
        pytest.importorskip("PIL.Image")
    return Pool.open(GOLDEN / f"pool-v2-{name}")


@EACH
def test_values_labels_flags_and_fingerprints_are_as_they_were(name: str) -> None:
    pool, values = golden(name), VALUES[name]
    read = pool.read(0, pool.n)
    assert read.dtype == values.dtype
    assert np.array_equal(read, values)
    assert np.array_equal(pool.take([pool.n - 1, 0]), values[[-1, 0]])
    assert np.array_equal(pool.labels, np.full(pool.n, -1) if name == "encoded" else labels(pool.n))
    assert np.flatnonzero(pool.excluded).tolist() == [1, 4]
    assert {str(n): pool.fingerprint_at(n) for n in range(pool.n + 1) if pool.fingerprint_at(n)} == PRINTS[name]
    assert list(verify(pool)) == []


def test_keys_classes_and_normalization_are_as_they_were() -> None:
    plain, sharded, encoded = golden("plain"), golden("sharded"), golden("encoded")
    assert plain.keys is not None
    assert plain.keys.tolist() == keys(13)
    assert (plain.mean, plain.std, plain.classes, plain.source) == ((0.5, 0.25), (0.125, 1.0), CLASSES, "golden")
    assert sorted(PRINTS["plain"]) == ["10", "13"]
    assert (sharded.keys, sharded.mean, sharded.classes) == (None, None, None)
    assert encoded.keys is not None
    assert encoded.keys.tolist() == [f"{i}.png" for i in range(6)]
    assert encoded.classes == CLASSES


@EACH
def test_every_zarr_reader_reads_them(name: str) -> None:
    group = zarr.open_group(GOLDEN / f"pool-v2-{name}", mode="r")
    n = group.attrs["n"]
    if name == "encoded":
        image = pytest.importorskip("PIL.Image")
        blob, offsets = group["blob"][:].tobytes(), group["offsets"][:]
        pictures = [np.asarray(image.open(io.BytesIO(blob[offsets[i] : offsets[i + 1]]))) for i in range(n)]
        assert np.array_equal(pictures, VALUES[name].transpose(0, 2, 3, 1))
    else:
        assert np.array_equal(group["items"][:n], VALUES[name])
        assert np.array_equal(group["labels"][:n], labels(n))
    assert np.flatnonzero(group["excluded"][:n]).tolist() == [1, 4]


def test_the_fingerprint_is_what_the_page_of_the_format_says() -> None:
    """Of 10 items in chunks of 4, each a file: two full ones, and 2 items in a third that an append has rewritten."""
    path, values = GOLDEN / "pool-v2-plain", VALUES["plain"]
    content = ""
    for rows in (values[:4], values[4:8], values[8:10]):
        content = f"sha256:{hashlib.sha256(content.encode() + rows.tobytes()).hexdigest()}"
    header = {"content": content, "format": ["mcscore-pool", 2], "item_shape": [2, 3, 4], "mean": [0.5, 0.25]}
    array = {"chunks": [4, None], "codecs": ["bytes", "crc32c"], "dtype": "uint8", "shape": [10, 2, 3, 4]}
    files = [(path / "items" / f"c.{i}.0.0.0").read_bytes() for i in range(2)]
    parts = [
        json.dumps({**header, "std": [0.125, 1.0]}, sort_keys=True).encode(),
        json.dumps(array, sort_keys=True).encode(),
        b"100\n100\n",
        google_crc32c.value(values[8:10].tobytes()).to_bytes(4, "little"),
        files[0][-4:],
        files[1][-4:],
    ]
    assert PRINTS["plain"]["10"] == f"sha256:{hashlib.sha256(b''.join(parts)).hexdigest()}"


@EACH
def test_a_pool_of_this_version_is_labeled_and_grows(name: str, tmp_path: Path) -> None:
    golden(name)
    shutil.copytree(GOLDEN / f"pool-v2-{name}", tmp_path / "p")
    pool = Pool.open(tmp_path / "p")
    pool.set_labels([2], [0])
    assert pool.labels[2] == 0
    assert pool.fingerprint == PRINTS[name][str(pool.n)]
    if name != "encoded":
        grown = append_blocks(tmp_path / "p", VALUES[name][:3])
        assert np.array_equal(grown.read(0, grown.n), np.concatenate([VALUES[name], VALUES[name][:3]]))
        assert grown.fingerprint_at(pool.n) == pool.fingerprint


def test_the_golden_pools_are_small() -> None:
    files = [file for file in GOLDEN.glob("pool-v2-*/**/*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 200_000
