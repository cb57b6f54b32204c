"""WebDataset tars. Each member with the suffix of an image is an item; ``.cls`` members hold labels.

A label belongs to the images whose name begins as its own does, up to a dot: ``a.cls`` to ``a.png`` and ``a.left.png``.
"""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import ImageError
from ...labels import UNLABELED
from ...pool.class_names import ClassReader, TwoReadingsError
from ...pool.pictures.containers import SUFFIXES
from ...pool.pictures.decode import MAX_BYTES, too_large
from .entry import HIDDEN, NOT_CHOSEN, Entry, Part, Position, Source, identity_of, shown, suffix_of
from .labels import LabelOptions, label_of

MAX_HEADER_BYTES = 1 << 20  # of one extended header, which holds a name
MAX_HEADERS = 16  # extended headers of one member; there are three in practice
MAX_LABEL_BYTES = 256
# Encoded images do not compress. A small file that expands to terabytes would take days to walk through.
EXPANSION, EXPANDED_BYTES = 200, 1 << 30
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError)  # what tarfile and its decompressors raise
_TWO = "\0two"


class _Member(tarfile.TarInfo):
    """A member whose extended headers are bounded: tarfile reads each whole and calls itself for the next."""

    depth = 0

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED and member.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(
                f"an extended header of {member.size:,} bytes, more than {MAX_HEADER_BYTES:,} that one may have"
            )
        return member

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> _Member:
        tarfile.depth = getattr(tarfile, "depth", 0) + 1
        try:
            if tarfile.depth > MAX_HEADERS:
                raise TooManyHeaders(f"more than {MAX_HEADERS} extended headers for one member")
            return super().fromtarfile(tarfile)
        finally:
            tarfile.depth -= 1


class TooManyHeaders(tarfile.ReadError):
    """A member of a tar has more extended headers than MAX_HEADERS."""


_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def open_tars(files: list[Path], options: LabelOptions, column: str | None) -> Source:
    """Open tars; ``column`` is the extension of the images to take, where a sample has several."""
    names, reader = shard_names(files), options.reader()
    classes = None if options.classes is None else list(options.classes)

    def entries(start: Position) -> Iterator[Entry]:
        for i, file in enumerate(files[start[0] :], start[0]):
            tar = _Tar(i, file, names[i], reader if options.take else None, column)
            yield from tar.entries(start[1] if i == start[0] else 0)

    return Source("tar", None, identity_of((str(file), os.stat(file)) for file in files), classes, entries)


def shard_names(files: list[Path]) -> list[str]:
    """Return the names of files below the deepest folder that holds them all.

    >>> shard_names([Path("d/a/0.tar"), Path("d/b/0.tar")]), shard_names([Path("d/0.tar")])
    (['a/0.tar', 'b/0.tar'], ['0.tar'])
    """
    root = os.path.commonpath([file.absolute().parent for file in files])
    return [file.absolute().relative_to(root).as_posix() for file in files]


class _Tar:
    """One tar: its number, path and name in keys, the reader of its labels (None: they are not taken), the chosen extension."""

    def __init__(self, number: int, file: Path, name: str, reader: ClassReader | None, column: str | None) -> None:
        self.number, self.file, self.name, self.reader = number, file, name, reader
        self.column = f".{column.lower().lstrip('.')}" if column else None
        self.labels: dict[str, str] = {}  # by the name of the .cls member without its suffix
        self.labeled: set[str] = set()  # those of them that belong to an image

    def entries(self, skip: int) -> Iterator[Entry]:
        """Yield the images from entry ``skip`` on; the bytes of those before are not read.

        Damage is the last entry but one: the rest of the file is lost. The last entry says what was passed over.
        """
        if self.reader is not None:
            self._find_labels()
        count, damage, passed = 0, "", Counter[str]()
        try:
            with _opened(self.file) as archive:
                for member in _members(archive, os.stat(self.file).st_size):
                    if member.isdir():
                        continue
                    why = self._passed_over(member)
                    if why is not None:
                        passed.update([why] if why else [])
                        continue
                    self.labeled.update(self._stems(member.name.removeprefix("./")))
                    if count >= skip:
                        yield self._entry(archive, member, count, tuple(sorted(passed.items())))
                    passed.clear()
                    count += 1
        except TwoReadingsError:
            raise  # a ValueError, but no damage: the user decides
        except _DAMAGE as error:
            damage = shown(str(error))
        if damage:
            why = f"the tar is damaged or truncated; its remaining entries are lost: {damage}"
            if count >= skip:
                yield Entry((self.number, count), str(self.file), UNLABELED, None, why)
            count += 1
        unused = len(self.labels) - len(self.labeled)
        if unused:
            passed["label (.cls) without an image"] += unused
        if passed and count >= skip:
            yield Entry((self.number, count), str(self.file), UNLABELED, None, passed=tuple(sorted(passed.items())))

    def _passed_over(self, member: tarfile.TarInfo) -> str | None:
        """Return why a member is no item, "" for a label that is taken; None if it is an item."""
        name = member.name.lower()
        if self.reader is not None and name.endswith(".cls"):
            return ""
        if any(part.startswith(".") and part not in (".", "..") for part in name.split("/")):
            return HIDDEN
        if not name.endswith(SUFFIXES):
            return suffix_of(member.name)
        return NOT_CHOSEN if self.column and not name.endswith(self.column) else None

    def _entry(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, count: int, passed: tuple[tuple[str, int], ...]
    ) -> Entry:
        position, name = (self.number, count), member.name.removeprefix("./")
        key = f"{self.name}/{name}"
        try:
            _check_member(member)
            label = UNLABELED if self.reader is None else self._label(name, self.reader)
        except ImageError as error:
            return Entry(position, key, UNLABELED, None, str(error), passed=passed)
        data: Part | bytes = Part(self.file, member.offset_data, member.size)
        if _is_compressed(archive):
            data = _content(archive, member)
        return Entry(position, key, label, data, None, member.size, passed)

    def _find_labels(self) -> None:
        """Read the ``.cls`` members ahead: a tar may hold them anywhere, and images must not wait for them in memory."""
        try:
            with _opened(self.file) as archive:
                for member in _members(archive, os.stat(self.file).st_size):
                    if member.isfile() and member.name.lower().endswith(".cls"):
                        stem = member.name.removeprefix("./")[: -len(".cls")]
                        large = member.size > MAX_LABEL_BYTES or member.issparse()
                        text = "\0large" if large else _content(archive, member).decode("utf-8", "replace").strip()
                        self.labels[stem] = text if self.labels.get(stem, text) == text else _TWO
        except _DAMAGE:
            return  # damage is an entry of its own when the images are read

    def _stems(self, name: str) -> list[str]:
        """Return the names of the labels that belong to a member: its own name up to each of its dots."""
        folder, slash, last = name.rpartition("/")
        parts = last.split(".") if self.labels else []
        stems = (folder + slash + ".".join(parts[:i]) for i in range(1, len(parts)))
        return [stem for stem in stems if stem in self.labels]

    def _label(self, name: str, reader: ClassReader) -> int:
        """Return the label of a member.

        Raises:
            ImageError: there is no such class, or there are several labels that differ.
        """
        texts = {self.labels[stem] for stem in self._stems(name)}
        if len(texts) > 1 or _TWO in texts:
            raise ImageError("it has several .cls members, which differ")
        text = texts.pop() if texts else ""
        if text.startswith("\0"):
            raise ImageError(f"its .cls member has more than {MAX_LABEL_BYTES} bytes")
        return label_of(reader, text)


def _opened(file: Path) -> tarfile.TarFile:
    return tarfile.open(file, "r:*", tarinfo=_Member)


def _members(archive: tarfile.TarFile, file_bytes: int) -> Iterator[tarfile.TarInfo]:
    """Yield the members; raises where the archive ends without the block of zeros that ends each."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all of them
        end = member.offset_data + (0 if member.issparse() else member.size)
        if _is_compressed(archive):
            if end > max(EXPANDED_BYTES, EXPANSION * file_bytes):
                raise tarfile.ReadError(
                    f"it expands to more than {EXPANSION} times its size: pack it anew, as a plain .tar"
                )
        elif end > file_bytes:
            raise tarfile.ReadError(f"{shown(member.name)} has {member.size:,} bytes, and the file ends before them")
        yield member
    assert archive.fileobj is not None
    # tarfile takes a damaged header for the end of the archive; a true end is zeros.
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"no valid header at byte {archive.offset}")


def _is_compressed(archive: tarfile.TarFile) -> bool:
    return not isinstance(archive.fileobj, io.BufferedReader)


def _check_member(member: tarfile.TarInfo) -> None:
    """Raise ImageError for a member that is no plain file within limits."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise ImageError("the name points outside the archive")
    if not member.isfile():
        raise ImageError("it is a link or a device, not a file")
    if member.issparse():
        raise ImageError("it is stored as a sparse file: pack it anew without --sparse")
    if member.size < 0 or member.size > MAX_BYTES:
        raise too_large(member.size)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""
