"""Whether the files of arrays are still those that were opened, asked often: a few stats, or one request at a URL."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from .files import AnyPath
from .layout import ChunkLayout

Mark = tuple[int, ...] | str | None


def marks(root: AnyPath, layouts: Iterable[ChunkLayout]) -> tuple[Mark, ...]:
    """What changes when a pool, an array or one of its files is exchanged by renaming, or its metadata rewritten.

    Of a local directory inode and times, also of its metadata; renaming a directory away and back changes its ctime, exchanging a
    file in it its mtime. At a URL the hash of the metadata, which holds the hash of the items.
    """
    if not isinstance(root, Path):
        return (hashlib.sha256((root / "zarr.json").read_bytes()).hexdigest(),)
    places = [root, root / "zarr.json"]
    for layout in layouts:
        folder = Path(str(layout.folder))
        places += [folder, folder / "zarr.json", (folder / layout.name.partition("{}")[0]).parent]
    return tuple(_mark(place) for place in dict.fromkeys(places))


def _mark(place: Path) -> Mark:
    try:
        found = os.stat(place)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
