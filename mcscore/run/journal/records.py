"""Records as lines of text: one file per span while a run grows, one file of all of them once it is complete.

A line is ``{"crc32c": "hhhhhhhh", "record": {...}}``; the checksum is that of the record's bytes as they stand there. The
packed file is the lines of the single ones, by span, so a damaged line costs one span and not the run.
"""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

from ...errors import RunError
from ...store.place import AnyPath
from ..record import Record
from .shard import TornError, crc32c

_START, _MIDDLE, _END = b'{"crc32c": "', b'", "record": ', b"}\n"
_AT = len(_START) + 8 + len(_MIDDLE)
_AT_ONCE = 1 << 10  # lines parsed together: what JSON makes of them is dropped before the next


def encode(record: Record) -> bytes:
    """The line of a record."""
    text = json.dumps(record.to_json(), separators=(",", ":")).encode()
    return b"%s%08x%s%s%s" % (_START, crc32c(text), _MIDDLE, text, _END)


def decode(line: bytes, file: AnyPath) -> Record:
    """Read a line.

    Raises:
        TornError: it is not as it was written.
        RunError: it has fields that this version does not know, or of a wrong type.
    """
    return Record.from_json(_parsed(_checked(line), file), file)


def decode_all(data: bytes, file: AnyPath) -> list[Record | TornError]:
    """Read the packed file line by line; a torn line gives its error. Raises RunError as ``decode`` does.

    Some lines are parsed together, as one array, which takes half the time: 150,000 records in about a second.
    """
    lines, found = io.BytesIO(data), list[Record | TornError]()
    while some := list(itertools.islice(lines, _AT_ONCE)):
        found += _decode_some(some, file)
    return found


def _decode_some(lines: list[bytes], file: AnyPath) -> list[Record | TornError]:
    checked: list[bytes | TornError] = []
    for line in lines:
        try:
            checked.append(_checked(line))
        except TornError as error:
            checked.append(error)
    parsed = iter(_parsed(b"[%s]" % b",".join(each for each in checked if isinstance(each, bytes)), file))
    return [Record.from_json(next(parsed), file) if isinstance(each, bytes) else each for each in checked]


def _parsed(text: bytes, file: AnyPath) -> Any:
    """What JSON says whose checksum holds, so that only another program can have written nonsense."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file} has a record that is no JSON, though its checksum holds: {error}") from None


def _checked(line: bytes) -> bytes:
    """The record's bytes in a line."""
    if not line.endswith(_END):
        raise TornError("not a whole record")
    text = line[_AT : -len(_END)]
    if line[:_AT] != b"%s%08x%s" % (_START, crc32c(text), _MIDDLE):
        raise TornError("crc32c mismatch")
    return text
