"""Metadata of a pool are checked at every open: no flipped byte, and no edit of a field, gives another pool in silence."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore.errors import Error, PoolError
from mcscore.ingest import append_blocks
from mcscore.ingest.compact import compact
from mcscore.pool import Pool
from mcscore.pool.metadata import attributes_hash
from mcscore.pool.verify import verify

from .helpers import images, small_pool, unsigned

ALL = images(90)


def made(path: Path, kind: str) -> Pool:
    """50 items with keys, and 20 appended with wider ones."""
    compression = "lz4" if kind == "sharded" else "none"
    small_pool(path, compression, kind == "sharded", keys=[f"k{i}" for i in range(50)], mean=(0.5, 0.25), std=(0.5, 1))
    pool = append_blocks(path, ALL[50:70], labels=np.arange(20), keys=[f"longer {i}" for i in range(20)])
    return compact(path).pool if kind == "compacted" else pool


def everything(path: Path) -> list[Any]:
    """All that a pool says of itself."""
    pool = Pool.open(path)
    facts = [pool.n, pool.item_shape, str(pool.dtype), pool.mean, pool.std, pool.classes, pool.source, pool.created]
    values = [pool.read(0, pool.n).tobytes(), pool.labels.tolist(), pool.excluded.tolist(), str(pool.keys)]
    known = [pool.fingerprint, pool.fingerprint_at(50), pool.find_keys(["k3", "longer 7"]).tolist()]
    return [*facts, *values, *known, list(verify(pool))]


@pytest.mark.parametrize("kind", ["plain", "sharded", "compacted"])
def test_a_flipped_byte_of_metadata_is_found_or_changes_nothing(tmp_path: Path, kind: str) -> None:
    made(tmp_path / "p", kind)
    want, rng = everything(tmp_path / "p"), random.Random(7)
    files = sorted((tmp_path / "p").rglob("zarr.json"))
    found = 0
    for _ in range(200):
        file = rng.choice([*files, tmp_path / "p" / "zarr.json"])
        data = file.read_bytes()
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        try:
            assert everything(tmp_path / "p") == want, (file, bytes(flipped))
        except Error:
            found += 1
        file.write_bytes(data)
    assert found > 150
    assert everything(tmp_path / "p") == want


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    meta = json.loads(file.read_text())
    change(meta)
    file.write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 30),
        ("mean", [0.25, 0.5]),
        ("content", None),
        ("appends", 0),
        ("keys", []),
        ("classes", ["a"]),
        ("source", "x"),
    ],
)
def test_an_edited_attribute_is_refused_and_nothing_is_appended(tmp_path: Path, name: str, value: object) -> None:
    made(tmp_path / "p", "plain")
    file = tmp_path / "p" / "zarr.json"
    before = file.read_bytes()
    changed(file, lambda meta: meta["attributes"].update({name: value}))
    for act in (lambda: Pool.open(tmp_path / "p"), lambda: append_blocks(tmp_path / "p", ALL[:5])):
        with pytest.raises(PoolError, match=r"p/zarr\.json is damaged: the attribute 'checksum' does not fit"):
            act()
    file.write_bytes(before)
    assert np.array_equal(Pool.open(tmp_path / "p").read(0, 70), ALL[:70])


def test_a_pool_whose_checksum_was_lost_is_none_of_an_earlier_release(tmp_path: Path) -> None:
    made(tmp_path / "p", "plain")
    file = tmp_path / "p" / "zarr.json"
    changed(file, lambda meta: meta["attributes"].pop("checksum"))
    with pytest.raises(PoolError, match="the attribute 'checksum' is missing"):
        Pool.open(tmp_path / "p")
    changed(file, lambda meta: meta["attributes"].update(checksum=None))
    with pytest.raises(PoolError, match="the attribute 'checksum' is missing"):
        Pool.open(tmp_path / "p")
    changed(file, lambda meta: meta["attributes"].update(chfcksum="sha256:0"))
    with pytest.raises(
        PoolError, match=r"zarr\.json is damaged, its checksum does not fit: unknown attribute 'chfcksum'"
    ):
        Pool.open(tmp_path / "p")


@pytest.mark.parametrize(
    ("array", "change", "says"),
    [
        ("items", {"fill_value": 7}, "differs from the hash"),
        ("items", {"chunk_key_encoding": {"name": "default"}}, "differs from the hash"),
        ("items", {"shape": [50, 3, 2, 5]}, "differs from the hash"),
        ("items", {"shape": [30, 2, 3, 5]}, r"damaged pool: items \(30, 2, 3, 5\), n 70"),
        ("labels", {"data_type": "int16"}, "differs from the hash"),
        ("labels", {"shape": "many"}, r"labels/zarr.json is damaged: the field 'shape' is 'many'; a list of lengths"),
        ("labels", {"shape": [10**30]}, "the field 'shape'"),
        ("labels", {"codecs": {}}, "the field 'codecs' is {}; a list of codecs"),
        ("keys", {"chunk_grid": {"name": "regular"}}, "keys/zarr.json is damaged: the field 'chunk_grid'"),
        ("keys", {"node_type": "group"}, "the field 'node_type'"),
        ("appends", {"zarr_format": 2}, "appends/zarr.json is damaged: the field 'zarr_format'"),
    ],
)
def test_changed_metadata_of_an_array_are_refused(
    tmp_path: Path, array: str, change: dict[str, Any], says: str
) -> None:
    made(tmp_path / "p", "plain")
    changed(tmp_path / "p" / array / "zarr.json", lambda meta: meta.update(change))
    with pytest.raises(PoolError, match=says):
        Pool.open(tmp_path / "p")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}", b"null", b"\xff\xfe", b""])
def test_what_is_no_json_object_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    made(tmp_path / "p", "plain")
    for file, says in (("zarr.json", "p is not a pool"), ("labels/zarr.json", "labels/zarr.json")):
        before = (tmp_path / "p" / file).read_bytes()
        (tmp_path / "p" / file).write_bytes(content)
        with pytest.raises(PoolError, match=says):
            Pool.open(tmp_path / "p")
        (tmp_path / "p" / file).write_bytes(before)


def test_a_pool_of_an_earlier_release_is_read_and_grows_with_a_checksum(tmp_path: Path) -> None:
    small_pool(tmp_path / "p", keys=[f"k{i}" for i in range(50)])
    unsigned(tmp_path / "p")
    old = Pool.open(tmp_path / "p")
    assert old.keys is not None
    grown = append_blocks(tmp_path / "p", ALL[50:60], keys=["x"] + [""] * 9)
    assert grown.fingerprint_at(50) == old.fingerprint
    assert grown.keys is not None
    assert grown.keys.tolist() == [*old.keys.tolist(), "x", *[""] * 9]
    given = json.loads((tmp_path / "p" / "zarr.json").read_text())["attributes"]
    assert given.pop("checksum") == attributes_hash(given)
    assert sorted(given["arrays"]) == ["appends", "excluded", "items", "keys", "labels"]


def test_a_read_that_fails_is_not_taken_for_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the n-th stat, open or read below the pool, for every n: the same answer, or an error."""
    import builtins
    import io
    import os

    made(tmp_path / "p", "plain")
    unsigned(tmp_path / "p")  # the arrays of keys are looked for
    want = everything(tmp_path / "p")
    calls, at = [0], [0]

    def failing(original: Any) -> Any:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, (str, Path)) and str(tmp_path) in str(path):
                calls[0] += 1
                if calls[0] == at[0]:
                    raise OSError(errno.EIO, "Input/output error", str(path))
            return original(path, *args, **kwargs)

        return call

    for module, name in ((os, "stat"), (os, "open"), (os, "scandir"), (io, "open"), (builtins, "open")):
        monkeypatch.setattr(module, name, failing(getattr(module, name)))
    failed = 0
    for n in range(1, 10_000, 3):
        calls[0], at[0] = 0, n
        try:
            found = everything(tmp_path / "p")
        except (PoolError, OSError) as error:
            failed += "Input/output error" in str(error)
        else:
            if calls[0] < n:
                break
            # `verify` lists what it cannot read
            assert found == want or (found[:-1] == want[:-1] and "Input/output error" in str(found[-1])), n
    assert failed > 20
