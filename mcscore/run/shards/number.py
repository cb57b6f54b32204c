"""``Shard``: which of how many processes this one is, as it is told or as a job array says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import RunError

COUNT = "MCSCORE_SHARDS"  # how many there are, where the job array does not say


@dataclass(frozen=True)
class Shard:
    """One of ``count`` processes that score a run together, counted from 0.

    Raises:
        RunError: there is no such process.

    >>> Shard(1, 3), str(Shard(1, 3)), Shard(1, 3).own(10)
    (Shard(index=1, count=3), 'shard 1 of 3', range(3, 6))
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RunError(f"{self.count} shards cannot score a run; at least 1 is needed")
        if not 0 <= self.index < self.count:
            raise RunError(f"there is no shard {self.index} of {self.count}: they are numbered 0 to {self.count - 1}")

    def __str__(self) -> str:
        return f"shard {self.index} of {self.count}"

    def own(self, spans: int) -> range:
        """The spans that this shard scores first: of each number of spans, every one is of one shard."""
        return range(spans * self.index // self.count, spans * (self.index + 1) // self.count)

    @staticmethod
    def parse(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
        """Read "2/8"; or "auto" or "auto/8", the number then being that of a job array of Slurm or of an indexed Job of Kubernetes.

        Raises:
            RunError: it says something else, or the environment does not say which process this is, or how many there are.

        >>> Shard.parse("2/8"), Shard.parse("auto/8", {"JOB_COMPLETION_INDEX": "3"})
        (Shard(index=2, count=8), Shard(index=3, count=8))
        """
        found = re.fullmatch(r"(auto|[0-9]{1,9})(?:/([0-9]{1,9}))?", text.strip())
        if not found or (found[1] != "auto" and not found[2]):
            raise RunError(f"{text!r} is no shard: write 2/8 for the third of eight, or auto in a job array")
        if found[1] != "auto":
            return Shard(int(found[1]), int(found[2]))
        count = int(found[2]) if found[2] else None
        if "SLURM_ARRAY_TASK_ID" in environment:
            return _of_slurm(environment, count)
        if "JOB_COMPLETION_INDEX" in environment:
            count = _number(environment, COUNT) if count is None else count
            return Shard(_number(environment, "JOB_COMPLETION_INDEX"), count)
        raise RunError(
            "shard auto: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set, so this is no task of a job array; write 2/8 for "
            "the third of eight"
        )


def _of_slurm(environment: Mapping[str, str], count: int | None) -> Shard:
    first, step = _number(environment, "SLURM_ARRAY_TASK_MIN"), _number(environment, "SLURM_ARRAY_TASK_STEP", 1)
    there = _number(environment, "SLURM_ARRAY_TASK_COUNT")
    index, left = divmod(_number(environment, "SLURM_ARRAY_TASK_ID") - first, max(1, step))
    if left or index >= there:
        raise RunError(
            f"shard auto: the job array has {there} tasks, but not at equal distances from {first} on: write the shard as 2/8"
        )
    return Shard(index, there if count is None else count)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not re.fullmatch(r"[0-9]{1,18}", text):
        advice = f"; write auto/8, or set {COUNT}, for eight" if name == COUNT else ""
        raise RunError(f"shard auto: {name} is {text!r}, and a number is needed{advice}")
    return int(text)
