"""The tests on every supported Python that is found, with and without the C++ kernels, with the lowest and the newest dependencies.

    python tests/every_python.py [--torch torch==2.13.0] [--only 3.12] [--pytest tests/kernels]

Each combination is a copy of the tracked files with a virtual environment of its own, made by uv, in build/every. The newest
dependencies include the torch of --torch; the lowest are those that pyproject.toml names, torch among them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Combination:
    """One set-up that the tests run in."""

    python: str
    native: bool
    lowest: bool

    def __str__(self) -> str:
        kernels = "native" if self.native else "no native"
        return f"Python {self.python}, {kernels}, {'lowest' if self.lowest else 'newest'} dependencies"

    def run(self, torch: str, tests: list[str]) -> bool:
        """Install and test; False where either fails."""
        name = f"{self.python}-{'native' if self.native else 'eager'}-{'lowest' if self.lowest else 'newest'}"
        place = ROOT / "build" / "every" / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for file in tracked.decode().split("\0")[:-1]:
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, place / file)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MCSCORE_EVERY_TARGET": "1"}
        environment["VIRTUAL_ENV"] = str(place / ".venv")
        if not self.native:
            environment["MCSCORE_NO_NATIVE"] = "1"
        resolution = ["--resolution", "lowest-direct"] if self.lowest else [torch]
        steps = [
            [_uv(), "venv", "--quiet", "--python", self.python, ".venv"],
            [_uv(), "pip", "install", "--quiet", *resolution, "-e", ".[dev]"],
            [".venv/bin/python", "-m", "pytest", "-n", "2", *tests],
        ]
        return all(subprocess.run(step, cwd=place, env=environment).returncode == 0 for step in steps)


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        sys.exit("uv makes the environments: pip install uv")
    return found


def _found(python: str) -> bool:
    return (
        subprocess.run([_uv(), "python", "find", "--no-python-downloads", python], capture_output=True).returncode == 0
    )


def main() -> None:
    """Exits with 1 where a combination fails, or where no supported Python is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="torch", help="requirement of torch for the newest dependencies")
    parser.add_argument("--only", action="append", metavar="3.X", help="these Pythons alone")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="arguments for pytest")
    asked = parser.parse_args()
    pythons = [python for python in asked.only or PYTHONS if _found(python)]
    missing = sorted({*(asked.only or PYTHONS)} - {*pythons})
    results = {
        combination: combination.run(asked.torch, asked.pytest)
        for combination in itertools.starmap(Combination, itertools.product(pythons, (True, False), (True, False)))
    }
    for combination, passed in results.items():
        print(f"{'passed' if passed else 'FAILED'}: {combination}")
    if missing:
        print(f"not found, so not tested: Python {', '.join(missing)}")
    if not results or not all(results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
