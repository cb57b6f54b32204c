"""Which data a pool holds, in one hash that does not read the data.

Covered: format version, item shape, dtype, N, mean and std, chunk grid and encoding; the sha256 of all items, taken as
they were written; the size of every chunk or shard file; the crc32c stored with up to 1024 chunks spread evenly (all of
them in a pool of up to 4 GiB).

So it changes when a pool is made anew from other data (or the same in another order), when a file is truncated, lost or
exchanged, when a chunk is rewritten (beyond 4 GiB: if it is among the 1024), and when the normalization changes. It does
not see bytes that flip on disk: the crc32c of each chunk finds those, whenever the chunk is read. A pool that has lost a
file has a fingerprint too, another one: what is left of it can be scored, if that is asked for. Labels, exclusion flags,
keys, class names, source and date are left out on purpose: labeling must not end a run, a copy is the same pool.

A pool that has grown still has the fingerprint of what it was: only items below n enter. The file in which the first n
end is rewritten by an append, so of the last chunk only the items count, and of the last shard the chunks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..errors import ChunkError
from ..store.chunks import ChunkLayout, ChunkReader, crc32c
from ..store.files import Place, size_of
from .schema import FORMAT, VERSION, Facts

_SAMPLED_CHUNKS = 1024
_REQUESTS = 32  # at a time, of a pool at a URL


def fingerprint_of(layouts: Iterable[ChunkLayout], facts: Facts, content: str | None) -> str:
    """ "sha256:" and 64 hexadecimal digits; of the first ``layout.n`` rows of each array, whose hash was ``content``."""
    said: dict[str, object] = {
        "format": [FORMAT, VERSION],
        "content": content,
        "item_shape": facts.item_shape,
        "mean": facts.mean,
        "std": facts.std,
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for layout in layouts:
        for part in _parts(layout):
            digest.update(part)
    return f"sha256:{digest.hexdigest()}"


def _parts(layout: ChunkLayout) -> Iterator[bytes]:
    said = {
        "shape": (layout.n, *layout.item_shape),
        "dtype": str(layout.array.dtype),
        "chunks": [layout.chunk, layout.shard],
        "codecs": layout.array.metadata.to_dict()["codecs"],
    }
    yield json.dumps(said, sort_keys=True, default=str).encode()
    unit = layout.shard or layout.chunk
    whole = layout.n // layout.chunk
    with ThreadPoolExecutor(1 if isinstance(layout.folder, Path) else _REQUESTS) as threads:
        yield from threads.map(_size, (layout.file(number) for number in range(layout.n // unit)))
    with ChunkReader(layout) as reader:
        try:
            for number in range(layout.n // unit * (unit // layout.chunk), whole):
                yield f"{reader.stored_length(number)}\n".encode()
            if layout.n % layout.chunk:
                rows = np.empty((layout.n % layout.chunk, *layout.item_shape), layout.array.dtype)
                reader.read(whole * layout.chunk, rows)
                yield crc32c(rows.reshape(-1).view(np.uint8)).to_bytes(4, "little")
        except ChunkError:
            yield b"unreadable"
        for number in range(0, whole, -(-whole // _SAMPLED_CHUNKS) or 1):
            try:
                yield reader.stored_crc(number)
            except ChunkError:
                yield b"unreadable"


def _size(file: Place) -> bytes:
    try:
        return f"{size_of(file)}\n".encode()
    except FileNotFoundError:
        return b"missing\n"
