"""Which data a pool holds, in one hash that does not read the data.

Covered: format version, item shape, dtype, N, mean and std, chunk grid and encoding; the sha256 of all items, taken when
the pool was made; the size of every chunk or shard file; the crc32c stored with up to 1024 chunks spread evenly (all of
them in a pool of up to 4 GiB).

So it changes when a pool is made anew from other data (or the same in another order), when a file is truncated, lost or
exchanged, when a chunk is rewritten (beyond 4 GiB: if it is among the 1024), and when the normalisation changes. It does
not see bytes that flip on disk: the crc32c of each chunk finds those, whenever the chunk is read. A pool that has lost a
file has a fingerprint too, another one: what is left of it can be scored, if that is asked for. Labels, exclusion flags,
keys, class names, source and date are left out on purpose: labelling must not end a run, a copy is the same pool.
"""

from __future__ import annotations

import hashlib
import json
import os

from .chunks import ChunkLayout, ChunkReader
from .format import FORMAT, VERSION, ChunkError, Facts

_SAMPLED_CHUNKS = 1024


def fingerprint_of(layout: ChunkLayout, facts: Facts) -> str:
    """ "sha256:" and 64 hexadecimal digits."""
    said = {
        "format": [FORMAT, VERSION],
        "content": facts.content,
        "item_shape": facts.item_shape,
        "mean": facts.mean,
        "std": facts.std,
        "shape": layout.array.shape,
        "dtype": str(layout.array.dtype),
        "chunks": [layout.chunk, layout.shard],
        "codecs": layout.array.metadata.to_dict()["codecs"],
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for number in range(layout.files):
        try:
            digest.update(f"{os.stat(layout.file(number)).st_size}\n".encode())
        except FileNotFoundError:
            digest.update(b"missing\n")
    with ChunkReader(layout) as reader:
        for number in range(0, layout.chunks, -(-layout.chunks // _SAMPLED_CHUNKS) or 1):
            try:
                digest.update(reader.stored_crc(number))
            except ChunkError:
                digest.update(b"unreadable")
    return f"sha256:{digest.hexdigest()}"
