"""What is committed in a run directory, read and checked; nothing here changes a file."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...errors import RunError
from ...fields import parse
from ...paths import exists, names_in
from ...text import count
from ..record import Record
from ..schema import JSON, RunHeader, read_header
from ..spans import Span, cut
from . import records
from .shard import ShardLayout, TornError, crc32c

Values = npt.NDArray[Any]

_MISSING = "missing"
_TRIES = 3  # at reading records that another process packs at the time


@dataclass(frozen=True)
class SpanDamage:
    """A file that is not what was committed, and the span that must be scored again for it (None: no span).

    ``run`` is the id of the run that a record names, if it is another one.
    """

    span: Span | None
    file: Path
    why: str
    run: str = ""

    def __str__(self) -> str:
        return (f"{self.span}, " if self.span else "") + f"{self.file}: {self.why}"

    def facts(self) -> dict[str, object]:
        """Return the fields for JSON."""
        span = self.span
        items = {"span": span.index, "start": span.start, "stop": span.stop} if span else {}
        return {"file": str(self.file), "why": self.why, **items}


class Survey(NamedTuple):
    """What the records of a run say: those that hold, by span, and what is damaged among them."""

    records: list[Record]
    damaged: list[SpanDamage]


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

    def survey(self) -> Survey:
        """Read the records; whether the shards match shows when these are read.

        Raises:
            RunError: the array's zarr.json is not what run.json says, or run.json is not of these records.
        """
        found = self._decode_all()
        if why := self._array_damage():
            raise RunError(
                f"{self._zarr_json}: {why}. The scores are not in this file: remove it, and scoring into {self.path} again "
                "writes it"
            )
        return Survey(
            [each for each in found if isinstance(each, Record)],
            [each for each in found if isinstance(each, SpanDamage)],
        )

    def damage(self) -> Iterator[SpanDamage]:
        """What is not as it was committed, in order; reads everything, changes nothing."""
        yield from (found for found in self._examine() if isinstance(found, SpanDamage))
        if not exists(self._zarr_json):
            yield SpanDamage(None, self._zarr_json, "missing")
        elif why := self._array_damage():
            yield SpanDamage(None, self._zarr_json, why)

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

    def gather(self, committed: Mapping[int, Record], name: str, ids: npt.NDArray[np.int64]) -> Values:
        """The values of a row at ``ids``, in their order, by the records of spans; what is not committed reads "not scored"."""
        out = self.empty(name, len(ids))
        order = np.argsort(ids, kind="stable")
        index, starts = np.unique(ids[order] // self.header.span, return_index=True)
        for span, start, stop in zip(index.tolist(), starts, np.append(starts[1:], len(ids)), strict=False):
            if (record := committed.get(span)) is not None:
                here = order[start:stop]
                here = here[ids[here] < record.span.stop]
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

    def _decode_all(self) -> list[Record | SpanDamage]:
        """What the single and the packed records say, by span.

        Raises:
            RunError: run.json is not of these records.
        """
        for _ in range(_TRIES):
            before = self._packed_state()
            found = list(self._decode_once())
            if self._packed_state() == before:  # else another process packed the records meanwhile
                break
        foreign = [each for each in found if isinstance(each, SpanDamage) and each.run]
        if foreign and not any(isinstance(each, Record) for each in found):
            raise RunError(
                f"{self.path / 'run.json'} is not of the records beside it: it has the id {self.header.id}, but "
                f"{len(foreign):,} {'record names' if len(foreign) == 1 else 'records name'} the run {foreign[0].run}. "
                "Nothing was changed: put back the run.json of that run, or the records of this one"
            )
        return found

    def _decode_once(self) -> Iterator[Record | SpanDamage]:
        single = set(names_in(self._commits, "*.json"))
        packed = self._decode_packed()
        for span in self.spans:
            if single and file_name(span) in single:
                file = self._record(span)
                try:
                    yield self._decode(span, file, _read(span, file))
                except _Damaged as error:
                    gone = error.damage.why == _MISSING and span.index in packed  # packed a moment ago
                    yield packed[span.index] if gone else error.damage
            elif span.index in packed:
                yield packed[span.index]
        if None in packed:
            yield packed[None]

    def _packed_state(self) -> tuple[int, int, int] | None:
        try:
            state = os.stat(self._packed)
        except FileNotFoundError:
            return None
        return state.st_ino, state.st_size, state.st_mtime_ns

    def _decode_packed(self) -> dict[int | None, Record | SpanDamage]:
        """What the packed records say, by index of the span; None: of a line that is of no span.

        They were packed when every span had a record. So a span that has none there is damage, unless the pool has grown
        since.
        """
        try:
            lines = records.decode_all(self._packed.read_bytes(), self._packed)
        except FileNotFoundError:
            return {}
        except OSError as error:
            return {span.index: _unreadable(error, span, self._packed).damage for span in self.spans}
        found: dict[int | None, Record | SpanDamage] = {}
        torn: dict[int, str] = {}
        for at, record in enumerate(lines):
            if isinstance(record, Record):
                span = self.spans[max(0, min(record.span.index, len(self.spans) - 1))]
                if not isinstance(found.get(span.index), Record):
                    found[span.index] = self._checked(record, span, self._packed)
            else:
                torn[at] = f"line {at + 1}: {record}"
        lost = [span for span in self.spans[: self._packed_spans(lines)] if span.index not in found]
        for span in lost:
            found[span.index] = SpanDamage(span, self._packed, torn.get(span.index, "no record of it"))
        if torn and not lost:
            found[None] = SpanDamage(None, self._packed, next(iter(torn.values())))
        return found

    def _packed_spans(self, lines: Sequence[Record | TornError]) -> int:
        """How many spans had a record when the records were packed: as many as the pool had then, or some time before."""
        least = max([len(lines), *(line.span.index + 1 for line in lines if isinstance(line, Record))])
        counts = [-(-state.n // self.header.span) for state in (*self.header.grown, self.header.pool)]
        return next((count for count in counts if count >= least), len(self.spans))

    def _decode(self, span: Span, file: Path, line: bytes) -> Record | SpanDamage:
        """The record of a span in a file of its own."""
        try:
            return self._checked(records.decode(line, file), span, file)
        except TornError as error:
            return SpanDamage(span, file, str(error))

    def _checked(self, record: Record, span: Span, file: Path) -> Record | SpanDamage:
        """The record if it is one of this run and of ``span``; otherwise it is damage like any other."""
        if record.run != self.header.id:
            return SpanDamage(span, file, f"belongs to another run, {record.run}", record.run)
        if (record.span.index, record.span.start) != (span.index, span.start) or not 0 < record.span.n <= span.n:
            return SpanDamage(span, file, f"record of {record.span}")
        if len(record.crc32c) != len(self.rows):
            return SpanDamage(span, file, f"{len(record.crc32c)} checksums for {len(self.rows)} rows")
        if not 0 <= record.scored <= record.span.n:
            return SpanDamage(span, file, f"{record.scored} of {record.span.n} items scored")
        return record

    def _array_damage(self) -> str | None:
        """Why the array's zarr.json is not what run.json says; None if it is, was before the pool grew, or is missing."""
        try:
            stored = array_in(self._zarr_json.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        if self._may_be(stored, self.header):
            return None
        # A process that scores into the run may have let it grow since run.json was read.
        return None if self._may_be(stored, read_header(self.path)) else "not what run.json says"

    def _may_be(self, stored: str | None, header: RunHeader) -> bool:
        return stored in [essential(self._array_of(state.n)) for state in (header.pool, *header.grown)]

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


def told(damaged: Sequence[SpanDamage], named: int = 3) -> str:
    """How many places are damaged, and the first few of them."""
    more = f"; and {len(damaged) - named:,} more" if len(damaged) > named else ""
    return f"{count(len(damaged), 'damaged place')}: {'; '.join(map(str, damaged[:named]))}{more}"


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
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return _Damaged(span, file, _MISSING)
    if error.errno != errno.EIO:
        raise error
    return _Damaged(span, file, "the disk cannot read it")


def array_in(metadata: bytes) -> str | None:
    """The essential part of a zarr.json; None if it is no object of JSON."""
    try:
        found = parse(metadata)
    except ValueError:
        return None
    return essential(found) if isinstance(found, dict) else None


def essential(metadata: JSON) -> str:
    """What decides how the shards are read, as one text; other programs may write other things beside it."""
    attributes = metadata.get("attributes")
    names = attributes.get("scores") if isinstance(attributes, dict) else None
    # As text, because 1, 1.0 and true are equal in Python.
    return json.dumps([{name: metadata.get(name) for name in _ESSENTIAL}, names], sort_keys=True)


_ESSENTIAL = (
    *("zarr_format", "node_type", "shape", "data_type", "chunk_grid"),
    *("chunk_key_encoding", "fill_value", "codecs", "dimension_names"),
)
