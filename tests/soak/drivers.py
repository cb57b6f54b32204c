"""Workers of a driver, and the driver, are killed at random, over and over: what is left in the end is a local run's, bit for bit.

``python -m tests.soak.drivers --kills 100`` goes on until so many processes were ended. ``--way ray`` does so with a Ray cluster of this
machine instead of processes.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import click

from . import shards
from .child import Answer, Child, ask, give
from .project import Project
from .shards import FoundError, litter, state

WAYS = {"processes": ("--workers", 2), "four": ("--workers", 4), "ray": ("--ray", "local", "--max-workers", 2)}
KINDS = ("fresh", "screened", "begun by a shard", "begun locally")
SECONDS = "0.15"  # that a forward pass takes, so that workers, which start in some seconds, are met at work
PATIENCE = 300.0


class _Case:
    """A driver and its workers at work in a folder."""

    def __init__(self, folder: Path, rng: random.Random, kind: str, way: str, kills: int) -> None:
        self.folder, self.rng, self.kind, self.way, self.kills = folder, rng, kind, way, kills
        self.told: list[str] = []
        self.words = (*shards.SCORE, *(shards.SCREENED if kind == "screened" else ()))

    def run(self) -> None:
        """Start the driver, end it and its workers, start it again, and wait for it."""
        if self.kind.startswith("begun"):
            shard = ("--shard", "0/2") if self.kind == "begun by a shard" else ()
            first = Child(self.folder, lambda: give(*self.words, *shard))
            time.sleep(0.5 + self.rng.random())
            first.kill(signal.SIGKILL)
            first.end()
        driver, until = self._start(), time.monotonic() + PATIENCE
        while not driver.ended:
            if time.monotonic() > until:
                raise FoundError("the driver hangs")
            before = self._committed()
            time.sleep(self.rng.random() * 1.5)
            if len(self.told) < self.kills and (self._committed() > before or self.rng.random() < 0.2):
                driver = self._end_one(driver)
        answer: Answer | None = driver.wait()
        if answer is None or answer.code != 0:
            raise FoundError(f"the driver: {answer and answer.err}")
        if left := driver.orphans() if self.way != "ray" else 0:
            raise FoundError(f"{left} workers outlive their driver")
        if left_behind := litter(self.folder):
            raise FoundError(f"left behind: {', '.join(left_behind)}")

    def _start(self) -> Child:
        words = (*self.words, *WAYS[self.way], "--device", "cpu")

        def work() -> Answer:
            os.environ["SECONDS_PER_PASS"] = SECONDS
            return give(*words)

        child = Child(self.folder, work)
        child.limit = PATIENCE
        return child

    def _end_one(self, driver: Child) -> Child:
        workers = _workers(driver.pid, self.way)
        if workers and self.rng.random() < 0.75:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.rng.choice(workers), signal.SIGKILL)
            self.told.append("a worker killed")
            return driver
        number = self.rng.choice((signal.SIGKILL, signal.SIGINT))
        driver.kill(number)
        self.told.append(f"the driver, {signal.Signals(number).name}")
        if number == signal.SIGKILL:
            driver.end()
        elif (answer := driver.wait()) is not None and answer.code not in (0, 3):
            raise FoundError(f"the driver ended by SIGINT with {answer.code}: {answer.err}")
        if left := driver.orphans() if self.way != "ray" else 0:
            raise FoundError(f"{left} workers outlive their driver")
        return self._start()

    def _committed(self) -> int:
        return sum(1 for _ in self.folder.glob("run/**/commits/*.json"))


def _workers(driver: int, way: str) -> list[int]:
    """The workers of a driver, wherever they were started."""
    mark = b"ray::Actor" if way == "ray" else b"mcscore.run.scoring.child"
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and mark in Path(f"/proc/{entry}/cmdline").read_bytes():
                parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]
                if way == "ray" or int(parent) == driver:
                    found.append(int(entry))
    return found


def attack(project: Project, rng: random.Random, way: str = "", kills: int | None = None) -> tuple[str, str]:
    """Let workers score a run while some of them, or their driver, are killed; kills: how many."""
    kind, way = rng.choice(KINDS), way or rng.choice(("processes", "four"))
    kills = rng.randint(2, 6) if kills is None else kills
    usual = shards.usual(project, kind)
    folder = shards.fresh(project)
    case = _Case(folder, rng, kind, way, kills)
    try:
        case.run()
    except FoundError as error:
        return "wrong", f"{kind}, {way}, {', '.join(case.told)}: {error}"
    found: dict[str, Any] = ask(folder, lambda: state(folder))
    if wrong := [name for name in usual if found.get(name) != usual[name]]:
        return "wrong", f"{kind}, {way}, {', '.join(case.told)}: not those of a local run: {', '.join(wrong)}"
    return f"{kind}: {len(case.told)} kills, {way}", ""


@click.command()
@click.option("--seed", default=None, type=int, help="What is done follows from it; default: by chance.")
@click.option("--kills", default=100, show_default=True, help="Go on until so many processes were ended.")
@click.option("--way", default="processes", type=click.Choice(list(WAYS)), show_default=True)
def main(seed: int | None, kills: int, way: str) -> None:
    """Kill workers and drivers until enough have been killed; exit code 1 if a run was not as it should be."""

    def ready(warm: Path) -> list[Any]:
        return [give(*shards.SCORE, *shards.SCREENED), state(warm)]

    shards.campaign("drivers", seed, kills, ready, lambda project, rng, here: attack(project, rng, way, here))


if __name__ == "__main__":
    main()
