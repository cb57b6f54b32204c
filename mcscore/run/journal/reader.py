"""What is committed in a run directory, read and checked; nothing here changes a file."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import RunError
from ..schema import JSON, Record, RunHeader
from ..spans import Span, cut
from . import records
from .shard import ShardLayout, TornError, crc32c

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class SpanDamage:
    """A file that is not what was committed, and the span that must be scored again for it (None: no span)."""

    span: Span | None
    file: Path
    why: str


class JournalReader:
    """A run directory: records and shards, and whether they hold."""

    def __init__(self, path: Path, header: RunHeader) -> None:
        self.path, self.header = path, header
        self.spans = cut(header.pool.n, header.span)
        self.rows = header.rows
        self.layout = ShardLayout(len(self.rows), header.span)
        self._commits = path / "commits"
        self._packed = self._commits / "packed.jsonl"
        self._zarr_json = path / "scores.zarr" / "zarr.json"

    def empty(self, name: str, n: int) -> Values:
        """N values of a row that mean "not scored"."""
        return np.full(n, -1, np.int32) if self._holds_classes(name) else np.full(n, np.nan, np.float32)

    def records(self) -> list[Record]:
        """The records of this run, by span; whether their shards match shows when these are read."""
        return [found for found in self._decode_all() if isinstance(found, Record)]

    def damage(self) -> Iterator[SpanDamage]:
        """What is not as it was committed, in order; reads everything, changes nothing."""
        yield from (found for found in self._examine() if isinstance(found, SpanDamage))
        if not self._zarr_json.exists():
            yield SpanDamage(None, self._zarr_json, "missing")
        elif array_in(self._zarr_json.read_bytes()) != essential(self._array_of(self.header.pool.n)):
            yield SpanDamage(None, self._zarr_json, "not what run.json says")

    def read(self, record: Record, name: str) -> Values:
        """The committed values (span.n,) of a row.

        Raises:
            RunError: the shard is missing, or is not what was committed.
        """
        file, row = self._shard(record.span), self.rows.index(name)
        try:
            stored = self._load(record, file, row)
        except _Damaged as error:
            raise RunError(
                f"{name} of {record.span} is damaged: {error.damage.file}: {error.damage.why}. "
                "Score the pool into the same directory again: only this span is repeated"
            ) from None
        if self._holds_classes(name):
            return np.where(np.isnan(stored), -1, np.nan_to_num(stored)).astype(np.int32)
        return stored

    def gather(self, committed: Iterable[Record], name: str, ids: npt.NDArray[np.int64]) -> Values:
        """The committed values of a row at ``ids``, in their order; what is not committed reads "not scored"."""
        out = self.empty(name, len(ids))
        index = ids // self.header.span
        wanted = set(index.tolist())
        for record in committed:
            if record.span.index in wanted:
                here = (index == record.span.index) & (ids < record.span.stop)
                out[here] = self.read(record, name)[ids[here] - record.span.start]
        return out

    def _examine(self) -> Iterator[Record | SpanDamage]:
        """Every record that holds and every damage, by span. Threads: reading releases the interpreter."""

        def check(found: Record | SpanDamage) -> Record | SpanDamage:
            if isinstance(found, Record):
                try:
                    self._check(found)
                except _Damaged as error:
                    return error.damage
            return found

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            yield from threads.map(check, list(self._decode_all()))

    def _check(self, record: Record) -> None:
        """Raise _Damaged unless every byte of the shard is as it was written, and is what the record says."""
        file = self._shard(record.span)
        try:
            _, values = self.layout.decode(_read(record.span, file))
        except TornError as error:
            raise _Damaged(record.span, file, str(error)) from None
        for name, row, crc in zip(self.rows, values, record.crc32c, strict=True):
            if crc32c(row[: record.span.n]) != crc:
                raise _Damaged(record.span, file, f"{name}: crc32c mismatch with the record")

    def _load(self, record: Record, file: Path, row: int) -> npt.NDArray[np.float32]:
        """One row (span.n,) of a shard, if it is what the record says. Raises _Damaged."""
        try:
            with file.open("rb") as shard:
                self.layout.check_size(os.fstat(shard.fileno()).st_size)
                shard.seek(self.layout.offset(row))
                stored = np.frombuffer(shard.read(4 * record.span.n), "<f4")
        except TornError as error:
            raise _Damaged(record.span, file, str(error)) from None
        except OSError as error:
            raise _unreadable(error, record.span, file) from None
        if len(stored) != record.span.n or crc32c(stored) != record.crc32c[row]:
            raise _Damaged(record.span, file, "crc32c mismatch")
        return stored

    def _decode_all(self) -> Iterator[Record | SpanDamage]:
        """What the single and the packed records say, by span."""
        packed = self._decode_packed()
        single = {entry.name for entry in os.scandir(self._commits)} if self._commits.exists() else set()
        single.discard(self._packed.name)
        for span in self.spans:
            if single and file_name(span) in single:
                file = self._record(span)
                try:
                    yield self._decode(span, file, _read(span, file))
                except _Damaged as error:
                    yield error.damage
            elif span.index in packed:
                yield packed[span.index]

    def _decode_packed(self) -> dict[int, Record | SpanDamage]:
        """What the packed records say, by index of the span; a torn line is taken for the span of its place."""
        try:
            found = records.decode_all(self._packed.read_bytes(), self._packed)
        except FileNotFoundError:
            return {}
        except OSError as error:
            return {span.index: _unreadable(error, span, self._packed).damage for span in self.spans}
        whole: dict[int, Record | SpanDamage] = {}
        torn: dict[int, Record | SpanDamage] = {}
        for at, record in enumerate(found):
            if isinstance(record, Record):
                span = self.spans[min(record.span.index, len(self.spans) - 1)]
                whole[span.index] = self._checked(record, span, self._packed)
            elif at < len(self.spans):
                torn[at] = SpanDamage(self.spans[at], self._packed, f"line {at + 1}: {record}")
        return {**torn, **whole}

    def _decode(self, span: Span, file: Path, line: bytes) -> Record | SpanDamage:
        """The record of a span in a file of its own."""
        try:
            return self._checked(records.decode(line, file), span, file)
        except TornError as error:
            return SpanDamage(span, file, str(error))

    def _checked(self, record: Record, span: Span, file: Path) -> Record | SpanDamage:
        """The record if it is one of this run and of ``span``; otherwise it is damage like any other."""
        if record.run != self.header.id:
            return SpanDamage(span, file, f"belongs to another run, {record.run}")
        if (record.span.index, record.span.start) != (span.index, span.start) or not 0 < record.span.n <= span.n:
            return SpanDamage(span, file, f"record of {record.span}")
        if len(record.crc32c) != len(self.rows):
            return SpanDamage(span, file, f"{len(record.crc32c)} checksums for {len(self.rows)} rows")
        return record

    def _holds_classes(self, name: str) -> bool:
        """Whether a row holds class numbers; a regression predicts numbers."""
        return name == "prediction" and self.header.settings.likelihood != "gaussian"

    def _shard(self, span: Span) -> Path:
        return self.path / "scores.zarr" / "c" / "0" / str(span.index)

    def _record(self, span: Span) -> Path:
        return self._commits / file_name(span)

    def _array_of(self, n: int) -> JSON:
        """The array's zarr.json for a pool of n items, as zarr-python writes it."""
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        sharding = {
            "chunk_shape": [1, self.header.span],
            "codecs": [little, {"name": "crc32c"}],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [len(self.rows), n],
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [len(self.rows), self.header.span]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN",
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {"scores": list(self.rows)},
            "dimension_names": ["score", "item"],
            "storage_transformers": [],
        }


def file_name(span: Span) -> str:
    """The name of a span's record."""
    return f"{span.index:06d}.json"


class _Damaged(Exception):
    """What is damaged, raised where it is found."""

    def __init__(self, span: Span, file: Path, why: str) -> None:
        self.damage = SpanDamage(span, file, why)


def _read(span: Span, file: Path) -> bytes:
    """The content of a file of a span. Raises _Damaged if it is missing, or lies on a bad sector."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(error, span, file) from None


def _unreadable(error: OSError, span: Span, file: Path) -> _Damaged:
    """What cannot be read and never will be is damage; after any other error (no permission, no network) that is not known."""
    if isinstance(error, FileNotFoundError):
        return _Damaged(span, file, "missing")
    if error.errno != errno.EIO:
        raise error
    return _Damaged(span, file, "the disk cannot read it")


def array_in(metadata: bytes) -> JSON | None:
    """The essential part of a zarr.json; None if it is not JSON."""
    try:
        return essential(json.loads(metadata))
    except ValueError:
        return None


def essential(metadata: JSON) -> JSON:
    """What decides how the shards are read; other programs may write other things beside it."""
    return {key: metadata.get(key) for key in ("node_type", "shape", "data_type", "chunk_grid", "fill_value", "codecs")}
