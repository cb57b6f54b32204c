"""A run directory: what is committed in it, and how a span is committed.

    run.json                    see schema.py
    scores.zarr/zarr.json       one Zarr v3 array (scores and prediction, items), float32
    scores.zarr/c/0/<i>         the shard of span i, see shard.py
    commits/<i>.json            span i is done. The only truth: no record, or one that its shard contradicts, and it is not
    commits/packed.jsonl        the records of a complete run in one file, see records.py; a single record goes before it

A span is committed by publishing its shard and, once that is durable, its record: each under a temporary name, fsynced,
then linked to its name, which fails if there is a file of that name. Nothing else is state, so a kill at any moment costs
the span at hand and can count nothing twice. A shard without a record is from an attempt that was killed in between. With
equal bits it is kept, and the computation has been checked; with other bits under the same conditions it is an error.

A pool may be appended to. run.json is then replaced before a span of the new length is committed, and the last span, if it
was partial, is committed again, longer: its shard with the same values in front (so that the former record, of the shorter
span, goes on to hold), then its record.

The files are written here and not by zarr-python, which renames but does not fsync (so a shard could be lost after its
record), and by no means by zarrs, which writes in place (so a kill tears the shard).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import atomic
from ...errors import RunError
from ..schema import JSON, Hardware, PoolState, Record, RunHeader, read_header
from ..spans import Span, cut
from . import records
from .shard import ShardHeader, ShardLayout, TornError, crc32c

Values = npt.NDArray[Any]

# Class numbers are stored as float32, which holds every integer up to this one.
LARGEST_CLASS = 1 << 24


@dataclass(frozen=True)
class SpanDamage:
    """A file that is not what was committed, and the span that must be scored again for it (None: no span)."""

    span: Span | None
    file: Path
    why: str


class Journal:
    """A run directory, read and written. One writer at a time: hold the lock."""

    def __init__(self, path: Path, header: RunHeader) -> None:
        self.path, self.header = path, header
        self.spans = cut(header.pool.n, header.span)
        self.rows = header.rows
        self.layout = ShardLayout(len(self.rows), header.span)
        self._commits = path / "commits"
        self._packed = self._commits / "packed.jsonl"
        self._zarr_json = path / "scores.zarr" / "zarr.json"

    @staticmethod
    def create(path: Path, header: RunHeader) -> Journal:
        """Make a new run in the directory ``path``, which must be locked; run.json comes last and makes it one."""
        journal = Journal(path, header)
        try:
            if (path / "run.json").exists():
                raise FileExistsError
            journal._lay_out(keep=False)
            atomic.create_file(path / "run.json", _to_bytes(header.to_json()))
        except FileExistsError:
            raise RunError(f"{path} was made a run by another process meanwhile; start again to resume it") from None
        return journal

    @staticmethod
    def open(path: Path) -> Journal:
        """Open the run in the directory ``path``. Raises RunError if there is none."""
        return Journal(path, read_header(path))

    def empty(self, name: str, n: int) -> Values:
        """N values of a row that mean "not scored"."""
        return np.full(n, -1, np.int32) if self._holds_classes(name) else np.full(n, np.nan, np.float32)

    # Writing.

    def commit(
        self, span: Span, values: Mapping[str, Values], *, held: Record | None, conditions: int, **facts: Any
    ) -> Record:
        """Make the values (span.n,) of a span and the record of them durable, in that order.

        Args:
            span: what is committed.
            values: by row.
            held: the record of the span that this one replaces, if there is one.
            conditions: equal ones must give equal bits, see ``hardware.conditions``.
            facts: the other fields of Record.

        Raises:
            RunError: an attempt that was killed stored other scores of the span under the same conditions.
            OSError: of the disk.
        """
        stored = self._to_floats(span, values)
        self._publish_shard(span, stored, ShardHeader(self.header.id, span.index, span.n, conditions), held)
        crcs = tuple(crc32c(row) for row in stored)
        record = Record(run=self.header.id, span=span, crc32c=crcs, **facts)
        return self._publish_record(record, held)

    def grow(self, pool: PoolState) -> Journal:
        """Turn the run into one of ``pool``, what its pool has become by appending; durable on return."""
        former = dataclasses.replace(self.header.pool, path="")
        return self._with(pool=pool, grown=(*self.header.grown, former))

    def add_hardware(self, hardware: Hardware) -> Journal:
        """Name another hardware class that scores into the run; durable on return."""
        return self._with(hardware=(*self.header.hardware, hardware))

    def _with(self, **changes: Any) -> Journal:
        header = dataclasses.replace(self.header, **changes)
        atomic.replace_file(self.path / "run.json", _to_bytes(header.to_json()))
        return Journal(self.path, header)

    def repair(self) -> list[Record]:
        """Check every record against its shard, and remove those that do not hold: their spans must be scored again.

        Also writes the array's metadata again if it is lost. Returns the records that hold, by span.
        """
        self._lay_out(keep=True)
        held: list[Record] = []
        lost: list[Span] = []
        shards: list[Path] = []
        for found in self._examine():
            if isinstance(found, Record):
                held.append(found)
            elif found.span is not None:
                lost.append(found.span)
                shards += [found.file] if found.file == self._shard(found.span) else []
        if shards:
            # Durable before their records go: a shard without a record is compared with what is scored next.
            for file in shards:
                atomic.remove(file)
            atomic.sync(shards[0].parent)
        if lost and self._packed.exists():
            atomic.replace_file(self._packed, b"".join(map(records.encode, held)))
        for span in lost:
            # Not made durable: a record that a power cut brings back is found damaged again.
            atomic.remove(self._record(span))
        return held

    def pack(self, committed: Sequence[Record]) -> None:
        """Put the records of a complete run, ``committed``, into one file, and remove the single ones.

        150,000 single files take half a minute to read, one file a second. A kill in between leaves both: they are equal.
        """
        there = {entry.name for entry in os.scandir(self._commits)}
        single = [self._record(span) for span in self.spans if _file_name(span) in there]
        if not single:
            return
        atomic.replace_file(self._packed, b"".join(map(records.encode, committed)))
        for file in single:
            with contextlib.suppress(OSError):  # the run is complete and readable with it
                atomic.remove(file)

    def _to_floats(self, span: Span, values: Mapping[str, Values]) -> npt.NDArray[np.float32]:
        """The rows (rows, span.n) as they are stored."""
        stored = np.empty((len(self.rows), span.n), "<f4")
        for row, name in zip(stored, self.rows, strict=True):
            column = values[name]
            if self._holds_classes(name):
                if (largest := int(column.max(initial=-1))) > LARGEST_CLASS:
                    raise RunError(f"class {largest} in {span} cannot be stored: the largest is {LARGEST_CLASS}")
                row[:] = np.where(column < 0, np.float32(np.nan), column.astype(np.float32))
            else:
                row[:] = column
        return stored

    def _publish_shard(
        self, span: Span, stored: npt.NDArray[np.float32], header: ShardHeader, held: Record | None
    ) -> None:
        file, data = self._shard(span), self.layout.encode(header, stored)
        if held is not None:
            atomic.replace_file(file, data)
            return
        try:
            atomic.create_file(file, data)
        except FileExistsError:
            if (found := _bytes_of(file)) == data:
                atomic.sync(file.parent)  # its name may not be durable yet
                return
            if self._record(span).exists():
                raise RunError(f"{span} of {self.path} was committed by another process meanwhile") from None
            with contextlib.suppress(TornError):
                other, values = self.layout.decode(found)
                # Items that were labeled or unreadable then have no value: other items, other bits.
                if other == header and np.array_equal(np.isnan(values[:, : span.n]), np.isnan(stored)):
                    count = int((values[:, : span.n].view(np.uint32) != stored.view(np.uint32)).any(0).sum())
                    raise RunError(
                        f"{span} of {self.path} was scored twice under the same conditions, and {count:,} of its items got "
                        "other bits the second time: the model, the transform or the device is not deterministic. "
                        f"Remove {file} to keep the new scores"
                    ) from None
            atomic.replace_file(file, data)

    def _publish_record(self, record: Record, held: Record | None) -> Record:
        file, line = self._record(record.span), records.encode(record)
        if held is not None:
            atomic.replace_file(file, line)
            return record
        try:
            atomic.create_file(file, line)
        except FileExistsError:
            other = self._decode(record.span, file, _bytes_of(file))
            if isinstance(other, SpanDamage) or (other.span, other.crc32c) != (record.span, record.crc32c):
                raise RunError(f"{record.span} of {self.path} was committed by another process meanwhile") from None
            return other
        return record

    def _lay_out(self, keep: bool) -> None:
        """Make the directories and the array's metadata; what is there is kept and checked, or else written anew."""
        atomic.discard_temporaries(self.path, "run.json.*", "commits/*", "scores.zarr/**/*")
        atomic.create_directory(self.path / "commits")
        atomic.create_directory(self._shard(self.spans[0]).parent)
        if not (keep and self._zarr_json.exists()):
            atomic.replace_file(self._zarr_json, _to_bytes(self._array_of(self.header.pool.n)))
            return
        stored = _array_in(self._zarr_json.read_bytes())
        if stored == _essential(self._array_of(self.header.pool.n)):
            return
        if stored not in [_essential(self._array_of(former.n)) for former in self.header.grown]:
            raise RunError(f"{self._zarr_json} is not what {self.path / 'run.json'} says; remove it and resume")
        atomic.replace_file(self._zarr_json, _to_bytes(self._array_of(self.header.pool.n)))

    # Reading.

    def records(self) -> list[Record]:
        """The records of this run, by span; whether their shards match shows when these are read."""
        return [found for found in self._decode_all() if isinstance(found, Record)]

    def damage(self) -> Iterator[SpanDamage]:
        """What is not as it was committed, in order; reads everything, changes nothing."""
        yield from (found for found in self._examine() if isinstance(found, SpanDamage))
        if not self._zarr_json.exists():
            yield SpanDamage(None, self._zarr_json, "missing")
        elif _array_in(self._zarr_json.read_bytes()) != _essential(self._array_of(self.header.pool.n)):
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
            if single and _file_name(span) in single:
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

    # Names and formats.

    def _holds_classes(self, name: str) -> bool:
        """Whether a row holds class numbers; a regression predicts numbers."""
        return name == "prediction" and self.header.settings.likelihood != "gaussian"

    def _shard(self, span: Span) -> Path:
        return self.path / "scores.zarr" / "c" / "0" / str(span.index)

    def _record(self, span: Span) -> Path:
        return self._commits / _file_name(span)

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


def _file_name(span: Span) -> str:
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


def _bytes_of(file: Path) -> bytes:
    """The content of a file; nothing if it lies on a bad sector."""
    try:
        return file.read_bytes()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def _to_bytes(value: JSON) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _array_in(metadata: bytes) -> JSON | None:
    try:
        return _essential(json.loads(metadata))
    except ValueError:
        return None


def _essential(metadata: JSON) -> JSON:
    """What decides how the shards are read; other programs may write other things beside it."""
    return {key: metadata.get(key) for key in ("node_type", "shape", "data_type", "chunk_grid", "fill_value", "codecs")}
