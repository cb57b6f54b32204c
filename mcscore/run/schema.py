"""What run.json and the records say: version 2 of the format, field by field (docs/formats.md describes it).

A field that a file lacks has the default written here, so that a new option does not end an old run. A field that is not
written here is refused by name: the file was written by a newer mcscore, and ignoring what it says could mix scores.

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

from ..errors import RunError
from .spans import Span

FORMAT = "mcscore-run"
VERSION = 2
JSON = dict[str, Any]
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
        """The rows of the stored array: the scores, then the prediction."""
        return (*self.settings.scores, "prediction")

    def to_json(self) -> JSON:
        """The content of run.json, with every field."""
        data = to_json(self)
        settings = data.pop("settings")
        return {"format": FORMAT, "version": VERSION, **data, **settings}

    @staticmethod
    def from_json(data: Any, file: Path) -> RunHeader:
        """Check and read the content of run.json.

        Raises:
            RunError: ``file`` is not a run.json, is of another version, or has a field that this version does not know.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise RunError(f"{file.parent} is not a run: its run.json does not have the format {FORMAT!r}")
        version = data.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise RunError(
                f"{file.parent} is a run of format version {version!r}; this mcscore reads version {VERSION}: upgrade mcscore"
            )
        if version < VERSION:
            raise RunError(
                f"{file.parent} is a run of format version {version}, which this mcscore does not read (it reads {VERSION}): "
                "score the pool into another directory"
            )
        names = {_key(each.name) for each in dataclasses.fields(Settings)}
        own = {name: value for name, value in data.items() if name not in names and name not in ("format", "version")}
        settings = {name: value for name, value in data.items() if name in names}
        where = str(file)
        header = from_json(RunHeader, {**own, "settings": from_json(Settings, settings, where)}, where)
        return dataclasses.replace(
            header,
            pool=from_json(PoolState, header.pool, f"{where}: pool"),
            grown=tuple(from_json(PoolState, former, f"{where}: grown") for former in header.grown),
            hardware=tuple(from_json(Hardware, each, f"{where}: hardware") for each in header.hardware),
            edited=tuple(from_json(Edit, each, f"{where}: edited") for each in header.edited),
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
            RunError: a field is missing, or is one that this version does not know.
        """
        if not data.keys() <= _RECORD_FIELDS:
            raise RunError(_unknown(str(file), min(data.keys() - _RECORD_FIELDS)))
        try:
            start = data["start"]
            return Record(
                run=data["run"],
                span=Span(data["span"], start, start + data["n"]),
                scored=data["scored"],
                crc32c=tuple(data["crc32c"]),
                nonfinite_ids=tuple(data.get("nonfinite_ids", ())),
                unreadable=tuple((a, b) for a, b in data.get("unreadable", ())),
                seconds=data.get("seconds", 0.0),
                hardware=data.get("hardware", 0),
                plan=data.get("plan"),
                code=data.get("code", 0),
            )
        except KeyError as error:
            raise RunError(f"{file} lacks the field {error}") from None


_RECORD_FIELDS = {
    *("run", "span", "start", "n", "scored", "crc32c"),
    *("nonfinite_ids", "unreadable", "seconds", "hardware", "plan", "code"),
}


def read_header(path: Path) -> RunHeader:
    """Read run.json in the directory ``path``.

    Raises:
        RunError: there is none, or it cannot be read, see ``RunHeader.from_json``.
    """
    file = path / "run.json"
    try:
        data = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path} is not a run: it has no run.json; `mcscore score` makes one") from None
    except ValueError as error:
        raise RunError(f"{file} cannot be read ({error}): the run is lost, remove it") from error
    return RunHeader.from_json(data, file)


def from_json(schema: type[T], data: Any, where: str, hint: str = "") -> T:
    """Read an object of JSON as a dataclass; objects within it are read if the field's default or name says so.

    Raises:
        RunError: a field without a default is missing, or one is unknown.
    """
    if not isinstance(data, Mapping):
        raise RunError(f"{where} is {type(data).__name__}, not an object of JSON")
    known: dict[str, Any] = {_key(each.name): each for each in dataclasses.fields(schema)}  # type: ignore[arg-type]
    if unknown := sorted(data.keys() - known.keys()):
        raise RunError(_unknown(where, unknown[0], hint))
    for name, each in known.items():
        if name not in data and each.default is MISSING and each.default_factory is MISSING:
            raise RunError(f"{where} lacks the field {name!r}")
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
