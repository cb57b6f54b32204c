"""Array files: what they declare is bounded, labels are checked before items are copied, a name is never ignored."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from mcscore.errors import PoolError
from mcscore.ingest import import_array
from mcscore.pool import Pool

from .test_arrays import PICTURES, save_npy


def test_what_an_array_file_declares_is_bounded(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.npy")
    with pytest.raises(PoolError, match="it is a FIFO, not a file"):
        import_array(tmp_path / "f.npy", tmp_path / "p")
    long = b"\x93NUMPY\2\0" + (1 << 31).to_bytes(4, "little") + b"{"
    (tmp_path / "h.npy").write_bytes(long)
    with zipfile.ZipFile(tmp_path / "h.npz", "w") as archive:
        archive.writestr("x.npy", long)
    for name in ("h.npy", "h.npz"):
        with pytest.raises(PoolError, match="a header of 2,147,483,648 bytes, more than 1,048,576"):
            import_array(tmp_path / name, tmp_path / "p")
    huge = b"\0\0\x08\3" + np.array([5, 1 << 30, 4], ">u4").tobytes()
    (tmp_path / "i.gz").write_bytes(gzip.compress(huge + bytes(100)))
    with pytest.raises(PoolError, match=r"an item of shape \(1073741824, 4\) has 4,294,967,296 bytes"):
        import_array(tmp_path / "i.gz", tmp_path / "p")
    save_npy(tmp_path / "a.npy", PICTURES)
    (tmp_path / "labels.gz").write_bytes(gzip.compress(b"\0\0\x08\1" + np.array([0xFFFFFFFF], ">u4").tobytes()))
    with pytest.raises(PoolError, match=r"has shape \(4294967295,\); labels of the 40 items of .* are \(40,\)"):
        import_array(tmp_path / "a.npy", tmp_path / "p", tmp_path / "labels.gz")


def test_an_archive_that_expands_beyond_the_disk_is_refused_before_it_is_read(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 44, 8)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", head.getvalue() + bytes(1 << 20))
    with pytest.raises(PoolError, match=r"bomb.npz holds 140,737,488,355,328 bytes of items, and the disk of .* left"):
        import_array(tmp_path / "bomb.npz", tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_labels_are_checked_before_items_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_npy(tmp_path / "a.npy", PICTURES)
    monkeypatch.setattr(Pool, "create", lambda *_, **__: pytest.fail("items were copied"))
    for label, classes in ((2**40, None), (2, ["a", "b"])):
        with pytest.raises(PoolError, match=f"label {label} at position 3 is outside"):
            import_array(tmp_path / "a.npy", tmp_path / "p", [0, 0, 0, label] + [0] * 36, classes=classes)


def test_a_zipped_zarr_is_read_and_a_name_is_never_ignored(tmp_path: Path) -> None:

    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    for name, start in (("x", 0), ("y", 100)):
        group.create_array(name, data=np.arange(start, start + 24, dtype=np.uint8).reshape(4, 2, 3))
    for folder in (tmp_path / "g.zarr", tmp_path / "g.zarr" / "x"):
        target = tmp_path / f"{folder.name}.zip"
        with zipfile.ZipFile(target, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))
    assert import_array(tmp_path / "g.zarr.zip", tmp_path / "p", key="y").read(0, 1).tolist() == [
        [[100, 101, 102], [103, 104, 105]]
    ]
    assert import_array(tmp_path / "x.zip", tmp_path / "q").read(3, 4)[0, 1].tolist() == [21, 22, 23]
    with pytest.raises(PoolError, match="is one Zarr array, not a group, and takes no name"):
        import_array(tmp_path / "x.zip", tmp_path / "r", key="y")
    with pytest.raises(PoolError, match="names the array 'x', and key='y' another"):
        import_array(f"{tmp_path / 'g.zarr'}::x", tmp_path / "r", key="y")
