"""What a cycle leaves on disk, and how it is read.

    cycle.json              what was asked for, and the results of all rounds so far
    pool/                   the items of the pool, borrowed, with the labels of this cycle
    rounds/round-00.json    what a round ended in: made once, and the only truth
    round-00/               the run of a round

A round is done when its file is there. Its labels are given to the pool after that, and again when the cycle is taken up: so a kill at
any moment costs the round at hand, and no label is given twice or lost. Several methods and seeds have a folder each,
<method>/seed-<seed>, and a cycle.json with all results above them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import atomic
from ..errors import RunError
from ..fields import JSON, parse, sealed, unsealed
from ..paths import is_directory, is_file, names_in
from ..store.lock import locked_in_turn

Ids = npt.NDArray[np.int64]

FORMAT, VERSION = "mcscore-cycle", 1
FILE, ROUNDS, POOL = "cycle.json", "rounds", "pool"


@dataclass(frozen=True)
class Round:
    """The result of one round of the cycle.

    Attributes:
        index: number of the round, from 0.
        labels: number of labels that the model was trained on.
        accuracy: what ``evaluate`` returned; of several measures the first.
        chosen: ids that were labeled after training; empty in the last round.
        given: their labels.
        seconds: time for training, scoring and selecting, of the attempt that ended the round.
        run: the run directory; None where nothing was scored: in the last round and for the random baseline.
        measures: all that ``evaluate`` returned, by name.
        agreement: share of the items scored in this round and the one before whose predicted class is the same; None without two runs.
        stopped: why the cycle ended here, "" if it went on.
    """

    index: int
    labels: int
    accuracy: float
    chosen: Ids
    given: npt.NDArray[Any]
    seconds: float
    run: Path | None
    measures: Mapping[str, float] = field(default_factory=dict)
    agreement: float | None = None
    stopped: str = ""

    def to_json(self) -> JSON:
        """All but ``accuracy``, which is the first of the measures, as JSON; the run by its name."""
        return {
            "index": self.index,
            "labels": self.labels,
            "measures": [[name, value] for name, value in self.measures.items()],  # in their order
            "chosen": self.chosen.tolist(),
            "given": self.given.tolist(),
            "seconds": round(self.seconds, 3),
            "run": None if self.run is None else self.run.name,
            "agreement": self.agreement,
            "stopped": self.stopped,
        }

    @staticmethod
    def from_json(fields: JSON, folder: Path) -> Round:
        """The round of a cycle in a folder. KeyError, TypeError or ValueError if fields are missing or of other types."""
        measures = {str(name): float(value) for name, value in fields["measures"]}
        chosen, given = np.array(fields["chosen"], np.int64), np.array(fields["given"])
        if len(chosen) != len(given) or not measures:
            raise ValueError(f"{len(given)} labels of {len(chosen)} items, {len(measures)} measures")
        return Round(
            int(fields["index"]),
            int(fields["labels"]),
            next(iter(measures.values())),
            chosen,
            given,
            float(fields["seconds"]),
            None if fields["run"] is None else folder / fields["run"],
            measures,
            fields["agreement"],
            str(fields["stopped"]),
        )


@dataclass(frozen=True)
class Curve:
    """The rounds of one method and seed.

    Attributes:
        method: its name.
        seed: the seed.
        folder: the directory of its cycle.
        asked: what was asked for.
        rounds: those that are done.
    """

    method: str
    seed: int
    folder: Path
    asked: JSON
    rounds: Sequence[Round]


class State:
    """The directory of one cycle, which this process has alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, asked: JSON) -> None:
        """Make the directory a cycle, or take up the one that is there.

        Raises:
            RunError: it is the cycle of something else (the field is named), or holds files of another kind.
        """
        try:
            before = _asked(self.folder)
        except FileNotFoundError:
            for name in (POOL, ROUNDS):
                if is_directory(self.folder / name):
                    raise RunError(
                        f"{self.folder} has {name}/ and is not a cycle (it has no {FILE}): choose another"
                    ) from None
            atomic.create_file(
                self.folder / FILE, _encoded({"asked": asked, "rounds": []})
            )  # first: it makes it a cycle
            atomic.create_directory(self.folder / ROUNDS)
            return
        atomic.create_directory(self.folder / ROUNDS)
        atomic.discard_temporaries(self.folder, "*")
        atomic.discard_temporaries(self.folder / ROUNDS, "*")
        now = json.loads(json.dumps(asked))
        for name in dict.fromkeys((*before, *now)):
            if before.get(name) != now.get(name):
                raise RunError(
                    f"{self.folder} cannot be taken up: it was started with {name}={json.dumps(before.get(name))}, now "
                    f"{json.dumps(now.get(name))}. Use what was recorded, or another directory"
                )

    def round(self, index: int) -> Round | None:
        """A round that is done, else None. RunError if its file is damaged."""
        return _round(self.folder, index)

    def keep(self, done: Round, asked: JSON) -> None:
        """Make a round durable: from now on it is done. Then cycle.json, which anyone can make of the rounds."""
        atomic.replace_file(_file(self.folder, done.index), _encoded(done.to_json()))
        self.summarize(asked)

    def summarize(self, asked: JSON) -> None:
        """Write cycle.json anew."""
        rounds = [each.to_json() for each in _rounds(self.folder)]
        atomic.replace_file(self.folder / FILE, _encoded({"asked": asked, "rounds": rounds}))


def read_cycle(folder: Path) -> list[Curve]:
    """The curves of a cycle, or of several in folders below, in the order of their names.

    Raises:
        RunError: there is no cycle, or a file is damaged.
    """
    try:
        fields = _read(folder / FILE)
    except FileNotFoundError as error:
        raise RunError(f"{folder} is not a cycle: it has no {FILE}") from error
    if "asked" in fields:
        asked = fields["asked"]
        return [Curve(asked["method"], asked["seed"], folder, asked, _rounds(folder))]
    order, found = list(fields["methods"]), []
    for method in order:
        for name in names_in(folder / method, "seed-*"):
            if is_file(folder / method / name / FILE):
                found += [
                    Curve(method, each.seed, each.folder, each.asked, each.rounds)
                    for each in read_cycle(folder / method / name)
                ]
    return sorted(found, key=lambda each: (order.index(each.method), each.seed))


def is_cycle(folder: Path) -> bool:
    """Whether a directory is that of a cycle, or of several."""
    return is_file(folder / FILE)


def summarize_all(folder: Path, methods: Sequence[str]) -> None:
    """Write the cycle.json above several cycles: the names of the methods, and all results so far."""
    atomic.create_directory(folder)
    with locked_in_turn(folder):  # processes with other methods write it, too
        _summarize_all(folder, methods)


def _summarize_all(folder: Path, methods: Sequence[str]) -> None:
    before = _order(folder) or []
    order = [*before, *(name for name in methods if name not in before)]
    if order != before:
        atomic.replace_file(folder / FILE, _encoded({"methods": order, "curves": []}))
    curves = [
        {
            "method": curve.method,
            "seed": curve.seed,
            "folder": str(curve.folder.relative_to(folder)),
            "rounds": [each.to_json() for each in curve.rounds],
        }
        for curve in read_cycle(folder)
    ]
    atomic.replace_file(folder / FILE, _encoded({"methods": order, "curves": curves}))


def _order(folder: Path) -> list[str] | None:
    try:
        return list(_read(folder / FILE)["methods"])
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise RunError(f"{folder} is one cycle, and not the directory of several: choose another") from error


def _asked(folder: Path) -> JSON:
    fields = _read(folder / FILE)
    if "asked" not in fields:
        raise RunError(f"{folder} is the directory of several cycles: choose another for one")
    return dict(fields["asked"])


def _file(folder: Path, index: int) -> Path:
    return folder / ROUNDS / f"round-{index:02d}.json"


def _rounds(folder: Path) -> list[Round]:
    rounds: list[Round] = []
    while (done := _round(folder, len(rounds))) is not None:
        rounds.append(done)
    return rounds


def _round(folder: Path, index: int) -> Round | None:
    file = _file(folder, index)
    try:
        return Round.from_json(_read(file), folder)
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(
            f"{file} is damaged: {error}. Remove it and all later ones: these rounds are done again"
        ) from error


def _read(file: Path) -> JSON:
    try:
        fields = parse(file.read_bytes())
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise RunError(f"{file} was not written by mcscore: choose another directory")
        fields = unsealed(fields)
    except ValueError as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{file} is damaged: {error}") from error
    if fields["version"] != VERSION:
        raise RunError(f"{file} has version {fields['version']}, and this mcscore reads {VERSION}")
    return fields


def _encoded(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(sealed({"format": FORMAT, "version": VERSION, **fields}), allow_nan=False).encode() + b"\n"
