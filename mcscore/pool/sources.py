"""Where encoded images come from: folders, WebDataset tars, Parquet. SOURCES is the whole list.

A source gives its entries in an order that depends on nothing but its content, and can start at any of them: that is
what an import that was killed goes on with. Nothing is ever unpacked to disk; names in archives become keys, not paths.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from .format import UNLABELLED, PoolError
from .images import SUFFIXES


@dataclass(frozen=True)
class Entry:
    """One image to be: its name, label (-1: none), and its bytes, or the file that holds them, or why it is refused."""

    key: str
    label: int
    data: bytes | Path | None
    refused: str | None = None


@dataclass(frozen=True)
class Source:
    """count: entries, None where only reading tells. identity: changes when the files do. entries(start): from there on."""

    kind: str
    count: int | None
    identity: str
    classes: list[str] | None
    entries: Callable[[int], Iterator[Entry]]


def open_source(where: str | os.PathLike[str], labels: bool = False, column: str | None = None) -> Source:
    """
    Args:
        where: a folder of images, tars (a glob, or {000..127}), or Parquet files (the same).
        labels: take labels from class folders, ``.cls`` members, or the column "label".
        column: the Parquet column of images; default: the one that has structs of {bytes, path}.

    Raises:
        PoolError: nothing there, or none of the kinds.
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
        raise PoolError(f"{text}: there is no such file, and nothing matches it as a pattern")
    for suffixes, make in SOURCES:
        if all(file.name.endswith(suffixes) for file in files):
            return make(files, labels, column)
    known = ", ".join(s for suffixes, _ in SOURCES for s in suffixes)
    raise PoolError(f"{text} is neither a folder nor files that all end in one of {known}")


def expand_braces(pattern: str) -> list[str]:
    """ "a-{08..10}.tar" -> a-08.tar, a-09.tar, a-10.tar; "{x,y}.tar" -> x.tar, y.tar."""
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

    def entries(start: int) -> Iterator[Entry]:
        for name in names[start:]:
            label = number.get(name.split(os.sep)[0], UNLABELLED) if os.sep in name else UNLABELLED
            yield Entry(PurePosixPath(*name.split(os.sep)).as_posix(), label, root / name)

    return Source("folder", len(names), _identity([root / name for name in names]), classes, entries)


def _tars(files: list[Path], labels: bool, _: str | None) -> Source:
    def entries(start: int) -> Iterator[Entry]:
        return islice((entry for file in files for entry in _tar_entries(file, labels)), start, None)

    return Source("tar", None, _identity(files), None, entries)


def _tar_entries(file: Path, labels: bool) -> Iterator[Entry]:
    """Consecutive members that share their name up to the first dot of its last part are one sample."""
    held: Entry | None = None
    label, sample = UNLABELLED, None
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
                    held, label, sample = None, UNLABELLED, key
                why = _refused(member)
                if why:
                    yield Entry(member.name, UNLABELLED, None, why)
                elif f".{suffix.lower()}".endswith(SUFFIXES):
                    if held:
                        yield held
                    content = archive.extractfile(member)
                    held = Entry(key, UNLABELLED, content.read() if content else b"")
                elif labels and suffix == "cls":
                    content = archive.extractfile(member)
                    said = (content.read(64) if content else b"").strip()
                    label = int(said) if said.isdigit() else UNLABELLED
    except (tarfile.TarError, EOFError, OSError) as error:
        raise PoolError(f"{file} is damaged or cut off: {error}") from error
    if held:
        yield replace(held, label=label)


def _refused(member: tarfile.TarInfo) -> str | None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "the name leads out of the archive"
    return None if member.isfile() else "it is a link or a device, not a file"


def _parquet(files: list[Path], labels: bool, column: str | None) -> Source:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        counts = [pq.read_metadata(file).num_rows for file in files]
        schema = pq.read_schema(files[0])
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise PoolError(f"{files[0].parent}: no Parquet that can be read: {error}") from error
    found = [field.name for field in schema if _holds_images(field.type)]
    if column is None and len(found) != 1:
        raise PoolError(f"{files[0]} has {len(found)} columns of images ({', '.join(found)}): say which one")
    name = column or found[0]
    if name not in schema.names:
        raise PoolError(f"{files[0]} has no column {name!r}; it has {', '.join(schema.names)}")
    with_labels = labels and "label" in schema.names
    if labels and not with_labels:
        raise PoolError(f"{files[0]} has no column 'label', so there are no labels to take")

    def entries(start: int) -> Iterator[Entry]:
        for file, count in zip(files, counts, strict=True):
            if start >= count:
                start -= count
                continue
            row = 0
            for batch in pq.ParquetFile(file).iter_batches(64, columns=[name, *(["label"] if with_labels else [])]):
                values = batch.column(0).to_pylist()
                said = batch.column(1).to_pylist() if with_labels else [None] * len(values)
                for value, label in zip(values, said, strict=True):
                    if row >= start:
                        yield _row(value, UNLABELLED if label is None else int(label), f"{file.name}:{row}")
                    row += 1
            start = 0

    return Source("parquet", sum(counts), _identity(files), None, entries)


def _holds_images(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _row(value: Any, label: int, place: str) -> Entry:
    data = value.get("bytes") if isinstance(value, dict) else value
    key = (value.get("path") if isinstance(value, dict) else None) or place
    if data is None:
        # A path in a data set is not followed: it may point at any file of this machine.
        return Entry(key, label, None, "the row holds no bytes")
    return Entry(key, label, data)


def _identity(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        said = os.stat(file)
        digest.update(f"{file}\0{said.st_size}\0{said.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


SOURCES: tuple[tuple[tuple[str, ...], Callable[[list[Path], bool, str | None], Source]], ...] = (
    ((".tar", ".tar.gz", ".tgz"), _tars),
    ((".parquet",), _parquet),
)
