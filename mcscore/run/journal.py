"""The durable part of a run: score chunks, and one commit record per span.

    run.json                    see identity.py
    scores.zarr/<name>/c/<i>    chunk i of a score is span i: float32, little-endian, no codec (the record has the crc)
    commits/<i>.json            span i is done. The only truth: no record, or one that does not match its chunks, not done

A span is committed by writing its chunks, and when these are durable its record. Nothing else is state, so a kill at
any moment costs the span at hand and can count nothing twice.

Chunks are written here and not by zarr-python, which renames but does not fsync (so a chunk could be lost after its
record), and by no means by zarrs, which writes in place (so a kill tears the chunk). The bytes are what Zarr v3's
``bytes`` codec defines, and zarr-python reads them: tests check that.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import disk
from .errors import RunError
from .identity import Meta, read_meta
from .spans import Span, cut

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Record:
    """What a commit record says: this span is scored, these are the checksums of its chunks."""

    span: Span
    scored: int  # the others were labelled or excluded
    crc32: Mapping[str, int]  # by score, of the span's values as stored
    nonfinite_ids: tuple[int, ...]  # scored, but without a finite score
    seconds: float
    device: str


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
        """n values of a score that mean "not scored"."""
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

    def repair(self) -> list[Record]:
        """Check every record against its chunks, and remove those that do not hold: their spans are to be scored again.

        Also puts back what was lost of the arrays' metadata. Returns the records that hold, by span.
        """
        self._lay_out(keep=True)
        held = []
        for span in self.spans:
            record = self._decode(span)
            if record is not None and all(self._intact(record, name) is not None for name in self.names):
                held.append(record)
            elif self._record(span).exists():
                disk.remove(self._record(span))
        disk.sync(self.path / "commits")
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
            elif _shape_of_array(target.read_bytes()) != _shape_of_array(content):
                raise RunError(f"{target} is not what {self.path / 'run.json'} says; remove it and go on")

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
        return [record for record in map(self._decode, self.spans) if record is not None]

    def read(self, record: Record, name: str) -> Values:
        """The committed values (span.n,) of a score.

        Raises:
            RunError: the chunk is missing, or is not what was committed.
        """
        values = self._intact(record, name)
        if values is None:
            raise RunError(
                f"{self._chunk(name, record.span)} is damaged: it is not what was committed as {record.span}. "
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
                here = index == record.span.index
                out[here] = self.read(record, name)[ids[here] - record.span.start]
        return out

    def _intact(self, record: Record, name: str) -> Values | None:
        """The values of a chunk if it is what the record says."""
        dtype, _ = self._kind(name)
        try:
            stored = self._chunk(name, record.span).read_bytes()
        except FileNotFoundError:
            return None
        if len(stored) != self.meta["span"] * dtype.itemsize:
            return None
        values = np.frombuffer(stored, dtype)[: record.span.n]
        return values if _crc(values) == record.crc32[name] else None

    # -- names and formats -----------------------------------------------------------------------------------------------

    def _kind(self, name: str) -> tuple[np.dtype[Any], float]:
        """dtype and fill value. Classes are integers; what regression predicts is not."""
        if name == "prediction" and self.meta["link"] != "gaussian":
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
            "seconds": round(record.seconds, 6),
            "device": record.device,
        }
        return _to_json({**said, "check": _check(said)})

    def _decode(self, span: Span) -> Record | None:
        """The record of a span; None if there is none, or one that is torn, damaged or of another run."""
        try:
            said = json.loads(self._record(span).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(said, dict) or _check(said) != said.get("check"):
            return None
        if (said["run"], said["start"], said["n"]) != (self.meta["id"], span.start, span.n):
            return None
        ids = tuple(said["non_finite"]["ids"])
        return Record(span, said["scored"], said["crc32"], ids, said["seconds"], said["device"])


def _crc(values: Values) -> int:
    return zlib.crc32(values.data)


def _check(said: Meta) -> int:
    """A record's own checksum."""
    return zlib.crc32(_to_json({key: value for key, value in said.items() if key != "check"}))


def _to_json(value: Meta) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _shape_of_array(metadata: bytes) -> Any:
    """What decides how the chunks are read; other versions of zarr-python may write other things beside it."""
    try:
        said = json.loads(metadata)
    except ValueError:
        return None
    return {key: said.get(key) for key in ("node_type", "shape", "data_type", "chunk_grid", "fill_value")}
