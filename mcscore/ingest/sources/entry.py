"""Entries of a source: one encoded image each, or what was passed over; their names, checked and shown."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

Position = tuple[int, int]  # number of the file, number of the entry in it
MAX_KEY_BYTES = 1024  # keys have one width on disk: that of the longest
_SHOWN = 200  # characters of a key in messages and lists

HIDDEN = "hidden"
ZARR = "Zarr data"
LINK_LOOP = "link that leads back to a folder above it"
NOT_CHOSEN = "of another column"


@dataclass(frozen=True)
class Part:
    """The bytes of one member in an archive that is not compressed."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Entry:
    """One encoded image of a source.

    Attributes:
        position: where a restart finds the entry.
        key: its identity in the source: path in the folder, name of the tar and of the member, or file and row.
        label: its class; -1 if it has none.
        data: its bytes, or where they are; None if it is refused, or if the entry only carries ``passed``.
        refused: why it cannot be used.
        size: of the encoded image in bytes; the memory that it will take.
        passed: (why, how many) of what was passed over since the entry before.
    """

    position: Position
    key: str
    label: int
    data: bytes | Path | Part | None
    refused: str | None = None
    size: int = 0
    passed: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Source:
    """A set of encoded images.

    Attributes:
        kind: folder, tar or parquet.
        count: entries; None where only reading them all tells.
        identity: a hash of paths, sizes and times of change of the files.
        classes: names of the labels 0, 1, ...; None where labels are numbers.
        entries: entries(position) yields the entries from a position on.
        passed: (why, how many) of what was passed over when the source was listed.
        refused: (key, why) of the entries that are known to be bad before any is read; they come as entries too.
        remarks: sentences about choices that the user should know of.
    """

    kind: str
    count: int | None
    identity: str
    classes: list[str] | None
    entries: Callable[[Position], Iterator[Entry]]
    passed: tuple[tuple[str, int], ...] = ()
    remarks: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


def key_problem(key: str) -> str | None:
    r"""Return why a name cannot be the key of an item; None if it can.

    >>> key_problem("caf\udce9.png")
    'the name is not UTF-8'
    >>> key_problem("a.png")
    """
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8"
    if b"\0" in encoded:
        return "the name holds a zero byte"
    if len(encoded) > MAX_KEY_BYTES:
        return f"the name has {len(encoded):,} bytes, more than a key may have ({MAX_KEY_BYTES:,})"
    return None


def shown(key: str) -> str:
    r"""Return a key as text that can be printed: cut if it is long, bytes that are no UTF-8 as \xe9.

    >>> print(shown("caf\udce9.png"))
    caf\xe9.png
    """
    text = key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"


def suffix_of(name: str) -> str:
    """Return what a file is counted under that no source takes.

    >>> suffix_of("a/b.tar.xml"), suffix_of("README")
    ('suffix .xml', 'no suffix')
    """
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f"suffix .{shown(suffix.lower())[:20]}" if dot and stem else "no suffix"


def kind_problem(mode: int) -> str | None:
    """Return why a file of this mode is not read; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    kinds = {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
        stat.S_IFDIR: "a folder",
    }
    return f"it is {kinds.get(stat.S_IFMT(mode), 'something else')}, not a file"


def identity_of(files: Iterable[tuple[str, os.stat_result | None]]) -> str:
    """Return a hash of (path, stat) of files; None where there is no stat."""
    digest = hashlib.sha256()
    for file, found in files:
        facts = (found.st_size, found.st_mtime_ns) if found else ("", "")
        digest.update(f"{file}\0{facts[0]}\0{facts[1]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
