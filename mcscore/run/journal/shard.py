"""One span's scores as one file: a shard of a Zarr v3 array, with a header that says whose shard it is.

    offset                              bytes
    0                                   48             header: magic, run id, span, n, conditions, crc32c
    48 + row * (4 * span + 4)           4 * span + 4   row of the array: float32, little-endian, then the crc32c of these bytes
    48 + rows * (4 * span + 4)          16 * rows + 4  Zarr's index: offset and size (uint64) of each row, then its crc32c

Zarr's readers find the rows through the index, so that the bytes before the first row are ours. Without the header a shard
that was moved or copied from elsewhere could not be distinguished from one that another attempt scored with other bits.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

_HEADER = struct.Struct("<8s16sQQI")
_MAGIC = b"mcshard2"
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size

Floats = npt.NDArray[np.float32]


class TornError(Exception):
    """A shard or a record that is not what anybody wrote; the message says why."""


@dataclass(frozen=True)
class ShardHeader:
    """Whose shard it is. ``conditions``: see ``hardware.conditions``; equal ones must give equal bits."""

    run: str  # 32 hexadecimal digits
    span: int
    n: int
    conditions: int

    def to_bytes(self) -> bytes:
        """The first bytes of the file."""
        packed = _HEADER.pack(_MAGIC, bytes.fromhex(self.run), self.span, self.n, self.conditions)
        return packed + _CRC.pack(crc32c(packed))

    @staticmethod
    def from_bytes(data: bytes) -> ShardHeader:
        """Read the first bytes of the file. Raises TornError."""
        packed, crc = data[: _HEADER.size], data[_HEADER.size : HEADER_BYTES]
        if len(data) < HEADER_BYTES or crc != _CRC.pack(crc32c(packed)):
            raise TornError("header: crc32c mismatch")
        magic, run, span, n, conditions = _HEADER.unpack(packed)
        if magic != _MAGIC:
            raise TornError("header: not a shard of a run")
        return ShardHeader(run.hex(), span, n, conditions)


@dataclass(frozen=True)
class ShardLayout:
    """Where the rows of a shard lie; the same for every shard of a run."""

    rows: int
    span: int

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.offset(self.rows) + len(self.index)

    def offset(self, row: int) -> int:
        """Where a row begins."""
        return HEADER_BYTES + row * (4 * self.span + 4)

    @cached_property
    def index(self) -> bytes:
        """Zarr's index of the rows."""
        pairs = [[self.offset(row), 4 * self.span + 4] for row in range(self.rows)]
        packed = np.array(pairs, "<u8").tobytes()
        return packed + _CRC.pack(crc32c(packed))

    def encode(self, header: ShardHeader, values: Floats) -> bytes:
        """The file of values (rows, n); what is missing to a whole span is NaN."""
        whole = np.full((self.rows, self.span), np.nan, "<f4")
        whole[:, : values.shape[1]] = values
        parts = [header.to_bytes()]
        for row in whole:
            parts += [row.tobytes(), _CRC.pack(crc32c(row))]
        return b"".join([*parts, self.index])

    def decode(self, data: bytes) -> tuple[ShardHeader, Floats]:
        """Header and values (rows, span) of a file. Raises TornError if any byte is not as it was written."""
        self.check_size(len(data))
        header = ShardHeader.from_bytes(data)
        if data[self.offset(self.rows) :] != self.index:
            raise TornError("index: not the one of this run's shards")
        values = np.empty((self.rows, self.span), "<f4")
        for row in range(self.rows):
            values[row] = np.frombuffer(data, "<f4", self.span, self.offset(row))
            if _CRC.unpack_from(data, self.offset(row) + 4 * self.span) != (crc32c(values[row]),):
                raise TornError(f"row {row}: crc32c mismatch")
        return header, values

    def check_size(self, size: int) -> None:
        """Raise TornError unless a file of so many bytes can be a shard."""
        if size != self.size:
            raise TornError(f"{size} bytes instead of {self.size}")


def crc32c(data: Any) -> int:
    """The checksum that Zarr uses, of bytes or of an array that lies in one piece."""
    return int(google_crc32c.value(data if isinstance(data, bytes) else data.tobytes()))
