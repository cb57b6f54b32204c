"""``python -m tests.soak [CAMPAIGN ...] --seed S --minutes M``: one line of counts per campaign; exit code 1 if one found something."""

from __future__ import annotations

import importlib
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import click

from . import project

# Name -> share of the time. Each is a module with attack(project, rng) -> (outcome, finding or "").
CAMPAIGNS = {
    "flips": 5,
    "reads": 4,
    "writes": 3,
    "kills": 6,
    "races": 2,
    "swaps": 3,
    "appends": 3,
    "shards": 6,
    "drivers": 6,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CAMPAIGNS)), metavar="[CAMPAIGN]...")
@click.option("--seed", default=0, show_default=True, help="What is done follows from it.")
@click.option("--minutes", default=10.0, show_default=True, help="For all campaigns together.")
@click.option("--case", type=int, help="Do one case again, and keep its folder.")
def main(names: tuple[str, ...], seed: int, minutes: float, case: int | None) -> None:
    """Attack mcscore: flipped bytes, failing reads and writes, kills, races, swapped pools, many appends."""
    names = names or tuple(CAMPAIGNS)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    whole = project.make(folder)
    shares = sum(CAMPAIGNS[name] for name in names)
    found = 0
    for name in names:
        seconds = 60 * minutes * CAMPAIGNS[name] / shares
        found += campaign(name, whole, seed, seconds, range(case, case + 1) if case is not None else range(10**9))
    if case is None:
        shutil.rmtree(folder)
    else:
        click.echo(f"the case is in {folder}")
    sys.exit(1 if found else 0)


def campaign(name: str, whole: project.Project, seed: int, seconds: float, cases: range) -> int:
    """Run one campaign until its time or its cases are over; prints its counts and returns the number of findings."""
    module = importlib.import_module(f".{name}", __package__)
    begin, counts, findings = time.monotonic(), Counter[str](), []
    for case in cases:
        if time.monotonic() - begin > seconds or case >= getattr(module, "CASES", 10**9):
            break
        module_seconds = seconds - (time.monotonic() - begin)
        rng = random.Random(f"{seed} {name} {case}")
        rng.seconds = module_seconds  # type: ignore[attr-defined]  # for a campaign of one long case
        try:
            outcome, finding = module.attack(whole, rng)
        except (RuntimeError, TimeoutError, OSError):
            outcome, finding = "broken", traceback.format_exc()
        counts[outcome] += 1
        if finding:
            findings.append((case, finding))
            click.echo(f"  {name} --seed {seed} --case {case}: {finding}", err=True)
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    click.echo(
        f"{name}: seed {seed}, {counts.total()} cases in {time.monotonic() - begin:.0f} s: {told}; {len(findings)} findings"
    )
    return len(findings)


if __name__ == "__main__":
    main()
