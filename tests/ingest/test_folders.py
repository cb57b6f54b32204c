"""Folders: links are followed, what is passed over is counted, what cannot be read is listed and stops nothing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import PoolError
from mcscore.ingest import append_images, import_images
from mcscore.ingest.counts import Counts
from mcscore.ingest.sources import expand_braces, folder, open_source, patterns
from mcscore.pool import Pool
from mcscore.pool.pictures.decode import MAX_BYTES

from .helpers import bad_of, color, imported, reds, tar_of
from .test_parquet import rows, written

pytestmark = pytest.mark.usefixtures("here")


def image(path: Path, red: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(color(red))
    return path


def test_links_are_followed_and_loops_counted(tmp_path: Path) -> None:
    image(tmp_path / "store/cat/a.png", 1)
    image(tmp_path / "store/dog/b.png", 2)
    image(tmp_path / "pool/cat/own.png", 3)
    (tmp_path / "pool/cat/more").symlink_to(tmp_path / "store/cat")
    (tmp_path / "pool/dog").symlink_to(tmp_path / "store/dog")
    (tmp_path / "pool/cat/back").symlink_to(tmp_path / "pool")
    (tmp_path / "pool/one.png").symlink_to(tmp_path / "store/cat/a.png")
    pool, counts = imported(tmp_path / "pool", tmp_path / "p", labels=True)
    assert reds(pool) == {"cat/more/a.png": 1, "cat/own.png": 3, "dog/b.png": 2, "one.png": 1}
    assert pool.labels.tolist() == [0, 0, 1, -1]
    assert counts.passed_over == {"link that leads back to a folder above it": 1}


def test_links_that_multiply_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MAX_WAYS", 50)
    for i in range(12):
        (tmp_path / f"d{i}").mkdir()
        for name in "ab":
            (tmp_path / f"d{i}" / name).symlink_to(tmp_path / f"d{i + 1}")
    image(tmp_path / "d12/x.png", 1)
    with pytest.raises(PoolError, match="links lead to this folder by more than 50 ways"):
        open_source(tmp_path / "d0")


def test_what_is_passed_over_is_counted_by_reason(tmp_path: Path) -> None:
    for name in ("cat/a.png", ".ipynb_checkpoints/a.png", "cat/.b.png", "__MACOSX/c.png", "@eaDir/d.png"):
        image(tmp_path / "src" / name, 1)
    for name in ("cat/a.txt", "cat/b.JXL", "README", "notes.tar.txt", ".DS_Store"):
        (tmp_path / "src" / name).write_bytes(b"x")
    import_images(tmp_path / "src", tmp_path / "src" / "p.zarr", size=4)
    _, counts = imported(tmp_path / "src", tmp_path / "q", labels=True)
    assert counts.passed_over == {"Zarr data": 1, "hidden": 5, "no suffix": 1, "suffix .jxl": 1, "suffix .txt": 2}
    assert counts.lines() == [
        "1 entries read: 1 stored, 0 refused",
        "10 others passed over: 5 hidden, 2 suffix .txt, 1 Zarr data, 1 no suffix, 1 suffix .jxl",
    ]


def test_what_cannot_be_read_is_listed_and_stops_nothing(tmp_path: Path) -> None:
    src = tmp_path / "src"
    image(src / "a.png", 7)
    image(src / "b.png", 8)
    (src / "gone.png").symlink_to(tmp_path / "nowhere")
    (src / "gone").symlink_to(tmp_path / "nowhere")
    (src / "self.png").symlink_to(src / "self.png")
    os.mkfifo(src / "fifo.png")
    (src / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(src / "s.png"))
    (src / "folder.png").mkdir()
    os.truncate(image(src / "sparse.png", 1), MAX_BYTES + 1)
    image(src / "caf\udce9.png", 1)
    pool, counts = imported(src, tmp_path / "p")
    assert reds(pool) == {"a.png": 7, "b.png": 8}
    assert bad_of(tmp_path / "p") == {
        r"caf\xe9.png": "the name is not UTF-8",
        "fifo.png": "it is a FIFO, not a file",
        "gone": "it is a link that leads nowhere",
        "gone.png": "it is a link that leads nowhere",
        "s.png": "it is a socket, not a file",
        "self.png": "it is a link that leads nowhere",
        "sparse.png": f"{MAX_BYTES + 1:,} bytes are more than an encoded image may have ({MAX_BYTES:,})",
        "zero.png": "it is a device, not a file",
    }
    assert counts.read == 10
    assert counts.bad_list == str(tmp_path / "p.bad.csv")


def test_more_bad_names_than_allowed_stop_before_any_image_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "src/a.png", 1)
    image(tmp_path / "src/z\udce9.png", 1)
    with monkeypatch.context() as patch:
        patch.setattr("tests.ingest.helpers.decode_entry", lambda *_: pytest.fail("an image was decoded"))
        with pytest.raises(PoolError, match=r"1 entries cannot be used, more than max_bad=0; the last: z\\xe9.png"):
            imported(tmp_path / "src", tmp_path / "p", max_bad=0)
    assert imported(tmp_path / "src", tmp_path / "p", max_bad=1)[0].n == 1


def test_a_file_that_becomes_a_fifo_after_the_listing_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 1)
    changed = image(tmp_path / "b.png", 2)
    source = open_source(tmp_path)
    changed.unlink()
    os.mkfifo(changed)
    from mcscore.ingest.worker import ImageFormat, decode_entry
    from mcscore.pool.pictures.pixel_format import PixelFormat

    got = [decode_entry(entry, ImageFormat(PixelFormat((4, 4)), False)) for entry in source.entries((0, 0))]
    assert [image.why for image in got] == ["", "it is a FIFO, not a file"]


def test_an_unreadable_folder_is_one_bad_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "src/a.png", 1)
    image(tmp_path / "src/lost/b.png", 1)
    listing = os.scandir

    def failing(path: int | Path) -> object:
        if not isinstance(path, int) and Path(path).name == "lost":
            raise OSError(5, "Input/output error")
        return listing(path)

    monkeypatch.setattr(os, "scandir", failing)
    pool, counts = imported(tmp_path / "src", tmp_path / "p")
    assert pool.n == 1
    assert counts.refused == {"the folder cannot be listed, what it holds is lost: Input/output error": 1}


def test_folders_of_tars_or_parquet_are_taken_and_others_say_what_they_hold(tmp_path: Path) -> None:
    for name in ("tars", "tables", "arrays", "empty"):
        (tmp_path / name).mkdir()
    tar_of(tmp_path / "tars/0.tar", {"a.png": color(1)})
    tar_of(tmp_path / "tars/1.tar", {"a.png": color(2)})
    (tmp_path / "tars/index.json").write_text("{}")
    pool, counts = imported(tmp_path / "tars", tmp_path / "p")
    assert reds(pool) == {"0.tar/a.png": 1, "1.tar/a.png": 2}
    assert counts.passed_over == {"suffix .json": 1}
    written(tmp_path / "tables/0.parquet", {"image": rows(5)})
    assert list(reds(imported(tmp_path / "tables", tmp_path / "q")[0]).values()) == [5]
    (tmp_path / "arrays/a.npy").write_bytes(b"")
    with pytest.raises(PoolError, match=r"arrays holds no images .*; passed over: 1 suffix .npy"):
        open_source(tmp_path / "arrays")
    with pytest.raises(PoolError, match="is a Zarr array or group, not a folder of images: leave --size out"):
        open_source(tmp_path / "p")
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(PoolError, match="Unpack the archive"):
        open_source(tmp_path / "a.zip")
    image(tmp_path / "img/a.png", 1)
    with pytest.raises(PoolError, match=r"column='x' .--column. belongs to Parquet files and tars"):
        open_source(tmp_path / "img", column="x")


def test_the_shards_that_a_pattern_names_must_be_there(tmp_path: Path) -> None:
    for i in (0, 1, 3, 4):
        tar_of(tmp_path / f"t-{i:03d}.tar", {"a.png": color(i)})
    with pytest.raises(PoolError, match=r"2 of the 6 files that .* names are missing: .*t-002.tar, .*t-005.tar"):
        open_source(tmp_path / "t-{000..005}.tar")
    with pytest.raises(PoolError, match="no such file"):
        open_source(tmp_path / "u-{000..002}.tar")
    with pytest.raises(PoolError, match=r"names .*t-001.tar more than once"):
        open_source(tmp_path / "{t-001,t-0*1}.tar")
    assert reds(imported(tmp_path / "t-*.tar", tmp_path / "p")[0]) == {f"t-00{i}.tar/a.png": i for i in (0, 1, 3, 4)}


def test_braces_are_counted_before_they_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert expand_braces("a{08..10}{x,y}") == ["a08x", "a08y", "a09x", "a09y", "a10x", "a10y"]
    assert expand_braces("{2..0}") == ["2", "1", "0"]
    monkeypatch.setattr(patterns, "_expanded", lambda _: pytest.fail("it was expanded"))
    for pattern in ("{0..1000000000}", "{0..9999}{0..9999}", "{1000000000..0}.tar"):
        with pytest.raises(PoolError, match="names more than 1,000,000 files"):
            expand_braces(pattern)
    with pytest.raises(PoolError, match="more than 18 digits"):
        expand_braces("{0.." + "9" * 5000 + "}")


@pytest.mark.parametrize("classes", [["dog", "cat", "bird"], ["emu", "dog", "bird", "cat"]])
def test_labels_follow_the_given_classes(tmp_path: Path, classes: list[str]) -> None:
    for i, name in enumerate(("bird", "cat", "dog")):
        image(tmp_path / "src" / name / "0.png", i)
    pool, _ = imported(tmp_path / "src", tmp_path / "p", labels=True, classes=classes)
    assert pool.classes == classes
    assert [classes[label] for label in pool.labels] == ["bird", "cat", "dog"]
    image(tmp_path / "new/cat/1.png", 9)
    told: list[Counts] = []
    grown = append_images(tmp_path / "p", tmp_path / "new", labels=True, report=told.append)
    assert classes[grown.labels[3]] == "cat"
    assert told[0].stored == 1


def test_an_open_choice_of_classes_is_refused_or_told(tmp_path: Path) -> None:
    image(tmp_path / "src/bird/0.png", 1)
    image(tmp_path / "src/cat/0.png", 1)
    with pytest.raises(PoolError, match=r"class 'cat', which is not among the given classes .bird, dog."):
        open_source(tmp_path / "src", labels=True, classes=["bird", "dog"])
    (tmp_path / "src/ant").mkdir()
    with pytest.raises(PoolError, match="ant holds no images, so whether it is a class is open"):
        open_source(tmp_path / "src", labels=True)
    assert open_source(tmp_path / "src", labels=True, classes=["cat", "bird"]).classes == ["cat", "bird"]
    for name in ("0", "1", "2", "10"):
        image(tmp_path / "digits" / name / "a.png", int(name))
    pool, counts = imported(tmp_path / "digits", tmp_path / "p", labels=True)
    assert pool.classes == ["0", "1", "10", "2"]
    assert counts.remarks[0].startswith("class names are numbers, in the order of the alphabet: '10' is class number 2")
    pool, counts = imported(tmp_path / "digits", tmp_path / "q", labels=True, classes=["0", "1", "2", "10"])
    assert (pool.labels.tolist(), counts.remarks) == ([0, 1, 3, 2], ())


def test_without_a_report_a_warning_tells_what_did_not_come_in(tmp_path: Path) -> None:
    image(tmp_path / "src/a.png", 1)
    image(tmp_path / "src/b.png", 1).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"2 entries read: 1 stored, 1 refused \(1 the file is empty\), listed in"):
        import_images(tmp_path / "src", tmp_path / "p", size=4)


def test_the_list_of_an_earlier_pool_is_removed_with_its_cause(tmp_path: Path) -> None:
    image(tmp_path / "src/a.png", 1)
    (tmp_path / "p.bad.csv").write_text("path,reason\nold.png,gone\n")
    (tmp_path / "q.bad.csv").write_text("something else\n")
    for name in "pq":
        imported(tmp_path / "src", tmp_path / name)
    assert not (tmp_path / "p.bad.csv").exists()
    assert (tmp_path / "q.bad.csv").read_text() == "something else\n"


def test_mean_and_std_of_bytes_are_in_units_of_one(tmp_path: Path) -> None:
    image(tmp_path / "src/a.png", 1)
    with pytest.raises(PoolError, match=r"not in units of \[0, 1\].*divide both by 255"):
        import_images(tmp_path / "src", tmp_path / "p", size=4, mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4])
    assert not (tmp_path / "p").exists()
    pool, _ = imported(tmp_path / "src", tmp_path / "p", mean=[0.5, 0.4, 0.4], std=[0.2, 0.2, 0.2])
    assert pool.mean == (0.5, 0.4, 0.4)
    with pytest.raises(PoolError, match="units"):
        Pool.create(tmp_path / "q", pool.read(0, 1), mean=127.5, std=64.0)


def test_items_that_are_not_square_survive_encoding_and_appending(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / "src" / f"{name}.png", 100)
    for fit in ("crop", "pad"):
        pool, counts = imported(tmp_path / "src", tmp_path / fit, size=(4, 8), fit=fit)
        kept, _ = imported(tmp_path / "src", tmp_path / f"{fit}-kept", size=(4, 8), fit=fit, keep_encoded=True)
        assert pool.item_shape == kept.item_shape == (3, 4, 8)
        assert np.array_equal(pool.read(0, 2), kept.read(0, 2))
        assert pool.read(0, 1)[0, 0, 0].tolist() == {"crop": [100] * 8, "pad": [0, 0, *[100] * 4, 0, 0]}[fit]
        assert list(counts.converted.values()) == [2]
        image(tmp_path / "more" / "c.png", 50)
        grown = append_images(tmp_path / f"{fit}-kept", tmp_path / "more")
        assert grown.read(2, 3)[0, 0, 0, 3] == 50
    prints = set()
    for fit in ("crop", "pad", "squash"):
        kept, _ = imported(tmp_path / "src", tmp_path / f"x{fit}", size=(4, 8), fit=fit, keep_encoded=True)
        prints.add(kept.fingerprint)
    assert len(prints) == 3, "the same bytes are other items"
