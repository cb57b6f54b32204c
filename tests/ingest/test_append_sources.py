"""What was appended is counted once, whatever came between; an append costs the same however many there were."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import PoolError
from mcscore.ingest import append_array, append_blocks, import_array
from mcscore.ingest.compact import compact
from mcscore.pool import Pool, label_from
from mcscore.pool.history import read_appends
from mcscore.pool.verify import verify

from ..pool.helpers import images, listing, small_pool

ALL = images(400)


def saved(folder: Path, name: str, start: int, stop: int) -> Path:
    np.save(folder / name, ALL[start:stop])
    return folder / name


def test_sources_are_known_whatever_was_appended_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pool(tmp_path / "p")
    a, b = saved(tmp_path, "a.npy", 50, 70), saved(tmp_path, "b.npy", 70, 80)
    sizes = [append_array(tmp_path / "p", file).n for file in (a, b, a, b)]
    assert sizes == [70, 80, 80, 80]
    monkeypatch.chdir(tmp_path)
    assert append_array("p", "a.npy").n == 80, "the same file by another path"
    os.utime(a)
    assert append_array("p", a).n == 80, "touched, but the same"
    assert np.array_equal(Pool.open("p").read(0, 80), ALL[:80])
    assert [one.n for one in read_appends(Pool.open("p").storage.appends)] == [50, 70]


def test_the_file_that_the_pool_was_imported_from_adds_nothing(tmp_path: Path) -> None:
    a, b = saved(tmp_path, "a.npy", 0, 30), saved(tmp_path, "b.npy", 30, 40)
    import_array(a, tmp_path / "p", labels=[3] * 30)
    assert [append_array(tmp_path / "p", file).n for file in (a, b, a, b)] == [30, 40, 40, 40]
    with pytest.raises(PoolError, match="was made with the items of this file, and has other labels"):
        append_array(tmp_path / "p", a, labels=[4] * 30)
    saved(tmp_path, "a.npy", 40, 70)  # the same name and number, other items
    assert np.array_equal(append_array(tmp_path / "p", a).read(0, 70), ALL[:70])


def test_a_file_of_the_same_name_size_and_time_is_told_by_its_items(tmp_path: Path) -> None:
    small_pool(tmp_path / "p")
    file = saved(tmp_path, "a.npy", 50, 70)
    append_array(tmp_path / "p", file)
    before = file.stat()
    saved(tmp_path, "a.npy", 70, 90)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert np.array_equal(append_array(tmp_path / "p", file).read(0, 90), ALL[:90])


def test_items_that_come_again_with_other_labels_are_refused(tmp_path: Path) -> None:
    small_pool(tmp_path / "p")
    file = saved(tmp_path, "a.npy", 50, 60)
    append_array(tmp_path / "p", file, labels=np.arange(10))
    with pytest.raises(
        PoolError, match=r"has the items of this file already, from item 50 on; they came with other labels"
    ):
        append_array(tmp_path / "p", file, labels=np.arange(10)[::-1])
    assert append_array(tmp_path / "p", file, labels=np.arange(10)).labels.tolist() == [*[-1] * 50, *range(10)]
    assert listing(tmp_path) == ["a.npy", "p"]


def test_an_identity_is_known_whatever_was_appended_since(tmp_path: Path) -> None:
    small_pool(tmp_path / "p")
    for identity, n in (("x", 60), ("y", 70), ("x", 70), ("y", 70), ("", 80), ("", 90)):
        assert append_blocks(tmp_path / "p", ALL[n - 10 : n], identity=identity).n == n


def test_a_link_leads_to_the_same_locks(tmp_path: Path) -> None:
    small_pool(tmp_path / "data" / "p")
    (tmp_path / "link").symlink_to(tmp_path / "data" / "p")
    assert append_blocks(tmp_path / "link", ALL[50:60]).n == 60
    (tmp_path / "data" / ".p.append").mkdir()
    (tmp_path / "data" / ".p.append" / "settings.json").write_text(
        json.dumps({"version": 2, "settings": {"source": "x"}})
    )
    with pytest.raises(PoolError, match="started with another source"):
        append_blocks(tmp_path / "link", ALL[60:70])


def test_what_is_wrong_with_labels_and_keys_is_said_before_anything_is_read(tmp_path: Path) -> None:
    small_pool(tmp_path / "p", classes=["a", "b"])

    def never() -> object:
        raise AssertionError("read")
        yield

    for kwargs, says in (
        ({"labels": [2]}, r"label 2 at position 0 is outside \[-1, 1\]"),
        ({"labels": [2**40]}, "label 1099511627776 at position 0"),
        ({"keys": ["a\0b"]}, "key 0 cannot be stored, it contains a zero byte"),
        ({"keys": ["x" * 3_000_000]}, "key 0 cannot be stored, it has 3,000,000 bytes"),
        ({"keys": ["caf\udce9"]}, "key 0 cannot be stored, it is not valid UTF-8"),
    ):
        with pytest.raises(PoolError, match=says):
            append_blocks(tmp_path / "p", never(), **kwargs)  # type: ignore[arg-type]
    assert listing(tmp_path) == ["p"]


def test_many_appends_take_few_files_and_no_growing_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    Pool.create(tmp_path / "p", ALL[:2], keys=["k0", "k1"])
    sizes, names = [], []
    for i in range(1, 40):
        append_blocks(tmp_path / "p", ALL[2 * i : 2 * i + 2], keys=[f"{'x' * i}{i}-{j}" for j in range(2)])
        sizes.append((tmp_path / "p" / "zarr.json").stat().st_size)
        names.append(len(listing(tmp_path / "p")))
    pool = Pool.open(tmp_path / "p")
    assert np.array_equal(pool.read(0, 80), ALL[:80])
    assert pool.keys is not None
    assert pool.keys.tolist()[:4] == ["k0", "k1", "x1-0", "x1-1"]
    assert pool.keys.tolist()[-1] == f"{'x' * 39}39-1"
    assert len(listing(tmp_path / "p" / "items")) == 2, "one file, and zarr.json"
    assert names[-1] == names[33] <= 12, "arrays of keys double in width"
    assert sizes[-1] < sizes[33] + 100
    assert pool.fingerprint_at(62) is not None
    assert pool.find_keys([f"{'x' * 30}30-1", "k1", "nobody"]).tolist() == [61, 1, -1]


def test_a_pool_begun_with_few_items_has_the_chunks_of_a_large_one(tmp_path: Path) -> None:
    few = Pool.create(tmp_path / "few", np.zeros((5, 3, 32, 32), np.uint8)).storage.rows
    many = Pool.create(tmp_path / "many", np.zeros((2000, 3, 32, 32), np.uint8)).storage.rows
    assert (few.chunk, few.shard) == (many.chunk, many.shard) == (1024, None)


# ---------------------------------------------------------------------- kills and races


def child(act: Callable[[], object]) -> int:
    """Run ``act`` in a child; exit code 1 if it raises a PoolError."""
    if pid := os.fork():
        return pid
    code = 9
    try:
        act()
        code = 0
    except PoolError:
        code = 1
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    return -9 if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def litter(path: Path) -> list[str]:
    """What neither the pool's attributes nor its arrays account for, in and beside it."""
    used = {*dict(Pool.open(path).storage.attributes.arrays or ()), "zarr.json"}
    return [
        *(str(file) for file in path.rglob("*") if file.suffix in (".tmp", ".gone")),
        *(name for name in listing(path) if name not in used),
        *(name for name in listing(path.parent) if name.startswith(f".{path.name}") or name.endswith(".tmp")),
    ]


def test_kills_and_races_of_appends_add_each_file_once_and_leave_nothing(tmp_path: Path) -> None:
    rng = random.Random(3)
    a, b = saved(tmp_path, "a.npy", 50, 90), saved(tmp_path, "b.npy", 90, 120)
    for number in range(6):
        path = tmp_path / str(number) / "p"
        small_pool(path, keys=[f"k{i}" for i in range(50)])
        pair = [lambda p=path: append_array(p, a), lambda p=path, f=(a, b)[number % 2]: append_array(p, f)]
        pids = [child(act) for act in pair]
        time.sleep(rng.random() * 0.08)
        os.kill(rng.choice(pids), signal.SIGKILL)
        for pid in pids:
            ended(pid)
        said = ""
        for act in (*pair, *pair):  # one is refused until the other, which was cut short, is repeated
            with contextlib.suppress(PoolError):
                said = "refused"
                act()
                said = "done"
        assert said == "done"
        pool = Pool.open(path)
        items = pool.read(0, pool.n)
        if number % 2:
            order = [ALL[:120], np.concatenate([ALL[:50], ALL[90:120], ALL[50:90]])]
        else:
            order = [ALL[:90]]
        assert any(np.array_equal(items, want) for want in order), (number, pool.n)
        assert list(verify(pool)) == []
        assert litter(path) == []


def test_a_kill_of_labeling_and_compacting_leaves_nothing_after_the_next(tmp_path: Path) -> None:
    rng = random.Random(4)
    (tmp_path / "labels.csv").write_text("id,label\n" + "".join(f"{i},{i % 3}\n" for i in range(50)))
    for number in range(14):
        path = tmp_path / str(number) / "p"
        before = small_pool(path, keys=[f"k{i}" for i in range(50)]).fingerprint

        def act(path: Path = path, number: int = number) -> object:
            return compact(path) if number % 2 else label_from(Pool.open(path), tmp_path / "labels.csv")

        pid = child(act)
        time.sleep(rng.random() * (0.08 if number % 2 else 0.02))
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        assert np.array_equal(Pool.open(path).read(0, 50), ALL[:50])
        act()
        pool = Pool.open(path)
        assert pool.fingerprint == before
        assert pool.labels.tolist() == [-1 if number % 2 else i % 3 for i in range(50)]
        assert litter(path) == []


def test_of_two_that_label_at_once_one_is_refused(tmp_path: Path) -> None:
    for label in (0, 1):
        (tmp_path / f"{label}.csv").write_text("id,label\n" + "".join(f"{i},{label}\n" for i in range(50)))
    for number in range(8):
        path = tmp_path / str(number)
        small_pool(path)
        pids = [child(lambda t=tmp_path / f"{n}.csv", p=path: label_from(Pool.open(p), t)) for n in (0, 1)]
        assert sorted(map(ended, pids)) == [0, 1]
        assert len(set(Pool.open(path).labels.tolist())) == 1


def test_labels_are_compared_under_the_lock_of_the_writer(tmp_path: Path) -> None:
    pool = small_pool(tmp_path / "p")
    (tmp_path / "one.csv").write_text("id,label\n3,1\n")
    late = Pool.open(tmp_path / "p")
    seen: list[int] = []
    pool.set_labels([3], [2])
    with pytest.raises(PoolError, match="item 3 is labeled 2 and would become 1"):
        label_from(late, tmp_path / "one.csv")
    assert late.set_labels([5, 3], [1, 4], check=lambda had: seen.extend(had.tolist())) == 2
    assert seen == [-1, 2], "in the order of the ids"
