"""Part 2 of ``benchmarks.gpu``: whole models scored by T = 100 passes, by mcscore and by loops in plain PyTorch.

A case is a job and a configuration. Configurations are words joined by "-": first who scores, then how.

mcscore: a Scorer. loop: passes over a batch. batched: each item repeated for its passes, in batches of the same size.
compiled: loop, under torch.compile. Loops run LOOP_PASSES passes, and their time is scaled to T.

fp32, bf16: dtype of the model; tf32: fp32 with products in TF32. cl: channels_last. Of mcscore alone: 256MiB: memory of a step;
compile: Execution(compile=True); auto: Execution(dtype="auto"); eager: Execution(graphs=False); deterministic:
Execution(deterministic=True).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mcscore import Execution, Scorer
from mcscore.bench import baselines, table
from mcscore.bench.clock import Clock, clock_for, in_turns
from mcscore.bench.measure import measure_ceilings
from mcscore.bench.table import quantity
from mcscore.scorer.numeric import numeric_modes

from . import gpu_pool
from .gpu_shared import Budget, Case, Log, Row, aligned, allocated, ends, look_into, measure, measured, peak
from .models import GalCNN, ResNet50, UNet, ViT

T = 100
LOOP_PASSES = 3
LONGEST = {
    "mcscore": 40.0,
    "loop": 10.0,
    "batched": 10.0,
    "compiled": 75.0,
}  # seconds that must be left; "compile" counts as the last
SECONDS = 0.4  # of turns, per measurement


@dataclass(frozen=True)
class Job:
    """A model, the shape of its items, how many are scored in a call at most, and the batch of the loops."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    items: int
    batch: int = 256


JOBS = {
    "resnet50-head": Job(ResNet50, (3, 224, 224), 4096),
    "vit-b16": Job(ViT, (3, 224, 224), 512),
    "gal": Job(GalCNN, (1, 28, 28), 131_072, batch=8192),  # at 256 launches are most of its time
    "resnet50-blocks": Job(lambda: ResNet50(0.1), (3, 224, 224), 512),
    "unet": Job(UNet, (3, 256, 256), 128, batch=64),  # a batch of 256 would take most of the memory, and is not faster
}
# In order of importance: the last may get no time.
ORDER = """
resnet50-head    loop-bf16-cl mcscore-bf16-cl mcscore-bf16
vit-b16          loop-bf16 mcscore-bf16
gal              loop-bf16 mcscore-bf16
resnet50-blocks  loop-bf16-cl mcscore-bf16-cl
unet             loop-bf16-cl mcscore-bf16-cl
pool             resumed
uploads          pinned
vit-b16          compiled-bf16 mcscore-bf16-compile
gal              compiled-bf16
resnet50-head    mcscore-fp32 loop-fp32 mcscore-bf16-256MiB
gal              mcscore-fp32 loop-fp32
resnet50-blocks  compiled-bf16-cl mcscore-bf16
unet             compiled-bf16-cl mcscore-bf16
resnet50-head    compiled-bf16-cl mcscore-auto mcscore-bf16-deterministic mcscore-bf16-eager
vit-b16          mcscore-bf16-deterministic mcscore-bf16-eager mcscore-bf16-256MiB mcscore-fp32 loop-fp32 batched-bf16
resnet50-head    mcscore-tf32-cl loop-tf32-cl loop-bf16 batched-bf16-cl mcscore-fp32-cl loop-fp32-cl mcscore-fp32-256MiB
gal              mcscore-bf16-eager mcscore-bf16-256MiB batched-bf16 mcscore-bf16-compile
resnet50-blocks  mcscore-bf16-compile mcscore-tf32-cl loop-tf32-cl batched-bf16-cl
unet             mcscore-bf16-compile mcscore-fp32 loop-fp32-cl batched-bf16-cl
"""


def names() -> list[str]:
    return [*JOBS, "pool", "uploads"]


@dataclass(frozen=True)
class Config:
    """A configuration, from its name."""

    who: str
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # of Execution

    @staticmethod
    def parse(name: str) -> Config:
        who, *words = name.split("-")
        hows: dict[str, dict[str, Any]] = {
            "256MiB": {"memory": 256 << 20},
            "compile": {"compile": True},
            "auto": {"dtype": "auto"},
            "tf32": {"dtype": "tf32"},
            "eager": {"graphs": False},
            "deterministic": {"deterministic": True},
            "cl": {"channels_last": True},
        }
        known = {"fp32", "bf16", "tf32", "cl"} if who != "mcscore" else {"fp32", "bf16", *hows}
        if who not in LONGEST or not set(words) <= known:
            raise ValueError(
                f"configuration {name!r}: one of {', '.join(LONGEST)}, then any of {', '.join(sorted(known))}"
            )
        options = {option: value for word in words for option, value in hows.get(word, {}).items()}
        return Config(who, torch.bfloat16 if "bf16" in words else torch.float32, "cl" in words, options)

    @property
    def longest(self) -> float:
        return LONGEST["compiled" if self.options.get("compile") else self.who]


def run(
    device: torch.device,
    log: Log,
    budget: Budget,
    only: Sequence[str] = (),
    configs: Sequence[str] = (),
    jobs: dict[str, Job] = JOBS,
    order: str = ORDER,
) -> list[str]:
    """Measure the jobs in ``only`` (default: all) in these configurations (default: those of ORDER)."""
    pairs = list(chosen(order, only, configs))
    clock = clock_for(device)
    ceilings = measure_ceilings(device, clock)
    log.add(ceilings=table.ceilings_facts(ceilings))

    def case(job: str, config: str) -> Case:
        name = f"{job} {config}"
        if job == "pool":
            return Case(name, gpu_pool.LONGEST, lambda: gpu_pool.killed_and_resumed(device))
        if job == "uploads":
            return Case(name, 10.0, lambda: gpu_pool.uploads(device))
        parsed = Config.parse(config)
        one = ours if parsed.who == "mcscore" else loops
        matmul = ceilings[torch.bfloat16 if parsed.options.get("dtype") == "auto" else parsed.dtype].matmul
        return Case(name, parsed.longest, lambda: one(jobs[job], parsed, device, clock, matmul))

    measure([case(*pair) for pair in pairs], log, budget)
    return [table.roof_line(ceilings), *summary(log.cases)]


def chosen(order: str, only: Sequence[str], configs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (job, configuration) in order; given configurations replace those listed, for the jobs in ``only``."""
    listed = [(job, config) for job, *its in map(str.split, order.strip().splitlines()) for config in its]
    every = list(dict.fromkeys(job for job, _ in listed))
    if unknown := set(only) - set(every):
        raise ValueError(f"no job {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    for config in configs:
        Config.parse(config)
    if configs:
        yield from ((job, config) for job in only or JOBS for config in configs)
    else:
        yield from (pair for pair in listed if not only or pair[0] in only)


def model_of(job: Job, config: Config, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    with torch.device(device):
        model = job.build().eval().to(config.dtype)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model


def items_of(job: Job, n: int, device: torch.device) -> Tensor:
    return torch.randint(0, 256, (n, *job.shape), dtype=torch.uint8, device=device)


# ---- mcscore ------------------------------------------------------------------------------------------------------


def ours(job: Job, config: Config, device: torch.device, clock: Clock, matmul: float) -> Row:
    """Time a Scorer on some whole steps, and look into one of them."""
    model, items = model_of(job, config, device), items_of(job, job.items, device)
    held = allocated(device)
    scorer = Scorer(model, passes=T, execution=Execution(**{"dtype": "model", **config.options}))
    begin = time.perf_counter()
    scorer.prepare(items[:3])
    prepared = time.perf_counter()
    assert scorer.steps is not None
    step = items[: scorer.steps.plan.items]
    scores = scorer(step)["bald"]
    right = bool(scores.isfinite().all())  # which also waits for the device
    first = time.perf_counter()
    scorer(step)  # a GPU's second full step is recorded as a graph
    scorer(step)["bald"].sum().item()
    one = (time.perf_counter() - first) / 2
    plan = scorer.steps.plan  # halved if memory ran out in the first step
    n = plan.items * max(1, min(4, len(items) // plan.items, int(1 / one)))
    (seconds,) = in_turns([lambda: scorer(items[:n])], clock, SECONDS)
    flops = plan.prefix_flops + T * plan.tail_flops
    steps = max(1.0, n / plan.items)
    return {
        "items_per_s": len(items[:n]) / seconds,
        "matmul": flops * len(items[:n]) / seconds / matmul,
        "plan": f"{plan.path} {plan.items}x{plan.passes} {plan.autocast}".strip(),
        "plan_bytes": plan.memory,
        "peak_bytes": peak(device, held),
        "prepare_s": prepared - begin,
        "first_s": first - prepared,
        "flops_per_item": flops,
        "right": right,
        **look_into(lambda: scorer(items[: plan.items]), seconds / steps, device),
    }


# ---- loops in plain PyTorch ---------------------------------------------------------------------------------------


def loops(job: Job, config: Config, device: torch.device, clock: Clock, matmul: float) -> Row:
    """Time a loop of LOOP_PASSES passes over one batch, scaled to T passes."""
    model = model_of(job, config, device)
    x_B = items_of(job, job.batch, device).to(config.dtype).div_(255)
    if config.channels_last:
        x_B = x_B.contiguous(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x_B[:1])
    forward = torch.compile(model) if config.who == "compiled" else model

    def call() -> Tensor:
        if config.who == "batched":
            return baselines.batched_loop(model, forward, x_B, LOOP_PASSES, job.batch)
        return baselines.loop(model, lambda: forward(x_B), LOOP_PASSES)

    with numeric_modes(config.options.get("dtype") == "tf32"):  # as a Scorer computes
        begin = time.perf_counter()
        right = bool(call().isfinite().all())
        first = time.perf_counter() - begin
        (seconds,) = in_turns([call], clock, SECONDS)
    rate = job.batch / (seconds * T / LOOP_PASSES)
    flops = T * counter.get_total_flops()
    if config.who == "compiled":
        torch._dynamo.reset()
    return {
        "items_per_s": rate,
        "matmul": flops * rate / matmul,
        "plan": f"{LOOP_PASSES} passes x {job.batch}",
        "prepare_s": first,
        "flops_per_item": flops,
        "right": right,
    }


# ---- report -------------------------------------------------------------------------------------------------------


def best_loop(row: Row, rows: Sequence[Row]) -> Row | None:
    """The fastest loop measured so far for a row's job, in the model's dtype (auto: any)."""
    job, config = row["case"].split()
    rivals = [other for other in rows if measured(other) and other["case"].startswith(f"{job} ")]
    rivals = [other for other in rivals if "mcscore" not in other["case"]]
    if "auto" not in config:
        dtype = next(word for word in ("bf16", "tf32", "fp32") if word in config)
        rivals = [other for other in rivals if dtype in other["case"]]
    return max(rivals, key=lambda other: other["items_per_s"], default=None)


def summary(rows: Sequence[Row]) -> list[str]:
    """Format a table of the models, by job, the rows of pool and uploads, and what failed."""
    models = sorted(
        (row for row in rows if "items_per_s" in row and "plan" in row), key=lambda row: row["case"].split()[0]
    )

    def ratio(row: Row) -> str:
        best = best_loop(row, models)
        return f"{row['items_per_s'] / best['items_per_s']:.2f}" if best and "mcscore" in row["case"] else ""

    def share(name: str) -> Callable[[Row], str]:
        return lambda row: f"{100 * row[name]:.0f}" if row.get(name) is not None else ""

    def memory(row: Row) -> str:
        peak = row.get("peak_bytes")
        return f"{peak / 2**20:.0f}/{row['plan_bytes'] / 2**20:.0f}" if peak is not None else ""

    columns: dict[str, Callable[[Row], str]] = {
        "job, configuration": lambda row: row["case"],
        "items/s": lambda row: quantity(row["items_per_s"], 4),
        "x best loop": ratio,
        "% matmul": share("matmul"),
        "% busy": share("busy"),
        "kernels": lambda row: str(row.get("kernels", "")),
        "launches": lambda row: str(row.get("launches", "")),
        "MiB peak/plan": memory,
        "prepare, first s": lambda row: (
            f"{row['prepare_s']:.1f}" + (f" {row['first_s']:.1f}" if "first_s" in row else "")
        ),
        "plan": lambda row: row["plan"],
    }
    lines = aligned(models, columns)
    for row in rows:
        if measured(row) and row not in models:
            lines.append(", ".join(f"{k} {quantity(v) if isinstance(v, float) else v}" for k, v in row.items()))
    return [
        *lines,
        f"T = {T}; loops ran {LOOP_PASSES} passes, scaled to T; kernels and launches per full step",
        *ends(rows),
    ]
