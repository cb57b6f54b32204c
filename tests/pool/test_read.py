"""Reading: any range, any ids, any steps give the items that were written."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from mcscore.errors import PoolError
from mcscore.pool import Pool
from mcscore.store.chunks import ChunkReader
from mcscore.store.read_ahead import read_ahead

from .helpers import images, small_pool, unsigned

N = 50


@pytest.fixture(scope="module", params=["none", "none sharded", "lz4 sharded", "zstd"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    compression, *sharded = request.param.split()
    return small_pool(tmp_path_factory.mktemp("pools") / "p", compression, bool(sharded), N)


@given(ends=st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted))
def test_read_gives_any_range(pool: Pool, ends: list[int]) -> None:
    start, stop = ends
    assert np.array_equal(pool.read(start, stop), images(N)[start:stop])
    out = np.full((stop - start, *pool.item_shape), 7, np.uint8)
    assert pool.read(start, stop, out=out) is out
    assert np.array_equal(out, images(N)[start:stop])


@given(ids=st.lists(st.integers(0, N - 1), max_size=80))
def test_take_keeps_order_and_repeats(pool: Pool, ids: list[int]) -> None:
    assert np.array_equal(pool.take(ids), images(N)[ids])


@given(
    ranges=st.lists(st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted).map(tuple), max_size=6),
    depth=st.integers(0, 3),
)
def test_blocks_gives_one_batch_per_range_in_order(pool: Pool, ranges: list[tuple[int, int]], depth: int) -> None:
    batches = list(pool.blocks(ranges, prefetch=depth))
    assert [batch.ids.tolist() for batch in batches] == [list(range(a, b)) for a, b in ranges]
    for batch in batches:  # all kept at once: no buffer may be shared
        assert batch.ids.dtype == np.int64
        assert np.array_equal(batch.items, images(N)[batch.ids])


def test_blocks_without_ranges_covers_the_pool_in_whole_chunks(pool: Pool) -> None:
    batches = list(pool.blocks())
    assert np.concatenate([batch.ids for batch in batches]).tolist() == list(range(N))
    assert pool.block_items % 4 == 0
    assert pool.block_items * 30 <= 16 << 20


@pytest.mark.parametrize("step", [1, 3, 4, 7, 50])
def test_a_walk_decodes_every_chunk_once(pool: Pool, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = ChunkReader.decode

    def counted(self: ChunkReader, number: int, out: np.ndarray) -> None:
        decoded.append(number)
        decode(self, number, out)

    monkeypatch.setattr(ChunkReader, "decode", counted)
    ranges = [(at, min(at + step, N)) for at in range(0, N, step)]
    assert sum(len(batch.ids) for batch in pool.blocks(ranges)) == N
    assert decoded == list(range(13))
    decoded.clear()
    pool.take([49, 0, 48, 1, 0, 20])
    assert decoded == [0, 5, 12]


def test_wrong_ranges_and_ids_are_named(pool: Pool) -> None:
    with pytest.raises(PoolError, match=r"items 3\.\.51 are outside the pool .* of 50 items"):
        pool.read(3, 51)
    with pytest.raises(PoolError, match=r"items 5\.\.2"):
        list(pool.blocks([(0, 2), (5, 2)]))
    with pytest.raises(PoolError, match=r"3 ids are outside the pool .* of 50 items: 50, -1, 99"):
        pool.take([0, 50, -1, 3, 99])
    with pytest.raises(PoolError, match="integers, not float64"):
        pool.take([0.5])
    with pytest.raises(ValueError, match=r"out is uint8 \(2, 2, 3, 5\); uint8 \(3, 2, 3, 5\)"):
        pool.read(0, 3, out=np.empty((2, 2, 3, 5), np.uint8))


def test_an_encoding_only_zarr_knows_is_read_through_zarr(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p")
    unsigned(pool.path)
    group = zarr.open_group(pool.path, mode="r+")
    del group["items"]
    array = group.create_array(
        "items", shape=(N, 2, 3, 5), dtype="u1", chunks=(8, 2, 3, 5), compressors=[zarr.codecs.GzipCodec()]
    )
    array[:] = images(N)
    pool = Pool.open(pool.path)
    assert pool.storage.rows.encoding is None
    assert np.array_equal(pool.read(0, N), images(N))
    assert np.array_equal(pool.take([49, 3]), images(N)[[49, 3]])
    (pool.path / "items/c/5/0/0/0").unlink()
    with pytest.raises(PoolError, match=r"items 40\.\.47 cannot be read, chunk 5 .*the file is missing"):
        pool.read(0, N)


def test_zarrs_reads_it_where_installed(tmp_path: Path) -> None:
    pytest.importorskip("zarrs")
    test_an_encoding_only_zarr_knows_is_read_through_zarr(tmp_path)
    pipeline = type(Pool.open(small_pool(tmp_path / "q").path).storage.rows.array._async_array.codec_pipeline)
    assert pipeline.__module__.startswith("zarrs")


# ---------------------------------------------------------------------- reading ahead


def test_reading_ahead_is_bounded() -> None:
    made: list[int] = []
    enough = threading.Event()

    def source() -> object:
        for i in range(20):
            made.append(i)
            if i == 3:
                enough.set()
            yield i

    ahead = read_ahead(source(), depth=2)  # type: ignore[arg-type, var-annotated]
    assert next(ahead) == 0
    assert enough.wait(5)
    assert not threading.Event().wait(0.3)
    assert made == [0, 1, 2, 3]  # one taken, two in the queue, one in hand
    assert list(ahead) == list(range(1, 20))


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_surfaces_in_the_consumer_after_what_came_before(depth: int) -> None:
    def source() -> object:
        yield 1
        yield 2
        raise PoolError("chunk 3 is torn")

    ahead = read_ahead(source(), depth)  # type: ignore[arg-type, var-annotated]
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(PoolError, match="chunk 3 is torn"):
        next(ahead)


def test_leaving_early_ends_the_thread(pool: Pool) -> None:
    before = threading.active_count()
    for _ in pool.blocks([(i, i + 1) for i in range(N)]):
        break
    blocks = pool.blocks([(i, i + 1) for i in range(N)])
    next(blocks)
    del blocks, _
    assert threading.active_count() == before
