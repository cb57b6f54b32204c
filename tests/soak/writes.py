"""One call that writes fails (ENOSPC, EIO, EDQUOT, EROFS): the verb fails or is right, and the same command again mends it."""

from __future__ import annotations

import errno
import functools
import random
from pathlib import Path

from .changes import CHANGES, Outcome, changes, finish, state, usual
from .child import ask, give
from .faulty import WRITES, Faults
from .flips import difference
from .project import Project, names

_CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)


def attack(project: Project, rng: random.Random) -> tuple[str, str]:
    """Let one call of one verb fail, or all from there on."""
    name = rng.choices(*changes())[0]
    count = calls(project, name)
    if not count:
        return "no write", ""
    nth, code, times = rng.randrange(count), rng.choice(_CODES), rng.choice((1, 1, 10**6))
    right, folder = usual(project, name), project.copy()
    outcome, done = ask(folder, lambda: failing(folder, name, nth, code, times))
    answer = outcome.answer
    what = f"{name}: call {nth} ({done[nth] if nth < len(done) else 'none'}), {errno.errorcode[code]}, {times} times"
    if answer.code == 0 and outcome.state != right.state:
        return "wrong", f"{what}: exit 0, {difference(outcome.state, right.state)}"
    if answer.raw:
        return "wrong", f"{what}: raw error: {answer.err.strip().splitlines()[-1][:200]}"
    _, finding = finish(project, folder, name)
    return (
        ("wrong", f"{what}: exit {answer.code}; {finding}") if finding else ("refused" if answer.code else "held", "")
    )


def failing(folder: Path, name: str, nth: int, code: int, times: int) -> tuple[Outcome, list[str]]:
    """Make a change with a fault; returns what it left, looked at when nothing fails any more, and the calls it made."""
    faults = Faults(folder, WRITES, nth, code, times)
    answer = give(*CHANGES[name].words)
    faults.nth = -1
    return Outcome(answer, state(folder, CHANGES[name].target), frozenset(names(folder)), 0.0), faults.calls


@functools.cache
def calls(project: Project, name: str) -> int:
    """Return how many calls a change makes that write."""
    folder = project.copy()
    return len(ask(folder, lambda: failing(folder, name, -1, 0, 0))[1])
