"""Making a pool: what goes in comes out, in bounded memory, whole or not at all."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from mcscore.errors import PoolError
from mcscore.pool import Pool
from mcscore.pool.schema import CHUNK_BYTES, SHARD_BYTES, plan_grid

from ..power import Disk, Tree, lay_out
from ..steps import at_step, half
from .helpers import chunk_files, images, listing, small_pool


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("sharded", [False, True])
def test_items_come_back_equal(tmp_path: Path, dtype: str, compression: str, sharded: bool) -> None:
    items = (images(37) / 7).astype(dtype)
    pool = Pool.create(
        tmp_path / "p", items, compression=compression, chunk_items=4, shard_items=16 if sharded else None
    )
    assert pool.n == len(pool) == 37
    assert pool.item_shape == (2, 3, 5)
    assert pool.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(pool.read(0, 37), items)
    assert np.array_equal(zarr.open_array(tmp_path / "p" / "items", mode="r")[:], items)  # and to any other Zarr reader


@settings(max_examples=12)
@given(cuts=st.lists(st.integers(0, 60), max_size=8), known=st.booleans(), sharded=st.booleans())
def test_blocks_of_any_sizes_make_the_same_pool(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], known: bool, sharded: bool
) -> None:
    items, edges = images(60), [0, *sorted(cuts), 60]
    blocks = (items[a:b] for a, b in itertools.pairwise(edges))
    path = tmp_path_factory.mktemp("p") / "p"
    pool = Pool.create(path, blocks, n=60 if known else None, chunk_items=4, shard_items=16 if sharded else None)
    assert np.array_equal(pool.read(0, 60), items)
    assert pool.fingerprint == small_pool(path.with_name("q"), sharded=sharded, n=60).fingerprint


def test_everything_said_about_the_data_comes_back(tmp_path: Path) -> None:
    Pool.create(
        tmp_path / "p",
        images(3),
        labels=[1, -1, 0],
        keys=["a/1.png", "ü", ""],
        mean=(0.1, 0.2),
        std=(0.3, 0.4),
        classes=["cat", "dog"],
        source="here",
    )
    pool = Pool.open(tmp_path / "p")
    assert pool.labels.tolist() == [1, -1, 0]
    assert pool.labels.dtype == np.int32
    assert pool.excluded.tolist() == [False, False, False]
    assert pool.keys is not None
    assert pool.keys.tolist() == ["a/1.png", "ü", ""]
    assert (pool.mean, pool.std) == ((0.1, 0.2), (0.3, 0.4))
    assert pool.classes == ["cat", "dog"]
    assert pool.source == "here"


def test_unsaid_things_have_their_defaults(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", n=3)
    assert pool.labels.tolist() == [-1, -1, -1]
    assert pool.keys is None
    assert (pool.mean, pool.std, pool.classes, pool.source) == (None, None, None, None)


def test_an_empty_pool_is_a_pool(tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "p", np.empty((0, 1, 4), np.float32))
    assert pool.n == 0
    assert pool.read(0, 0).shape == (0, 1, 4)
    assert pool.take([]).shape == (0, 1, 4)
    assert list(pool.blocks()) == []
    assert pool.labels.shape == (0,)
    assert pool.fingerprint.startswith("sha256:")


def test_the_content_hash_is_a_chain_over_the_files(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p", sharded=True)
    want = ""
    for at in range(0, 50, 16):
        want = f"sha256:{hashlib.sha256(want.encode() + images()[at : at + 16].tobytes()).hexdigest()}"
    assert zarr.open_group(pool.path, mode="r").attrs["content"] == want


@pytest.mark.parametrize("item_bytes", [1, 784, 12_288, 150_528, 5 << 20, 200 << 20])
@pytest.mark.parametrize("n", [0, 1, 1000, 60_000, 10**8, None])
def test_chunks_and_shards_stay_within_their_sizes(n: int | None, item_bytes: int) -> None:
    grid = plan_grid(n, item_bytes)
    assert grid.chunk == 1 or grid.chunk * item_bytes <= CHUNK_BYTES
    if n is None or (n > 1 and n * item_bytes > SHARD_BYTES):
        assert grid.chunk == 1 or grid.chunk * item_bytes > CHUNK_BYTES / 2
        assert grid.shard is not None
        assert grid.shard % grid.chunk == 0
        assert grid.shard == grid.chunk or SHARD_BYTES / 2 < grid.shard * item_bytes <= 1 << 30
    if n is not None:
        assert n / grid.unit <= 1 << 14 or grid.unit * item_bytes >= 1 << 29


def test_a_stream_of_unknown_length_is_sharded_once_it_proves_big(tmp_path: Path) -> None:
    block = np.random.default_rng(0).integers(0, 256, (1000, 10_000), dtype=np.uint8)
    pool = Pool.create(tmp_path / "p", (block + np.uint8(i) for i in range(9)))
    assert pool.n == 9000
    assert len(chunk_files(pool)) == 2  # 90 MB in shards of 64 MiB
    assert np.array_equal(pool.read(8999, 9000)[0], block[999] + np.uint8(8))


def test_memory_stays_bounded_while_a_big_pool_is_written(tmp_path: Path) -> None:
    block = np.zeros((100, 100_000), np.uint8)
    tracemalloc.start()
    try:
        Pool.create(tmp_path / "p", (block for _ in range(40)), n=4000)  # 400 MB
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------- all or nothing


def test_whatever_step_fails_nothing_is_left(tmp_path: Path) -> None:
    """Fail the n-th step on disk, for every n until there are no more."""

    def fail(name: str, args: tuple[object, ...]) -> None:
        half(name, args)
        raise OSError(28, "No space left on device")

    for n in itertools.count():
        with at_step(n, fail) as steps:
            try:
                small_pool(tmp_path / "p", n=10)
                assert len(steps) <= n
                break
            except PoolError:
                assert steps[n] != "remove_tree"
        assert listing(tmp_path) == []
    assert n > 20
    assert np.array_equal(Pool.open(tmp_path / "p").read(0, 10), images(10))


@pytest.mark.parametrize("keys", [None, [str(i) for i in range(10)]])
def test_a_power_cut_at_any_step_leaves_no_pool_or_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: list[str] | None
) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    rng = random.Random(0)
    trees: list[Tree] = []
    with monkeypatch.context() as patch:
        disk = Disk(root, patch)

        def note() -> None:
            trees.extend(
                [disk.after_cut(names_kept=False), disk.after_cut(names_kept=True), disk.after_random_cut(rng)]
            )

        disk.after_step = note  # type: ignore[method-assign]
        small_pool(root / "p", n=10, keys=keys)
    there = [tree for tree in trees if Path("p") in tree]
    assert len(trees) > 100
    assert 1 < len(there) < len(trees)
    assert Path("p") in trees[-3]
    for number, tree in enumerate(there):
        lay_out(tree, tmp_path / str(number))
        pool = Pool.open(tmp_path / str(number) / "p")
        assert np.array_equal(pool.read(0, 10), images(10))
        assert pool.labels.tolist() == [-1] * 10
        assert (None if pool.keys is None else pool.keys.tolist()) == keys


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("camera on fire"), MemoryError()])
def test_a_source_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def blocks() -> Iterator[np.ndarray]:
        yield images(10)
        raise error

    with pytest.raises(type(error)):
        Pool.create(tmp_path / "p", blocks(), chunk_items=4)
    assert listing(tmp_path) == []


def test_everything_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove any fsync from the writer and this fails: power may go at any time."""
    synced: set[int] = set()
    fsync, replace = os.fsync, os.replace

    def note(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def checked_replace(source: Path, target: Path) -> None:
        assert os.stat(source).st_ino in synced
        for folder, folders, files in os.walk(source):  # nothing, of a file
            for name in [*folders, *files]:
                assert os.stat(Path(folder) / name).st_ino in synced, name
        replace(source, target)
        synced.discard(os.stat(Path(target).parent).st_ino)  # the name is new: the directory must be synced again

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", checked_replace)
    pool = small_pool(tmp_path / "p", keys=[str(i) for i in range(50)])
    assert tmp_path.stat().st_ino in synced
    pool.set_labels([3], [1])
    assert (pool.path / "labels").stat().st_ino in synced


CREATE = """
    import sys, time
    import numpy as np
    from mcscore.pool import Pool

    def blocks():
        for i in range(20):
            print(i, flush=True)
            time.sleep(float(sys.argv[2]))
            yield np.full((5, 100), i, np.uint8)

    Pool.create(sys.argv[1], blocks(), n=100, chunk_items=5)
    print("done", flush=True)
"""


def creator(path: Path, pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CREATE), str(path), str(pause)], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_creation_leaves_no_pool_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "p"
    for stop_at in ("1", "7", "done"):
        with creator(path, 0.005) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip() == stop_at:
                    process.kill()
                    break
        if stop_at != "done":
            assert not path.exists()
            assert len(listing(tmp_path)) == 1  # the hidden remains of this one; those of the one before are gone
            with pytest.raises(PoolError, match="nothing at this path"):
                Pool.open(path)
    assert listing(tmp_path) == ["p"]
    assert np.array_equal(Pool.open(path).read(0, 100)[:, 0], np.arange(100) // 5)


def test_a_creation_under_way_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "p"
    with creator(path, 0.02) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while not listing(tmp_path):
            pass
        small_pool(path, n=10)
        process.stdout.read()
    assert process.returncode != 0  # the second to finish finds the name taken
    assert listing(tmp_path) == ["p"]
    assert Pool.open(path).n == 10


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit: the write itself fails, as on a full disk."""
    code = """
        import resource, sys
        import numpy as np
        from mcscore.pool import Pool, PoolError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            Pool.create(sys.argv[1], np.ones((10, 200_000), np.uint8), chunk_items=1)
        except PoolError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "p")], capture_output=True, text=True, check=True
    )
    assert "could not be written, nothing was left behind" in done.stdout
    assert "File too large" in done.stdout
    assert listing(tmp_path) == []


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("there", ["file", "folder", "pool", "dangling link"])
def test_an_existing_path_is_never_overwritten(tmp_path: Path, there: str) -> None:
    path = tmp_path / "p"
    {
        "file": lambda: path.write_text("mine"),
        "folder": path.mkdir,
        "pool": lambda: small_pool(path),
        "dangling link": lambda: path.symlink_to(tmp_path / "nowhere"),
    }[there]()
    with pytest.raises(PoolError, match="exists already; pools are never overwritten"):
        small_pool(path, n=3)


@pytest.mark.parametrize(
    ("items", "kwargs", "match"),
    [
        (np.ones((3, 2), np.int64), {}, "items are int64; a pool holds uint8, uint16, float16"),
        (np.ones(3, np.uint8), {}, r"items have shape \(3,\)"),
        (np.ones((3, 0), np.uint8), {}, r"shape \(3, 0\)"),
        (7, {}, "not int"),
        (iter([]), {}, "no block came"),
        (iter([np.ones((2, 2), "u1"), np.ones((2, 3), "u1")]), {}, r"block 1 holds uint8 \(3,\) items, those before"),
        (iter([np.ones((2, 2), "u1"), np.ones((2, 2), "f4")]), {}, r"block 1 holds float32"),
        (iter([np.ones((2, 2), "u1")]), {"n": 3}, "3 items were announced, 2 came"),
        (iter([np.ones((4, 2), "u1")]), {"n": 3}, "3 items were announced, more came"),
        (np.ones((3, 2), "u1"), {"n": 4}, "4 items were announced, the array has 3"),
        (np.ones((3, 2), "u1"), {"labels": [1, 2]}, r"labels have shape \(2,\) for 3 items"),
        (np.ones((3, 2), "u1"), {"labels": [1.0, 2.0, 3.0]}, "labels are float64; they must be integers"),
        (np.ones((3, 2), "u1"), {"labels": [0, 1, -2]}, "label -2 at position 2 is outside"),
        (np.ones((3, 2), "u1"), {"labels": [0, 1, 2], "classes": ["a", "b"]}, r"label 2 at position 2 .*\[-1, 1\]"),
        (np.ones((3, 2), "u1"), {"keys": ["a", "b"]}, "2 keys came for 3 items"),
        (np.ones((3, 2), "u1"), {"keys": ["a", "b", "c\0"]}, "key 2 cannot be stored, it contains a zero byte"),
        (np.ones((3, 2), "u1"), {"classes": ["a", "a"]}, "must differ"),
        (np.ones((3, 2), "u1"), {"mean": 0.5}, "mean and std go together"),
        (np.ones((3, 2), "u1"), {"mean": 0.5, "std": 0.0}, "std must be positive"),
        (np.ones((3, 2), "u1"), {"mean": np.nan, "std": 1.0}, "mean must be finite"),
        (np.ones((3, 2), "u1"), {"mean": [1, 2, 3], "std": [1, 2, 3]}, r"mean has 3 values; .*need 1 or 2"),
        (
            np.ones((2, 5, 5, 3), "u1"),
            {"mean": [0.5] * 3, "std": [0.5] * 3},
            r"need 1 or 5, as channels come first.*--layout hwc",
        ),
        (np.ones((3, 2), "u1"), {"compression": "jpeg"}, "'jpeg' is unknown; choose from none, lz4, zstd"),
        (
            np.ones((3, 2), "u1"),
            {"chunk_items": 4, "shard_items": 6},
            "shards of 6 items cannot hold whole chunks of 4",
        ),
        (np.ones((3, 2), "u1"), {"shard_items": 6}, "shard_items needs chunk_items"),
    ],
)
def test_what_cannot_become_a_pool_is_named_and_leaves_nothing(
    tmp_path: Path, items: object, kwargs: dict[str, object], match: str
) -> None:
    with pytest.raises(PoolError, match=match):
        Pool.create(tmp_path / "p", items, **kwargs)  # type: ignore[arg-type]
    assert listing(tmp_path) == []
