"""What was appended to a pool, one line of JSON per append in the array ``appends``, written in the same publication as n.

A line is a list: how many items the pool held before, their hash (``content``), the source of the new items, and the hash
of what came with them. Lines are padded with zero bytes to one width, so that an append rewrites one small chunk, however
many there were.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from ..errors import PoolError
from ..store.columns import Column
from ..store.layout import ChunkLayout

WIDTH = 256  # three hashes and a number take 243
CHUNK = 256  # lines


@dataclass(frozen=True)
class Append:
    """One append to a pool.

    Attributes:
        n: how many items the pool held before.
        content: their hash, as the pool's attribute.
        source: which data were appended: "items:" and a hash of them, or "name:" and a hash of the name that the caller
            gave; None: not known.
        details: a hash of the labels and keys that came with the items; None: not known.
    """

    n: int
    content: str | None
    source: str | None
    details: str | None


def encoded_appends(appends: list[Append], width: int = WIDTH) -> np.ndarray:
    """Return (number of appends, width) uint8.

    Raises:
        PoolError: a line is longer than the width: a pool of other software whose ``content`` is no hash.
    """
    lines = [json.dumps([one.n, one.content, one.source, one.details]).encode() for one in appends]
    for line in lines:
        if len(line) > width:
            raise PoolError(
                f"the attribute 'content' cannot be recorded, it has more than {width - 180} bytes: {line!r}"
            )
    return np.array(lines, f"S{width}").view(np.uint8).reshape(len(lines), width)


def read_appends(layout: ChunkLayout | None) -> list[Append]:
    """Return all appends, oldest first.

    Raises:
        ChunkError: a chunk cannot be read.
        PoolError: a line is damaged.

    >>> read_appends(None)
    []
    """
    if layout is None:
        return []
    rows = Column(layout)[:]
    found = []
    for number, line in enumerate(rows.view(f"S{rows.shape[1]}")[:, 0].tolist()):
        try:
            n, content, source, details = json.loads(line)
        except (ValueError, TypeError) as error:
            raise PoolError(f"{layout.folder} has a damaged line {number}: {error}") from error
        found.append(Append(n, content, source, details))
    return found
