"""One read fails (EIO, EACCES, EMFILE, ENOTCONN) or comes short: each verb gives the same answer, or fails; then it works again."""

from __future__ import annotations

import errno
import functools
import random
from pathlib import Path
from typing import Any

from .child import Answer, ask, give
from .faulty import READS, Faults
from .flips import judge, meaning, selection
from .project import SCORE, SELECT, Project

_VERBS: dict[str, tuple[Any, ...]] = {
    "pool info": ("pool", "info", "pool", "--json"),
    "pool verify": ("pool", "verify", "pool", "--quiet", "--json"),
    "run info": ("run", "info", "run", "--json"),
    "run verify": ("run", "verify", "run", "--json"),
    "export": ("export", "run", "--format", "csv", "--out", "all.csv", "--json"),
    "export selection": (
        "export",
        "run",
        "--selection",
        "selection.parquet",
        "--format",
        "csv",
        "--out",
        "c.csv",
        "--json",
    ),
    "select": SELECT,
    "resume": (*SCORE, "run"),
    "score": (*SCORE, "fresh"),
}
_CODES = (errno.EIO, errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOTCONN, errno.ESTALE, 0)


def attack(project: Project, rng: random.Random) -> tuple[str, str]:
    """Let one call of one verb fail, or a few in a row."""
    name = rng.choice(list(_VERBS))
    calls, right = usual(project, name)
    code, times = rng.choice(_CODES), rng.choice((1, 1, 1, 3, 10**6))
    if code == 0:
        short = [at for at, call in enumerate(calls) if call.split()[0] in ("read", "pread", "preadv", "readinto")]
        if not short:
            return "no read", ""
        nth = rng.choice(short)
    else:
        nth = rng.randrange(len(calls))
    folder = project.copy()
    answers, done = ask(folder, lambda: failing(folder, name, nth, code, times))
    what = f"{name}: call {nth} ({done[nth] if nth < len(done) else 'none'}), errno {code}, {times} times"
    outcome, finding = judge(answers, right, what)
    if finding:
        return outcome, finding
    again, _ = ask(folder, lambda: failing(folder, name, -1, 0, 0))
    later, finding = judge(again, right, f"{what}; the same again, without a fault")
    if again[0][1].code:
        return "stuck", f"{what}; the same again, without a fault: {again[0][1].err.strip()[:300]}"
    return (outcome, "") if not finding else (later, finding)


def failing(
    folder: Path, name: str, nth: int, code: int, times: int
) -> tuple[list[tuple[str, Answer, Any]], list[str]]:
    """Give one verb with a fault; returns what it said, and the calls it made."""
    words = _VERBS[name]
    chosen = selection(folder)
    faults = Faults(folder, READS, nth, code, times)
    answer = give(*(chosen if word == "selection.parquet" else word for word in words))
    faults.nth = -1
    return [(name, answer, meaning(folder, words, answer))], faults.calls


@functools.cache
def usual(project: Project, name: str) -> tuple[list[str], list[tuple[str, Answer, Any]]]:
    """Return the calls that a verb makes when none fails, and its answer."""
    folder = project.copy()
    answers, calls = ask(folder, lambda: failing(folder, name, -1, 0, 0))
    return calls, answers
