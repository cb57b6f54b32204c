"""A transform by which a test sees who scores, and stops whoever comes to a marked item. Workers import it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from mcscore import Scorer
from mcscore.recipe import Recipe


@dataclass
class Watched:
    """Returns its input.

    Attributes:
        folder: of what it leaves: empty files, "pid-N" for each process that it was called in, and one named as $WATCHED says.
        traps: by the first value of an item, what becomes of who comes to it: "kill", "hang" the first process; "wait" all, until there
            is a file "go"; each leaves a file "waits-N".
        slow: seconds for each call.
    """

    folder: Path
    traps: dict[float, str] = field(default_factory=dict)
    slow: float = 0.0

    def __call__(self, items: Tensor) -> Tensor:
        for name in (f"pid-{os.getpid()}", os.environ.get("WATCHED", "")):
            (self.folder / name).touch()
        for mark, trap in self.traps.items():
            if bool((items[:, 0] == mark).any()):
                self._trapped(trap)
        time.sleep(self.slow)
        return items

    def _trapped(self, trap: str) -> None:
        if trap == "wait":
            (self.folder / f"waits-{os.getpid()}").touch()
        while trap == "wait" and not (self.folder / "go").exists():
            time.sleep(0.05)
        if trap == "kill" and self._first(trap):
            os.kill(os.getpid(), signal.SIGKILL)
        if trap == "hang" and self._first(trap):
            time.sleep(600)

    def _first(self, trap: str) -> bool:
        try:
            (self.folder / trap).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@dataclass(frozen=True)
class Noted:
    """A recipe that leaves a file "pid-N" in ``folder`` for the process that it is followed in."""

    folder: Path
    recipe: Recipe

    def build(self, device: str) -> Scorer:
        (self.folder / f"pid-{os.getpid()}").touch()
        return self.recipe.build(device)


def pids(folder: Path) -> set[int]:
    """The processes that were noted."""
    return {int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")}


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
