"""A worker knows the pool by its metadata; the process that has checked the files reads them again where something changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import RunError
from mcscore.ingest import append_blocks
from mcscore.pool import Pool
from mcscore.pool import storage as module
from mcscore.run.identity.match import is_pool_of, state_of
from mcscore.run.identity.pool_watch import PoolWatch

from ..pool.helpers import chunk_files, images, small_pool


@contextmanager
def no_fingerprint() -> Iterator[None]:
    """The files of items are not looked at."""

    def refuse(*_: object) -> str:
        raise AssertionError("the fingerprint was read")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fingerprint", refuse)
        yield


def exchange(pool: Pool, chunk: int = 3) -> None:
    """Put a whole chunk of other items in place of one, by renaming."""
    other = small_pool(pool.path.parent / "other")
    chunk_files(other)[chunk + 1].rename(chunk_files(pool)[chunk])


def test_the_identity_is_that_of_the_items_and_their_layout(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", labels=np.arange(50) % 3)
    same = small_pool(tmp_path / "same", keys=[str(i) for i in range(50)])
    same.set_excluded([4])
    with no_fingerprint():
        assert pool.identity() == same.identity(50) == Pool.open(same.path).identity()
        assert pool.identity(49) is None
    others = [
        small_pool(tmp_path / "short", n=49),
        small_pool(tmp_path / "compressed", "lz4"),
        small_pool(tmp_path / "sharded", sharded=True),
        small_pool(tmp_path / "mean", mean=0.5, std=1.0),
        Pool.create(tmp_path / "seed", images(50, 1), chunk_items=4),
        Pool.create(tmp_path / "float", images(50).astype(np.float32), chunk_items=4),
    ]
    found = {pool.identity(), *(other.identity() for other in others)}
    assert len(found) == 1 + len(others)
    assert None not in found


def test_a_pool_that_has_grown_keeps_the_identities_of_what_it_was(tmp_path: Path) -> None:
    before = small_pool(tmp_path / "p")
    recorded = state_of(before)
    grown = append_blocks(tmp_path / "p", images(60)[50:])
    again = append_blocks(tmp_path / "p", images(63)[60:])
    with no_fingerprint():
        assert again.identity(50) == before.identity()
        assert again.identity(60) == grown.identity()
        assert is_pool_of(recorded, again, checked=True)
    assert not is_pool_of(replace(recorded, n=64), again, checked=True)


def test_a_pool_without_a_hash_of_its_items_is_known_by_its_files(tmp_path: Path) -> None:
    import zarr

    small_pool(tmp_path / "p")
    meta = tmp_path / "p" / "zarr.json"
    plain = zarr.open_group(tmp_path / "p", mode="r").attrs.asdict()
    kept = {name: plain[name] for name in ("format", "version", "item_shape")}
    meta.write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": kept}))
    pool = Pool.open(tmp_path / "p")
    assert pool.identity() == pool.fingerprint
    with no_fingerprint(), pytest.raises(AssertionError, match="the fingerprint was read"):
        Pool.open(tmp_path / "p").identity()


def test_a_worker_reads_no_file_of_items(tmp_path: Path) -> None:
    recorded = state_of(small_pool(tmp_path / "p"))
    with no_fingerprint():
        pool = Pool.open(tmp_path / "p")
        assert is_pool_of(recorded, pool, checked=True)
        watch = PoolWatch(pool, recorded)
        watch.require_same("nothing")
        append_blocks(tmp_path / "p", images(60)[50:])
        watch.require_same("nothing")
        (tmp_path / "p").rename(tmp_path / "aside")
        small_pool(tmp_path / "p", sharded=True)
        with pytest.raises(AssertionError, match="the fingerprint was read"):  # it may have been compacted
            watch.require_same("nothing")
    with pytest.raises(RunError, match=r"was exchanged or changed while it was scored.*Span 2 is not committed"):
        watch.require_same("span 2 is not committed")


def test_a_worker_finds_files_that_were_exchanged_when_it_looks_wholly(tmp_path: Path) -> None:
    recorded = state_of(small_pool(tmp_path / "p"))
    pool = Pool.open(tmp_path / "p")
    watch = PoolWatch(pool, recorded)
    exchange(pool)
    watch.require_same("nothing")
    with pytest.raises(RunError, match="was exchanged or changed"):
        watch.require_same("nothing", wholly=True)


@pytest.mark.parametrize("looked", [False, True])
def test_who_has_read_the_fingerprint_finds_exchanged_files_at_once(tmp_path: Path, looked: bool) -> None:
    pool = small_pool(tmp_path / "p")
    watch = PoolWatch(pool, state_of(pool))
    if looked:
        watch.require_same("nothing")
    exchange(pool)
    with pytest.raises(RunError, match="was exchanged or changed"):
        watch.require_same("nothing")


def test_a_fingerprint_that_was_read_is_not_read_again(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p")
    watch = PoolWatch(pool, state_of(pool))
    with no_fingerprint():
        watch.require_same("nothing")
        pool.set_labels([3], [1])
        watch.require_same("nothing")
        with pytest.raises(AssertionError, match="the fingerprint was read"):
            watch.require_same("nothing", wholly=True)


def test_a_run_of_before_the_identity_was_recorded_is_known_by_the_fingerprint(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p")
    recorded = replace(state_of(pool), identity="")
    assert is_pool_of(recorded, Pool.open(pool.path), checked=True)
    assert not is_pool_of(replace(recorded, fingerprint="sha256:other"), pool, checked=True)
