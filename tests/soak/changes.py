"""The verbs that change something: how each is called, and what must be there in the end."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .child import Answer, ask, give
from .flips import difference
from .project import SCORE, SELECT, Project, contents, facts, names


@dataclass(frozen=True)
class Change:
    """A verb that writes.

    Attributes:
        words: the command.
        target: what it writes, a pool, a run or a file.
        again: whether the same command after it is done is an error, since there is something already.
    """

    words: tuple[Any, ...]
    target: str
    again: int = 0


CHANGES = {
    "import": Change(("pool", "import", "items.npy", "new", "--layout", "chw", "--json"), "new", 1),
    "import images": Change(
        ("pool", "import", "images", "new", "--size", 4, "--workers", 2, "--quiet", "--json"), "new", 1
    ),
    "append": Change(("pool", "append", "pool", "a.npy", "--layout", "chw", "--json"), "pool"),
    "append images": Change(("pool", "append", "pictures", "more", "--workers", 2, "--quiet", "--json"), "pictures"),
    "label": Change(("pool", "label", "pool", "labels-x.csv", "--json"), "pool"),
    "exclude": Change(("pool", "exclude", "pool", "100-140", "--json"), "pool"),
    "score": Change((*SCORE, "new"), "new"),
    "select": Change(SELECT, "run"),
    "export": Change(("export", "run", "--format", "parquet", "--out", "new.parquet", "--json"), "new.parquet"),
    "report": Change(("report", "run", "--json"), "run"),
    "compact": Change(("pool", "compact", "pool", "--json"), "pool"),
}
SLOW = {"import images": 0.15, "append images": 0.15, "report": 0.3}  # how often, against the others


@dataclass(frozen=True)
class Outcome:
    """What a change leaves behind.

    Attributes:
        answer: what the verb said.
        state: what pool, run or file then hold.
        names: all files of the project.
        seconds: how long it took.
    """

    answer: Answer
    state: Any
    names: frozenset[str]
    seconds: float


def do(folder: Path, name: str) -> Outcome:
    """Make a change, in this process; it must be a child."""
    begin = time.monotonic()
    answer = give(*CHANGES[name].words)
    seconds = time.monotonic() - begin
    return Outcome(answer, state(folder, CHANGES[name].target), frozenset(names(folder)), seconds)


def state(folder: Path, target: str) -> Any:
    """Return all that a pool, run or file says of itself, and its data."""
    path = folder / target
    said: list[Any] = [contents(path)]
    if (path / "run.json").exists():
        said += [facts(give("run", verb, path, "--json")) for verb in ("info", "verify")]
    elif (path / "zarr.json").exists():
        said += [facts(give("pool", verb, path, "--json")) for verb in ("info", "verify")]
    return said


@functools.cache
def usual(project: Project, name: str) -> Outcome:
    """Return what a change leaves behind when nothing happens to it."""
    folder = project.copy()
    outcome: Outcome = ask(folder, lambda: do(folder, name))
    if outcome.answer.code:
        raise RuntimeError(f"{name}: {outcome.answer.err}")
    return outcome


@functools.cache
def changes() -> tuple[list[str], list[float]]:
    """Return the names of the changes that this version knows, and how often each is drawn."""
    from mcscore.cli.pool import pool

    known = [name for name in CHANGES if CHANGES[name].words[0] != "pool" or CHANGES[name].words[1] in pool.commands]
    return known, [SLOW.get(name, 1.0) for name in known]


def finish(project: Project, folder: Path, name: str) -> tuple[Answer, str]:
    """Give a command again after something happened to it; returns its answer and what is not as it should be."""
    right = usual(project, name)
    outcome: Outcome = ask(folder, lambda: do(folder, name))
    if outcome.answer.code not in (0, CHANGES[name].again):
        return outcome.answer, f"the same again: exit {outcome.answer.code}, {outcome.answer.err.strip()[:300]}"
    if outcome.state != right.state:
        return outcome.answer, f"the same again: exit {outcome.answer.code}, {difference(outcome.state, right.state)}"
    # What was appended before the kill is listed as known when it is given again.
    if litter := {found for found in outcome.names - right.names if not found.endswith(".bad.csv")}:
        return outcome.answer, f"litter after the same again: {sorted(litter)[:5]}"
    return outcome.answer, ""
