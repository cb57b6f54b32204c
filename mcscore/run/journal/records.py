"""Records as lines of text: one file per span while a run grows, one file of all of them once it is complete.

A line is ``{"crc32c": "hhhhhhhh", "record": {...}}``; the checksum is that of the record's bytes as they stand there. The
packed file is the lines of the single ones, by span, so a damaged line costs one span and not the run.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..schema import Record
from .shard import TornError, crc32c

_START, _MIDDLE, _END = b'{"crc32c": "', b'", "record": ', b"}\n"
_AT = len(_START) + 8 + len(_MIDDLE)


def encode(record: Record) -> bytes:
    """The line of a record."""
    said = json.dumps(record.to_json(), separators=(",", ":")).encode()
    return b"%s%08x%s%s%s" % (_START, crc32c(said), _MIDDLE, said, _END)


def decode(line: bytes, file: Path) -> Record:
    """Read a line.

    Raises:
        TornError: it is not as it was written.
        RunError: it has fields that this version does not know.
    """
    if not line.endswith(_END):
        raise TornError("not a whole record")
    said = line[_AT : -len(_END)]
    if line[:_AT] != b"%s%08x%s" % (_START, crc32c(said), _MIDDLE):
        raise TornError("crc32c mismatch")
    return Record.from_json(json.loads(said), file)
