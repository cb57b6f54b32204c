"""What is committed in a run, read and checked; nothing here changes a file."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...errors import RunError
from ...store.parallel import in_order
from ...store.place import AnyPath, place_at
from ...text import count
from ..record import Record
from ..schema import RunHeader, read_header
from ..spans import Span, cut
from . import records
from .array import array_in, array_of, essential
from .shard import ShardLayout, TornError, crc32c

Values = npt.NDArray[Any]

PACKED, ZARR_JSON = "commits/packed.jsonl", "scores.zarr/zarr.json"
_MISSING = "missing"
_TRIES = 3  # at reading records that another process packs at the time


@dataclass(frozen=True)
class SpanDamage:
    """A file that is not what was committed, and the span that must be scored again for it (None: no span).

    ``run`` is the id of the run that a record names, if it is another one.
    """

    span: Span | None
    file: AnyPath
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
    """A run: records and shards, and whether they hold.

    Attributes:
        path: where the run is: a local directory, or a URL.
        place: its files.
        header: what run.json says.
        spans: all spans, committed or not.
    """

    def __init__(self, path: AnyPath, header: RunHeader) -> None:
        self.path, self.place, self.header = path, place_at(path), header
        self.spans = cut(header.pool.n, header.span)
        self.rows = header.rows
        self.layout = ShardLayout(len(self.rows), header.span)
        self._packed_seen: tuple[Any, set[int]] = None, set()

    @property
    def named(self) -> dict[str, Any]:
        """How events name the run."""
        return {"run": self.header.id, "path": str(self.path)}

    def tally(self, committed: Sequence[Record]) -> dict[str, Any]:
        """What an event says of the run with what is committed of it."""
        facts = {"items": self.header.pool.n, "spans": len(self.spans), "spans_done": len(committed)}
        each = [record.facts() for record in committed]
        facts |= {name: sum(one[name] for one in each) for name in ("scored", "nonfinite", "unreadable")}
        return {**self.named, **facts, "done": sum(one["items"] for one in each)}

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
                f"{self.path / ZARR_JSON}: {why}. The scores are not in this file: remove it, and scoring into {self.path} again "
                "writes it"
            )
        return Survey(
            [each for each in found if isinstance(each, Record)],
            [each for each in found if isinstance(each, SpanDamage)],
        )

    def recorded(self, span: Span) -> bool:
        """Whether there is a record of a span now, by this or another process; whether it holds shows when it is read."""
        return self.place.version(record_name(span)) is not None or span.index in self._packed_indices()

    def unrecorded(self) -> list[Span]:
        """The spans that have no record now, by one look at their names."""
        single = set(self.place.names("commits"))  # first: a record that is packed meanwhile is in one or both
        packed = self._packed_indices()
        return [span for span in self.spans if file_name(span) not in single and span.index not in packed]

    def damage(self) -> Iterator[SpanDamage]:
        """What is not as it was committed, in order; reads everything, changes nothing."""
        yield from (found for found in self._examine() if isinstance(found, SpanDamage))
        if self.place.version(ZARR_JSON) is None:
            yield SpanDamage(None, self.path / ZARR_JSON, _MISSING)
        elif why := self._array_damage():
            yield SpanDamage(None, self.path / ZARR_JSON, why)

    def read(self, record: Record, name: str) -> Values:
        """The committed values (span.n,) of a row.

        Raises:
            RunError: the shard is missing, or is not what was committed.
        """
        try:
            stored = self._load(record, self.rows.index(name))
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
        parts = zip(index.tolist(), starts, np.append(starts[1:], len(ids)), strict=False)
        places = {span: order[start:stop] for span, start, stop in parts if span in committed}
        held = [committed[span] for span in places]
        for record, here, values in zip(held, places.values(), self.read_each(held, name), strict=True):
            there = here[ids[here] < record.span.stop]
            out[there] = values[ids[there] - record.span.start]
        return out

    def read_each(self, committed: Sequence[Record], name: str) -> Iterator[Values]:
        """The committed values of a row, span by span, as ``read`` gives them; where each waits for a network several at a time."""
        if self.place.one_writer:
            yield from (self.read(record, name) for record in committed)
            return
        yield from in_order(lambda record: self.read(record, name), committed, self.place.threads)

    def _examine(self) -> Iterator[Record | SpanDamage]:
        """Every record that holds and every damage, by span. Threads: reading releases the interpreter."""

        def check(found: Record | SpanDamage) -> Record | SpanDamage:
            if isinstance(found, Record):
                try:
                    self._check(found)
                except _Damaged as error:
                    return error.damage
            return found

        yield from in_order(check, self._decode_all(), self.place.threads)

    def _check(self, record: Record) -> None:
        """Raise _Damaged unless every byte of the shard is as it was written, and is what the record says."""
        shard = shard_name(record.span)
        try:
            _, values = self.layout.decode(self.place.read(shard))
        except TornError as error:
            raise self._damaged(record.span, shard, str(error)) from None
        except OSError as error:
            raise self._unreadable(error, record.span, shard) from None
        for name, row, crc in zip(self.rows, values, record.crc32c, strict=True):
            if crc32c(row[: record.span.n]) != crc:
                raise self._damaged(record.span, shard, f"{name}: crc32c mismatch with the record")

    def _load(self, record: Record, row: int) -> npt.NDArray[np.float32]:
        """One row (span.n,) of a shard, if it is what the record says. Raises _Damaged."""
        name, start = shard_name(record.span), self.layout.offset(row)
        try:
            data, size = self.place.part(name, start, start + 4 * record.span.n)
            self.layout.check_size(size)
        except TornError as error:
            raise self._damaged(record.span, name, str(error)) from None
        except OSError as error:
            raise self._unreadable(error, record.span, name) from None
        stored = np.frombuffer(data, "<f4")
        if len(stored) != record.span.n or crc32c(stored) != record.crc32c[row]:
            raise self._damaged(record.span, name, "crc32c mismatch")
        return stored

    def _damaged(self, span: Span, name: str, why: str) -> _Damaged:
        return _Damaged(SpanDamage(span, self.path / name, why))

    def _unreadable(self, error: OSError, span: Span, name: str) -> _Damaged:
        """What cannot be read and never will be is damage; after any other error (no permission, no network) that is not known."""
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return self._damaged(span, name, _MISSING)
        if error.errno != errno.EIO:
            raise error
        return self._damaged(span, name, "the disk cannot read it")

    def _decode_all(self) -> list[Record | SpanDamage]:
        """What the single and the packed records say, by span.

        Raises:
            RunError: run.json is not of these records.
        """
        for _ in range(_TRIES):
            before = self.place.version(PACKED)
            found = list(self._decode_once())
            if self.place.version(PACKED) == before:  # else another process packed the records meanwhile
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
        there = set(self.place.names("commits"))
        packed = self._decode_packed()
        single = [span for span in self.spans if file_name(span) in there]
        found = dict(
            zip((span.index for span in single), self.place.read_each(list(map(record_name, single))), strict=True)
        )
        for span in self.spans:
            line = found.get(span.index)
            if isinstance(line, bytes):
                yield self._decode(span, line)
            elif line is not None:
                damage = self._unreadable(line, span, record_name(span)).damage
                gone = damage.why == _MISSING and span.index in packed  # packed a moment ago
                yield packed[span.index] if gone else damage
            elif span.index in packed:
                yield packed[span.index]
        if None in packed:
            yield packed[None]

    def _decode_packed(self) -> dict[int | None, Record | SpanDamage]:
        """What the packed records say, by index of the span; None: of a line that is of no span.

        They were packed when every span had a record. So a span that has none there is damage, unless the pool has grown
        since.
        """
        file = self.path / PACKED
        try:
            lines = records.decode_all(self.place.read(PACKED), file)
        except FileNotFoundError:
            return {}
        except OSError as error:
            return {span.index: self._unreadable(error, span, PACKED).damage for span in self.spans}
        found: dict[int | None, Record | SpanDamage] = {}
        torn: dict[int, str] = {}
        for at, record in enumerate(lines):
            if isinstance(record, Record):
                span = self.spans[max(0, min(record.span.index, len(self.spans) - 1))]
                if not isinstance(found.get(span.index), Record):
                    found[span.index] = self._checked(record, span, file)
            else:
                torn[at] = f"line {at + 1}: {record}"
        lost = [span for span in self.spans[: self._packed_spans(lines)] if span.index not in found]
        for span in lost:
            found[span.index] = SpanDamage(span, file, torn.get(span.index, "no record of it"))
        if torn and not lost:
            found[None] = SpanDamage(None, file, next(iter(torn.values())))
        return found

    def _packed_indices(self) -> set[int]:
        """Which spans the packed records are of."""
        state = self.place.version(PACKED)
        if state != self._packed_seen[0]:
            found = self._decode_packed()
            self._packed_seen = state, {each.span.index for each in found.values() if isinstance(each, Record)}
        return self._packed_seen[1]

    def _packed_spans(self, lines: Sequence[Record | TornError]) -> int:
        """How many spans had a record when the records were packed: as many as the pool had then, or some time before."""
        least = max([len(lines), *(line.span.index + 1 for line in lines if isinstance(line, Record))])
        counts = [-(-state.n // self.header.span) for state in (*self.header.grown, self.header.pool)]
        return next((count for count in counts if count >= least), len(self.spans))

    def _decode(self, span: Span, line: bytes) -> Record | SpanDamage:
        """The record of a span in a file of its own."""
        file = self.path / record_name(span)
        try:
            return self._checked(records.decode(line, file), span, file)
        except TornError as error:
            return SpanDamage(span, file, str(error))

    def _checked(self, record: Record, span: Span, file: AnyPath) -> Record | SpanDamage:
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
            stored = array_in(self.place.read(ZARR_JSON))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if self._may_be(stored, self.header):
            return None
        # A process that scores into the run may have let it grow since run.json was read.
        return None if self._may_be(stored, read_header(self.path)) else "not what run.json says"

    def _may_be(self, stored: str | None, header: RunHeader) -> bool:
        return stored in [
            essential(array_of(self.rows, self.header.span, state.n)) for state in (header.pool, *header.grown)
        ]

    def _holds_classes(self, name: str) -> bool:
        """Whether a row holds class numbers; a regression predicts numbers."""
        return name == "prediction" and self.header.settings.likelihood != "gaussian"


def file_name(span: Span) -> str:
    """The name of a span's record, in its folder."""
    return f"{span.index:06d}.json"


def record_name(span: Span) -> str:
    """The name of a span's record in the run."""
    return f"commits/{file_name(span)}"


def shard_name(span: Span) -> str:
    """The name of a span's shard in the run."""
    return f"scores.zarr/c/0/{span.index}"


def told(damaged: Sequence[SpanDamage], named: int = 3) -> str:
    """How many places are damaged, and the first few of them."""
    more = f"; and {len(damaged) - named:,} more" if len(damaged) > named else ""
    return f"{count(len(damaged), 'damaged place')}: {'; '.join(map(str, damaged[:named]))}{more}"


class _Damaged(Exception):
    """What is damaged, raised where it is found."""

    def __init__(self, damage: SpanDamage) -> None:
        self.damage = damage
