"""``python -m benchmarks.evidence NAME``: run an experiment, or go on with it, and write its results, page and picture."""

from __future__ import annotations

import argparse
import datetime
import importlib
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

import mcscore

from . import EXPERIMENTS
from .data import NoDataError
from .experiment import Setting
from .written import write_index, write_results

ROOT = Path(__file__).resolve().parents[2]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument(
        "name",
        choices=[*EXPERIMENTS, "index"],
        help="the experiment, or index: all pages anew, from the results that are there",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: under three minutes")
    parser.add_argument("--data", type=Path, help="folder of the data sets; default: MCSCORE_DATA, or ../shared/data")
    parser.add_argument("--work", type=Path, help="what is done is kept here; default: build/evidence/NAME")
    parser.add_argument("--out", type=Path, help="results, page and picture; default: docs/evidence, with --quick WORK")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="default: those of the experiment")
    parser.add_argument("--methods", nargs="+", default=[], help="run these alone, and write no page (digits)")
    parser.add_argument(
        "--parts", nargs="+", default=[], help="run these alone: sets of regression, x1 x2 x4 of repeats"
    )
    parser.add_argument("--device", default="cpu", help="cuda: train and score on a GPU (digits)")
    parser.add_argument("--threads", type=int, default=1, help="two runs with one thread each beat one run with two")
    given = parser.parse_args(words)
    torch.set_num_threads(given.threads)
    threadpool_limits(given.threads)  # those of NumPy and scikit-learn
    if given.name == "index":
        print(write_index(given.out or ROOT / "docs" / "evidence"))
        return 0
    experiment = importlib.import_module(f".{given.name}", __package__)
    apart, parts = getattr(experiment, "APART", ()), getattr(experiment, "PARTS", ())
    if given.device != "cpu" and not apart:
        parser.error(f"{given.name} runs on the CPU alone: leave out --device")
    for option, asked, known in (("--methods", given.methods, apart), ("--parts", given.parts, parts)):
        if unknown := [name for name in asked if name not in known]:
            parser.error(f"{given.name} has no {unknown[0]!r}; {option} can be: {', '.join(known) or 'nothing'}")
    splits = getattr(experiment, "SPLITS", given.seeds)
    if unknown := [seed for seed in given.seeds if seed not in splits]:
        parser.error(f"{given.name} has no split {unknown[0]}; --seeds can be: {', '.join(map(str, splits))}")
    if given.quick and given.parts:
        parser.error("--quick has parts of its own: leave out --parts")
    torch.backends.cudnn.deterministic = True  # a round that was killed is to give the same model again
    size = "quick" if given.quick else "full"
    work = given.work or ROOT / "build" / "evidence" / f"{given.name}-{size}"
    out = given.out or (work if given.quick else ROOT / "docs" / "evidence")
    begin = time.perf_counter()

    def tell(stage: str) -> None:
        print(f"[{time.perf_counter() - begin:7.1f} s] {stage}", file=sys.stderr, flush=True)

    seeds = tuple(given.seeds or (experiment.QUICK_SEEDS if given.quick else experiment.SEEDS))
    try:
        results = experiment.run(
            Setting(given.data, work, given.quick, seeds, tell, given.device, tuple(given.methods), tuple(given.parts))
        )
    except NoDataError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if given.methods:
        tell(f"{', '.join(given.methods)}: done; without --methods the same command writes the page")
        return 0
    results |= {"experiment": given.name, "size": size, "seeds": list(seeds), "made": made(given)}
    claims = experiment.claims(results)
    results["claims"] = [vars(claim) for claim in claims]
    write_results(results, out)
    tell(f"done; {results['minutes']:.1f} minutes in all, with what was done before")
    for claim in claims:
        print(claim)
    return int(any(claim.verdict == "does not hold" for claim in claims))


def made(given: argparse.Namespace) -> dict[str, Any]:
    """When, where and how the results were made."""
    words = ["python -m benchmarks.evidence", given.name, *["--quick"] * given.quick]
    for option, chosen in (("--seeds", given.seeds), ("--parts", given.parts)):
        words += [option, *map(str, chosen)] if chosen else []
    return {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(words),
        "machine": f"{_cpu()}, {given.threads} thread{'s' * (given.threads > 1)}",
        "versions": f"mcscore {mcscore.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
