"""A pool that has the items of another, and labels and flags of its own: experiments on one pool do not see each other's labels.

The arrays of items, offsets and keys are links to those of the other pool, so nothing large is copied. Such a pool is scored, selected
from and labeled as any; it cannot be appended to or compacted, as these arrays are not its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic
from ..errors import PoolError
from ..labels import UNLABELED, has_label
from ..paths import files_below, local_path
from ..store.files import local
from .metadata import FILE
from .pool import Pool


def borrow(pool: Pool, path: Path, labeled: np.ndarray | None = None, labels: Any = None) -> Pool:
    """Make a pool at ``path`` of the items of ``pool``: all of it or, on any failure, nothing.

    Args:
        pool: on a local disk; it must stay at its place.
        path: must not exist.
        labeled: (n,) ids of the items that are labeled at first, and no others; default: those that are labeled in ``pool``.
        labels: (n,) their labels.

    Raises:
        PoolError: the pool is at a URL, the path exists, or the disk is full.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> pool = Pool.create(folder / "p", np.zeros((3, 2), np.uint8), labels=[1, -1, -1])
    >>> own = borrow(pool, folder / "own", np.array([2]), [5])
    >>> own.labels.tolist(), pool.labels.tolist(), own.fingerprint == pool.fingerprint
    ([-1, -1, 5], [1, -1, -1], True)
    """
    source, path = local(pool.path, "borrow its items"), local_path(path, "a pool", PoolError)
    rows, offsets, appends = pool.storage.rows, pool.storage.offsets, pool.storage.appends
    of_items = {Path(str(each.folder)) for each in (rows, offsets, appends, *pool.storage.keys.values()) if each}
    try:
        with atomic.new_directory(path) as made:
            for folder in dict.fromkeys(Path(str(layout.folder)) for layout, _ in pool.arrays()):
                if folder in of_items:
                    atomic.link_directory(folder, made / folder.name)
                else:
                    _copy(folder, made / folder.name)
            atomic.replace_file(made / FILE, (source / FILE).read_bytes())
            if labeled is not None:
                own = Pool.open(made)
                before = np.flatnonzero(has_label(own.labels))
                own.set_labels(before, np.full(len(before), np.nan if own.labels.dtype.kind == "f" else UNLABELED))
                own.set_labels(labeled, labels)
    except OSError as error:
        raise PoolError(f"pool {path} could not be written, nothing was left behind: {error}") from error
    return Pool.open(path)


def refuse_borrowed(pool: Path) -> None:
    """Raise PoolError if the items of a pool are those of another."""
    for name in pool.iterdir():
        if name.is_symlink():
            raise PoolError(f"{pool} has the items of the pool {name.resolve().parent}, which alone can be changed")


def _copy(source: Path, target: Path) -> None:
    for file in files_below(source):
        place = target / file.relative_to(source)
        atomic.create_directory(place.parent)
        atomic.replace_file(place, file.read_bytes())
