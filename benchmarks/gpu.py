"""Tests and measurements on a GPU, in three parts of less than 9 minutes each. benchmarks/README.md has what each does.

    python -m benchmarks.gpu tests                                    # one kernel, then the tests marked gpu
    python -m benchmarks.gpu jobs [--job vit-b16] [--config mcscore-bf16]     # whole models, pools, uploads
    python -m benchmarks.gpu kernels [--only 'score_logits.*C10 ']    # each kernel

The last lines of the output, at most 12,000 characters, are the summary. Each result is appended to OUT/PART.jsonl as soon
as it is known. Exit code 0: all that ran is right; 1: something failed; 2: there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from . import gpu_jobs, gpu_kernels, gpu_tests
from .gpu_shared import Budget, DeviceLost, Log, fitting, good, say

BUDGETS = {"tests": 240.0, "jobs": 500.0, "kernels": 420.0}  # seconds; a case that runs at the end may take 20 more
HEADROOM = 5.0  # seconds of a process that must be left to start another


def main(arguments: Sequence[str] | None = None) -> int:
    given = options().parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: torch sees no CUDA device; nothing measured, nothing written", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    budget = Budget(given.budget or BUDGETS[given.part])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    about = {"part": given.part, "device": name, "torch": torch.__version__}
    log = Log(given.out / f"{given.part}.jsonl", about, given.resume)
    right = good
    try:
        if given.part == "tests":
            lines, right = gpu_tests.run(device, log, budget, given.workers), gpu_tests.good
        elif given.part == "jobs":
            lines = gpu_jobs.run(device, log, budget, given.job, given.config)
        else:
            lines = gpu_kernels.run(device, log, budget, given.only)
    except DeviceLost as error:
        say(f"{error}: a new process goes on with the next case")
        words = list(sys.argv[1:] if arguments is None else arguments)
        left = str(max(0.0, budget.left - HEADROOM))
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", *words, "--resume", "--budget", left])
    print(fitting([f"benchmarks.gpu {given.part} on {name}, torch {torch.__version__}", *lines], log.path))
    return 0 if right(log.rows) else 1


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name, seconds in BUDGETS.items():
        part = parts.add_parser(name)
        part.add_argument("--budget", type=float, help=f"seconds (default {seconds:.0f})")
        part.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
        part.add_argument("--device", default="cuda")
        part.add_argument("--resume", action="store_true", help="go on with the last run in OUT/PART.jsonl")
        if name == "tests":
            part.add_argument("--workers", type=int, default=gpu_tests.WORKERS)
        if name == "jobs":
            part.add_argument(
                "--job", action="append", default=[], help=f"one of {', '.join(gpu_jobs.names())}; may be repeated"
            )
            part.add_argument("--config", action="append", default=[], help="as mcscore-bf16-cl; may be repeated")
        if name == "kernels":
            part.add_argument("--only", default="", help="regular expression that the name of a case matches")
    return parser


if __name__ == "__main__":
    sys.exit(main())
