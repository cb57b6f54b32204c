"""A run: what is committed in it, and how a span is committed.

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
span, still holds), then its record.

In an object store (see store/place/objects.py) there are no temporary names and no lock. There run.json comes first, because
only who made it may write the rest, and each write has the condition that nobody else's is undone.

The files are written here and not by zarr-python, which renames but does not fsync (so a shard could be lost after its
record), and by no means by zarrs, which writes in place (so a kill tears the shard).
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import RunError, RunMadeError
from ...events import event
from ...store.place import AnyPath
from ..record import Record
from ..schema import JSON, Edit, Hardware, PoolState, RunHeader, Settings, header_in, read_header
from ..spans import Span
from . import records
from .array import array_in, array_of, essential
from .reader import (
    PACKED,
    ZARR_JSON,
    JournalReader,
    SpanDamage,
    Values,
    file_name,
    record_name,
    shard_name,
    told,
)
from .shard import ShardHeader, TornError, crc32c

# Class numbers are stored as float32, which holds every integer up to this one.
LARGEST_CLASS = 1 << 24


class Journal(JournalReader):
    """A run, read and written: by who holds its lock, alone or, for what says so, shared with others."""

    @staticmethod
    def create(path: AnyPath, header: RunHeader) -> Journal:
        """Make a new run at ``path``: an empty directory, which must be locked, or a URL. RunError if it is one meanwhile."""
        journal = Journal(path, header)
        try:
            if journal.place.version("run.json") is not None:
                raise FileExistsError
            if journal.place.one_writer:
                journal._lay_out(keep=False)
            journal.place.create("run.json", header.to_bytes())
        except FileExistsError:
            raise RunMadeError(
                f"{path} was made a run by another process meanwhile; start again to resume it"
            ) from None
        if not journal.place.one_writer:
            journal._lay_out(keep=False)
        return journal

    @staticmethod
    def open(path: AnyPath) -> Journal:
        """Open the run at ``path``, a directory or a URL. Raises RunError if there is none."""
        return Journal(path, read_header(path))

    def commit(
        self,
        span: Span,
        values: Mapping[str, Values],
        *,
        held: Record | None,
        conditions: int,
        shared: bool = False,
        **facts: Any,
    ) -> Record | None:
        """Make the values (span.n,) of a span and the record of them durable, in that order.

        Args:
            span: what is committed.
            values: by row.
            held: the record of the span that this one replaces, if there is one.
            conditions: equal ones must give equal bits, see ``hardware.conditions``.
            shared: other processes may be committing spans of the run, this one too. Nothing that exists is replaced or
                removed then, so ``held`` must be None.
            facts: the other fields of Record.

        Returns:
            The record of the span: this one, or, if shared, the one that another process has committed first. None, only
            if shared: what is there of the span, without a record that holds, is left to who holds the run alone.

        Raises:
            RunError: another attempt stored other scores of the span under the same conditions.
            OSError: of the disk.
        """
        if shared and held is not None:
            raise ValueError(f"{span} is held: it is replaced only by the process that has the run for itself")
        stored = self._to_floats(span, values)
        crcs = tuple(crc32c(row) for row in stored)
        record = Record(run=self.header.id, span=span, crc32c=crcs, **facts)
        shard = ShardHeader(self.header.id, span.index, span.n, conditions)
        if not self._publish_shard(span, stored, shard, held, shared):
            return self._record_of_another(span)
        published = self._publish_record(record, held, shared)
        if published is record:
            event(__name__, "span committed", **self.named, **record.facts(), again=held.span.n if held else 0)
        return published

    def grow(self, pool: PoolState) -> Journal:
        """Turn the run into one of ``pool``, what its pool has become by appending; durable on return.

        Raises:
            RunError: run.json is not of the records beside it.
        """
        self._decode_all()
        former = dataclasses.replace(self.header.pool, path="")
        return self._with(pool=pool, grown=(*self.header.grown, former))

    def add_hardware(self, hardware: Hardware) -> Journal:
        """Name another hardware class that scores into the run; durable on return.

        Several processes may do so at a time: classes that others have named meanwhile stay.
        """

        def named(now: RunHeader) -> RunHeader:
            there = hardware in now.hardware
            return now if there else dataclasses.replace(now, hardware=(*now.hardware, hardware))

        return self._changed(named)

    def add_edit(self, edit: Edit) -> Journal:
        """Name other code that scores into the run; durable on return."""
        return self._with(edited=(*self.header.edited, edit))

    def add_cut(self, cut: Mapping[str, Any], settings: Settings) -> Journal:
        """Fix the items that get all passes, and how many passes that are; durable on return."""
        return self._with(cuts=(*self.header.cuts, cut), settings=settings)

    def certify(self, certificate: Mapping[str, Any]) -> Journal:
        """Write down what screening has cost and found; durable on return."""
        return self if certificate == self.header.certificate else self._with(certificate=certificate)

    def _with(self, **changes: Any) -> Journal:
        wanted = dataclasses.replace(self.header, **changes)
        # As text: what was read has lists where what was made has tuples.
        expected = self.header.to_bytes(), wanted.to_bytes()

        def change(now: RunHeader) -> RunHeader:
            if now.to_bytes() not in expected:
                raise RunError(
                    f"{self.path / 'run.json'} was changed by another process meanwhile; start again to resume"
                )
            return wanted

        return self._changed(change)

    def _changed(self, change: Callable[[RunHeader], RunHeader]) -> Journal:
        """Replace run.json by what ``change`` makes of what it says now, and return the run as it then is."""
        header = self.header

        def rewritten(data: bytes) -> bytes:
            nonlocal header
            now = header_in(data, self.path)
            header = change(now)
            return data if header.to_bytes() == now.to_bytes() else header.to_bytes()

        self.place.change("run.json", rewritten)
        return Journal(self.path, header)

    def repair(self) -> list[Record]:
        """Check every record against its shard, and remove those that do not hold: their spans must be scored again.

        Also writes the array's metadata again if it is lost. What is damaged is told by a warning. Returns the records that
        hold, by span.

        Raises:
            RunError: run.json is not of the records beside it, or the array's metadata is not what run.json says; nothing
                was changed.
        """
        held: list[Record] = []
        damaged: list[SpanDamage] = []
        for found in self._examine():
            if isinstance(found, Record):
                held.append(found)
            else:
                damaged.append(found)
        self._lay_out(keep=True)
        if damaged:
            warnings.warn(f"{self.path}: {told(damaged)}; what is damaged is scored again", stacklevel=2)
            event(__name__, "damage repaired", logging.WARNING, **self.named, damage=[each.facts() for each in damaged])
        lost = [each.span for each in damaged if each.span is not None]
        shards = [
            shard_name(each.span) for each in damaged if each.span and each.file == self.path / shard_name(each.span)
        ]
        if shards:
            # Durable before their records go: a shard without a record is compared with what is scored next.
            for shard in shards:
                self.place.remove(shard)
            self.place.sync(shards[0])
        if damaged and self.place.version(PACKED) is not None:
            self.place.replace(PACKED, b"".join(map(records.encode, held)))
        for span in lost:
            # Not made durable: a record that a power cut brings back is found damaged again.
            self.place.remove(record_name(span))
        return held

    def pack(self, committed: Sequence[Record]) -> None:
        """Put the records of a complete run, ``committed``, into one file, and remove the single ones.

        150,000 single files take half a minute to read, one file a second. A kill in between leaves both: they are equal.
        """
        there = set(self.place.names("commits"))
        single = [record_name(span) for span in self.spans if file_name(span) in there]
        if not single:
            return
        self.place.replace(PACKED, b"".join(map(records.encode, committed)))
        self.place.discard(single)  # the run is complete and readable with those that stay

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
        self, span: Span, stored: npt.NDArray[np.float32], header: ShardHeader, held: Record | None, shared: bool
    ) -> bool:
        """Whether the shard now holds these values; only if shared it may hold those of another process."""
        name, data = shard_name(span), self.layout.encode(header, stored)
        if held is not None:
            self.place.replace(name, data)
            return True
        try:
            self.place.create(name, data)
            return True
        except FileExistsError:
            found = self._bytes_of(name)
        if found == data:
            self.place.sync(name)  # it may not be durable yet
            return True
        if not shared and self.place.version(record_name(span)) is not None:
            raise RunError(f"{span} of {self.path} was committed by another process meanwhile")
        self._refuse_other_bits(span, found, header, stored)
        if shared:
            return False
        self.place.replace(name, data)
        return True

    def _refuse_other_bits(
        self, span: Span, found: bytes, header: ShardHeader, stored: npt.NDArray[np.float32]
    ) -> None:
        """Raise RunError if a shard has other values of the same items under the same conditions."""
        try:
            other, values = self.layout.decode(found)
        except TornError:
            return
        # Items that were labeled or unreadable then have no value: other items, other bits.
        if other != header or not np.array_equal(np.isnan(values[:, : span.n]), np.isnan(stored)):
            return
        count = int((values[:, : span.n].view(np.uint32) != stored.view(np.uint32)).any(0).sum())
        raise RunError(
            f"{span} of {self.path} was scored twice under the same conditions, and {count:,} of its items got other bits "
            "the second time: the model, the transform or the device is not deterministic. "
            f"Remove {self.path / shard_name(span)} to keep the new scores"
        )

    def _publish_record(self, record: Record, held: Record | None, shared: bool) -> Record | None:
        name, line = record_name(record.span), records.encode(record)
        if held is not None:
            self.place.replace(name, line)
            return record
        try:
            self.place.create(name, line)
            return record
        except FileExistsError:
            other = self._record_of_another(record.span)
        if other is None or (other.span, other.crc32c) != (record.span, record.crc32c):
            if shared:
                return None
            raise RunError(f"{record.span} of {self.path} was committed by another process meanwhile")
        return other

    def _record_of_another(self, span: Span) -> Record | None:
        """The record of a span that another process committed meanwhile, durable; None if there is none, or it does not hold."""
        found: Record | SpanDamage | None
        try:
            found = self._decode(span, self._bytes_of(record_name(span)))
        except FileNotFoundError:  # there is none, or it was packed a moment ago
            found = self._decode_packed().get(span.index)
        if not isinstance(found, Record):
            return None
        self.place.sync(record_name(span))  # it may not be durable yet
        return found

    def _bytes_of(self, name: str) -> bytes:
        """The content of a file; nothing if it lies on a bad sector."""
        try:
            return self.place.read(name)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return b""

    def _lay_out(self, keep: bool) -> None:
        """Make the directories and the array's metadata; what is there is kept and checked, or else written anew."""
        if keep and (why := self._array_damage()):
            raise RunError(
                f"{self.path / ZARR_JSON} is {why}. The scores are not in this file: remove it and resume, which writes it again"
            )
        self.place.lay_out("commits", "scores.zarr", "scores.zarr/c/0")
        array = array_of(self.rows, self.header.span, self.header.pool.n)
        if (
            keep
            and self.place.version(ZARR_JSON) is not None
            and array_in(self.place.read(ZARR_JSON)) == essential(array)
        ):
            return
        self.place.replace(ZARR_JSON, _to_bytes(array))


def _to_bytes(value: JSON) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
