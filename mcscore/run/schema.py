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
from typing import Any, TypeVar

from ..acquisition import SCORES
from ..errors import RunError
from ..fields import annotations_of, fits, kind_of, parse, sealed, shown, unsealed
from ..jackknife import columns
from ..store.place import AnyPath, place_at
from .screening.options import Screen

FORMAT = "mcscore-run"
VERSION = 2
JSON = dict[str, Any]
SPANS_MAX = 1 << 24  # all are held in memory, and each is a file
T = TypeVar("T")
_HEXADECIMAL = frozenset("0123456789abcdef")


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
    """A pool at one time; ``path`` is empty in the list of former states. ``identity``: see ``Pool.identity``; empty: not recorded."""

    fingerprint: str
    n: int
    path: str = ""
    identity: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How items are scored: the fields of ``Scorer.describe()``.

    ``own_scores``: of the scores that were registered, what they need and whether they are smooth, so that a run can be read without.
    """

    model: Model
    passes: int
    scores: Sequence[str]
    own_scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
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
    deterministic: bool = False
    threads: int = 0
    normalize: Sequence[Sequence[float]] | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> JSON:
        """What an event says of a plan: how the passes run, how many items and passes at a time, on which device."""
        named = {"plan": "path", "step_items": "items", "step_passes": "passes"}
        facts = {name: self.plan.get(field) for name, field in named.items()}
        return {**facts, "passes": self.passes, "device": self.device}

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
    attention: str = ""
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
    screen: Screen | None = None
    not_screened: str = ""
    cuts: Sequence[Mapping[str, Any]] = ()
    certificate: Mapping[str, Any] | None = None
    findings: Sequence[Mapping[str, str]] = ()
    command: Mapping[str, Any] = field(default_factory=dict)

    @property
    def screened(self) -> bool:
        """Whether items get all passes only if they survived a first stage of few."""
        return self.screen is not None and not self.not_screened

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of the stored array: the scores, with errors their standard errors and biases, then the prediction."""
        return (*columns(self.settings.scores, self.settings.errors, self._smooth), "prediction")

    @property
    def _smooth(self) -> dict[str, bool]:
        """Whether the scores that were registered are smooth."""
        return {name: bool(facts.get("smooth", False)) for name, facts in self.settings.own_scores.items()}

    def to_json(self) -> JSON:
        """The content of run.json, with every field."""
        data = to_json(self)
        settings = data.pop("settings")
        return {"format": FORMAT, "version": VERSION, **data, **settings}

    def to_bytes(self) -> bytes:
        """The file run.json: the fields and their checksum."""
        return (json.dumps(sealed(self.to_json()), indent=1) + "\n").encode()

    @staticmethod
    def from_json(data: Any, file: AnyPath) -> RunHeader:
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
            raise RunError(unknown_field(str(file), "settings"))
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
            screen=None if header.screen is None else from_json(Screen, header.screen, f"{where}: screen"),
        )
        header.refuse_impossible(where)
        return header

    def refuse_impossible(self, where: str) -> None:
        """Raise RunError, which begins with ``where``, if a field has a value that no run can have."""
        states, settings = [self.pool, *self.grown], self.settings
        items = [state.n for state in states]
        least = 2 if settings.errors else 1
        if settings.errors and not set(settings.scores) <= SCORES.keys() | settings.own_scores.keys():
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


def read_header(path: AnyPath) -> RunHeader:
    """Read run.json in the directory, or at the URL, ``path``.

    Raises:
        RunError: there is none, it is damaged, or it cannot be read, see ``RunHeader.from_json``.
    """
    try:
        return header_in(place_at(path).read("run.json"), path)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path} is not a run: it has no run.json; `mcscore score` makes one") from None
    except OSError as error:
        why = f"{path / 'run.json'} cannot be read: {error.strerror}" if error.strerror else error
        raise RunError(f"{why}; nothing was changed") from error


def header_in(data: bytes, path: AnyPath) -> RunHeader:
    """Read the content of run.json of the run at ``path``. RunError as ``read_header``."""
    try:
        said = parse(data)
        said = unsealed(said) if isinstance(said, dict) else said
    except ValueError as error:
        raise RunError(
            f"{path / 'run.json'} is damaged: {error}. The scores lie in other files ({path / 'scores.zarr'}, "
            f"{path / 'commits'}), so keep the directory: put run.json back from a copy, and `mcscore run verify` checks it "
            "against them"
        ) from error
    return RunHeader.from_json(said, path / "run.json")


def from_json(schema: type[T], data: Any, where: str, hint: str = "") -> T:
    """Read an object of JSON as a dataclass; objects within it are read if the field's default or name says so.

    Raises:
        RunError: a field without a default is missing, or one is unknown or of a wrong type.
    """
    if not isinstance(data, Mapping):
        raise RunError(f"{where} is {shown(data)}; an object of JSON is needed")
    known: dict[str, Any] = {_key(each.name): each for each in dataclasses.fields(schema)}  # type: ignore[arg-type]
    if unknown := sorted(data.keys() - known.keys()):
        raise RunError(unknown_field(where, unknown[0], hint))
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


def unknown_field(where: str, name: str, hint: str = "") -> str:
    """What an error says of a field that this version does not know."""
    return f"{where} has the unknown field {name!r}: " + (hint or "it was written by a newer mcscore; upgrade mcscore")


def _wrong(where: str, name: str, value: Any, wanted: Any) -> str:
    return f"{where}: the field {name!r} is {shown(value)}; {kind_of(wanted)} is needed"
