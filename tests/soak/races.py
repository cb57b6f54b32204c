"""Two processes give a command at once: what is there then is what one after the other would have left."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from .changes import finish, state
from .child import Answer, Child, ask, give
from .flips import difference
from .project import ADDED, ITEMS, SCORE, SELECT, Project, facts

_LABELS = {name: ("pool", "label", "pool", f"labels-{name}.csv", "--json") for name in "xy"}
_APPENDS = {name: ("pool", "append", "pool", f"{name}.npy", "--layout", "chw", "--json") for name in "ab"}


def attack(project: Project, rng: random.Random) -> tuple[str, str]:
    """Give two commands at once, one of them a little later."""
    kind = rng.choice(("append a and b", "append a and a", "label x and y", "score", "select", "label and append"))
    commands: list[tuple[Any, ...]] = {
        "append a and b": [_APPENDS["a"], _APPENDS["b"]],
        "append a and a": [_APPENDS["a"], _APPENDS["a"]],
        "label x and y": [_LABELS["x"], _LABELS["y"]],
        "score": [(*SCORE, "new"), (*SCORE, "new")],
        "select": [SELECT, SELECT],
        "label and append": [_LABELS["x"], _APPENDS["a"]],
    }[kind]
    rng.shuffle(commands)
    folder, lag = project.copy(), rng.choice((0, 0, rng.random() * 0.05, rng.random() * 0.3))
    first = Child(folder, lambda: give(*commands[0]))
    time.sleep(lag)
    second = Child(folder, lambda: give(*commands[1]))
    answers: list[Answer] = [first.wait(), second.wait()]
    what = f"{kind}, {lag:.3f} s apart: exit {answers[0].code} and {answers[1].code}"
    if any(answer.raw for answer in answers):
        return "wrong", f"{what}: raw error: {' '.join(answer.err.strip()[-200:] for answer in answers if answer.raw)}"
    if not any(answer.code == 0 for answer in answers):
        return "wrong", f"{what}: neither is done: {answers[0].err.strip()[:200]}; {answers[1].err.strip()[:200]}"
    finding = _wrong(project, folder, kind, list(zip(commands, answers, strict=True)))
    both = "both done" if all(answer.code == 0 for answer in answers) else "one refused"
    return ("wrong", f"{what}: {finding}") if finding else (f"{kind}: {both}", "")


def _wrong(project: Project, folder: Path, kind: str, given: list[tuple[tuple[Any, ...], Answer]]) -> str:
    """Return what is not as it should be after two commands."""
    done = [words for words, answer in given if answer.code == 0]
    if kind == "score":
        return finish(project, folder, "score")[1]
    if kind == "select":
        return finish(project, folder, "select")[1]
    if kind == "label x and y" and len(done) == 2:
        return "both have set their labels, and the labels differ"
    expected = project.copy("expected")
    right = ask(expected, lambda: [[give(*words).code for words in done], state(expected, "pool")][1])
    said = ask(folder, lambda: state(folder, "pool"))
    n = facts(ask(folder, lambda: give("pool", "info", "pool", "--json")))["items"]
    appended = {words for words in done if words[1] == "append"}
    if n != ITEMS + ADDED * len(appended):
        return f"{n} items, not {ITEMS} + {ADDED} x {len(appended)}"
    if kind == "append a and b" and len(done) == 2:  # in either order
        return ""
    return "" if said == right else difference(said, right)
