"""A compacted pool is the same pool in fewer files; a stop at any step leaves the old one or the new one."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from mcscore.errors import PoolError
from mcscore.ingest import append_blocks, import_images
from mcscore.ingest.compact import compact
from mcscore.pool import Pool
from mcscore.pool.verify import verify

from ..pool.helpers import Killed, images, listing, small_pool, unsigned
from ..steps import at_step
from .test_images import folder

ALL = images(120)


def grown(path: Path, compression: str = "none", sharded: bool = False) -> tuple[Pool, dict[int, str]]:
    """50 items, some without keys, and three appends; the pool, and its fingerprints by how many items it had."""
    prints = {
        50: small_pool(path, compression, sharded, labels=np.arange(50), keys=[f"k{i}" for i in range(50)]).fingerprint
    }
    for start, stop, keys in ((50, 60, None), (60, 90, [f"longer {i}" for i in range(30)]), (90, 91, ["a"])):
        prints[stop] = append_blocks(path, ALL[start:stop], keys=keys).fingerprint
    return Pool.open(path), prints


@pytest.mark.parametrize(("compression", "sharded"), [("none", False), ("lz4", True), ("zstd", False)])
@pytest.mark.parametrize("beside", [False, True])
def test_items_labels_keys_and_fingerprints_stay(tmp_path: Path, compression: str, sharded: bool, beside: bool) -> None:
    before, prints = grown(tmp_path / "p", compression, sharded)
    before.set_excluded([7])
    keys = before.keys
    assert keys is not None
    done = compact(tmp_path / "p", tmp_path / "q" if beside else None)
    pool = Pool.open(tmp_path / "q" if beside else tmp_path / "p")
    assert (done.files, done.forgotten) == (2, 0)
    assert done.files_before > 6
    assert np.array_equal(pool.read(0, 91), ALL[:91])
    assert pool.labels.tolist() == [*range(50), *[-1] * 41]
    assert np.flatnonzero(pool.excluded).tolist() == [7]
    assert pool.keys is not None
    assert pool.keys.tolist() == keys.tolist()
    assert {n: pool.fingerprint_at(n) for n in prints} == prints
    assert list(verify(pool)) == []
    name = pool.storage.attributes.rows_name
    assert np.array_equal(zarr.open_group(pool.path, mode="r")[name][:91], ALL[:91]), "to any other Zarr reader"
    again = append_blocks(pool.path, ALL[91:120], keys=[f"more {i}" for i in range(29)])
    assert np.array_equal(again.read(0, 120), ALL)
    assert again.fingerprint_at(91) == prints[91] != again.fingerprint
    assert compact(pool.path).pool.fingerprint == again.fingerprint
    assert listing(tmp_path) == (["p", "q"] if beside else ["p"])


def test_changed_items_are_told_after_a_compaction_too(tmp_path: Path) -> None:
    _, prints = grown(tmp_path / "p")
    pool = compact(tmp_path / "p").pool
    array = zarr.open_array(tmp_path / "p" / pool.storage.attributes.rows_name, mode="r+")
    array[90] = array[90] ^ 1
    assert Pool.open(tmp_path / "p").fingerprint != prints[91]


def test_encoded_images_are_compacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcscore.pool.schema import Grid

    with monkeypatch.context() as patch:
        patch.setattr("mcscore.ingest.images.plan_grid", lambda *_: Grid(64, None))
        before = import_images(folder(tmp_path / "src"), tmp_path / "p", size=4, workers=1, keep_encoded=True)
    items, fingerprint = before.read(0, before.n), before.fingerprint
    done = compact(tmp_path / "p")
    assert done.files == 2 < done.files_before
    assert np.array_equal(done.pool.read(0, before.n), items)
    assert done.pool.fingerprint == fingerprint
    assert list(verify(done.pool)) == []


def test_a_pool_of_an_earlier_release_is_compacted(tmp_path: Path) -> None:
    before = small_pool(tmp_path / "p", keys=[str(i) for i in range(50)]).fingerprint
    unsigned(tmp_path / "p")
    assert compact(tmp_path / "p").pool.fingerprint == before
    assert np.array_equal(Pool.open(tmp_path / "p").read(0, 50), ALL[:50])


def test_a_stop_at_any_step_leaves_the_old_pool_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcscore.pool.create.COLUMN_CHUNK", 32)
    monkeypatch.setattr("mcscore.atomic.os.fsync", lambda _: None)
    _, prints = grown(tmp_path / "old")
    states = set()
    for n in range(0, 1000, 2):
        shutil.rmtree(tmp_path / "p", ignore_errors=True)
        shutil.copytree(tmp_path / "old", tmp_path / "p")

        def die(*_: object) -> None:
            raise Killed

        with at_step(n, die) as steps, contextlib.suppress(Killed):
            compact(tmp_path / "p")
            assert len(steps) <= n
            break
        pool = Pool.open(tmp_path / "p")
        states.add(pool.storage.attributes.rows)
        assert np.array_equal(pool.read(0, 91), ALL[:91])
        assert pool.fingerprint == prints[91]
        done = compact(tmp_path / "p").pool
        assert done.fingerprint == prints[91]
        assert listing(tmp_path / "p") == [
            "appends",
            "excluded",
            *sorted(dict(done.storage.attributes.arrays or ()))[2:],
            "zarr.json",
        ]
    assert states == {None, "items-1"}
    assert n > 20


def test_damage_and_an_interrupted_append_are_refused(tmp_path: Path) -> None:
    _, prints = grown(tmp_path / "p")
    (tmp_path / ".p.append").mkdir()
    with pytest.raises(PoolError, match=r"an append to .* was interrupted: repeat that append first"):
        compact(tmp_path / "p")
    (tmp_path / ".p.append").rmdir()
    file = tmp_path / "p" / "items" / "c.3.0.0.0"
    data = file.read_bytes()
    file.write_bytes(b"\1" + data[1:])
    with pytest.raises(PoolError, match=r"items 12\.\.15 cannot be read"):
        compact(tmp_path / "p")
    file.write_bytes(data)
    with pytest.raises(PoolError, match="exists already"):
        compact(tmp_path / "p", tmp_path / "p")
    assert compact(tmp_path / "p").pool.fingerprint == prints[91]
