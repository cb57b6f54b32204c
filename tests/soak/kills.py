"""SIGKILL, SIGTERM or SIGHUP at a random moment of every verb that writes, then the same command again: as if nothing had been."""

from __future__ import annotations

import random
import signal
import time

from .changes import changes, do, finish, usual
from .child import Child
from .project import Project

_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


def attack(project: Project, rng: random.Random) -> tuple[str, str]:
    """Kill one verb once, or several times in a row, and give it again."""
    name = rng.choices(*changes())[0]
    right, folder = usual(project, name), project.copy()
    told = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        number, delay = rng.choice(_SIGNALS), rng.random() * 1.1 * right.seconds
        child = Child(folder, lambda: do(folder, name))
        time.sleep(delay)
        child.kill(number)
        code = child.end()
        told.append(f"{signal.Signals(number).name} after {delay:.3f} s: {code}")
        if left := child.orphans():
            return "orphans", f"{name}, {', '.join(told)}: {left} processes stay"
    _, finding = finish(project, folder, name)
    return ("wrong", f"{name}, {', '.join(told)}: {finding}") if finding else (name, "")
