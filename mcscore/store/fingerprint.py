"""Which data arrays hold, in one hash that does not read the data.

Covered, beside a header that the caller gives: of each array the number and shape of rows, dtype, chunk grid and encoding;
the size of every chunk or shard file; the crc32c stored with up to 1024 chunks spread evenly (all of them up to 4 GiB).

So the fingerprint changes when a file is truncated, lost or exchanged, and when a chunk is rewritten (beyond 4 GiB: if it
is among the 1024). It does not see bytes that flip on disk: the crc32c of each chunk finds those when the chunk is read.
Arrays that lost a file have a fingerprint too, a different one: what is left can be scored if that is asked for. A read
that fails is an error: the next one may succeed, and would give another fingerprint.

Arrays that grew still have the fingerprint of what they were: only the first ``layout.n`` rows enter. An append rewrites
the file in which they end, so of the last chunk only the rows count, and of the last shard the chunks.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from ..errors import ChunkError, PoolError
from .chunks import ChunkReader
from .files import AnyPath, at_once, size_of
from .layout import CRC_BYTES, ChunkLayout, crc32c
from .parallel import in_order

_SAMPLED_CHUNKS = 1024
_TOGETHER = 16  # chunks of a file that are asked one after another


def fingerprint(header: bytes, layouts: Iterable[ChunkLayout]) -> str:
    """Return "sha256:" and 64 hexadecimal digits for a header and the first ``layout.n`` rows of each array."""
    digest = hashlib.sha256(header)
    for layout in layouts:
        for part in _parts(layout):
            digest.update(part)
    return f"sha256:{digest.hexdigest()}"


def described(layout: ChunkLayout) -> bytes:
    """Return what an array is like, without its data."""
    facts = {
        "shape": (layout.n, *layout.row_shape),
        "dtype": str(layout.dtype),
        "chunks": [layout.chunk, layout.shard],
        "codecs": layout.codecs,  # their names: what zarr says of their options may change with its version
    }
    return json.dumps(facts, sort_keys=True).encode()


def _parts(layout: ChunkLayout) -> Iterator[bytes]:
    yield described(layout)
    per_file = layout.rows_per_file
    whole = layout.n // layout.chunk
    threads = at_once(layout.folder)
    yield from in_order(_size, (layout.file(number) for number in range(layout.n // per_file)), threads)
    with ChunkReader(layout) as reader:
        try:
            for number in range(layout.n // per_file * (per_file // layout.chunk), whole):
                yield f"{reader.stored_length(number)}\n".encode()
            if layout.n % layout.chunk:
                rows = np.empty((layout.n % layout.chunk, *layout.row_shape), layout.dtype)
                reader.read(whole * layout.chunk, rows)
                yield crc32c(rows.reshape(-1).view(np.uint8)).to_bytes(CRC_BYTES, "little")
        except ChunkError as error:
            yield _unreadable(error)
    for crcs in in_order(partial(_crcs, layout), _sampled(whole, per_file // layout.chunk), threads):
        yield from crcs


def _sampled(chunks: int, per_file: int) -> Iterator[list[int]]:
    """Yield up to 1024 of the chunks, evenly spread; in lists of some that share a file, whose index is read once for each."""
    sample = range(0, chunks, -(-chunks // _SAMPLED_CHUNKS) or 1)
    for _, group in itertools.groupby(sample, key=lambda number: number // per_file):
        numbers = list(group)
        yield from (numbers[at : at + _TOGETHER] for at in range(0, len(numbers), _TOGETHER))


def _crcs(layout: ChunkLayout, chunks: list[int]) -> list[bytes]:
    """Return the crc32c stored with some chunks."""
    crcs = []
    with ChunkReader(layout) as reader:
        for number in chunks:
            try:
                crcs.append(reader.stored_crc(number))
            except ChunkError as error:
                crcs.append(_unreadable(error))
    return crcs


def _size(file: AnyPath) -> bytes:
    try:
        return f"{size_of(file)}\n".encode()
    except FileNotFoundError:
        return b"missing\n"
    except OSError as error:
        raise PoolError(f"{file} cannot be read: {error.strerror}") from error


def _unreadable(error: ChunkError) -> bytes:
    """Return what stands for a damaged chunk; a disk that cannot be read says nothing about the data, so that is raised."""
    if isinstance(error.__cause__, OSError):
        raise error
    return b"unreadable"
