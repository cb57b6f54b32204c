"""A pool grows by whole appends: old items, ids and fingerprints stay, and a kill leaves the old pool or the new one."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from mcscore.errors import PoolError
from mcscore.ingest import append_array, append_blocks, append_images, import_array, import_images
from mcscore.ingest.pipeline import SAME_KEY
from mcscore.pool import Pool

from ..pool.helpers import Killed, chunk_files, failing, flip_bit, images, listing, small_pool
from .helpers import bad_of, color, folder, noise

ALL = images(200)
KINDS = pytest.mark.parametrize(
    ("compression", "sharded"), [("none", False), ("none", True), ("lz4", True), ("zstd", False)]
)


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), sharded=st.booleans(), zipped=st.booleans())
def test_items_appended_are_those_of_a_pool_made_at_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], sharded: bool, zipped: bool
) -> None:
    path, n = tmp_path_factory.mktemp("p") / "p", 5
    pool = Pool.create(
        path,
        ALL[:5],
        chunk_items=4,
        shard_items=16 if sharded else None,
        compression="lz4" if zipped else "none",
        labels=np.arange(5),
    )
    prints = {5: pool.fingerprint}
    for size in sizes:
        pool = append_blocks(path, ALL[n : n + size], labels=np.arange(n, n + size))
        n += size
        assert pool.n == n
        assert Pool.open(path).fingerprint == pool.fingerprint
        prints[n] = pool.fingerprint
    assert np.array_equal(pool.read(0, n), ALL[:n])
    assert pool.labels.tolist() == list(range(n))
    assert not pool.excluded.any()
    assert {at: pool.fingerprint_at(at) for at in range(n + 2)} == {at: prints.get(at) for at in range(n + 2)}
    assert len(set(prints.values())) == len(prints)
    group = zarr.open_group(path, mode="r")  # and to any other Zarr reader
    assert np.array_equal(group["items"][:], ALL[:n])
    assert group["labels"][:].tolist() == list(range(n))
    assert listing(path.parent) == ["p"]


@KINDS
def test_a_pool_that_is_open_goes_on_as_it_was(tmp_path: Path, compression: str, sharded: bool) -> None:
    old = small_pool(tmp_path / "p", compression, sharded, labels=np.arange(50))
    fingerprint = old.fingerprint
    walk = old.blocks([(0, 10), (10, 30), (30, 50)], prefetch=0)
    first = next(walk)
    append_blocks(tmp_path / "p", ALL[50:90])
    assert np.array_equal(np.concatenate([first.items, *(batch.items for batch in walk)]), ALL[:50])
    assert old.n == len(old.labels) == len(old.excluded) == 50
    old.set_labels([49], [7])
    old.set_excluded([48])
    new = Pool.open(tmp_path / "p")
    assert new.labels.tolist() == [*range(49), 7, *[-1] * 40]
    assert np.flatnonzero(new.excluded).tolist() == [48]
    assert new.fingerprint_at(50) == fingerprint
    assert new.fingerprint_at(49) is None


@KINDS
@pytest.mark.parametrize("at", [5, 21, 49])
def test_damage_to_old_items_changes_the_old_fingerprint_after_an_append(
    tmp_path: Path, compression: str, sharded: bool, at: int
) -> None:
    before = small_pool(tmp_path / "p", compression, sharded).fingerprint
    append_blocks(tmp_path / "p", ALL[50:90])
    array = zarr.open_array(tmp_path / "p" / "items", mode="r+", config={"write_empty_chunks": True})
    item = array[at]
    array[at] = item ^ 1
    assert Pool.open(tmp_path / "p").fingerprint_at(50) != before
    array[at] = item
    assert Pool.open(tmp_path / "p").fingerprint_at(50) == before
    array[60] = 9
    assert Pool.open(tmp_path / "p").fingerprint_at(50) == before, "items beyond n are no part of it"
    file = chunk_files(Pool.open(tmp_path / "p"))[at // (16 if sharded else 4)]
    data = file.read_bytes()
    file.write_bytes(data[:-7])
    assert Pool.open(tmp_path / "p").fingerprint_at(50) != before
    file.unlink()
    assert Pool.open(tmp_path / "p").fingerprint_at(50) != before


def test_keys_of_any_width_are_appended(tmp_path: Path) -> None:
    small_pool(tmp_path / "p", n=3, keys=["a", "b", "c"])
    append_blocks(tmp_path / "p", ALL[3:5], keys=["a much longer name", "ü"])
    append_blocks(tmp_path / "p", ALL[5:6])
    pool = append_blocks(tmp_path / "p", ALL[6:7], keys=["d"])
    assert pool.keys is not None
    assert pool.keys.tolist() == ["a", "b", "c", "a much longer name", "ü", "", "d"]
    with pytest.raises(PoolError, match=r"key 'ü' is given twice, or .* has it already"):
        append_blocks(tmp_path / "p", ALL[7:8], keys=["ü"])
    assert small_pool(tmp_path / "q", n=2).keys is None


@pytest.mark.parametrize(
    ("items", "kwargs", "match"),
    [
        (np.ones((2, 2, 3, 4), "u1"), {}, r"items are uint8 \(2, 3, 4\); .* holds uint8 \(2, 3, 5\)"),
        (np.ones((2, 2, 3, 5), "f4"), {}, "items are float32"),
        (ALL[:2], {"labels": [1]}, r"labels have shape \(1,\) for 2 items"),
        (ALL[:2], {"labels": [1, 2]}, "label 2 at position 1 is outside"),
        (ALL[:2], {"keys": ["x"]}, "1 keys came for 2 items"),
        (ALL[:2], {"keys": ["x", "x"]}, "key 'x' is given twice"),
        (iter([ALL[:2]]), {"n": 3}, "n=3, but the blocks hold 2 items"),
    ],
)
def test_what_does_not_fit_changes_nothing(tmp_path: Path, items: Any, kwargs: dict[str, Any], match: str) -> None:
    pool = small_pool(tmp_path / "p", classes=["a", "b"])
    with pytest.raises(PoolError, match=match):
        append_blocks(tmp_path / "p", items, **kwargs)
    assert listing(tmp_path) == ["p"]
    assert Pool.open(tmp_path / "p").fingerprint == pool.fingerprint
    assert append_blocks(tmp_path / "p", ALL[:2]).n == 52


# ---------------------------------------------------------------------- kills and failures


def steps() -> Iterator[tuple[str, int]]:
    """Every durable step, until there are no more of a kind."""
    for name in ("replace", "rename", "fsync"):
        for n in itertools.count(1):
            yield name, n
            if over.pop(name, False):
                break


over: dict[str, bool] = {}


@pytest.mark.parametrize(("sharded", "error"), [(True, Killed()), (False, OSError(28, "No space left on device"))])
def test_a_stop_at_any_step_leaves_the_old_pool_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool, error: Exception
) -> None:
    monkeypatch.setattr("mcscore.pool.create.COLUMN_CHUNK", 32)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of real ones take their time
    pool = small_pool(tmp_path / "old", sharded=sharded, labels=np.arange(50), keys=[f"k{i}" for i in range(50)])
    np.save(tmp_path / "more.npy", ALL[50:90])
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    new = append_array(tmp_path / "new", tmp_path / "more.npy", labels=np.arange(40))
    seen = set()
    for name, n in steps():
        path = tmp_path / "p"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(tmp_path / "old", path)
        with monkeypatch.context() as patch:
            step, calls = failing(getattr(os, name), n, error)
            patch.setattr(os, name, step)
            with contextlib.suppress(Killed, PoolError):
                append_array(path, tmp_path / "more.npy", labels=np.arange(40))
                over[name] = len(calls) < n
        now = Pool.open(path)
        seen.add(now.n)
        want = {50: pool, 90: new}[now.n]
        assert np.array_equal(now.read(0, now.n), ALL[: now.n])
        assert now.labels.tolist() == want.labels.tolist()
        assert now.keys is not None
        assert want.keys is not None
        assert now.keys.tolist() == want.keys.tolist()
        assert now.fingerprint == want.fingerprint
        now.set_labels([49], [5])  # between the kill and the second try
        if not over.get(name):
            again = append_array(path, tmp_path / "more.npy", labels=np.arange(40))
            assert again.n == 90
            assert again.fingerprint == new.fingerprint
            assert again.labels.tolist() == [*range(49), 5, *range(40)]
        assert not list(tmp_path.glob(".p.append")), (name, n)
    assert seen == {50, 90}


def test_another_append_than_the_one_that_was_cut_short_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pool(tmp_path / "p")
    np.save(tmp_path / "a.npy", ALL[50:60])
    np.save(tmp_path / "b.npy", ALL[60:70])
    with monkeypatch.context() as patch:
        patch.setattr("mcscore.ingest.append.commit_staged", failing(len, 1, Killed())[0])
        with pytest.raises(Killed):
            append_array(tmp_path / "p", tmp_path / "a.npy")
    with pytest.raises(PoolError, match="started with another source"):
        append_array(tmp_path / "p", tmp_path / "b.npy")
    assert append_array(tmp_path / "p", tmp_path / "a.npy").n == 60
    assert np.array_equal(append_array(tmp_path / "p", tmp_path / "b.npy").read(0, 70), ALL[:70])


def test_keys_of_an_append_that_was_given_up_are_not_those_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pool(tmp_path / "p", n=5)
    with monkeypatch.context() as patch:
        patch.setattr("mcscore.ingest.append_commit.write_attributes", failing(len, 1, Killed())[0])
        with pytest.raises(Killed):
            append_blocks(tmp_path / "p", ALL[50:90], keys=[f"k{i}" for i in range(40)], identity="a")
    with pytest.raises(PoolError, match=r"started with another source.* or remove that directory"):
        append_blocks(tmp_path / "p", ALL[5:8], identity="b")
    assert (tmp_path / "p" / "keys-5").exists()
    shutil.rmtree(tmp_path / ".p.append")
    pool = append_blocks(tmp_path / "p", ALL[5:8], identity="b")
    assert pool.keys is None
    assert np.array_equal(pool.read(0, 8), ALL[:8])
    assert append_blocks(tmp_path / "p", ALL[8:60]).labels.tolist() == [-1] * 60
    assert np.array_equal(Pool.open(tmp_path / "p").read(0, 60), ALL[:60])


def test_blocks_that_cannot_be_told_from_those_cut_short_are_not_added_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pool(tmp_path / "p")
    with monkeypatch.context() as patch:
        patch.setattr("mcscore.ingest.append.commit_staged", failing(len, 1, Killed())[0])
        with pytest.raises(Killed):
            append_blocks(tmp_path / "p", ALL[50:60])
    with pytest.raises(
        PoolError, match="was completed now; the pool holds 60 items, and the items of this call were not added"
    ):
        append_blocks(tmp_path / "p", ALL[60:70])
    assert Pool.open(tmp_path / "p").n == 60


def test_a_pool_of_other_software_that_says_no_n_can_grow(tmp_path: Path) -> None:
    group = zarr.create_group(
        tmp_path / "p", attributes={"format": "mcscore-pool", "version": 2, "item_shape": [2, 3, 5]}
    )
    for name, values in (("items", ALL[:6]), ("labels", np.full(6, -1, "i4")), ("excluded", np.zeros(6, bool))):
        chunks, config = (4, *values.shape[1:]), {"write_empty_chunks": True}
        group.create_array(name, data=values, chunks=chunks, compressors=None, config=config)
    before = Pool.open(tmp_path / "p").fingerprint
    pool = append_blocks(tmp_path / "p", ALL[6:20], labels=np.arange(14))
    assert np.array_equal(pool.read(0, 20), ALL[:20])
    assert pool.labels.tolist() == [-1] * 6 + list(range(14))
    assert pool.fingerprint_at(6) == before


# ---------------------------------------------------------------------- images


@pytest.mark.parametrize("keep", [False, True])
def test_a_folder_that_has_grown_gives_only_what_is_new(tmp_path: Path, keep: bool) -> None:
    src = folder(tmp_path / "src", 4)
    before = import_images(src, tmp_path / "p", size=4, labels=True, workers=1, keep_encoded=keep)
    (src / "cat" / "a much longer name.png").write_bytes(color(77))
    pool = append_images(tmp_path / "p", src, labels=True, workers=1)
    assert pool.n == 5
    assert pool.read(0, 5)[:, 0, 0, 0].tolist() == [1, 3, 0, 2, 77]
    assert pool.labels.tolist() == [0, 0, 1, 1, 0]
    assert pool.keys is not None
    assert pool.keys[4] == "cat/a much longer name.png"
    assert pool.fingerprint_at(4) == before.fingerprint != pool.fingerprint
    assert set(bad_of(tmp_path / "p").values()) == {SAME_KEY}
    assert append_images(tmp_path / "p", src, labels=True, workers=1, max_bad=0).n == 5, "the same again is no fault"
    assert append_images(tmp_path / "p", src, workers=1).n == 5
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "broken.png").write_bytes(b"no image")
    with pytest.raises(PoolError, match=r"none of the 1 entries of .* can be added"):
        append_images(tmp_path / "p", tmp_path / "other", workers=1)
    (src / "bird").mkdir()
    (src / "bird" / "0.png").write_bytes(color(1))
    with pytest.raises(PoolError, match="class 'bird', which is not among the given classes"):
        append_images(tmp_path / "p", src, labels=True, workers=1)


@pytest.mark.parametrize("keep", [False, True])
def test_an_append_of_images_killed_anywhere_goes_on(
    tmp_path: Path, keep: bool, monkeypatch: pytest.MonkeyPatch, here: None
) -> None:
    from mcscore.pool.schema import Grid

    from .test_images import MODULE

    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(MODULE, "plan_grid", lambda *_: Grid(3000 if keep else 5, None))
    for name, numbers in (("a", range(7)), ("b", range(7, 18))):
        (tmp_path / name).mkdir()
        for i in numbers:
            (tmp_path / name / f"{i:02d}.jpg").write_bytes(noise(i))
    old = import_images(tmp_path / "a", tmp_path / "old", size=16, keep_encoded=keep)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    new = append_images(tmp_path / "new", tmp_path / "b")
    assert np.array_equal(new.read(0, 7), old.read(0, 7))
    for n in itertools.count(1):
        path = tmp_path / "p"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(tmp_path / "old", path)
        with monkeypatch.context() as patch:
            for name in ("replace", "rename"):
                patch.setattr(os, name, failing(getattr(os, name), n, Killed())[0])
            try:
                append_images(path, tmp_path / "b")
                break
            except Killed:
                pass
        now = Pool.open(path)
        want = {7: old, 18: new}[now.n]
        assert np.array_equal(now.read(0, now.n), want.read(0, now.n))
        assert now.fingerprint == want.fingerprint
        again = append_images(path, tmp_path / "b")
        assert again.n == 18
        assert np.array_equal(again.read(0, 18), new.read(0, 18))
        assert again.fingerprint == new.fingerprint
    assert n > 8


def test_an_array_is_refused_by_a_pool_of_encoded_images(tmp_path: Path) -> None:
    import_images(folder(tmp_path / "src"), tmp_path / "p", size=4, workers=1, keep_encoded=True)
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4, 4), np.uint8))
    with pytest.raises(PoolError, match="holds encoded images"):
        append_array(tmp_path / "p", tmp_path / "a.npy")
    import_array(tmp_path / "a.npy", tmp_path / "q")
    with pytest.raises(PoolError, match="images need uint8"):
        append_images(small_pool(tmp_path / "r").path, tmp_path / "src", workers=1)
    assert append_images(tmp_path / "q", tmp_path / "src", workers=1).n == 8


def test_a_flipped_bit_in_what_is_staged_over_is_found(tmp_path: Path) -> None:
    """The old items of the last file are read, and their crc32c compared, before they are written again."""
    pool = small_pool(tmp_path / "p")
    flip_bit(chunk_files(pool)[-1], 3)
    with pytest.raises(PoolError, match=r"items 48\.\.49 cannot be read"):
        append_blocks(tmp_path / "p", ALL[50:60])


def test_a_run_over_a_pool_that_has_grown_scores_the_new_items_only(tmp_path: Path) -> None:
    import torch

    import mcscore

    def scored(pool: Pool, out: str, **kwargs: Any) -> Any:
        torch.manual_seed(0)
        layers = (torch.nn.Flatten(), torch.nn.Linear(30, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))
        scorer = mcscore.Scorer(torch.nn.Sequential(*layers), passes=5, scores=("bald",), seed=0)
        return mcscore.score_pool(pool, scorer, out=tmp_path / out, span=16, **kwargs)

    first = scored(small_pool(tmp_path / "p", sharded=True), "run").scores("bald")
    grown = append_blocks(tmp_path / "p", ALL[50:90])
    seen: list[tuple[int, int]] = []
    run = scored(grown, "run", progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (50, 90), "what is committed stays, the span that the old end cut too"
    assert np.array_equal(run.scores("bald")[:50], first)
    assert np.allclose(run.scores("bald"), scored(grown, "anew").scores("bald"), atol=1e-6)
    assert run.complete
