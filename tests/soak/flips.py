"""One byte of one metadata file of a pool or a run is changed: each verb gives the same answer, or fails."""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path
from typing import Any

from .child import Answer, ask, give
from .project import SCORE, SELECT, Project, contents, facts

_VERBS: tuple[tuple[Any, ...], ...] = (
    ("pool", "info", "pool", "--json"),
    ("pool", "verify", "pool", "--quiet", "--json"),
    ("run", "info", "run", "--json"),
    ("run", "verify", "run", "--json"),
    ("export", "run", "--format", "csv", "--out", "all.csv", "--json"),
    ("export", "run", "--selection", "selection.parquet", "--format", "csv", "--out", "chosen.csv", "--json"),
    ("report", "run", "--json"),
    SELECT,
    (*SCORE, "run"),
    ("export", "run", "--format", "csv", "--out", "resumed.csv", "--json"),
    (*SCORE, "fresh"),
    ("export", "fresh", "--format", "csv", "--out", "fresh.csv", "--json"),
)


def attack(project: Project, rng: random.Random) -> tuple[str, str]:
    """Flip one byte, or one bit, and give every verb."""
    right, folder = truth(project), project.copy()
    file = rng.choice(metadata(folder))
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data))
    old = data[at]
    around = bytes(data[max(0, at - 12) : at + 8])
    data[at] = rng.choice([old ^ 1 << rng.randrange(8), rng.randrange(256), rng.choice(b'0123456789-"ntf')])
    file.write_bytes(data)
    if data[at] == old:
        return "unchanged", ""
    verbs = [verb for verb in _VERBS if verb[0] != "report" or not rng.randrange(10)]  # it takes longer than all others
    if file.is_relative_to(folder / "run"):
        verbs = [verb for verb in verbs if "fresh" not in verb]  # which reads nothing of the run
    answers = ask(folder, lambda: all_answers(folder, tuple(verbs)))
    what = f"{file.relative_to(folder)} byte {at} in {around!r}: {old:#04x} -> {data[at]:#04x}"
    return judge(answers, right, what)


def judge(answers: list[tuple[str, Answer, Any]], right: list[tuple[str, Answer, Any]], what: str) -> tuple[str, str]:
    """Compare answers with the right ones; what is said with exit code 0 must be the same."""
    wrong, refused = [], 0
    expected_of = {verb: said for verb, _, said in right}
    for verb, answer, said in answers:
        expected = expected_of[verb]
        refused += answer.code != 0
        if answer.code == 0 and said != expected:
            wrong.append(f"`{verb}`: exit 0, {difference(said, expected)}")
        elif answer.raw:
            wrong.append(f"`{verb}`: raw error: {answer.err.strip().splitlines()[-1][:200]}")
    if wrong:
        return "wrong", f"{what}: " + "; ".join(wrong)
    return ("refused" if refused else "same"), ""


def difference(said: Any, expected: Any, where: str = "") -> str:
    """Return the first place where two answers differ."""
    if isinstance(said, dict) and isinstance(expected, dict):
        for name in [*expected, *said]:
            if said.get(name) != expected.get(name):
                return difference(said.get(name), expected.get(name), f"{where}.{name}")
    if isinstance(said, (list, tuple)) and isinstance(expected, (list, tuple)) and len(said) == len(expected):
        for at, (one, other) in enumerate(zip(said, expected, strict=True)):
            if one != other:
                return difference(one, other, f"{where}[{at}]")
    return f"{where} is {str(said)[:80]!r}, not {str(expected)[:80]!r}"


def metadata(folder: Path) -> list[Path]:
    """Return the files of pool and run that are not arrays' chunks, one per kind more than once if it has many."""
    kinds: dict[str, list[Path]] = {}
    for top in ("pool", "run"):
        for path in sorted((folder / top).rglob("*")):
            name = str(path.relative_to(folder))
            if path.is_file() and path.stat().st_size and not re.search(r"/c[./]|\.html$|export-", name):
                kinds.setdefault(re.sub(r"\d+", "#", name), []).append(path)
    return [path for paths in kinds.values() for path in paths[:3]]


def all_answers(folder: Path, verbs: tuple[tuple[Any, ...], ...] = _VERBS) -> list[tuple[str, Answer, Any]]:
    """Give every verb in turn; returns (its name, what it said, what that means)."""
    found = []
    for words in verbs:
        answer = give(*(selection(folder) if word == "selection.parquet" else word for word in words))
        name = " ".join(str(word) for word in words if word not in ("--json", "--quiet"))
        found.append((name, answer, meaning(folder, words, answer)))
    return found


def selection(folder: Path) -> Path:
    """Return the selection of the run."""
    return next(iter(sorted((folder / "run").glob("selection*.parquet"))), folder / "run" / "none.parquet")


def meaning(folder: Path, words: tuple[Any, ...], answer: Answer) -> Any:
    """Return what a verb said and, where it wrote a table, what is in that."""
    said = facts(answer)
    if answer.code == 0 and words[0] == "export":
        return [said, (folder / str(words[words.index("--out") + 1])).read_text()]
    if answer.code == 0 and words[0] == "select":
        return [said, contents(selection(folder))]
    return said


@functools.cache
def truth(project: Project) -> list[tuple[str, Answer, Any]]:
    """Return the answers of a project without harm."""
    folder = project.copy()
    answers: list[tuple[str, Answer, Any]] = ask(folder, lambda: all_answers(folder))
    if failed := [f"{verb}: {answer.err}" for verb, answer, _ in answers if answer.code]:
        raise RuntimeError("; ".join(failed))
    return answers
