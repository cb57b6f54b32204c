"""Small images, sources of them, and decoding in this process."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mcscore.cli import main
from mcscore.ingest import import_images
from mcscore.ingest.counts import Counts
from mcscore.ingest.sources import Entry
from mcscore.ingest.worker import DecodedImage, ImageFormat, decode_entry
from mcscore.pool import Pool

Image = pytest.importorskip("PIL.Image")


def encoded(image: object, kind: str = "PNG", **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)  # type: ignore[attr-defined]
    return out.getvalue()


def color(red: int, mode: str = "RGB") -> bytes:
    return encoded(Image.new(mode, (8, 8), (red, 10, 20)))


def noise(i: int) -> bytes:
    rng = np.random.default_rng(i)
    return encoded(Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)), "JPEG")


def bad_of(pool: Path) -> dict[str, str]:
    with pool.with_name(f"{pool.name}.bad.csv").open() as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def folder(root: Path, n: int = 6) -> Path:
    for i in range(n):
        place = root / ("cat" if i % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:05d}.png").write_bytes(color(i))
    return root


def tar_of(path: Path, members: dict[str, bytes], kind: str = "w") -> Path:
    with tarfile.open(path, kind) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


class Here:
    """Decodes in this process, in place of mcscore.ingest.decoders.Decoders: its processes take a second to start."""

    def __init__(self, image_format: ImageFormat) -> None:
        self.image_format = image_format

    def submit(self, entries: list[Entry]) -> Future[list[DecodedImage]]:
        done: Future[list[DecodedImage]] = Future()
        done.set_result([decode_entry(entry, self.image_format) for entry in entries])
        return done


@contextlib.contextmanager
def decoders_here(_processes: int, image_format: ImageFormat) -> Iterator[Here]:
    yield Here(image_format)


def imported(src: Any, dst: Path, **more: Any) -> tuple[Pool, Counts]:
    """Import images and return the closing count too."""
    told: list[Counts] = []
    pool = import_images(src, dst, **{"size": 4, **more}, report=told.append)
    (counts,) = told
    assert counts.stored == pool.n
    return pool, counts


def reds(pool: Pool) -> dict[str, int]:
    """The red value of the first pixel of each item, by key."""
    assert pool.keys is not None
    return dict(zip(pool.keys.tolist(), pool.read(0, pool.n)[:, 0, 0, 0].tolist(), strict=True))


def cli(*words: object) -> tuple[int, dict[str, Any]]:
    """Run mcscore with --json; return the exit code and the object."""
    done = CliRunner().invoke(main, [*map(str, words), "--json"])
    return done.exit_code, json.loads(done.stdout)
