"""A transform by which a test sees who scores what, and kills or hangs whoever comes to a marked item. Workers import it."""

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
        folder: of what it leaves: an empty file "pid-N" for each process that it was called in.
        traps: by the first value of an item, "kill" or "hang": what becomes of the first process that comes to it.
        slow: seconds for each call.
    """

    folder: Path
    traps: dict[float, str] = field(default_factory=dict)
    slow: float = 0.0

    def __call__(self, items: Tensor) -> Tensor:
        (self.folder / f"pid-{os.getpid()}").touch()
        for mark, trap in self.traps.items():
            if bool((items[:, 0] == mark).any()) and self._first(trap):
                if trap == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(600)
        time.sleep(self.slow)
        return items

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
