"""Pools at URLs read as local ones do: an S3 server, an HTTP server, memory; damage is found there too."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import ChunkError, PoolError
from mcscore.ingest import append_blocks, import_images
from mcscore.pool import Pool
from mcscore.pool.verify import verify

from ..ingest.helpers import folder
from ..s3 import s3_server, use
from .helpers import chunk_files, flip_bit, images, small_pool

__all__ = ["s3_server"]  # a fixture

Publish = Callable[[Path], str]  # make a pool readable at a URL


class Server(http.server.ThreadingHTTPServer):
    """One that many may connect to at once."""

    request_queue_size = 1024


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """A static file server that knows ranges, as any but Python's own does."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, total = path.read_bytes(), path.stat().st_size
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or total), total - 1) + 1
            data = data[start:stop]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Publish]:
    pytest.importorskip("obstore")
    handler = functools.partial(_Ranges, directory=str(tmp_path))
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield lambda path: f"http://127.0.0.1:{server.server_port}/{path.relative_to(tmp_path)}"
        server.shutdown()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Publish:
    pytest.importorskip("obstore")
    boto3 = pytest.importorskip("boto3")
    use(s3_server, monkeypatch)
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="pools")

    def publish(path: Path) -> str:
        for known in client.list_objects_v2(Bucket="pools").get("Contents", []):
            client.delete_object(Bucket="pools", Key=known["Key"])
        for file in sorted(path.rglob("*")):
            if file.is_file():
                client.put_object(
                    Bucket="pools", Key=f"some/{path.name}/{file.relative_to(path)}", Body=file.read_bytes()
                )
        return f"s3://pools/some/{path.name}"

    return publish


@pytest.fixture
def memory() -> Publish:
    fsspec = pytest.importorskip("fsspec")

    def publish(path: Path) -> str:
        system = fsspec.filesystem("memory")
        if system.exists("/pools"):
            system.rm("/pools", recursive=True)
        for file in path.rglob("*"):
            if file.is_file():
                system.pipe_file(f"/pools/{path.name}/{file.relative_to(path)}", file.read_bytes())
        return f"memory://pools/{path.name}"

    return publish


@pytest.fixture(params=["bucket", "web", "memory"])
def publish(request: pytest.FixtureRequest) -> Publish:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("sharded", [False, True])
def test_many_files_are_asked_for_at_a_time(
    tmp_path: Path, web: Publish, monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    here = small_pool(tmp_path / "p", sharded=sharded, n=640)
    there = Pool.open(web(tmp_path / "p"))
    lock, now, most, many = threading.Lock(), 0, 0, threading.Event()

    def slow(answer: Callable[[_Ranges], None]) -> Callable[[_Ranges], None]:
        def slowly(handler: _Ranges) -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
                if most > 16:
                    many.set()
            many.wait(1.0)  # as long as a machine may take to begin 17
            answer(handler)
            with lock:
                now -= 1

        return slowly

    for verb in ("do_GET", "do_HEAD"):
        monkeypatch.setattr(_Ranges, verb, slow(getattr(_Ranges, verb)))
    for ask in (there.check_files, lambda: there.fingerprint):
        most = 0
        many.clear()
        ask()
        assert most > 16
    assert there.fingerprint == here.fingerprint


@pytest.mark.parametrize("sharded", [False, True])
def test_of_several_missing_files_the_first_is_named(tmp_path: Path, web: Publish, sharded: bool) -> None:
    files = chunk_files(small_pool(tmp_path / "p", sharded=sharded, n=640))
    for file in (files[7], files[9], files[31]):
        file.unlink()
    for pool in (Pool.open(tmp_path / "p"), Pool.open(web(tmp_path / "p"))):
        for _ in range(3):
            with pytest.raises(ChunkError, match=rf"{files[7].name}.*: the file is missing"):
                pool.check_files()


@pytest.mark.parametrize(("compression", "sharded"), [("none", False), ("lz4", True)])
def test_a_pool_at_a_url_is_that_on_the_disk(tmp_path: Path, publish: Publish, compression: str, sharded: bool) -> None:
    keys = [f"k{i}" for i in range(50)]
    small_pool(
        tmp_path / "p", compression, sharded, labels=np.arange(50), keys=keys, classes=[str(i) for i in range(50)]
    )
    here = append_blocks(tmp_path / "p", images(60)[50:])
    here.set_excluded([3])
    there = Pool.open(publish(tmp_path / "p"))
    assert np.array_equal(there.read(0, 60), images(60))
    assert np.array_equal(there.take([55, 1]), images(60)[[55, 1]])
    assert np.array_equal(np.concatenate([batch.items for batch in there.blocks([(0, 21), (21, 60)])]), images(60))
    assert there.labels.tolist() == here.labels.tolist()
    assert np.flatnonzero(there.excluded).tolist() == [3]
    assert there.keys is not None
    assert there.keys.tolist() == [*keys, *[""] * 10]
    assert there.classes == here.classes
    assert [there.fingerprint_at(n) for n in (49, 50, 60)] == [here.fingerprint_at(n) for n in (49, 50, 60)]
    there.check_files()
    assert list(verify(there)) == []
    for change in (lambda: there.set_labels([1], [1]), lambda: append_blocks(str(there.path), images(1))):
        with pytest.raises(PoolError, match=r"read only: .* in a pool on a local disk"):
            change()


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("damage", ["missing", "flipped", "truncated"])
def test_damage_at_a_url_is_named_and_never_fill_values(
    tmp_path: Path, publish: Publish, damage: str, sharded: bool
) -> None:
    pool = small_pool(tmp_path / "p", sharded=sharded)
    before = pool.fingerprint
    file = chunk_files(pool)[1 if sharded else 5]
    {
        "missing": file.unlink,
        "flipped": lambda: flip_bit(file, 10),
        "truncated": lambda: file.write_bytes(file.read_bytes()[:60]),
    }[damage]()
    there = Pool.open(publish(tmp_path / "p"))
    with pytest.raises(PoolError, match=rf"items \d+\.\.\d+ cannot be read, chunk \d+ of .*://.*{file.name}"):
        there.read(0, 50)
    assert np.array_equal(there.read(48, 50), images()[48:])
    assert verify(there).__next__().file.endswith(file.name)
    if damage != "flipped":
        assert there.fingerprint != before


def test_encoded_images_are_read_from_a_url(tmp_path: Path, publish: Publish) -> None:
    here = import_images(folder(tmp_path / "src"), tmp_path / "p", size=4, workers=1, keep_encoded=True)
    there = Pool.open(publish(tmp_path / "p"))
    assert np.array_equal(there.read(0, 6), here.read(0, 6))
    assert there.fingerprint == here.fingerprint


def test_a_run_scores_a_pool_at_a_url(tmp_path: Path, bucket: Publish) -> None:
    import torch

    import mcscore

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(30, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))
    here = small_pool(tmp_path / "p", labels=np.where(np.arange(50) < 5, 0, -1))
    runs = [
        mcscore.score_pool(pool, mcscore.Scorer(net, passes=5, scores=("bald",), seed=0), out=tmp_path / name, span=16)
        for name, pool in (("here", here), ("there", Pool.open(bucket(tmp_path / "p"))))
    ]
    assert np.array_equal(runs[0].scores("bald"), runs[1].scores("bald"), equal_nan=True)
    again = mcscore.Run.open(tmp_path / "there")
    chosen = [run.select(k=3, by="bald", diversity="none").ids.tolist() for run in (runs[0], again)]
    assert chosen[0] == chosen[1], "the pool is found again by the URL that was recorded"


def test_what_is_no_pool_at_a_url_is_said_to_be_none(publish: Publish, tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "x").write_text("x")
    with pytest.raises(PoolError, match=r"://.*q is not a pool: it has no zarr\.json"):
        Pool.open(publish(tmp_path / "q"))


def test_a_server_that_is_away_is_no_damage(web: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PoolError, match=r"cannot be opened|cannot be reached"):
        Pool.open("nonsense://pools/p")
    there = Pool.open(web(small_pool(tmp_path / "p").path))  # type: ignore[arg-type]
    monkeypatch.setattr(_Ranges, "do_GET", lambda self: self.send_error(403))
    with pytest.raises(PoolError, match="cannot be read: the server answers 403") as raised:
        there.read(0, 4)
    assert type(raised.value) is PoolError, "no ChunkError: what cannot be reached must not be skipped as bad"
