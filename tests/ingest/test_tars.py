"""Tars: every image has an identity of its own, labels belong to their images, damage and bombs are bounded."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from mcscore.errors import PoolError
from mcscore.ingest.sources import open_source
from mcscore.ingest.sources import tar as module

from .helpers import bad_of, color, imported, reds, tar_of

NAMED = {"a.png": color(0), "b.png": color(1), "c.png": color(2)}


def test_tars_give_labels_and_refuse_names_that_lead_out(tmp_path: Path, here: None) -> None:
    for part in range(2):
        members = {f"a{part}.png": color(7 + part), f"a{part}.cls": b"3", "../out.png": color(1), "twice.png": color(9)}
        tar_of(tmp_path / f"t-{part:02d}.tar", members)
    pool, counts = imported(tmp_path / "t-{00..01}.tar", tmp_path / "p", labels=True)
    assert reds(pool) == {"t-00.tar/a0.png": 7, "t-00.tar/twice.png": 9, "t-01.tar/a1.png": 8, "t-01.tar/twice.png": 9}
    assert pool.labels.tolist() == [3, -1, 3, -1]
    assert set(bad_of(tmp_path / "p")) == {"t-00.tar/../out.png", "t-01.tar/../out.png"}
    assert (counts.read, counts.refused, counts.passed_over) == (6, {"the name points outside the archive": 2}, {})
    assert not (tmp_path.parent / "out.png").exists()


@pytest.mark.parametrize("cut", [1024 + 256, 2048 + 512, 550])
@pytest.mark.parametrize("kind", ["w", "w:gz"])
def test_a_damaged_tar_loses_neither_what_precedes_nor_the_next_tar(
    tmp_path: Path, cut: int, kind: str, here: None
) -> None:
    """Cut inside a member, inside a header, and inside the first member; each member takes two blocks of 512 bytes."""
    suffix = "tar.gz" if kind == "w:gz" else "tar"
    first = tar_of(tmp_path / f"t-0.{suffix}", NAMED, kind)
    tar_of(tmp_path / f"t-1.{suffix}", {"d.png": color(3)}, kind)
    os.truncate(first, cut if kind == "w" else first.stat().st_size // 2)
    pool, _ = imported(tmp_path / f"t-*.{suffix}", tmp_path / "p")
    assert pool.keys is not None
    assert pool.keys[-1] == f"t-1.{suffix}/d.png"
    if kind == "w":
        whole = {550: [], 1280: ["t-0.tar/a.png"], 2560: ["t-0.tar/a.png", "t-0.tar/b.png"]}[cut]
        assert pool.keys.tolist() == [*whole, "t-1.tar/d.png"]
    (name, why), *more = bad_of(tmp_path / "p").items()
    assert not more
    assert name == str(first)
    assert why.startswith("the tar is damaged or truncated; its remaining entries are lost")


def test_a_header_that_is_none_is_damage_and_not_the_end(tmp_path: Path, here: None) -> None:
    path = tar_of(tmp_path / "t.tar", NAMED)
    data = bytearray(path.read_bytes())
    data[1024:1200] = b"x" * 176
    path.write_bytes(data)
    pool, _ = imported(path, tmp_path / "p")
    assert pool.n == 1
    assert "no valid header at byte 1024" in bad_of(tmp_path / "p")[str(path)]


def test_names_with_dots_and_keys_that_every_shard_counts_from_nought_all_come_in(tmp_path: Path, here: None) -> None:
    for shard in range(3):
        dated = {f"cam/frame_2024.05.{i:02d}.png": color(10 * shard + i) for i in range(4)}
        tar_of(tmp_path / f"{shard}.tar", {**dated, "000000.png": color(100 + shard)})
    pool, counts = imported(tmp_path / "{0..2}.tar", tmp_path / "p")
    assert counts.lines() == ["15 entries read: 15 stored, 0 refused"]
    assert reds(pool) == {
        f"{s}.tar/{name}": red
        for s in range(3)
        for name, red in [*((f"cam/frame_2024.05.{i:02d}.png", 10 * s + i) for i in range(4)), ("000000.png", 100 + s)]
    }


def test_shards_of_one_name_in_two_folders_and_a_name_twice_in_one(tmp_path: Path, here: None) -> None:
    for i, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        tar_of(tmp_path / name / "0.tar", {"x.png": color(i)})
    pool, _ = imported(tmp_path / "*" / "0.tar", tmp_path / "p")
    assert reds(pool) == {"a/0.tar/x.png": 0, "b/0.tar/x.png": 1}
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for red in (1, 2):
            info = tarfile.TarInfo("x.png")
            info.size = len(color(red))
            archive.addfile(info, io.BytesIO(color(red)))
    pool, counts = imported(tmp_path / "t.tar", tmp_path / "q")
    assert reds(pool) == {"t.tar/x.png": 1}
    assert counts.refused == {"an earlier item has the same key": 1}
    with pytest.raises(PoolError, match="1 entries cannot be used, more than max_bad=0"):
        imported(tmp_path / "t.tar", tmp_path / "r", max_bad=0)


def test_labels_belong_to_the_name_up_to_a_dot_wherever_they_stand(tmp_path: Path, here: None) -> None:
    members = {
        "late.cls": b"1", "a.2024.png": color(1), "a.2024.cls": b"0", "b.left.png": color(2), "b.right.png": color(3),
        "b.cls": b"2", "late.png": color(4), "c.png": color(5), "d.png": color(6), "d.x.png": color(7), "d.cls": b"1",
        "d.x.cls": b"2", "lost.cls": b"1", "e.png": color(8), "e.cls": b"1" * 300, "f.json": b"{}", "._g.png": b"",
    }  # fmt: skip
    tar_of(tmp_path / "t.tar", members)
    pool, counts = imported(tmp_path / "t.tar", tmp_path / "p", labels=True)
    assert pool.keys is not None
    labels = {key.removeprefix("t.tar/"): int(label) for key, label in zip(pool.keys, pool.labels, strict=True)}
    assert labels == {"a.2024.png": 0, "b.left.png": 2, "b.right.png": 2, "late.png": 1, "c.png": -1, "d.png": 1}
    assert bad_of(tmp_path / "p") == {
        "t.tar/d.x.png": "it has several .cls members, which differ",
        "t.tar/e.png": "its .cls member has more than 256 bytes",
    }
    assert counts.passed_over == {"hidden": 1, "label (.cls) without an image": 1, "suffix .json": 1}


def test_labels_of_digits_are_names_or_numbers_as_the_user_says(tmp_path: Path, here: None) -> None:
    members = {
        f"{i}.{kind}": data
        for i, text in enumerate((b"cat", b"1"))
        for kind, data in (("png", color(i)), ("cls", text))
    }
    tar_of(tmp_path / "t.tar", members)
    with pytest.raises(
        PoolError, match="label '1' has two readings: as a name it is class number 0, as a number class 'cat'"
    ):
        imported(tmp_path / "t.tar", tmp_path / "p", labels=True, classes=["1", "cat"])
    assert not list(tmp_path.glob(".p*"))
    pool, _ = imported(tmp_path / "t.tar", tmp_path / "p", labels=True, classes=["1", "cat"], reading="names")
    assert pool.labels.tolist() == [1, 0]
    pool, counts = imported(tmp_path / "t.tar", tmp_path / "q", labels=True, classes=["1", "cat"], reading="numbers")
    assert pool.labels.tolist() == [1]
    assert sum(counts.refused.values()) == 1
    pool, counts = imported(tmp_path / "t.tar", tmp_path / "r", labels=True)
    assert (pool.labels.tolist(), list(bad_of(tmp_path / "r"))) == ([1], ["t.tar/0.png"])


def test_the_extension_of_the_images_can_be_chosen(tmp_path: Path, here: None) -> None:
    tar_of(tmp_path / "t.tar", {"a.png": color(1), "a.seg.png": color(2), "b.jpg": color(3)})
    pool, counts = imported(tmp_path / "t.tar", tmp_path / "p", column="seg.png")
    assert reds(pool) == {"t.tar/a.seg.png": 2}
    assert counts.passed_over == {"of another column": 2}


def test_a_restart_counts_what_was_passed_over_once(
    tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcscore.pool.schema import Grid

    members = {f"{i}.{kind}": color(i) for i in range(12) for kind in ("png", "json")}
    tar_of(tmp_path / "t.tar", {**members, "x.png": b"bad", "z.txt": b""})
    monkeypatch.setattr("mcscore.ingest.images.plan_grid", lambda *_: Grid(5, None))
    with pytest.raises(PoolError, match="max_bad=0"):
        imported(tmp_path / "t.tar", tmp_path / "p", max_bad=0)
    _, counts = imported(tmp_path / "t.tar", tmp_path / "p", max_bad=1)
    assert (counts.read, counts.stored) == (13, 12)
    assert counts.passed_over == {"suffix .json": 12, "suffix .txt": 1}


def test_compressed_tars_give_the_same_items(tmp_path: Path, here: None) -> None:
    for kind in ("gz", "bz2", "xz"):
        tar_of(tmp_path / f"t.tar.{kind}", NAMED, f"w:{kind}")
        pool, _ = imported(tmp_path / f"t.tar.{kind}", tmp_path / f"p{kind}", keep_encoded=kind == "xz")
        assert list(reds(pool).values()) == [0, 1, 2]


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136] = f"{size:011o} ".encode() if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    block[136:148], block[148:156], block[156:157] = b"00000000000\0", b" " * 8, kind
    block[257:265] = b"ustar  \0"
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def test_thousands_of_long_name_headers_are_one_bad_entry(tmp_path: Path, here: None) -> None:
    tar_of(tmp_path / "t.tar", NAMED)
    whole = (tmp_path / "t.tar").read_bytes()
    headers = (header(b"././@LongLink", 2, b"L") + b"x\0".ljust(512, b"\0")) * 5000
    (tmp_path / "t.tar").write_bytes(whole[:1024] + headers + whole[1024:])
    pool, counts = imported(tmp_path / "t.tar", tmp_path / "p")
    assert reds(pool) == {"t.tar/a.png": 0}
    (why,) = counts.refused
    assert why.endswith("its remaining entries are lost: more than 16 extended headers for one member")


@pytest.mark.parametrize(
    ("lying", "why"),
    [
        (header(b"b.png", 1 << 40), "b.png has 1,099,511,627,776 bytes, and the file ends before them"),
        (header(b"././@LongLink", 1 << 30, b"L"), "an extended header of 1,073,741,824 bytes"),
        (header(b"x", 1 << 30, b"x"), "an extended header of 1,073,741,824 bytes"),
    ],
)
def test_a_member_that_lies_about_its_size_is_one_bad_entry(tmp_path: Path, lying: bytes, why: str, here: None) -> None:
    tar_of(tmp_path / "t.tar", NAMED)
    whole = (tmp_path / "t.tar").read_bytes()
    (tmp_path / "t.tar").write_bytes(whole[:1024] + lying + whole[1024:])
    pool, counts = imported(tmp_path / "t.tar", tmp_path / "p")
    assert reds(pool) == {"t.tar/a.png": 0}
    assert why in next(iter(counts.refused))


def test_large_and_sparse_members_are_refused_unread(tmp_path: Path, here: None) -> None:
    size = module.MAX_BYTES + 1
    with (tmp_path / "t.tar").open("wb") as file:  # sparse on disk
        file.write(header(b"big.png", size))
        file.seek(-(-size // 512) * 512, os.SEEK_CUR)
        sparse = bytearray(header(b"holes.png", 512, b"S"))
        sparse[386:410] = b"%011o\0%011o\0" % (1 << 32, 512)
        sparse[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
        sparse[148:156] = b" " * 8
        sparse[148:156] = f"{sum(sparse):06o}\0 ".encode()
        file.write(
            bytes(sparse) + bytes(512) + header(b"a.png", len(color(1))) + color(1).ljust(512, b"\0") + bytes(1024)
        )
    pool, counts = imported(tmp_path / "t.tar", tmp_path / "p")
    assert reds(pool) == {"t.tar/a.png": 1}
    assert sorted(bad_of(tmp_path / "p")) == ["t.tar/big.png", "t.tar/holes.png"]
    assert any("stored as a sparse file" in why for why in counts.refused)


def test_a_gzip_bomb_is_left_at_its_first_gigabyte(tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXPANDED_BYTES", 1 << 20)
    with gzip.open(tmp_path / "t.tar.gz", "wb") as file:
        file.write(
            header(b"a.png", len(color(1))) + color(1).ljust(512, b"\0") + header(b"b.bin", 1 << 40) + bytes(1 << 22)
        )
    pool, counts = imported(tmp_path / "t.tar.gz", tmp_path / "p")
    assert reds(pool) == {"t.tar.gz/a.png": 1}
    assert "expands to more than 200 times its size" in next(iter(counts.refused))


def test_names_of_a_tar_are_checked_as_they_come(tmp_path: Path, here: None) -> None:
    members = {"a.png": color(1), "n" * 3_000_000 + ".png": color(2), "m" * 2000 + ".png": color(3)}
    tar_of(tmp_path / "t.tar", members)
    data = (tmp_path / "t.tar").read_bytes()
    latin = header("caf\xe9.png".encode("latin-1"), len(color(4))) + color(4).ljust(512, b"\0")
    (tmp_path / "t.tar").write_bytes(latin + data)
    pool, counts = imported(tmp_path / "t.tar", tmp_path / "p")
    assert reds(pool) == {"t.tar/a.png": 1}
    bad = bad_of(tmp_path / "p")
    assert bad[r"t.tar/caf\xe9.png"] == "the name is not UTF-8"
    assert max(map(len, bad)) < 260
    assert sum(counts.refused.values()) == 2, "the header of 3 MB ends the tar"


def test_a_source_of_bytes_that_is_no_tar_says_so(tmp_path: Path, here: None) -> None:
    (tmp_path / "t.tar").write_bytes(b"garbage" * 200)
    with pytest.raises(PoolError, match=r"none of the 1 entries of .*the tar is damaged or truncated"):
        imported(tmp_path / "t.tar", tmp_path / "p")
    os.mkfifo(tmp_path / "f.tar")
    with pytest.raises(PoolError, match=r"f\.tar cannot be imported: it is a FIFO, not a file"):
        open_source(tmp_path / "f.tar")
