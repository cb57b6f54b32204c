"""One hash of several parts."""

from __future__ import annotations

import hashlib

DIGITS = 32


def hashed(*parts: bytes | str) -> str:
    """The hash of some parts, which cannot be moved from one to the next."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:DIGITS]
