"""Small pools, and how to hurt them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mcscore.pool import Pool


def images(n: int = 50, seed: int = 0) -> np.ndarray:
    """(n, 2, 3, 5) uint8, the first chunk all zeros (which a careless store would not write)."""
    items = np.random.default_rng(seed).integers(0, 256, (n, 2, 3, 5), dtype=np.uint8)
    items[:4] = 0
    return items


def small_pool(path: Path, compression: str = "none", sharded: bool = False, n: int = 50, **kwargs: object) -> Pool:
    """n items in chunks of 4, or 4 in shards of 16."""
    return Pool.create(
        path, images(n), compression=compression, chunk_items=4, shard_items=16 if sharded else None, **kwargs
    )  # type: ignore[arg-type]


def chunk_files(pool: Pool, array: str = "items") -> list[Path]:
    """The chunk or shard files of an array, in order."""
    files = [file for file in (pool.path / array).iterdir() if file.name != "zarr.json"]
    return sorted(files, key=lambda file: int(file.name.split(".")[1]))


class Killed(Exception):
    """Nothing that is caught on the way out: what was done stays, what was not is not done."""


def failing(original: Callable[..., Any], nth: int, error: BaseException) -> tuple[Callable[..., Any], list[int]]:
    """original, but its nth call raises; and a list that grows by one per call."""
    calls: list[int] = []

    def call(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == nth:
            raise error
        return original(*args, **kwargs)

    return call, calls


def flip_bit(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 16
    file.write_bytes(data)


def listing(folder: Path) -> list[str]:
    """Every name in a folder, hidden ones too."""
    return sorted(entry.name for entry in folder.iterdir())


def unsigned(path: Path) -> None:
    """Make a pool one of other software, or of an earlier release: without checksums and what came with them."""
    meta = json.loads((path / "zarr.json").read_text())
    for name in ("checksum", "arrays", "rows", "keys", "appends", "known_as"):
        meta["attributes"].pop(name, None)
    (path / "zarr.json").write_text(json.dumps(meta))
