"""Shards are killed at random and started again, over and over: what they leave in the end is a local run's, bit for bit.

``python -m tests.soak.shards --kills 100`` goes on until so many processes were ended, and prints what each case was.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np

from .child import Answer, Child, ask, give, preload
from .project import Project

_NET = """
import os
import time

import torch
from torch import nn


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(16, 16), nn.Dropout(0.4), nn.Linear(16, 4)

    def forward(self, x):
        time.sleep(float(os.environ.get("SECONDS_PER_PASS", "0.004")))
        return self.b(self.drop(torch.relu(self.a(x.flatten(1)))))


def build():
    torch.manual_seed(5)
    return Slow(), None
"""
ITEMS, ADDED, SPAN = 700, 90, 16  # 44 spans, the last one partial
SCORE = (
    "score",
    "pool",
    "--model",
    "slow.py:build",
    "--passes",
    4,
    "--span",
    SPAN,
    "--quiet",
    "--json",
    "--out",
    "run",
)
SCREENED = ("--passes", 12, "--screen", 4, "--top", 30)
_SELECT = ("select", "run", "-k", 10, "--diversity", "radius", "--json")
_APPEND = ("pool", "append", "pool", "more.npy", "--layout", "chw", "--json")
_LABEL = ("pool", "label", "pool", "labels.csv", "--json")
# What happens beside the kills.
KINDS = ("fresh", "fresh", "screened", "begun locally", "finished locally", "grown", "labeled meanwhile", "damaged")
PATIENCE = 120.0


def attack(project: Project, rng: random.Random, kills: int | None = None) -> tuple[str, str]:
    """Let 2 or 4 shards score a run while some of them are killed; kills: how many."""
    kind, count = rng.choice(KINDS), rng.choice((2, 4))
    wanted = usual(project, kind)
    folder = fresh(project)
    case = _Case(folder, rng, kind, count, rng.randint(4, 12) if kills is None else kills)
    try:
        case.run()
    except FoundError as error:
        return "wrong", f"{kind}, {count} shards, {', '.join(case.told)}: {error}"
    found = ask(folder, lambda: state(folder))
    if found != wanted:
        wrong = [name for name in wanted if found.get(name) != wanted[name]]
        return "wrong", f"{kind}, {count} shards, {', '.join(case.told)}: not those of a local run: {', '.join(wrong)}"
    return f"{kind}: {case.ended} kills of {count} shards", ""


class FoundError(Exception):
    """What went wrong."""


class _Case:
    """Shards at work in a folder."""

    def __init__(self, folder: Path, rng: random.Random, kind: str, count: int, kills: int) -> None:
        self.folder, self.rng, self.kind, self.count, self.kills = folder, rng, kind, count, kills
        self.ended, self.told, self.labeled = 0, list[str](), False
        self.extra = SCREENED if kind == "screened" else ()

    def run(self) -> None:
        """Start all, end and restart some, and wait for the last."""
        if self.kind in ("begun locally", "grown"):
            self._locally(stopped=self.kind == "begun locally")
        if self.kind == "grown":
            ask(self.folder, lambda: give(*_APPEND))
        children = {index: self._start(index) for index in range(self.count)}
        until = time.monotonic() + PATIENCE
        while children:
            if time.monotonic() > until:
                raise FoundError(f"the shards {sorted(children)} hang")
            time.sleep(self.rng.random() * 0.12)
            for index in [index for index, child in children.items() if child.ended]:
                self._require_done(index, children.pop(index).wait())
            if self.ended < self.kills:
                index = self.rng.randrange(self.count)
                if index in children:
                    self._end(index, children.pop(index))
                    self._meanwhile()
                if self.rng.random() < 0.8 or not children:
                    children.setdefault(index, self._start(index))
            elif self.ended == self.kills:  # those that are down come back
                self.ended += 1
                for index in range(self.count):
                    if index not in children:
                        children[index] = self._start(index)
        self.ended -= 1
        if self.kind == "finished locally":
            self._locally(stopped=False)
        if self.kind == "labeled meanwhile":
            self._label()
        if left := litter(self.folder):
            raise FoundError(f"left behind: {', '.join(left)}")

    def _start(self, index: int) -> Child:
        words = (*SCORE, *self.extra, "--shard", f"{index}/{self.count}")
        return Child(self.folder, lambda: give(*words))

    def _end(self, index: int, child: Child) -> None:
        """Kill a shard, or ask it to stop."""
        number = self.rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        child.kill(number)
        self.told.append(f"{signal.Signals(number).name} to {index}")
        self.ended += 1
        if number == signal.SIGKILL:
            child.end()
            return
        answer = child.wait()
        if child.code == 0 and answer is not None and answer.code not in (0, 3):
            raise FoundError(f"shard {index} ended by SIGTERM with {answer.code}: {answer.err}")

    def _require_done(self, index: int, answer: Answer | None) -> None:
        if answer is None or answer.code != 0:
            raise FoundError(f"shard {index}: {answer and answer.err}")

    def _meanwhile(self) -> None:
        """What else may happen while shards work."""
        if self.kind == "labeled meanwhile" and (self.folder / "run" / "run.json").exists():
            self._label()
        if self.kind == "damaged" and self.ended == 2:
            shards = sorted(self.folder.glob("run/scores.zarr/c/0/[0-9]*"))
            whole = [shard for shard in shards if shard.name.isdigit()]
            if whole:
                file = self.rng.choice(whole)
                data = bytearray(file.read_bytes())
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
                file.write_bytes(data)

    def _label(self) -> None:
        """Label some items, once; the run has fixed by then what it skips."""
        if not self.labeled:
            self.labeled = True
            ask(self.folder, lambda: give(*_LABEL))

    def _locally(self, stopped: bool) -> None:
        child = Child(self.folder, lambda: give(*SCORE, *self.extra))
        if stopped:
            time.sleep(self.rng.random() * 0.6)
            child.kill(signal.SIGKILL)
            child.end()
            self.told.append("a local run killed")
        elif (answer := child.wait()) is None or answer.code != 0:
            raise FoundError(f"a local run: {answer and answer.err}")


def litter(folder: Path) -> list[str]:
    """What lies in a complete run that does not belong there."""
    run = folder / "run"
    usual = {"run.json", "commits", "scores.zarr", "screen", "skipped"}
    found = [path.name for path in run.iterdir() if path.name not in usual]
    found += [str(path.relative_to(run)) for path in run.rglob("*") if path.suffix in (".tmp", ".gone")]
    return found + [path.name for path in run.glob("commits/*") if path.name != "packed.jsonl"]


def state(folder: Path) -> dict[str, Any]:
    """What a complete run holds: scores, records, and what is selected from it; not the times, nor the run's id."""
    from mcscore.run import Run
    from mcscore.run.status import verify

    run = Run.open(folder / "run")
    found: dict[str, Any] = {"complete": run.complete, "damage": [str(each) for each in verify(folder / "run")]}
    stages = {"": run} if run.screen is None else {"": run, "stage 1 ": run.screen}
    for stage, scores in stages.items():
        for name in scores.columns:
            found[stage + name] = np.concatenate([part for _, part in scores.spans(name)]).tobytes()
        found[f"{stage}records"] = _records(scores.path)
    found["certificate"] = run.meta["certificate"]
    answer = give(*_SELECT)
    found["selection"] = (answer.code, json.loads(answer.out)["ids"] if answer.code == 0 else answer.err)
    return found


def _records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line)["record"] for line in (run / "commits" / "packed.jsonl").read_bytes().splitlines()]
    return [{name: value for name, value in record.items() if name not in ("run", "seconds")} for record in lines]


def fresh(project: Project) -> Path:
    """The folder as it is before any run."""
    whole, folder = project.root / "shards-whole", project.root / "shards"
    if not whole.exists():
        whole.mkdir()
        (whole / "slow.py").write_text(_NET)
        rng = np.random.default_rng(11)
        np.save(whole / "items.npy", rng.integers(0, 256, (ITEMS, 1, 4, 4), dtype=np.uint8))
        np.save(whole / "more.npy", rng.integers(0, 256, (ADDED, 1, 4, 4), dtype=np.uint8))
        (whole / "labels.csv").write_text("id,label\n" + "".join(f"{i},1\n" for i in range(0, ITEMS, 9)))
        words = ("pool", "import", "items.npy", "pool", "--layout", "chw", "--classes", "p,q,r,s")
        answer = ask(whole, lambda: give(*words))
        if answer.code:
            raise RuntimeError(answer.err)
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    return folder


_known: dict[tuple[Path, str], dict[str, Any]] = {}


def usual(project: Project, kind: str) -> dict[str, Any]:
    """What a local run holds."""
    kind = kind if kind in ("screened", "grown", "labeled meanwhile") else "fresh"
    key = project.root, kind
    if key not in _known:
        folder = fresh(project)
        words = [(*SCORE, *(SCREENED if kind == "screened" else ()))]
        if kind == "grown":
            words += [_APPEND, SCORE]
        if kind == "labeled meanwhile":
            words += [_LABEL]
        for word in words:
            answer = ask(folder, lambda word=word: give(*word))  # type: ignore[misc]
            if answer.code:
                raise RuntimeError(f"{word}: {answer.err}")
        _known[key] = ask(folder, lambda: state(folder))
    return _known[key]


def campaign(
    name: str,
    seed: int | None,
    kills: int,
    ready: Callable[[Path], object],
    attack: Callable[[Project, random.Random, int], tuple[str, str]],
) -> NoReturn:
    """Attack until so many processes were ended; exit code 1 if a run was not as it should be.

    ready: is done once, so that what it imports need not be imported by each process.
    """
    seed = random.randrange(10**6) if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    whole = Project(folder)
    warm = fresh(whole)
    preload(warm, lambda: ready(warm))
    began, ended, wrong, case = time.monotonic(), 0, 0, 0
    while ended < kills:
        rng = random.Random(f"{seed} {case}")
        here = min(rng.randint(4, 12), kills - ended)
        outcome, finding = attack(whole, rng, here)
        click.echo(f"case {case}: {finding or outcome}")
        ended, wrong, case = ended + here, wrong + bool(finding), case + 1
    click.echo(f"seed {seed}: {ended} kills in {case} runs, {time.monotonic() - began:.0f} s, {wrong} findings")
    if not wrong:
        shutil.rmtree(folder)
    sys.exit(1 if wrong else 0)


@click.command()
@click.option("--seed", default=None, type=int, help="What is done follows from it; default: by chance.")
@click.option("--kills", default=100, show_default=True, help="Go on until so many processes were ended.")
def main(seed: int | None, kills: int) -> None:
    """Kill shards until they have been killed often enough; exit code 1 if a run was not as it should be."""

    def ready(warm: Path) -> list[Any]:
        return [give(*SCORE, *SCREENED, "--shard", "0/1"), state(warm)]

    campaign("shards", seed, kills, ready, attack)


if __name__ == "__main__":
    main()
