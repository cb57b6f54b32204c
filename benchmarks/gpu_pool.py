"""Jobs of part 2 about pools: a run that is killed and resumed, and uploads beside the device's work.

python -m benchmarks.gpu_pool POOL RUN MODEL DEVICE       # the run that is killed: prints the items done, block by block
"""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from mcscore import Scorer
from mcscore.bench.clock import clock_for, in_turns

from .gpu_shared import Row, Skipped
from .models import GalCNN, ResNet50

if TYPE_CHECKING:
    from mcscore.run.run import Run

LONGEST = 75.0  # seconds: three scorers are prepared, in two processes, and three times the pool is scored in part
_BLOCK = 512  # items that are made at a time


@dataclass(frozen=True)
class PoolJob:
    """A model, its dtype and passes, and the items of the pool: uint8 noise."""

    build: Callable[[], nn.Module]
    dtype: torch.dtype
    shape: tuple[int, ...]
    items: int
    passes: int
    span: int


JOBS = {
    "resnet50": PoolJob(ResNet50, torch.bfloat16, (3, 224, 224), 16_384, 100, 1024),
    "gal": PoolJob(GalCNN, torch.float32, (1, 28, 28), 1500, 4, 50),
}


def scorer_of(job: PoolJob, device: torch.device) -> Scorer:
    torch.manual_seed(0)
    with torch.device(device):
        model = job.build().eval().to(job.dtype)
    return Scorer(model, passes=job.passes)


def noise(job: PoolJob) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for at in range(0, job.items, _BLOCK):
        yield rng.integers(0, 256, (min(_BLOCK, job.items - at), *job.shape), dtype=np.uint8)


def killed_and_resumed(
    device: torch.device, name: str = "resnet50", seed: int | None = None, folder: Path | None = None
) -> Row:
    """Score a pool; again in a child that is killed (SIGKILL) at a random item; resume; compare all bits.

    Raises:
        Skipped: zarr, the pool's format, is not installed.
    """
    if importlib.util.find_spec("zarr") is None:
        raise Skipped("zarr is not installed")
    from mcscore import Pool, score_pool

    job, seed = JOBS[name], seed if seed is not None else random.randrange(10**6)
    where = Path(tempfile.mkdtemp(prefix="mcscore-gpu-pool-", dir=folder))
    try:
        begin = time.perf_counter()
        pool = Pool.create(where / "pool", noise(job))
        made = time.perf_counter() - begin
        told: list[tuple[int, float]] = []
        scorer = scorer_of(job, device)
        whole = score_pool(
            pool,
            scorer,
            where / "whole",
            span=job.span,
            progress=lambda done, _: told.append((done, time.perf_counter())),
        )
        (done_1, at_1), (done_n, at_n) = told[1], told[-1]  # the first block also checks and compiles
        rate = (done_n - done_1) / (at_n - at_1)
        target = random.Random(seed).randrange(1, job.items)
        committed = _killed(where / "pool", where / "killed", name, device, target)
        begin = time.perf_counter()
        resumed = score_pool(pool, scorer_of(job, device), where / "killed", span=job.span)
        took = time.perf_counter() - begin
        differ = sum(int((a != b).sum()) for a, b in zip(_bits(whole), _bits(resumed), strict=True))
        block = torch.from_numpy(pool.read(0, int(whole.meta["block_items"]))).to(device)
        (alone,) = in_turns([lambda: scorer(block)], clock_for(device), 0.4)
        return {
            "seed": seed,
            "killed_after_items": target,
            "committed_spans": committed,
            "resume_s": took,
            "values_that_differ": differ,
            "right": differ == 0,
            "error": f"{differ} values differ",
            "items": job.items,
            "block_items": len(block),
            "pool_items_per_s": rate,
            "scorer_alone_items_per_s": len(block) / alone,
            "share_of_scorer": rate * alone / len(block),
            "made_s": made,
        }
    finally:
        shutil.rmtree(where)


def _bits(run: Run) -> list[np.ndarray]:
    columns = [run.scores("bald"), run.scores("entropy"), run.prediction]
    return [np.ascontiguousarray(column).view(np.uint32) for column in columns]


def _killed(pool: Path, run: Path, name: str, device: torch.device, target: int) -> int:
    """Score in a child, and kill it once ``target`` items are done. Returns the number of records of spans that are left."""
    command = [sys.executable, "-m", "benchmarks.gpu_pool", str(pool), str(run), name, str(device)]
    child = subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child:
        for line in child.stdout:
            if int(line) >= target:
                break
        ended = child.poll()
        child.kill()
    if ended:
        raise RuntimeError(f"the run that was to be killed failed with exit code {ended}")
    return len(list((run / "commits").glob("*")))


def child(pool: str, run: str, name: str, device: str) -> None:
    from mcscore import Pool, score_pool

    job = JOBS[name]
    scorer = scorer_of(job, torch.device(device))
    score_pool(Pool.open(pool), scorer, run, span=job.span, progress=lambda done, _: print(done, flush=True))


def uploads(device: torch.device, size: int = 256 << 20) -> Row:
    """Time the copy of a block to the device, from pinned memory on a stream of its own and from ordinary memory.

    hidden: the share of the pinned copy's time that passes beside matrix products on the other stream.
    """
    if device.type != "cuda":
        raise Skipped("there is no CUDA device to copy to")
    from mcscore.run.scoring.transfer import CudaTransfer

    transfer, ids = CudaTransfer(str(device)), np.arange(1)
    pinned, pageable = transfer.allocate(size), np.zeros(size, np.uint8)
    pinned[:] = 1
    left, right = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))

    def work() -> None:
        for _ in range(10):
            left @ right

    def upload() -> None:
        transfer.arrived(transfer.upload(pinned, ids))

    def copy() -> None:
        torch.from_numpy(pageable).to(device)

    def beside() -> None:
        uploaded = transfer.upload(pinned, ids)
        work()
        transfer.arrived(uploaded)

    own, other, worked, both = in_turns([upload, copy, work, beside], clock_for(device), 0.3)
    return {
        "pinned_GB_per_s": size / own / 1e9,
        "pageable_GB_per_s": size / other / 1e9,
        "hidden": (own + worked - both) / min(own, worked),
    }


if __name__ == "__main__":
    child(*sys.argv[1:])
