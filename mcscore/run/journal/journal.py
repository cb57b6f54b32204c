"""The durable part of a run: score chunks, and one commit record per span.

    run.json                    see identity.py
    scores.zarr/<name>/c/<i>    chunk i of a score is span i: float32, little-endian, no codec (the record has the crc)
    commits/<i>.json            span i is done. The only truth: no record, or one that does not match its chunks, not done

A span is committed by writing its chunks, and when these are durable its record. Nothing else is state, so a kill at
any moment costs the span at hand and can count nothing twice.

A pool may be appended to. run.json is then replaced before a span of the new length is committed, and the last span, if it
was partial, is committed again, longer: its chunk with the same values in front (so that the former record, of the shorter
span, goes on to hold), then its record.

Chunks are written here and not by zarr-python, which renames but does not fsync (so a chunk could be lost after its
record), and by no means by zarrs, which writes in place (so a kill tears the chunk). The bytes are what Zarr v3's
``bytes`` codec defines, and zarr-python reads them: tests check that.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import atomic as disk
from ...errors import RunError
from ..schema import Meta, read_meta
from ..spans import Span, cut

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Record:
    """What a commit record says: this span is scored, these are the checksums of its chunks."""

    span: Span  # shorter than the run's span of this index if the pool has grown since
    scored: int  # the others were labeled, excluded or unreadable
    crc32: Mapping[str, int]  # by score, of the span's values as stored
    nonfinite_ids: tuple[int, ...]  # scored, but without a finite score
    unreadable: tuple[
        tuple[int, int], ...
    ]  # (start, stop) of items not scored because the pool could not be read there
    seconds: float
    device: str


@dataclass(frozen=True)
class Damage:
    """A file that is not what was committed, and the span that is to be scored again for it (None: no span is)."""

    span: Span | None
    file: Path
    why: str


class Journal:
    """A run directory, read and written. One writer at a time: hold the lock."""

    def __init__(self, path: Path, meta: Meta) -> None:
        self.path, self.meta = path, meta
        self.spans = cut(meta["pool"]["n"], meta["span"])
        self.names = (*meta["scores"], "prediction")

    @staticmethod
    def create(path: Path, meta: Meta) -> Journal:
        """A new run in the directory ``path``, which must be locked; run.json comes last and makes it one."""
        journal = Journal(path, meta)
        try:
            if (path / "run.json").exists():
                raise FileExistsError
            journal._lay_out(keep=False)
            disk.create_file(path / "run.json", _to_json(meta))
        except FileExistsError:
            raise RunError(
                f"{path} has just been made a run by another process; start again to go on with it"
            ) from None
        return journal

    @staticmethod
    def open(path: Path) -> Journal:
        """The run in the directory ``path``. Raises RunError if there is none."""
        return Journal(path, read_meta(path))

    def empty(self, name: str, n: int) -> Values:
        """N values of a score that mean "not scored"."""
        dtype, fill = self._kind(name)
        return np.full(n, fill, dtype)

    # -- writing ---------------------------------------------------------------------------------------------------------

    def commit(self, span: Span, values: Mapping[str, Values], **facts: Any) -> Record:
        """Make the span's values (span.n,) and the record of them durable, in that order. ``facts``: see Record."""
        crcs = {}
        for name in self.names:
            chunk = self.empty(name, self.meta["span"])  # the last chunk is stored whole, as all are
            chunk[: span.n] = values[name]
            crcs[name] = _crc(chunk[: span.n])
            disk.replace_file(self._chunk(name, span), chunk.tobytes())
        record = Record(span, crc32=crcs, **facts)
        disk.replace_file(self._record(span), self._encode(record))
        return record

    def grow(self, pool: Meta) -> Journal:
        """The run as one of ``pool``, what its pool has become by appending; durable on return."""
        former = {name: self.meta["pool"][name] for name in ("n", "fingerprint")}
        meta = {**self.meta, "pool": pool, "grown": [*self.meta["grown"], former]}
        disk.replace_file(self.path / "run.json", _to_json(meta))
        return Journal(self.path, meta)

    def repair(self) -> list[Record]:
        """Check every record against its chunks, and remove those that do not hold: their spans are to be scored again.

        Also puts back what was lost of the arrays' metadata. Returns the records that hold, by span.
        """
        self._lay_out(keep=True)
        held = []
        for found in self._examine():
            if isinstance(found, Record):
                held.append(found)
            elif found.span is not None:
                # Not made durable: a record that a power cut brings back is found damaged again.
                disk.remove(self._record(found.span))
        return held

    def _lay_out(self, keep: bool) -> None:
        """The directories, and the metadata of the arrays; what is there is kept and checked, or else written anew."""
        disk.discard_temporaries(self.path, "run.json.*", "commits/*", "scores.zarr/**/*")
        disk.create_directory(self.path / "commits")
        for name in self.names:
            disk.create_directory(self._chunk(name, self.spans[0]).parent)
        for file, content in self._zarr_metadata().items():
            target = self.path / "scores.zarr" / file
            if not (keep and target.exists()):
                disk.replace_file(target, content)
                continue
            stored, expected = _shape_of_array(target.read_bytes()), _shape_of_array(content)
            if stored == expected:
                continue
            if stored not in [{**expected, "shape": [former["n"]]} for former in self.meta["grown"]]:
                raise RunError(f"{target} is not what {self.path / 'run.json'} says; remove it and go on")
            disk.replace_file(target, content)

    def _zarr_metadata(self) -> dict[str, bytes]:
        """The zarr.json files of scores.zarr, as zarr-python writes them (here: into memory)."""
        import zarr

        written: dict[str, Any] = {}
        group = zarr.create_group(zarr.storage.MemoryStore(written), zarr_format=3)
        for name in self.names:
            dtype, fill = self._kind(name)
            group.create_array(
                name,
                shape=(self.meta["pool"]["n"],),
                chunks=(self.meta["span"],),
                dtype=dtype,
                fill_value=fill,
                compressors=None,
                filters=None,
            )
        return {key: value.to_bytes() for key, value in written.items()}

    # -- reading ---------------------------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """The records of this run, by span; whether their chunks match shows when these are read."""
        return [record for record in map(self._decode, self.spans) if isinstance(record, Record)]

    def damage(self) -> Iterator[Damage]:
        """What is not as it was committed, in order; reads everything, changes nothing."""
        yield from (found for found in self._examine() if isinstance(found, Damage))
        for file, content in self._zarr_metadata().items():
            target = self.path / "scores.zarr" / file
            if not target.exists():
                yield Damage(None, target, "it is missing")
            elif _shape_of_array(target.read_bytes()) != _shape_of_array(content):
                yield Damage(None, target, "it is not what run.json says")

    def read(self, record: Record, name: str) -> Values:
        """The committed values (span.n,) of a score.

        Raises:
            RunError: the chunk is missing, or is not what was committed.
        """
        values = self._load(record, name)
        if isinstance(values, Damage):
            raise RunError(
                f"{values.file} is damaged: {values.why}, so it is not what was committed as {record.span}. "
                "Score the pool into the same directory again: only this span is repeated"
            )
        return values

    def gather(self, records: Iterable[Record], name: str, ids: npt.NDArray[np.int64]) -> Values:
        """The committed values of a score at ``ids``, in their order; what is not committed reads "not scored"."""
        out = self.empty(name, len(ids))
        index = ids // self.meta["span"]
        wanted = set(index.tolist())
        for record in records:
            if record.span.index in wanted:
                here = (index == record.span.index) & (ids < record.span.stop)
                out[here] = self.read(record, name)[ids[here] - record.span.start]
        return out

    def _examine(self) -> Iterator[Record | Damage]:
        """Every record that holds and every damage, by span. Threads: reading and checksums release the interpreter."""

        def check(span: Span) -> Record | Damage | None:
            record = self._decode(span)
            if isinstance(record, Record):
                for name in self.names:
                    if isinstance(values := self._load(record, name), Damage):
                        return values
            return record

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            yield from (found for found in threads.map(check, self.spans) if found is not None)

    def _load(self, record: Record, name: str) -> Values | Damage:
        """The values of a chunk if it is what the record says."""
        file, (dtype, _) = self._chunk(name, record.span), self._kind(name)
        try:
            stored = file.read_bytes()
        except FileNotFoundError:
            return Damage(record.span, file, "it is missing")
        except OSError as error:
            return _bad_sector(error, record.span, file)
        expected = self.meta["span"] * dtype.itemsize
        if len(stored) != expected:
            return Damage(record.span, file, f"it has {len(stored)} bytes instead of {expected}")
        values = np.frombuffer(stored, dtype)[: record.span.n]
        if _crc(values) != record.crc32[name]:
            return Damage(record.span, file, "its crc32 is another")
        return values

    # -- names and formats -----------------------------------------------------------------------------------------------

    def _kind(self, name: str) -> tuple[np.dtype[Any], float]:
        """Dtype and fill value. Classes are integers; what regression predicts is not."""
        if name == "prediction" and self.meta["likelihood"] != "gaussian":
            return np.dtype("<i4"), -1
        return np.dtype("<f4"), float("nan")

    def _chunk(self, name: str, span: Span) -> Path:
        return self.path / "scores.zarr" / name / "c" / str(span.index)

    def _record(self, span: Span) -> Path:
        return self.path / "commits" / f"{span.index:06d}.json"

    def _encode(self, record: Record) -> bytes:
        said = {
            "run": self.meta["id"],
            "span": record.span.index,
            "start": record.span.start,
            "n": record.span.n,
            "scored": record.scored,
            "crc32": dict(record.crc32),
            "non_finite": {"count": len(record.nonfinite_ids), "ids": list(record.nonfinite_ids)},
            "unreadable": {"count": sum(b - a for a, b in record.unreadable), "ranges": list(record.unreadable)},
            "seconds": round(record.seconds, 6),
            "device": record.device,
        }
        return _to_json({**said, "check": _check(said)})

    def _decode(self, span: Span) -> Record | Damage | None:
        """The record of a span, None if there is none. One of another run or another span is damage like any other."""
        file = self._record(span)
        try:
            said = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            return _bad_sector(error, span, file)
        except ValueError:
            return Damage(span, file, "it is torn")
        if not isinstance(said, dict) or _check(said) != said.get("check"):
            return Damage(span, file, "its checksum is another")
        if said["run"] != self.meta["id"]:
            return Damage(span, file, f"it belongs to another run, {said['run']}")
        if said["start"] != span.start or not 0 < said["n"] <= span.n:
            return Damage(span, file, f"it is the record of items {said['start']}..{said['start'] + said['n'] - 1}")
        return Record(
            Span(span.index, span.start, span.start + said["n"]),
            said["scored"],
            said["crc32"],
            tuple(said["non_finite"]["ids"]),
            tuple((a, b) for a, b in said["unreadable"]["ranges"]),
            said["seconds"],
            said["device"],
        )


def _bad_sector(error: OSError, span: Span, file: Path) -> Damage:
    """What cannot be read and never will be is damage; of any other error (no permission, no network) it is not known."""
    if error.errno != errno.EIO:
        raise error
    return Damage(span, file, "the disk cannot read it")


def _crc(values: Values) -> int:
    return zlib.crc32(values.data)


def _check(said: Meta) -> int:
    """A record's own checksum."""
    return zlib.crc32(json.dumps({key: value for key, value in said.items() if key != "check"}).encode())


def _to_json(value: Meta) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _shape_of_array(metadata: bytes) -> Any:
    """What decides how the chunks are read; other versions of zarr-python may write other things beside it."""
    try:
        said = json.loads(metadata)
    except ValueError:
        return None
    return {key: said.get(key) for key in ("node_type", "shape", "data_type", "chunk_grid", "fill_value")}
