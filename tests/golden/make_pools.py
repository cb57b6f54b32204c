"""Made the pools of format version 2 beside this file: python -m tests.golden.make_pools

They are never made again: tests/pool/test_golden.py reads them with every later version. A new format version gets pools
of its own. What they hold is given by formulas, here and in the test, so that nothing depends on a random generator.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from mcscore.ingest import append_blocks, import_images
from mcscore.pool import Pool

FOLDER = Path(__file__).parent
CLASSES = ["cat", "dog", "Ä, quoted"]


def items(n: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """(n, *shape) values that differ from item to item; whole numbers below 251, exact in every dtype."""
    return (np.arange(n * int(np.prod(shape))) * 7 % 251).reshape(n, *shape).astype(dtype)


def labels(n: int) -> np.ndarray:
    """-1, 0, 1, 2, -1, 0, ..."""
    return np.arange(n) % 4 - 1


def keys(n: int) -> list[str]:
    """Of growing length, and not ASCII alone."""
    return [f"folder/ü{'x' * i}.png" for i in range(n)]


def plain(path: Path) -> Pool:
    """10 items in chunks of 4, then 3 appended: the append's keys have an array of their own."""
    Pool.create(
        path,
        items(13, (2, 3, 4), "uint8")[:10],
        labels=labels(10),
        keys=keys(10),
        mean=(0.5, 0.25),
        std=(0.125, 1.0),
        classes=CLASSES,
        source="golden",
        chunk_items=4,
    )
    return append_blocks(path, items(13, (2, 3, 4), "uint8")[10:], labels=labels(13)[10:], keys=keys(13)[10:])


def sharded(path: Path, dtype: str = "float32", compression: str = "none") -> Pool:
    """20 items in chunks of 4 and shards of 8, the last not full."""
    values = items(20, (1, 4, 4), dtype)
    return Pool.create(path, values, labels=labels(20), compression=compression, chunk_items=4, shard_items=8)


def encoded(path: Path) -> Pool:
    """6 images kept as PNG, which every decoder gives back alike."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        folder.mkdir()
        for i, pixels in enumerate(items(6, (8, 8, 3), "uint8")):
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "PNG")
            (folder / f"{i}.png").write_bytes(data.getvalue())
        return import_images(folder, path, size=8, keep_encoded=True, classes=CLASSES, workers=1)


POOLS = {
    "plain": plain,
    "sharded": sharded,
    "sharded-zstd": lambda path: sharded(path, "float16", "zstd"),
    "sharded-lz4": lambda path: sharded(path, "float64", "lz4"),
    "encoded": encoded,
}


def main() -> None:
    """Make all of them anew."""
    prints = {}
    # Columns of 65,536 items, as they are made, would take 300 kB each.
    with patch("mcscore.pool.create.COLUMN_CHUNK", 16):
        for name, make in POOLS.items():
            path = FOLDER / f"pool-v2-{name}"
            shutil.rmtree(path, ignore_errors=True)
            pool = make(path)
            pool.set_excluded([1, 4])
            prints[name] = {str(n): pool.fingerprint_at(n) for n in range(pool.n + 1) if pool.fingerprint_at(n)}
    (FOLDER / "pool-v2-fingerprints.json").write_text(json.dumps(prints, indent=1) + "\n")


if __name__ == "__main__":
    main()
