"""What run.json and the records say: version 2 of the format, field by field (docs/formats.md describes it).

A field that a file lacks has the default written here, so that a new option does not end an old run. A field that is not
written here is refused by name: the file was written by a newer mcscore, and ignoring what it says could mix scores.

A field of another type than is written here, or with a value that no run has, is refused by name, too. run.json ends in a
checksum of its fields (see fields.py), which files of before it was introduced lack.

A new setting of ``Scorer.describe()`` needs one line in ``Settings``: its name and the default that older runs had.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..acquisition import SCORES
from ..errors import RunError
from ..fields import annotations_of, fits, kind_of, parse, sealed, shown, unsealed
from ..jackknife import columns
from .spans import Span

FORMAT = "mcscore-run"
VERSION = 2
JSON = dict[str, Any]
SPANS_MAX = 1 << 24  # all are held in memory, and each is a file
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model scored, and where it came from. ``class_`` is the field "class".

    ``code`` is None where it was not recorded; ``unseen`` says what of it could not be compared, and ``changing`` names what
    scoring itself changes.
    """

    fingerprint: str
    class_: str = ""
    spec: str | None = None
    weights: str | None = None
    weights_part: str | None = None
    spec_sha256: str | None = None
    code: Mapping[str, str] | None = None
    unseen: Sequence[str] = ()
    changing: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Other code that a run went on with, because that was asked for: when, what differed from the start, and all of the code."""

    code: Mapping[str, str]
    at: str = ""
    changed: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class PoolState:
    """A pool at one time; ``path`` is empty in the list of former states."""

    fingerprint: str
    n: int
    path: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How items are scored: the fields of ``Scorer.describe()``."""

    model: Model
    passes: int
    scores: Sequence[str]
    seed: int = 0
    masks: str = "independent"
    likelihood: str = "categorical"
    input: str = "logits"
    noise_variance: float | None = None
    reduction: str | float = "mean"
    errors: bool = False
    weight_dropout: float | None = None
    sites: Sequence[Mapping[str, Any]] = ()
    device: str = ""
    dtype: str = "float32"
    precision: str | None = None
    channels_last: bool = False
    compile: bool = False
    threads: int = 0
    normalize: Sequence[Sequence[float]] | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of_scorer(described: Mapping[str, Any]) -> Settings:
        """The settings that ``Scorer.describe()`` gives."""
        return from_json(
            Settings, as_json(described), "Scorer.describe()", "add it with its default to mcscore.run.schema.Settings"
        )


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What decides the last bits of a score: the same values, the same bits.

    Fields that do not concern the device are empty: instruction sets on a GPU, CUDA on a CPU.
    """

    device: str = ""
    capability: str = ""
    driver: str = ""
    cuda: str = ""
    cudnn: str = ""
    instruction_set: str = ""
    torch_instruction_set: str = ""
    blas: str = ""
    matmul_precision: str = ""
    tf32: Mapping[str, str] = field(default_factory=dict)
    reduced_precision: bool = False
    deterministic: str = ""


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """The content of run.json; in the file the settings stand beside the other fields."""

    id: str
    created: str = ""
    pool: PoolState
    grown: Sequence[PoolState] = ()
    settings: Settings
    labeled: bool = False
    span: int
    block_items: int
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Sequence[Hardware] = ()
    edited: Sequence[Edit] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of the stored array: the scores, with errors their standard errors and biases, then the prediction."""
        return (*columns(self.settings.scores, self.settings.errors), "prediction")

    def to_json(self) -> JSON:
        """The content of run.json, with every field."""
        data = to_json(self)
        settings = data.pop("settings")
        return {"format": FORMAT, "version": VERSION, **data, **settings}

    def to_bytes(self) -> bytes:
        """The file run.json: the fields and their checksum."""
        return (json.dumps(sealed(self.to_json()), indent=1) + "\n").encode()

    @staticmethod
    def from_json(data: Any, file: Path) -> RunHeader:
        """Check and read the content of run.json, without its checksum.

        Raises:
            RunError: ``file`` is not a run.json, is of another version, has a field that this version does not know, or one
                of a wrong type or value.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise RunError(f"{file.parent} is not a run: its run.json does not have the format {FORMAT!r}")
        version = data.get("version")
        if type(version) is not int or version > VERSION:
            raise RunError(
                f"{file.parent} is a run of format version {version!r}; this mcscore reads version {VERSION}: upgrade mcscore"
            )
        if version < VERSION:
            raise RunError(
                f"{file.parent} is a run of format version {version}, which this mcscore does not read (it reads {VERSION}): "
                "score the pool into another directory"
            )
        if "settings" in data:
            raise RunError(_unknown(str(file), "settings"))
        names = {_key(each.name) for each in dataclasses.fields(Settings)}
        own = {name: value for name, value in data.items() if name not in names and name not in ("format", "version")}
        settings = {name: value for name, value in data.items() if name in names}
        where = str(file)
        header = from_json(RunHeader, {**own, "settings": from_json(Settings, settings, where)}, where)
        header = dataclasses.replace(
            header,
            pool=from_json(PoolState, header.pool, f"{where}: pool"),
            grown=tuple(from_json(PoolState, former, f"{where}: grown") for former in header.grown),
            hardware=tuple(from_json(Hardware, each, f"{where}: hardware") for each in header.hardware),
            edited=tuple(from_json(Edit, each, f"{where}: edited") for each in header.edited),
        )
        header.refuse_impossible(where)
        return header

    def refuse_impossible(self, where: str) -> None:
        """Raise RunError, which begins with ``where``, if a field has a value that no run can have."""
        states, settings = [self.pool, *self.grown], self.settings
        items = [state.n for state in states]
        least = 2 if settings.errors else 1
        if settings.errors and not set(settings.scores) <= SCORES.keys():
            raise RunError(
                f"{where}: the field 'scores' is {shown(settings.scores)}; errors are known of {', '.join(SCORES)}"
            )
        limits: list[tuple[bool, str, Any, str]] = [
            (len(self.id) == 32 and set(self.id) <= _HEXADECIMAL, "id", self.id, "32 hexadecimal digits"),
            (min(items) > 0 and max(items) < 2**63, "pool.n", items, "whole numbers from 1 to 2^63 - 1"),
            (items[0] == max(items), "grown", items[1:], f"numbers of items up to those of the pool, {items[0]}"),
            (0 < self.span <= self.pool.n, "span", self.span, f"a whole number from 1 to {self.pool.n}"),
            (self.block_items > 0, "block_items", self.block_items, "a whole number from 1 on"),
            (least <= settings.passes <= 1 << 16, "passes", settings.passes, f"a whole number from {least} to 65,536"),
            (0 <= settings.seed < 1 << 64, "seed", settings.seed, "a whole number from 0 to 2^64 - 1"),
            (0 < len(self.rows) - 1 < len(set(self.rows)), "scores", settings.scores, "names, each once"),
        ]
        for holds, name, value, wanted in limits:
            if not holds:
                raise RunError(f"{where}: the field {name!r} is {shown(value)}; {wanted} is needed")
        if (spans := -(-self.pool.n // self.span)) > SPANS_MAX:
            raise RunError(
                f"{where}: the field 'span' is {self.span}, which cuts {self.pool.n:,} items into {spans:,} spans; "
                f"at most {SPANS_MAX:,} are possible: choose a larger span"
            )


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
        return data

    @staticmethod
    def from_json(data: JSON, file: Path) -> Record:
        """Read a record; written out field by field for speed.

        Raises:
            RunError: a field is missing, of a wrong type, or is one that this version does not know.
        """
        if not isinstance(data, dict):
            raise RunError(f"{file} holds {shown(data)}; a record is an object of JSON")
        if not data.keys() <= _RECORD_FIELDS.keys():
            raise RunError(_unknown(str(file), min(data.keys() - _RECORD_FIELDS.keys())))
        for name, value in data.items():
            wanted = _RECORD_FIELDS[name]
            if type(value) not in wanted or (type(value) is list and not _ELEMENTS[name].issuperset(map(type, value))):
                raise RunError(f"{file}: the field {name!r} is {shown(value)}, which is of a wrong type")
        try:
            start = data["start"]
            return Record(
                run=data["run"],
                span=Span(data["span"], start, start + data["n"]),
                scored=data["scored"],
                crc32c=tuple(data["crc32c"]),
                nonfinite_ids=tuple(data.get("nonfinite_ids", ())),
                unreadable=tuple(_pair(pair) for pair in data.get("unreadable", ())),
                seconds=data.get("seconds", 0.0),
                hardware=data.get("hardware", 0),
                plan=data.get("plan"),
                code=data.get("code", 0),
            )
        except KeyError as error:
            raise RunError(f"{file} lacks the field {error}") from None
        except ValueError:
            raise RunError(f"{file}: the field 'unreadable' is {shown(data['unreadable'])}; pairs are needed") from None


_HEXADECIMAL = frozenset("0123456789abcdef")
# Not by fields.fits, which takes 10 us for a record.
_RECORD_FIELDS: dict[str, tuple[type, ...]] = {
    "run": (str,),
    **dict.fromkeys(("span", "start", "n", "scored", "hardware", "code"), (int,)),
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


def read_header(path: Path) -> RunHeader:
    """Read run.json in the directory ``path``.

    Raises:
        RunError: there is none, it is damaged, or it cannot be read, see ``RunHeader.from_json``.
    """
    file = path / "run.json"
    try:
        data = parse(file.read_bytes())
        data = unsealed(data) if isinstance(data, dict) else data
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path} is not a run: it has no run.json; `mcscore score` makes one") from None
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}; nothing was changed") from error
    except ValueError as error:
        raise RunError(
            f"{file} is damaged: {error}. The scores lie in other files ({path / 'scores.zarr'}, {path / 'commits'}), so "
            "keep the directory: put run.json back from a copy, and `mcscore run verify` checks it against them"
        ) from error
    return RunHeader.from_json(data, file)


def from_json(schema: type[T], data: Any, where: str, hint: str = "") -> T:
    """Read an object of JSON as a dataclass; objects within it are read if the field's default or name says so.

    Raises:
        RunError: a field without a default is missing, or one is unknown or of a wrong type.
    """
    if not isinstance(data, Mapping):
        raise RunError(f"{where} is {shown(data)}; an object of JSON is needed")
    known: dict[str, Any] = {_key(each.name): each for each in dataclasses.fields(schema)}  # type: ignore[arg-type]
    if unknown := sorted(data.keys() - known.keys()):
        raise RunError(_unknown(where, unknown[0], hint))
    for name, each in known.items():
        if name not in data and each.default is MISSING and each.default_factory is MISSING:
            raise RunError(f"{where} lacks the field {name!r}")
    wanted = annotations_of(schema)
    for name, value in data.items():
        if not fits(value, wanted[known[name].name]):
            raise RunError(_wrong(where, name, value, wanted[known[name].name]))
    values = {known[name].name: value for name, value in data.items()}
    if "model" in values and "model" in known and isinstance(values["model"], Mapping):
        values["model"] = from_json(Model, values["model"], f"{where}: model", hint)
    return schema(**values)


def to_json(value: Any) -> Any:
    """A dataclass as an object of JSON, everything in it likewise."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {_key(each.name): to_json(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, (dict, types.MappingProxyType)):
        return {name: to_json(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(part) for part in value]
    return value


def as_json(value: Any) -> Any:
    """A value as it is after it was written and read: tuples become lists."""
    return json.loads(json.dumps(value))


def _key(name: str) -> str:
    return name.removesuffix("_")


def _unknown(where: str, name: str, hint: str = "") -> str:
    return f"{where} has the unknown field {name!r}: " + (hint or "it was written by a newer mcscore; upgrade mcscore")


def _wrong(where: str, name: str, value: Any, wanted: Any) -> str:
    return f"{where}: the field {name!r} is {shown(value)}; {kind_of(wanted)} is needed"
