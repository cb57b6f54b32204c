"""The pool, the code or the weights become others while a run is under way, or before it goes on: no score of both."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from .child import Child, ask, give
from .project import ITEMS, NET, SCORE, SELECT, Project, scores

_SLOW = (*SCORE[:-1], "--out", "new")  # 20 spans
_KINDS = ("pool", "pool before", "transform", "forward", "constant", "weights", "select after edit")


def attack(project: Project, rng: random.Random) -> tuple[str, str]:
    """Change one thing, early or late."""
    kind = rng.choice(_KINDS)
    old, delay = usual(project), rng.random() * 1.1 * seconds(project)
    folder = project.copy()
    if kind == "select after edit":
        edited = rng.choice(("transform", "forward", "constant", "weights"))
        _edit(folder, edited, rng)
        answer = ask(folder, lambda: give(*SELECT))
        return (
            ("wrong", f"`select` with another {edited}: exit 0, {answer.err.strip()}")
            if answer.code == 0
            else (kind, "")
        )
    child = Child(folder, lambda: give(*_SLOW))
    time.sleep(delay)
    if kind == "pool":
        _other_pool(folder, rng)
        answer = child.wait()
        first = f"exit {answer.code}"
    else:
        child.kill(rng.choice((signal.SIGKILL, signal.SIGTERM)))
        first = f"killed ({child.end()})"
        child.orphans()
        _other_pool(folder, rng) if kind == "pool before" else _edit(folder, kind, rng)
        answer = ask(folder, lambda: give(*_SLOW))
    what = f"{kind} after {delay:.3f} s, {first}: exit {answer.code}"
    if answer.raw:
        return "wrong", f"{what}: raw error: {answer.err.strip()[-200:]}"
    if answer.code:
        return f"{kind} refused", ""
    got = ask(folder, lambda: scores(folder / "new"))
    new = ask(folder, lambda: give(*SCORE, "other")) and ask(folder, lambda: scores(folder / "other"))
    if kind == "pool":  # it may have been read whole before; the run says which pool it is of
        finding = "" if got in (old, new) else "scores of both pools"
        if not finding and got == old:
            again = ask(folder, lambda: give(*_SLOW))
            finding = "" if again.code else "the pool is another now, and the run goes on with exit 0"
    else:
        finding = "" if got == new else "the scores are the old ones" if got == old else "scores of both"
    return ("wrong", f"{what}: {finding}") if finding else (f"{kind} all new", "")


def _other_pool(folder: Path, rng: random.Random) -> None:
    """Put another pool of the same shape in the place of the pool, by two renames."""
    items = np.random.default_rng(rng.randrange(1000)).integers(0, 256, (ITEMS, 1, 4, 4), dtype=np.uint8)
    np.save(folder / "others.npy", items)
    made = ask(
        folder,
        lambda: give(
            *("pool", "import", "others.npy", "others", "--layout", "chw"),
            *("--labels", "labels.npy", "--classes", "p,q,r,s"),
        ),
    )
    if made.code:
        raise RuntimeError(made.err)
    os.rename(folder / "pool", folder / "gone")
    os.rename(folder / "others", folder / "pool")


def _edit(folder: Path, kind: str, rng: random.Random) -> None:
    changed = {
        "transform": NET.replace("x * 1.0", "x * 0.5"),
        "forward": NET.replace("torch.relu", rng.choice(("torch.tanh", "torch.sigmoid"))),
        "constant": NET.replace("SCALE = 1.0", "SCALE = 0.5"),
    }
    if kind == "weights":
        ask(folder, lambda: _other_weights(folder))
    else:
        (folder / "net.py").write_text(changed[kind])


def _other_weights(folder: Path) -> None:
    import torch

    state = torch.load(folder / "net.pt")
    state["b.bias"] += torch.tensor([0.5, -0.5, 0.2, 0.0])
    torch.save(state, folder / "net.pt")


@functools.cache
def usual(project: Project) -> Any:
    """Return the scores when nothing changes."""
    folder = project.copy()
    return ask(folder, lambda: (give(*SCORE, "new"), scores(folder / "new")))[1]


@functools.cache
def seconds(project: Project) -> float:
    """Return how long the run takes."""
    folder = project.copy()
    begin = time.monotonic()
    ask(folder, lambda: give(*SCORE, "new"))
    return time.monotonic() - begin
