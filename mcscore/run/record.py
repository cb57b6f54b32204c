"""``Record``: what a run says of one span that is scored; docs/formats-run.md describes it field by field."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import RunError
from ..fields import shown
from ..store.place import AnyPath
from .schema import JSON, unknown_field
from .spans import Span


class Record(NamedTuple):
    """A span is scored: what is stored of it, and under which conditions.

    A named tuple, as a large run has 150,000: one is made in 0.6 us, a frozen dataclass in 3.5 us.

    Attributes:
        run: the id of the run.
        span: shorter than the run's span of this index if the pool has grown since.
        scored: items that went through the model; the others were labeled, excluded or unreadable.
        crc32c: by row of the shard (scores, then prediction), of the span's values as stored.
        nonfinite_ids: items that were scored, but without a finite score.
        unreadable: (start, stop) of items not scored because the pool could not be read there.
        seconds: time spent on the span, over all attempts.
        hardware: index into run.json's list of hardware classes.
        plan: how the passes ran, if not as run.json says (after the device ran out of memory).
        code: which code scored: 0 that of the start, i the i-th in run.json's list of edits.
        cut: which cut said what of the span is scored: an index into run.json's list of cuts.
    """

    run: str
    span: Span
    scored: int
    crc32c: tuple[int, ...]
    nonfinite_ids: tuple[int, ...] = ()
    unreadable: tuple[tuple[int, int], ...] = ()
    seconds: float = 0.0
    hardware: int = 0
    plan: Mapping[str, Any] | None = None
    code: int = 0
    cut: int = 0

    def to_json(self) -> JSON:
        """The content of a record; fields at their default are left out."""
        data: JSON = {
            "run": self.run,
            "span": self.span.index,
            "start": self.span.start,
            "n": self.span.n,
            "scored": self.scored,
            "crc32c": list(self.crc32c),
            "seconds": round(self.seconds, 6),
        }
        if self.nonfinite_ids:
            data["nonfinite_ids"] = list(self.nonfinite_ids)
        if self.unreadable:
            data["unreadable"] = [list(pair) for pair in self.unreadable]
        if self.hardware:
            data["hardware"] = self.hardware
        if self.plan is not None:
            data["plan"] = dict(self.plan)
        if self.code:
            data["code"] = self.code
        if self.cut:
            data["cut"] = self.cut
        return data

    def facts(self) -> JSON:
        """What an event says of the span."""
        return {
            "span": self.span.index,
            "start": self.span.start,
            "items": self.span.n,
            "scored": self.scored,
            "nonfinite": len(self.nonfinite_ids),
            "unreadable": sum(stop - start for start, stop in self.unreadable),
            "seconds": round(self.seconds, 3),
        }

    @staticmethod
    def from_json(data: JSON, file: AnyPath) -> Record:
        """Read a record; written out field by field for speed.

        Raises:
            RunError: a field is missing, of a wrong type, or is one that this version does not know.
        """
        if not isinstance(data, dict):
            raise RunError(f"{file} holds {shown(data)}; a record is an object of JSON")
        if not data.keys() <= _RECORD_FIELDS.keys():
            raise RunError(unknown_field(str(file), min(data.keys() - _RECORD_FIELDS.keys())))
        for name, value in data.items():
            wanted = _RECORD_FIELDS[name]
            if type(value) not in wanted or (type(value) is list and not _ELEMENTS[name].issuperset(map(type, value))):
                raise RunError(f"{file}: the field {name!r} is {shown(value)}, which is of a wrong type")
        try:
            start = data["start"]
            return Record(
                run=sys.intern(data["run"]),
                span=Span(data["span"], start, start + data["n"]),
                scored=data["scored"],
                crc32c=tuple(data["crc32c"]),
                nonfinite_ids=tuple(data.get("nonfinite_ids", ())),
                unreadable=tuple(_pair(pair) for pair in data.get("unreadable", ())),
                seconds=data.get("seconds", 0.0),
                hardware=data.get("hardware", 0),
                plan=data.get("plan"),
                code=data.get("code", 0),
                cut=data.get("cut", 0),
            )
        except KeyError as error:
            raise RunError(f"{file} lacks the field {error}") from None
        except ValueError:
            raise RunError(f"{file}: the field 'unreadable' is {shown(data['unreadable'])}; pairs are needed") from None


# Not by fields.fits, which takes 10 us for a record.
_RECORD_FIELDS: dict[str, tuple[type, ...]] = {
    "run": (str,),
    **dict.fromkeys(("span", "start", "n", "scored", "hardware", "code", "cut"), (int,)),
    **dict.fromkeys(("crc32c", "nonfinite_ids", "unreadable"), (list,)),
    "seconds": (int, float),
    "plan": (dict, types.NoneType),
}
_ELEMENTS: dict[str, set[type]] = {"crc32c": {int}, "nonfinite_ids": {int}, "unreadable": {list}}


def _pair(value: list[Any]) -> tuple[int, int]:
    start, stop = value
    if not {int}.issuperset((type(start), type(stop))):
        raise ValueError
    return start, stop
