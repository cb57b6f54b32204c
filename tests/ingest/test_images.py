"""Images become a pool, and an import that was killed goes on."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from mcscore.errors import PoolError
from mcscore.ingest import import_images
from mcscore.ingest.sources import Part, open_source
from mcscore.pool import Pool
from mcscore.pool.schema import Grid

from ..pool.helpers import Killed, failing
from .helpers import bad_of, color, folder, noise

MODULE = sys.modules["mcscore.ingest.images"]  # its name in the package is the function's
BIG = 512  # pixels per side: 5 images per chunk, a file of its own


def test_folder_with_class_labels_lists_what_is_bad(tmp_path: Path, here: None) -> None:
    src = folder(tmp_path / "src")
    (src / "cat" / "bad.png").write_bytes(b"")
    pool = import_images(src, tmp_path / "p", size=4, labels=True, workers=1)
    assert pool.keys is not None
    assert pool.keys.tolist() == [
        "cat/00001.png",
        "cat/00003.png",
        "cat/00005.png",
        *(f"dog/0000{i}.png" for i in (0, 2, 4)),
    ]
    assert pool.classes == ["cat", "dog"]
    assert pool.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pool.read(0, 6)[:, 0, 0, 0].tolist() == [1, 3, 5, 0, 2, 4]
    assert bad_of(tmp_path / "p") == {"cat/bad.png": "the file is empty"}
    assert not list(tmp_path.glob(".p*"))


def test_more_bad_than_allowed_stops_and_a_greater_limit_goes_on(tmp_path: Path, here: None) -> None:
    src = folder(tmp_path / "src")
    (src / "bad.png").write_bytes(b"x")
    with pytest.raises(PoolError, match="max_bad=0"):
        import_images(src, tmp_path / "p", size=4, max_bad=0, workers=1)
    assert not (tmp_path / "p").exists()
    with pytest.raises(PoolError, match=r"started with size=\[4, 4\], now \[5, 5\]"):
        import_images(src, tmp_path / "p", size=5, workers=1)
    assert import_images(src, tmp_path / "p", size=4, max_bad=1, workers=1).n == 6


def test_an_import_killed_after_the_pool_was_made_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: None
) -> None:
    src = folder(tmp_path / "src")
    with monkeypatch.context() as patch:
        patch.setattr("mcscore.atomic.discard_directory", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            import_images(src, tmp_path / "p", size=4, workers=1)
    assert list(tmp_path.glob(".p.import"))
    assert import_images(src, tmp_path / "p", size=4, workers=1).n == 6
    assert not list(tmp_path.glob(".p*"))
    with pytest.raises(PoolError, match="exists already"):
        import_images(src, tmp_path / "p", size=4, workers=1)


@pytest.fixture
def interrupted(tmp_path: Path, here: None) -> Path:
    """The stage of an import that stopped at a bad entry, with one checkpoint's worth of items before it."""
    src = folder(tmp_path / "src")
    (src / "zzz.png").write_bytes(b"x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "plan_grid", lambda *_: Grid(5, None))
        with pytest.raises(PoolError, match="max_bad=0"):
            import_images(src, tmp_path / "p", size=4, max_bad=0, workers=1)
    return tmp_path / ".p.import"


@pytest.mark.parametrize("version", [None, 1, 3])
def test_a_stage_of_another_version_is_refused(tmp_path: Path, interrupted: Path, version: int | None) -> None:
    settings = json.loads((interrupted / "settings.json").read_bytes())
    assert settings.pop("version") == 2
    bare = settings["settings"] if version is None else {**settings, "version": version}  # version 1 had no version
    (interrupted / "settings.json").write_text(json.dumps(bare))
    match = f"has version {version or 1} of the staging format, this mcscore reads version 2: .*remove that directory"
    with pytest.raises(PoolError, match=match):
        import_images(tmp_path / "src", tmp_path / "p", size=4, workers=1)
    shutil.rmtree(interrupted)
    assert import_images(tmp_path / "src", tmp_path / "p", size=4, workers=1).n == 6


def test_a_stage_follows_its_schema(tmp_path: Path, interrupted: Path) -> None:
    file = interrupted / "log" / "00000000.json"
    good = json.loads(file.read_bytes())
    missing = {name: value for name, value in good.items() if name != "entries"}
    for content, match in [
        (json.dumps({**good, "new": 1}), "field 'new' is unknown. Remove the directory .*p.import and"),
        (json.dumps(missing), "field 'entries' is missing"),
        ("[]", "no JSON object"),
        ("{", "no JSON: "),
    ]:
        file.write_text(content)
        with pytest.raises(PoolError, match=match):
            import_images(tmp_path / "src", tmp_path / "p", size=4, workers=1)
    file.write_text(json.dumps(good))
    assert import_images(tmp_path / "src", tmp_path / "p", size=4, workers=1).n == 6


def test_a_source_starts_at_any_entry(tmp_path: Path, mixed: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"bytes": color(i), "path": str(i)} for i in range(9)]
    for part in range(2):
        pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / f"{part}.parquet", row_group_size=4)
    folder(tmp_path / "src")
    for where in (mixed / "t-*.tar", tmp_path / "*.parquet", tmp_path / "src"):
        source = open_source(where)
        entries = list(source.entries((0, 0)))
        assert len({entry.position for entry in entries}) == len(entries) >= 6
        for i, entry in enumerate(entries):
            assert list(source.entries(entry.position)) == entries[i:]


def test_encoded_pools_give_the_pixels_of_an_import_that_decodes(tmp_path: Path, mixed: Path, here: None) -> None:
    pixels = import_images(mixed / "t-*.tar", tmp_path / "a", size=16, workers=1)
    kept = import_images(mixed / "t-*.tar", tmp_path / "b", size=16, workers=1, keep_encoded=True)
    same = pixels.read(0, 15)
    assert (kept.n, kept.item_shape, kept.dtype) == (15, (3, 16, 16), np.dtype("u1"))
    assert np.array_equal(kept.read(0, 15), same)
    assert np.array_equal(kept.read(4, 9), same[4:9])
    assert np.array_equal(kept.take([14, 0, 3]), same[[14, 0, 3]])
    assert np.array_equal(np.concatenate([b.items for b in kept.blocks([(0, 5), (5, 15)])]), same)
    assert kept.keys is not None
    assert pixels.keys is not None
    assert kept.keys.tolist() == pixels.keys.tolist()
    assert kept.fingerprint != pixels.fingerprint
    parts = {entry.key: entry.data for entry in open_source(mixed / "t-*.tar").entries((0, 0))}
    part = parts[str(kept.keys[5])]
    assert isinstance(part, Part)
    with kept._reader() as reader, part.path.open("rb") as file:
        file.seek(part.offset)
        assert reader.encoded(5) == file.read(part.size), "stored as they are"  # type: ignore[union-attr]


def test_an_image_that_no_longer_decodes_is_named(tmp_path: Path, here: None) -> None:
    pool = import_images(folder(tmp_path / "src"), tmp_path / "p", size=4, workers=1, keep_encoded=True)
    before, start = pool.fingerprint, int(pool.offsets()[2])
    array = zarr.open_array(tmp_path / "p" / "blob", mode="r+")
    array[start : start + 8] = np.zeros(8, np.uint8)
    assert Pool.open(tmp_path / "p").fingerprint != before
    for read in (lambda: pool.read(0, 6), lambda: list(pool.blocks())):
        with pytest.raises(PoolError, match=r"item 2 \(key 'cat/00005.png'\) cannot be decoded: cannot identify"):
            read()
    assert pool.read(3, 6).shape == (3, 3, 4, 4)
    (batch,) = pool.blocks(on_bad_chunk="skip")
    assert [(bad.start, bad.stop) for bad in batch.bad] == [(2, 3)]
    assert (batch.items[2] == 0).all()
    assert batch.items[5, 0, 0, 0] == 4


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tars of 18 images in all, bad ones and names that come again among them."""
    root = tmp_path_factory.mktemp("mixed")
    for part in range(3):
        with tarfile.open(root / f"t-{part}.tar", "w") as archive:
            for i in range(6):
                data = b"bad" if i == 2 else noise(10 * part + i)
                info = tarfile.TarInfo("twice.jpg" if i == 3 else f"{part}/{i}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return root


def same_pool(a: Pool, b: Pool) -> None:
    assert np.array_equal(a.read(0, a.n), b.read(0, b.n))
    assert a.keys is not None
    assert b.keys is not None
    assert a.keys.tolist() == b.keys.tolist()
    assert a.labels.tolist() == b.labels.tolist()
    assert a.fingerprint == b.fingerprint


@pytest.mark.parametrize("keep", [False, True])
def test_an_import_killed_at_any_write_goes_on_to_the_same_pool(
    tmp_path: Path, mixed: Path, keep: bool, monkeypatch: pytest.MonkeyPatch, here: None
) -> None:
    """Files of 5 images, or 3000 bytes; the n-th durable step is the last, for every n. Decoded in this process."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of real ones take their time
    chunk = 3000 if keep else 5
    monkeypatch.setattr(MODULE, "plan_grid", lambda *_: Grid(chunk, None))
    kwargs: dict[str, Any] = {"size": 16, "keep_encoded": keep, "workers": 1}
    whole = import_images(mixed / "t-{0..2}.tar", tmp_path / "whole", **kwargs)
    assert whole.n == 15  # 3 x 6, less 3 bad ones
    assert len(bad_of(tmp_path / "whole")) == 3
    n, finished = 0, False
    while not finished:
        n += 1
        path = tmp_path / f"p{n}"
        with monkeypatch.context() as patch:
            for name in ("replace", "rename", "mkdir"):
                step, _ = failing(getattr(os, name), n, Killed())
                patch.setattr(os, name, step)
            try:
                import_images(mixed / "t-{0..2}.tar", path, **kwargs)
                finished = True
            except Killed:
                finished = False
        if not finished:
            again = import_images(mixed / "t-{0..2}.tar", path, **kwargs)
            same_pool(again, whole)
            assert bad_of(path) == bad_of(tmp_path / "whole")
        assert not list(tmp_path.glob(".p*"))
    assert n > 15


def test_an_import_that_goes_on_decodes_only_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: None
) -> None:
    src = folder(tmp_path / "src", 12)
    monkeypatch.setattr(MODULE, "plan_grid", lambda *_: Grid(5, None))
    (src / "zzz.png").write_bytes(b"x")  # the last entry
    with pytest.raises(PoolError, match="max_bad=0"):
        import_images(src, tmp_path / "p", size=4, workers=1, max_bad=0)
    seen: list[tuple[int, int]] = []
    import_images(src, tmp_path / "p", size=4, workers=1, progress=lambda done, n: seen.append((done, n)))
    assert seen[0] == (9, 13), "two files of 5 are kept; the entry that filled the last is looked at again"
    assert seen[-1] == (13, 13)


def test_a_killed_process_goes_on_to_the_same_pool(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    for i in range(60):
        (src / f"{i:03d}.jpg").write_bytes(noise(i))
    whole = import_images(src, tmp_path / "whole", size=BIG, workers=1)
    words = [sys.executable, "-m", "mcscore.cli", "pool", "import", str(src), str(tmp_path / "p"), "--size", str(BIG)]
    child = subprocess.Popen([*words, "--workers", "1", "--quiet"], start_new_session=True)
    first = tmp_path / ".p.import" / "log" / "00000000.json"
    while not first.exists() and child.poll() is None:
        time.sleep(0.005)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert first.exists()
    assert not (tmp_path / "p").exists(), "it was killed too late to test anything"
    seen: list[tuple[int, int]] = []
    again = import_images(src, tmp_path / "p", size=BIG, workers=1, progress=lambda done, n: seen.append((done, n)))
    assert seen[0][0] >= 3
    same_pool(again, whole)
