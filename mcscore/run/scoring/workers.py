"""``Workers``: how many processes of this machine score a run, and on what."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ...errors import RunError
from ...recipe import Pickled, Recipe
from ..identity.match import state_of
from .crew import Crew
from .crewed import Crewed
from .here import Here
from .orders import Outfit, Team
from .task import Engine

if TYPE_CHECKING:
    from ...pool import Pool
    from ...scorer.scorer import Scorer

_CORES = 4  # of a CPU, for a worker of which nobody said how many there are to be


class Staff(Protocol):
    """Who the workers of a run are."""

    @property
    def timeout(self) -> float | None:
        """Seconds that a span may take; None: 10 minutes, or 20 times the longest one so far."""

    def size(self, device: str | None) -> int:
        """How many workers there are."""

    def threads(self, device: str | None) -> int:
        """Threads of each, for a new run."""

    def team(self, outfit: Outfit, device: str | None) -> Team:
        """Start no worker yet."""


@dataclass(frozen=True)
class Workers:
    """Processes of this machine that score a run, each on a device of its own. The calling process commits what they score.

    Attributes:
        n: how many; default: one for each GPU that is visible, and without a GPU one for every four cores.
        threads_each: threads of a process in a new run; default: its share of the cores. A run that is resumed keeps its number.
        timeout: seconds after which a process that is still at one span is stopped; default: 10 minutes, or 20 times as long as the
            longest span so far.

    Raises:
        RunError: a number is not positive.
    """

    n: int | None = None
    threads_each: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        for name in ("n", "threads_each", "timeout"):
            if (given := getattr(self, name)) is not None and given <= 0:
                raise RunError(f"workers need a positive {name}, got {given}")

    def size(self, device: str | None) -> int:
        """How many workers there are."""
        return self.n or (len(_gpus(device)) or max(1, _cores() // _CORES))

    def threads(self, device: str | None) -> int:
        """Threads of each, for a new run."""
        return self.threads_each or max(1, _cores() // self.size(device))

    def team(self, outfit: Outfit, device: str | None) -> Team:
        """The processes; none is started yet."""
        from .processes import ProcessTeam

        devices = _gpus(device) or [device or "cpu"]
        n = self.size(device)
        return ProcessTeam(outfit, (devices * n)[:n])


def _gpus(device: str | None) -> list[str]:
    """The GPUs that ``device`` leaves to choose from."""
    import torch

    if device in (None, "cuda"):
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    assert device is not None
    return [device] if device.startswith("cuda") else []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def engine_of(
    pool: Pool, scorer: Scorer | Recipe, staff: Staff | None, device: str | None, threads: int | None
) -> Iterator[Engine]:
    """The engine that scores a run: a scorer of this process, or workers, which are stopped at the end.

    Args:
        pool: the items.
        scorer: the scorer, or how it is made.
        staff: who scores; None: this process.
        device: on which; None: of the scorer, or whatever there is.
        threads: of each worker; None: as the staff says.
    """
    if staff is None:
        yield Here(pool, scorer.build(device or _best_device()) if isinstance(scorer, Recipe) else scorer)
        return
    with crew_of(pool, scorer, staff, device, threads) as crew:
        yield Crewed(crew)


@contextmanager
def crew_of(
    pool: Pool, scorer: Scorer | Recipe, staff: Staff, device: str | None = None, threads: int | None = None
) -> Iterator[Crew]:
    """The workers of a staff, which are stopped at the end; arguments as of ``engine_of``."""
    if not isinstance(scorer, Recipe):
        device, scorer = device or scorer.device.partition(":")[0], Pickled.of(scorer)
    outfit = Outfit(state_of(pool), scorer, threads or staff.threads(device))
    crew = Crew(staff.team(outfit, device), staff.size(device), staff.timeout)
    try:
        yield crew
    finally:
        crew.close()


def staff_of(workers: int | Staff | None) -> Staff | None:
    """The staff that a number of workers stands for."""
    return Workers(workers) if isinstance(workers, int) else workers


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
