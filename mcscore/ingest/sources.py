"""Sources of encoded images: folders, WebDataset tars, Parquet. SOURCES is the table of files; a folder is a source too.

A source yields its entries in an order that depends only on its content, and can start at any entry without reading those
before it, so a killed import resumes. Nothing is unpacked to disk; names in archives become keys, not paths.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import PoolError
from ..pool.decode import SUFFIXES
from ..pool.schema import UNLABELED

Position = tuple[int, int]  # number of the file, number of the entry in it


@dataclass(frozen=True)
class Entry:
    """One encoded image of a source: key, label (-1: none), and its bytes, its file, or why it is refused."""

    position: Position
    key: str
    label: int
    data: bytes | Path | None
    refused: str | None = None


@dataclass(frozen=True)
class Source:
    """A set of encoded images.

    count: entries; None where only reading them all tells. identity: a hash of paths, sizes and times of change of the
    files. entries(position): yields the entries from a position on.
    """

    kind: str
    count: int | None
    identity: str
    classes: list[str] | None
    entries: Callable[[Position], Iterator[Entry]]


def open_source(where: str | os.PathLike[str], labels: bool = False, column: str | None = None) -> Source:
    """Open a source of images.

    Args:
        where: a folder of images, tars (a glob, or {000..127}), or Parquet files (the same).
        labels: take labels from class folders, ``.cls`` members, or the column "label".
        column: the Parquet column of images; default: the one that has structs of {bytes, path}.

    Raises:
        PoolError: nothing is there; files of an unknown kind; nothing to take labels from.
    """
    text = os.fspath(where)
    if os.path.isdir(text):
        return _folder(Path(text), labels)
    files = [
        Path(name)
        for part in expand_braces(text)
        for name in ([part] if os.path.exists(part) else sorted(glob.glob(part)))
    ]
    if not files:
        raise PoolError(f"{text}: no such file, and no file matches the pattern")
    for suffixes, make in SOURCES:
        if all(file.name.endswith(suffixes) for file in files):
            return make(files, labels, column)
    known = ", ".join(s for suffixes, _ in SOURCES for s in suffixes)
    raise PoolError(f"{text} is neither a folder nor files that all end in one of {known}")


def is_images(where: str | os.PathLike[str]) -> bool:
    """Tell whether open_source reads ``where``: a folder that is not a Zarr array, tars or Parquet files."""
    text = os.fspath(where)
    if os.path.isdir(text):
        return not any(os.path.exists(os.path.join(text, name)) for name in ("zarr.json", ".zarray", ".zgroup"))
    return text.endswith(tuple(suffix for suffixes, _ in SOURCES for suffix in suffixes))


def expand_braces(pattern: str) -> list[str]:
    """Expand the braces of a pattern, as a shell does.

    Example:
        >>> expand_braces("a-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar']
        >>> expand_braces("{x,y}.tar")
        ['x.tar', 'y.tar']
    """
    found = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if not found:
        return [pattern]
    first, last, listed = found.groups()
    parts = (
        listed.split(",") if listed is not None else [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    )
    return [made for part in parts for made in expand_braces(pattern[: found.start()] + part + pattern[found.end() :])]


def _folder(root: Path, labels: bool) -> Source:
    names = sorted(
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, inside in os.walk(root)
        for name in inside
        if name.lower().endswith(SUFFIXES)
    )
    if not names:
        raise PoolError(f"{root} holds no images ({', '.join(SUFFIXES)})")
    classes = sorted({name.split(os.sep)[0] for name in names if os.sep in name}) if labels else None
    if labels and not classes:
        raise PoolError(f"{root} has no class folders, so there are no labels to take")
    number = {name: i for i, name in enumerate(classes or [])}

    def entries(start: Position) -> Iterator[Entry]:
        for i, name in enumerate(names[start[1] :], start[1]):
            label = number.get(name.split(os.sep)[0], UNLABELED) if os.sep in name else UNLABELED
            yield Entry((0, i), PurePosixPath(*name.split(os.sep)).as_posix(), label, root / name)

    return Source("folder", len(names), _identity([root / name for name in names]), classes, entries)


def _tars(files: list[Path], labels: bool, _: str | None) -> Source:
    def entries(start: Position) -> Iterator[Entry]:
        for i, file in enumerate(files[start[0] :], start[0]):
            skip = start[1] if i == start[0] else 0
            yield from (entry for entry in _tar_entries(i, file, labels, skip) if entry.position[1] >= skip)

    return Source("tar", None, _identity(files), None, entries)


def _tar_entries(number: int, file: Path, labels: bool, skip: int) -> Iterator[Entry]:
    """Yield the images of one tar; consecutive members with the same name up to the first dot of its last part belong together.

    The bytes of the first ``skip`` entries are not read. Damage is the last entry: the rest of the file is lost.
    """
    held: Entry | None = None
    label, sample, count = UNLABELED, None, 0
    damage = ""
    try:
        with tarfile.open(file, "r:*") as archive:
            for member in archive:
                if member.isdir():
                    continue
                folder, _, last = member.name.rpartition("/")
                stem, _, suffix = last.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if key != sample:
                    if held:
                        yield replace(held, label=label)
                    held, label, sample = None, UNLABELED, key
                why = _refused(member)
                if why:
                    yield Entry((number, count), member.name, UNLABELED, None, why)
                    count += 1
                elif f".{suffix.lower()}".endswith(SUFFIXES):
                    if held:
                        yield held
                    held = None
                    held = Entry((number, count), key, UNLABELED, b"" if count < skip else _content(archive, member))
                    count += 1
                elif labels and suffix == "cls":
                    text = _content(archive, member).strip()
                    label = int(text) if text.isdigit() and len(text) < 10 else UNLABELED
            assert archive.fileobj is not None
            # tarfile takes a damaged header for the end of the archive; a true end is zeros.
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                damage = f"no valid header at byte {archive.offset}"
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        damage = str(error)
    if held:
        yield replace(held, label=label)
    if damage:
        why = f"the tar is damaged or truncated; its remaining entries are lost: {damage}"
        yield Entry((number, count), str(file), UNLABELED, None, why)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def _refused(member: tarfile.TarInfo) -> str | None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "the name points outside the archive"
    return None if member.isfile() else "it is a link or a device, not a file"


def _parquet(files: list[Path], labels: bool, column: str | None) -> Source:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        counts = [pq.read_metadata(file).num_rows for file in files]
        schema = pq.read_schema(files[0])
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise PoolError(f"{files[0].parent}: Parquet files cannot be read: {error}") from error
    found = [field.name for field in schema if _holds_images(field.type)]
    if column is None and len(found) != 1:
        raise PoolError(f"{files[0]} has {len(found)} columns of images ({', '.join(found)}): choose one with column=")
    name = column or found[0]
    if name not in schema.names:
        raise PoolError(f"{files[0]} has no column {name!r}; it has {', '.join(schema.names)}")
    with_labels = labels and "label" in schema.names
    classes = _class_names(schema) if with_labels else None
    if labels and not with_labels:
        raise PoolError(f"{files[0]} has no column 'label', so there are no labels to take")

    def entries(start: Position) -> Iterator[Entry]:
        for i, file in enumerate(files[start[0] :], start[0]):
            yield from _rows(i, file, name, with_labels, start[1] if i == start[0] else 0)

    return Source("parquet", sum(counts), _identity(files), classes, entries)


def _rows(number: int, file: Path, name: str, with_labels: bool, skip: int) -> Iterator[Entry]:
    """Yield the rows of one file from row ``skip`` on; row groups before it are not read."""
    import pyarrow
    import pyarrow.parquet as pq

    row = 0
    try:
        table = pq.ParquetFile(file)
        for group in range(table.num_row_groups):
            if row + table.metadata.row_group(group).num_rows <= skip:
                row += table.metadata.row_group(group).num_rows
                continue
            columns = [name, *(["label"] if with_labels else [])]
            for batch in table.iter_batches(64, row_groups=[group], columns=columns):
                values = batch.column(name).to_pylist()
                given = batch.column("label").to_pylist() if with_labels else [None] * len(values)
                for value, label in zip(values, given, strict=True):
                    if row >= skip:
                        yield _row((number, row), value, UNLABELED if label is None else int(label), file)
                    row += 1
    except (OSError, pyarrow.ArrowException) as error:
        why = f"the file is damaged; rows from {row} on are lost: {error}"
        yield Entry((number, row), str(file), UNLABELED, None, why)


def _class_names(schema: Any) -> list[str] | None:
    """Return the names of a ClassLabel, which the datasets library writes beside the schema."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        names = metadata["info"]["features"]["label"]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return [str(name) for name in names]


def _holds_images(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _row(position: Position, value: Any, label: int, file: Path) -> Entry:
    data = value.get("bytes") if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else None
    key = path or f"{file.name}:{position[1]}"
    if data is not None:
        return Entry(position, key, label, data)
    if path is None:
        return Entry(position, key, label, None, "the row holds neither bytes nor a path")
    found = (file.parent / path).resolve()
    if not found.is_relative_to(file.parent.resolve()):
        # The path could name any file of this machine; a data set must not choose which of them are read.
        return Entry(
            position, key, label, None, "the row holds no bytes, and its path points outside the file's folder"
        )
    return Entry(position, key, label, found)


def _identity(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        stat = os.stat(file)
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


SOURCES: tuple[tuple[tuple[str, ...], Callable[[list[Path], bool, str | None], Source]], ...] = (
    ((".tar", ".tar.gz", ".tgz"), _tars),
    ((".parquet",), _parquet),
)
