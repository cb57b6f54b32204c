"""Labels and exclusion flags: durable, atomic per chunk, seen by every reader, no part of the fingerprint."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import PoolError
from mcscore.pool import Pool
from mcscore.pool import schema as pool_format

from ..processes import Child
from ..steps import at_step, half
from .helpers import chunk_files, images, listing, small_pool


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """Seven chunks of labels."""
    monkeypatch.setattr("mcscore.pool.create.COLUMN_CHUNK", 8)
    return small_pool(tmp_path / "p", labels=np.full(50, -1))


def test_labels_last_and_other_readers_see_them(pool: Pool) -> None:
    other = Pool.open(pool.path)
    pool.set_labels(np.array([49, 0, 17]), np.array([3, 1, 2]))
    want = np.full(50, -1)
    want[[49, 0, 17]] = [3, 1, 2]
    for reader in (pool, other, Pool.open(pool.path)):
        assert reader.labels.tolist() == want.tolist()
    pool.set_labels([0], [-1])
    assert other.labels[0] == -1


def test_exclusion_is_set_and_taken_back(pool: Pool) -> None:
    pool.set_excluded([4, 9])
    pool.set_excluded([9, 10, 11], [False, True, True])
    assert np.flatnonzero(pool.excluded).tolist() == [4, 10, 11]


def test_a_copy_of_the_labels_is_given(pool: Pool) -> None:
    pool.labels[:] = 5
    assert (pool.labels == -1).all()


def test_wrong_labels_change_nothing(pool: Pool) -> None:
    for ids, labels, match in (
        ([1, 50], [0, 0], "1 ids are outside the pool .* of 50 items: 50"),
        ([1, 2], [0], r"labels have shape \(1,\) for 2 items"),
        ([1, 2], [0, -2], "label -2 at position 1"),
        ([1, 1], [0, 3], "id 1 is given more than once"),
        ([1], [0.5], "must be integers"),
    ):
        with pytest.raises(PoolError, match=match):
            pool.set_labels(ids, labels)
    assert (pool.labels == -1).all()


def test_labels_beyond_the_classes_are_refused(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", classes=["a", "b"])
    pool.set_labels([0], [1])
    with pytest.raises(PoolError, match=r"label 2 at position 0 is outside \[-1, 1\]"):
        pool.set_labels([0], [2])


def test_a_crash_at_any_step_leaves_old_or_new_chunks_and_repeating_completes(
    pool: Pool,
) -> None:
    def fail(name: str, args: tuple[object, ...]) -> None:
        half(name, args)
        raise OSError(5, "Input/output error")

    new = np.arange(50, dtype=np.int32)
    files = listing(pool.path / "labels")
    for n in itertools.count():
        pool.set_labels(np.arange(50), np.full(50, -1))
        with at_step(n, fail) as steps, contextlib.suppress(PoolError):
            pool.set_labels(np.arange(50), new)
            assert len(steps) <= n
            break
        for at in range(0, 50, 8):
            chunk = pool.labels[at : at + 8]
            assert (chunk == -1).all() or (chunk == new[at : at + 8]).all()
        assert listing(pool.path / "labels") == files
        pool.set_labels(np.arange(50), new)
        assert np.array_equal(pool.labels, new)
    assert n == 4 * 7  # write, sync, rename, sync of each chunk


def test_what_a_killed_labeling_left_goes_with_the_next(pool: Pool) -> None:
    files = listing(pool.path / "labels")

    def die(name: str, args: tuple[object, ...]) -> None:
        half(name, args)
        os._exit(9)

    with at_step(0, die):
        if (child := os.fork()) == 0:
            pool.set_labels([3], [1])
            os._exit(0)
    os.waitpid(child, 0)
    assert listing(pool.path / "labels") != files
    pool.set_labels([4], [1])
    assert listing(pool.path / "labels") == files
    assert pool.labels[3:5].tolist() == [-1, 1]


def label_on(path: Path, say: Callable[[int], None]) -> None:
    pool = Pool.open(path)
    for value in range(10**6):
        pool.set_labels(np.arange(50), np.full(50, value))
        say(value)


def test_sigkill_while_labeling_leaves_one_state_or_the_next(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p")
    for stop_at in (0, 1, 5, 17):
        child, said = Child(label_on, pool.path), -1
        while said < stop_at:
            said = child.hear()
        said = max([said, *child.kill()])
        labels = np.unique(pool.labels)
        assert len(labels) == 1
        assert said <= labels[0] <= said + 1


def test_writers_at_the_same_time_lose_nothing(pool: Pool) -> None:
    def label(ids: range) -> None:
        mine = Pool.open(pool.path)
        for i in ids:
            mine.set_labels([i], [i])

    threads = [threading.Thread(target=label, args=(range(first, 50, 3),)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.labels.tolist() == list(range(50))


# ---------------------------------------------------------------------- fingerprint


def test_the_fingerprint_ignores_labels_flags_names_place_and_date(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p")
    before = pool.fingerprint
    pool.set_labels([1], [1])
    pool.set_excluded([2])
    assert Pool.open(pool.path).fingerprint == before
    assert small_pool(tmp_path / "q", source="elsewhere", classes=["a"], keys=list("ab" * 25)).fingerprint == before
    shutil.copytree(pool.path, tmp_path / "copy")
    assert Pool.open(tmp_path / "copy").fingerprint == before


def test_the_fingerprint_changes_with_the_data_and_how_it_is_stored(tmp_path: Path) -> None:
    changed, swapped = images(), images()
    changed[49, 1, 2, 4] ^= 1
    swapped[[10, 40]] = swapped[[40, 10]]
    made = [
        {"items": images()},
        {"items": changed},
        {"items": swapped},
        {"items": images()[:49]},
        {"items": images().reshape(50, 3, 2, 5)},
        {"items": images().astype(np.float32)},
        {"items": images(), "mean": 0.5, "std": 0.2},
        {"items": images(), "mean": 0.5, "std": 0.3},
        {"items": images(), "chunk_items": 8},
        {"items": images(), "shard_items": 16},
        {"items": images(), "compression": "lz4"},
    ]
    prints = {
        Pool.create(tmp_path / str(i), **{"chunk_items": 4, **how}).fingerprint  # type: ignore[arg-type]
        for i, how in enumerate(made)
    }
    assert len(prints) == len(made)


@pytest.mark.parametrize("sharded", [False, True])
def test_the_fingerprint_changes_when_a_chunk_is_truncated_or_rewritten(tmp_path: Path, sharded: bool) -> None:
    import zarr

    pool = small_pool(tmp_path / "p", sharded=sharded)
    before = pool.fingerprint
    zarr.open_array(pool.path / "items", mode="r+")[20, 1, 1, 1] ^= 1
    assert Pool.open(pool.path).fingerprint != before
    file = chunk_files(pool)[0]
    with file.open("ab") as appended:
        appended.write(file.read_bytes())
    assert Pool.open(pool.path).fingerprint != before


def test_the_column_chunk_bounds_what_one_label_rewrites() -> None:
    assert pool_format.COLUMN_CHUNK * 4 <= 4 << 20
