"""A place keeps the same promises on a local disk, in memory and on an S3 server."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore")
from mcscore import atomic
from mcscore.errors import PoolError, RunError
from mcscore.paths import local_path
from mcscore.store.place import Place, any_path, objects, place_at

from ..s3 import LATE, Fault, every, faulty, s3, s3_server

__all__ = ["faulty", "s3", "s3_server"]  # fixtures


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        where = str(tmp_path / "deep" / "place")
    elif request.param == "memory":
        where = f"memory://{uuid.uuid4().hex}/deep/place"
    else:
        where = f"{request.getfixturevalue('s3')}/deep/place"
    made = place_at(any_path(where))
    made.begin()
    made.lay_out("commits", "a/b")
    return made


def test_a_file_is_made_once(place: Place) -> None:
    place.create("commits/1", b"first")
    with pytest.raises(FileExistsError, match="commits/1"):
        place.create("commits/1", b"second")
    assert place.read("commits/1") == b"first"


def test_a_file_is_replaced_whether_it_was_there_or_not(place: Place) -> None:
    assert place.version("a/b/c") is None
    place.replace("a/b/c", b"one")
    one = place.version("a/b/c")
    place.replace("a/b/c", b"other")
    assert place.read("a/b/c") == b"other"
    assert one not in (None, place.version("a/b/c"))


def test_parts_of_a_file(place: Place) -> None:
    place.create("x", bytes(range(100)))
    place.create("empty", b"")
    assert place.part("x", 3, 7) == (b"\3\4\5\6", 100)
    assert place.part("x", 97, 110) == (b"\x61\x62\x63", 100)
    assert place.part("x", 100, 104) == place.part("x", 200, 204) == (b"", 100)
    assert place.part("empty", 0, 4) == (b"", 0)


def test_what_is_missing_is_a_file_not_found(place: Place) -> None:
    for missing in (
        lambda: place.read("commits/1"),
        lambda: place.part("commits/1", 0, 1),
        lambda: place.modified("commits/1"),
        lambda: place.change("commits/1", lambda data: data),
    ):
        with pytest.raises(FileNotFoundError, match="commits/1"):
            missing()
    place.create("commits/2", b"2")
    missing, there = place.read_each(["commits/1", "commits/2"])
    assert isinstance(missing, FileNotFoundError)
    assert there == b"2"


def test_the_names_in_a_folder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_PAGE", 3)
    monkeypatch.setattr(objects, "_AT_ONCE", 2)
    names = [f"commits/{i}" for i in range(10)]
    for name in (*names, "run.json", "a/b/c"):
        place.create(name, b"12")
    assert place.names("commits") == [str(i) for i in range(10)]
    assert place.names() == ["a", "commits", "run.json"]
    assert place.names("none") == []
    assert place.size() == 24
    place.discard([*names[:7], "commits/none"])
    place.remove("commits/9")
    place.remove("commits/none")
    assert place.names("commits") == ["7", "8"]


def test_changes_by_many_at_once_are_all_made(place: Place) -> None:
    place.create("run.json", b"")
    threads = [
        threading.Thread(target=place.change, args=("run.json", lambda data, i=i: data + bytes([i]))) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(place.read("run.json")) == list(range(8))


def test_one_of_many_makes_a_file(place: Place) -> None:
    made, refused = list[int](), list[int]()

    def create(i: int) -> None:
        try:
            place.create("commits/1", bytes([i]))
            made.append(i)
        except FileExistsError:
            refused.append(i)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(refused) == 15
    assert place.read("commits/1") == bytes(made)


# -- object stores -----------------------------------------------------------------------------------------------------


def test_the_same_bytes_again_are_no_conflict(s3: str) -> None:
    place = place_at(any_path(f"{s3}/x"))
    place.create("commits/1", b"same")
    place.create("commits/1", b"same")


@pytest.mark.parametrize("kind", ["500", "503", "429", "dropped", "lost"])
def test_a_write_that_fails_is_sent_again_and_done_once(faulty: tuple[str, Callable[[Fault], None]], kind: str) -> None:
    url, fail = faulty
    place = place_at(any_path(f"{url}/x"))
    fail(every(2, kind))

    def write() -> None:
        for i in range(5):
            place.create(f"commits/{i}", bytes([i]))
            place.replace("packed", bytes([i]))
        place.create("run.json", b"")
        for i in range(5):
            place.change("run.json", lambda data, i=i: data + bytes([i]))
        place.remove("commits/4")

    with pytest.warns(UserWarning, match="Trying again"):
        write()
    fail(lambda _method, _path: "")
    assert [place.read(f"commits/{i}") for i in range(4)] == [bytes([i]) for i in range(4)]
    assert place.read("packed") == bytes([4])
    assert place.read("run.json") == bytes(range(5))
    assert place.names("commits") == ["0", "1", "2", "3"]


def test_a_request_that_arrives_late_undoes_nothing(faulty: tuple[str, Callable[[Fault], None]]) -> None:
    url, fail = faulty
    place = place_at(any_path(f"{url}/x"))
    place.create("packed", b"0")
    puts = iter(["late"])
    fail(lambda method, _path: next(puts, "") if method == "PUT" else "")
    with pytest.warns(UserWarning, match="503"):
        place.replace("packed", b"1")
    place.replace("packed", b"2")
    time.sleep(2 * LATE)
    assert place.read("packed") == b"2"


@pytest.mark.parametrize(("status", "told"), [("403", "cannot be written: .*403"), ("503", "cannot be reached: .*503")])
@pytest.mark.filterwarnings("ignore:.*Trying again")
def test_a_write_that_keeps_failing_is_an_error_that_names_the_object(
    faulty: tuple[str, Callable[[Fault], None]], monkeypatch: pytest.MonkeyPatch, status: str, told: str
) -> None:
    monkeypatch.setenv("MCSCORE_REMOTE_RETRIES", "2")
    url, fail = faulty
    place = place_at(any_path(f"{url}/x"))
    fail(lambda method, _path: status if method == "PUT" else "")
    with pytest.raises(OSError, match=f"{url}/x/commits/1 {told}"):
        place.create("commits/1", b"")


def test_a_missing_bucket_is_told(s3: str) -> None:
    with pytest.raises(OSError, match=r"s3://none-[0-9a-f]+/x/a cannot be written: there is no s3://none-"):
        place_at(any_path(f"s3://none-{uuid.uuid4().hex}/x")).create("a", b"")


@pytest.mark.parametrize("ignored", ["create", "update"])
def test_a_store_that_ignores_conditions_is_refused(monkeypatch: pytest.MonkeyPatch, ignored: str) -> None:
    real = objects.put

    async def put(store: Any, key: str, data: bytes, mode: Any) -> None:
        await real(store, key, data, "overwrite" if (mode == "create") == (ignored == "create") else mode)

    monkeypatch.setattr(objects, "put", put)
    place = place_at(any_path(f"memory://{uuid.uuid4().hex}/x"))
    with pytest.raises(RunError, match="ignores the conditions of writes"):
        place.begin()
    assert place.names() == []


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["https://host/run", "hf://datasets/x", "ftp://host/run", "s3:/bucket/run"])
def test_no_run_is_written_to_another_url_or_a_mangled_one(where: str) -> None:
    with pytest.raises(RunError, match=where):
        any_path(where)
    with pytest.raises(PoolError, match=f"{where} is no local path, and a pool cannot be written there"):
        local_path(where, "a pool", PoolError)


def test_paths_below_a_url() -> None:
    path: Any = any_path("memory://bucket/a/run.old/")
    assert str(path) == "memory://bucket/a/run.old"
    assert (path.name, path.stem, str(path.parent)) == ("run.old", "run", "memory://bucket/a")
    assert str(path / "screen" / "run.json") == "memory://bucket/a/run.old/screen/run.json"
    assert any_path(path) is path.absolute() is path


def test_the_content_of_a_file_is_changed_only_if_it_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"as it is")
    monkeypatch.setattr(atomic, "replace_file", lambda *_: pytest.fail("written"))
    place_at(tmp_path).change("a", lambda data: data)
