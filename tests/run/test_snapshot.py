"""Which items a run skips is fixed once, whatever becomes of the pool's labels, of the process and of the disk."""

from __future__ import annotations

import os
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from mcscore import atomic
from mcscore.errors import RunError
from mcscore.run import snapshot as module
from mcscore.run.snapshot import Snapshot

from ..pool.helpers import flip_bit, listing
from .fakes import killed_at

RUN, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 64 items, read 16 at a time: several of each in a pool of some hundred items."""
    monkeypatch.setattr(module, "PART", 64)
    monkeypatch.setattr(module, "_STRIDE", 16)


def flags(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < 0.3


def take(path: Path, skipped: np.ndarray, **known: int) -> Snapshot:
    """Without any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Snapshot.take(path, RUN, len(skipped), skipped, **known)


@pytest.mark.parametrize("n", [1, 7, 8, 16, 63, 64, 65, 200])
def test_every_range_reads_as_it_was_taken(tmp_path: Path, n: int) -> None:
    wanted = flags(n)
    for snapshot in (take(tmp_path, wanted), Snapshot.open(tmp_path, RUN, n)):
        for start in range(0, n, 5):
            for stop in (start, start + 1, start + 9, start + 77, n):
                found = snapshot[start:stop]
                assert found.dtype == bool
                assert found.tolist() == wanted[start:stop].tolist()
        assert [snapshot.count(k) for k in (0, n // 2, n)] == [wanted[:k].sum() for k in (0, n // 2, n)]


def test_the_first_item_that_is_kept_is_found(tmp_path: Path) -> None:
    skipped = np.ones(200, bool)
    assert take(tmp_path / "none", skipped).first_kept() is None
    skipped[137] = False
    assert take(tmp_path / "one", skipped).first_kept() == 137


def test_it_stands_whatever_is_labeled_later(tmp_path: Path) -> None:
    before = flags(200)
    take(tmp_path, before)
    assert take(tmp_path, ~before, known=200)[0:200].tolist() == before.tolist()


def test_items_that_are_appended_get_parts_of_their_own(tmp_path: Path) -> None:
    whole = flags(300)
    take(tmp_path, whole[:100])
    old = {name: (tmp_path / "skipped" / name).read_bytes() for name in listing(tmp_path / "skipped")}
    grown = take(tmp_path, np.r_[~whole[:100], whole[100:]], known=100)
    assert grown[0:300].tolist() == whole.tolist()
    assert listing(tmp_path / "skipped") == sorted([*old, "100-164", "164-228", "228-292", "292-300"])
    assert old == {name: (tmp_path / "skipped" / name).read_bytes() for name in old}
    assert Snapshot.open(tmp_path, RUN, 100)[90:300].tolist() == whole[90:100].tolist()


@pytest.mark.parametrize("act", ["flip", "cut", "empty", "other run", "swap"])
def test_a_damaged_part_is_named_and_made_anew(tmp_path: Path, act: str) -> None:
    before, now = flags(200), flags(200, seed=1)
    take(tmp_path, before)
    file = tmp_path / "skipped" / "64-128"
    if act == "flip":
        flip_bit(file, 45)
    elif act == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif act == "empty":
        file.write_bytes(b"")
    elif act == "other run":
        Snapshot.take(tmp_path / "other", OTHER, 200, now)
        file.write_bytes((tmp_path / "other" / "skipped" / "64-128").read_bytes())
    else:
        file.write_bytes((tmp_path / "skipped" / "0-64").read_bytes())
    opened = Snapshot.open(tmp_path, RUN, 200)
    assert opened[0:64].tolist() == before[:64].tolist()
    with pytest.raises(RunError, match=r"skipped/64-128 cannot be used: .*score into the same directory again"):
        opened[60:70]
    with pytest.warns(UserWarning, match=r"skipped/64-128: .*items 64\.\.127 are skipped is fixed anew"):
        mended = Snapshot.take(tmp_path, RUN, 200, now, known=65)
    assert mended[0:200].tolist() == [*before[:64], *now[64:128], *before[128:]]
    assert take(tmp_path, before)[64:128].tolist() == now[64:128].tolist()


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    take(tmp_path, flags(64))
    file = tmp_path / "skipped" / "0-64"
    for at in range(file.stat().st_size):
        flip_bit(file, at)
        with pytest.raises(RunError, match="0-64 cannot be used"):
            Snapshot.open(tmp_path, RUN, 64)[0:1]
        flip_bit(file, at)


def test_a_missing_part_is_named_and_told_only_where_items_are_scored(tmp_path: Path) -> None:
    before, now = flags(200), flags(200, seed=1)
    for known in (64, 65):
        take(tmp_path / str(known), before)
        (tmp_path / str(known) / "skipped" / "64-128").unlink()
        with pytest.raises(RunError, match=r"skipped/64-128 cannot be used: missing"):
            Snapshot.open(tmp_path / str(known), RUN, 200)
    take(tmp_path / "64", now, known=64)
    with pytest.warns(UserWarning, match=r"skipped/64-128: missing"):
        Snapshot.take(tmp_path / "65", RUN, 200, now, known=65)
    for known in ("64", "65"):
        found = Snapshot.open(tmp_path / known, RUN, 200)[0:200]
        assert found.tolist() == [*before[:64], *now[64:128], *before[128:]]


def test_a_part_that_cannot_be_read_now_is_not_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = flags(100)
    take(tmp_path, before)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        with pytest.raises(RunError, match=r"0-64 cannot be read: Permission denied; nothing was changed"):
            Snapshot.take(tmp_path, RUN, 100, ~before)
    assert take(tmp_path, ~before)[0:100].tolist() == before.tolist()


def test_parts_that_overlap_are_refused(tmp_path: Path) -> None:
    take(tmp_path, flags(100))
    (tmp_path / "skipped" / "32-40").write_bytes(b"")
    with pytest.raises(RunError, match=r"the parts 0-64 and 32-40, which overlap"):
        Snapshot.open(tmp_path, RUN, 100)


def test_of_several_that_take_it_at_once_one_fixes_each_part(tmp_path: Path) -> None:
    attempts = [flags(400, seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda skipped: Snapshot.take(tmp_path, RUN, 400, skipped)[0:400], attempts))
    for start in range(0, 400, 64):
        found = {tuple(each[start : start + 64]) for each in taken}
        assert len(found) == 1
        assert found <= {tuple(each[start : start + 64]) for each in attempts}


def test_a_kill_at_any_step_leaves_whole_parts_and_no_litter(tmp_path: Path) -> None:
    before, now = flags(200), flags(200, seed=1)
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        folder.mkdir()
        try:
            killed_at(steps, lambda folder=folder: Snapshot.take(folder, RUN, 200, before))
        except AssertionError:  # it came to its end
            break
        whole = [name for name in listing(folder / "skipped") if not atomic.is_temporary(name)] if steps > 0 else []
        found = take(folder, now)[0:200]
        for start, stop in ((0, 64), (64, 128), (128, 192), (192, 200)):
            source = before if f"{start}-{stop}" in whole else now
            assert found[start:stop].tolist() == source[start:stop].tolist()
        assert listing(folder / "skipped") == ["0-64", "128-192", "192-200", "64-128"]
        steps += 1
    assert steps > 16


def test_memory_does_not_grow_with_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 1 << 16)
    monkeypatch.setattr(module, "_STRIDE", 1 << 13)

    class Random:
        """Half of the items, which does not compress."""

        def __getitem__(self, part: slice) -> np.ndarray:
            return np.random.default_rng(part.start).random(part.stop - part.start) < 0.5

    def peak(n: int) -> int:
        folder = tmp_path / str(n)
        folder.mkdir()
        tracemalloc.start()
        snapshot = Snapshot.take(folder, RUN, n, Random())
        snapshot.count(n)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1 << 13)  # what is imported and cached once
    small, large = peak(1 << 17), peak(1 << 21)  # 2 parts, 32 parts: 16 KiB, 256 KiB of bits
    assert large < small + (64 << 10)


def test_a_billion_items_take_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which one in a thousand is labeled; a part of 2^24 of them stands for the rest."""
    monkeypatch.undo()
    skipped = np.zeros(1 << 24, bool)
    skipped[np.random.default_rng(0).integers(0, 1 << 24, (1 << 24) // 1000)] = True
    Snapshot.take(tmp_path, RUN, len(skipped), skipped)
    assert os.path.getsize(tmp_path / "skipped" / "0-16777216") < 100_000
    opened = Snapshot.open(tmp_path, RUN, len(skipped))
    assert opened.count(len(skipped)) == skipped.sum()


def test_the_page_on_the_format_is_enough_to_read_a_part(tmp_path: Path) -> None:
    skipped = flags(77)
    take(tmp_path, skipped)
    data = (tmp_path / "skipped" / "64-77").read_bytes()
    assert (data[:8], data[8:24].hex()) == (b"mcskip01", RUN)
    assert struct.unpack("<QQ", data[24:40]) == (64, 77)
    bits = zlib.decompress(data[40:-4])
    assert [bits[i // 8] >> (7 - i % 8) & 1 for i in range(13)] == skipped[64:].tolist()
    assert struct.unpack("<I", data[-4:])[0] == google_crc32c.value(data[:-4])
